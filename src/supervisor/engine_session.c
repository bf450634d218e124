/* The opened package and the connection to its executive. */
#include "supervisor/engine_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "supervisor/plan_auto.h"

static char *token_text(const ofr_tokenizer *tokenizer, int32_t id)
{
    size_t size = 0;
    const char *text = id >= 0 ? ofr_tokenizer_token_text(tokenizer, id, &size) : NULL;
    return text ? strndup(text, size) : strdup("");
}

static int open_template(ofr_engine_session *session, ofr_error *err)
{
    size_t size = 0;
    const char *source = ofr_package_chat_template(session->package, &size);
    if (!source)
        return 0;
    return ofr_chat_template_compile("chat_template.jinja", source, size, &session->chat_template,
                                     err);
}

int ofr_engine_session_open(ofr_engine_session *session, const ofr_common_options *common,
                            bool text_only, bool with_template, ofr_error *err)
{
    *session = (ofr_engine_session){0};
    const char *directory = common->model ? common->model : OFR_DEFAULT_MODEL;
    int r = ofr_package_open(directory, text_only ? OFR_PACKAGE_TOKENIZER_ONLY : 0,
                             &session->package, err);
    if (r == 0) {
        size_t size = 0;
        const void *data = ofr_package_tokenizer(session->package, &size);
        r = ofr_tokenizer_open(data, size, &session->tokenizer, err);
        if (r < 0)
            ofr_error_prefix(err, r, "%s/tokenizer.bin", directory);
    }
    if (r == 0) {
        ofr_tokenizer_get_info(session->tokenizer, &session->tokenizer_info);
        session->bos_token = token_text(session->tokenizer, session->tokenizer_info.bos_id);
        session->eos_token = token_text(session->tokenizer, session->tokenizer_info.eos_id);
        if (!session->bos_token || !session->eos_token)
            r = ofr_fail(err, OFR_ENOMEM, "no memory for the names of BOS and EOS");
    }
    if (r == 0 && with_template)
        r = open_template(session, err);
    if (r < 0)
        ofr_engine_session_done(session);
    return r;
}

void ofr_engine_session_disconnect(ofr_engine_session *session)
{
    ofr_sequence_done(&session->sequence);
    session->client = ofr_client_close(session->client);
}

void ofr_engine_session_done(ofr_engine_session *session)
{
    ofr_engine_session_disconnect(session);
    ofr_chat_template_free(session->chat_template);
    free(session->bos_token);
    free(session->eos_token);
    ofr_tokenizer_close(session->tokenizer);
    ofr_package_close(session->package);
    *session = (ofr_engine_session){0};
}

static int engine_run(void *user, const ofr_client_job *job, ofr_client_result *ret_result,
                      ofr_error *err)
{
    return ofr_client_run(((ofr_engine_session *)user)->client, job, ret_result, err);
}

static int engine_submit(void *user, const ofr_client_job *job, uint32_t *ret_ticket,
                         ofr_error *err)
{
    return ofr_client_submit(((ofr_engine_session *)user)->client, job, ret_ticket, err);
}

static int engine_wait(void *user, uint32_t ticket, ofr_client_result *ret_result, ofr_error *err)
{
    return ofr_client_wait(((ofr_engine_session *)user)->client, ticket, ret_result, err);
}

static uint32_t engine_chunk(void *user, uint32_t prompt_tokens)
{
    return ofr_client_chunk(((ofr_engine_session *)user)->client, prompt_tokens);
}

static const float *engine_logits(void *user, uint32_t row)
{
    return ofr_client_logits(((ofr_engine_session *)user)->client, row);
}

static const ofr_candidate *engine_candidates(void *user, uint32_t row)
{
    return ofr_client_candidates(((ofr_engine_session *)user)->client, row);
}

/* The plan may be another one afterwards. */
static int engine_wait_ready(void *user, uint32_t timeout_ms, ofr_error *err)
{
    ofr_engine_session *session = user;
    int r = ofr_client_wait_ready(session->client, timeout_ms, err);
    session->info = *ofr_client_get_info(session->client);
    return r;
}

int ofr_engine_session_connect(ofr_engine_session *session, const ofr_common_options *common,
                               ofr_error *err)
{
    ofr_engine_session_disconnect(session);
    session->conditions_version = 0; /* of an executive that may be another one */
    int r = ofr_plan_auto_text(session, common, false, session->plan, err);
    if (r < 0)
        return r;
    ofr_client_options options = {
        .package_directory = ofr_package_directory(session->package),
        .instance = common->instance,
        .plan = session->plan,
        .start = true,
        .threads = (uint32_t)common->threads,
        .context = (uint32_t)common->context,
        .notify = ofr_command_notify,
    };
    r = ofr_client_connect(&options, &session->client, err);
    if (r < 0)
        return r;
    session->info = *ofr_client_get_info(session->client);
    const ofr_client_info *info = &session->info;
    const ofr_model_params *params = ofr_package_params(session->package);
    if (info->vocab_size != params->vocab_size)
        return ofr_fail(err, OFR_EPROTOCOL,
                        "the executive (pid %ld) serves a vocabulary of %u tokens, the package has "
                        "%u; stop it with 'executive_shard stop'",
                        (long)info->executive_pid, info->vocab_size, params->vocab_size);
    ofr_engine engine = {
        .run = engine_run,
        .logits = engine_logits,
        .candidates = engine_candidates,
        .wait_ready = engine_wait_ready,
        .submit = engine_submit,
        .wait = engine_wait,
        .chunk = engine_chunk,
        .user = session,
        .context = info->context,
        .chunk_max = info->chunk_max,
        .chunk_preferred = info->chunk_preferred,
        .vocab_size = info->vocab_size,
    };
    r = ofr_sequence_init(&session->sequence, &engine, 0, err);
    session->sequence.notify = ofr_command_notify;
    if (r < 0)
        ofr_engine_session_disconnect(session);
    return r;
}

int ofr_engine_session_choose(ofr_engine_session *session, const ofr_common_options *common,
                              ofr_engine_choice *ret_choice, ofr_error *err)
{
    json_t *status = NULL;
    *ret_choice = (ofr_engine_choice){0};
    if (common->plan && strcmp(common->plan, "auto") != 0)
        return 0;
    int r = ofr_engine_session_status(session, &status, err);
    if (r < 0)
        return r;
    const json_t *value = json_object_get(json_object_get(status, "health"), "conditions_version");
    uint64_t version = (uint64_t)json_integer_value(value);
    bool given = json_object_get(status, "plan_given") != NULL;
    json_decref(status);
    if (version == session->conditions_version || given)
        return 0;
    ofr_plan_auto plan = {0};
    /* Without figures there is nothing to decide from: the plan stays. */
    if (ofr_plan_auto_again(session, common, &plan, NULL) == 0 &&
        strcmp(plan.plan, session->plan) != 0) {
        ret_choice->other = true;
        memcpy(ret_choice->plan, plan.plan, sizeof ret_choice->plan);
        memcpy(ret_choice->reason, plan.reason, sizeof ret_choice->reason);
    }
    /* Another plan is chosen again and again until it is the session's. */
    if (!ret_choice->other)
        session->conditions_version = version;
    ofr_plan_auto_done(&plan);
    return 0;
}

void ofr_engine_choice_tell(const ofr_engine_choice *choice)
{
    char line[sizeof choice->plan + sizeof choice->reason + 32];
    snprintf(line, sizeof line, "the plan is now %s: %s", choice->plan, choice->reason);
    ofr_command_notify(NULL, line);
}

int ofr_engine_session_replan(ofr_engine_session *session, const ofr_common_options *common,
                              ofr_error *err)
{
    ofr_engine_choice choice;
    ofr_client_take_conditions(session->client); /* says what changed, whatever the plan */
    int r = ofr_engine_session_choose(session, common, &choice, err);
    if (r < 0 || !choice.other)
        return r;
    ofr_engine_choice_tell(&choice);
    return ofr_engine_session_connect(session, common, err);
}

int ofr_engine_session_render(const ofr_engine_session *session, const json_t *messages,
                              int32_t **ret_ids, size_t *ret_count, ofr_error *err)
{
    if (!session->chat_template)
        return ofr_fail(err, OFR_ENOENT,
                        "%s has no chat_template.jinja: the model is no chat model; 'supervisor "
                        "run --raw' continues plain text",
                        ofr_package_directory(session->package));
    ofr_chat_input input = {
        .messages = messages,
        .bos_token = session->bos_token,
        .eos_token = session->eos_token,
        .add_generation_prompt = true,
    };
    char *text = NULL;
    size_t size = 0;
    int r = ofr_chat_template_render_chat(session->chat_template, &input, time(NULL), &text, &size,
                                          err);
    if (r < 0)
        return r;
    /* The template writes BOS itself, as with transformers' apply_chat_template. */
    r = ofr_tokenizer_encode(session->tokenizer, text, size, OFR_TOKENIZE_PARSE_SPECIAL, ret_ids,
                             ret_count, err);
    free(text);
    return r;
}

int ofr_engine_session_status(ofr_engine_session *session, json_t **ret_status, ofr_error *err)
{
    char *text = NULL;
    int r = ofr_client_status(session->client, &text, err);
    if (r < 0)
        return r;
    json_error_t parse_error;
    json_t *status = json_loads(text, JSON_REJECT_DUPLICATES, &parse_error);
    free(text);
    if (!status)
        return ofr_fail(err, OFR_EPROTOCOL, "the executive's status is not JSON: %s",
                        parse_error.text);
    *ret_status = status;
    return 0;
}
