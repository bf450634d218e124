/* The executive's client as the batch's engine, and plans that change while the server runs. */
#include "supervisor/serve/engine.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "engine/plan.h"
#include "supervisor/options_common.h"
#include "supervisor/plan_auto.h"

enum { RECONNECT_TRIES = 3 };
static const uint64_t SECOND_NS = 1000000000;
static const uint64_t LOOK_GAP_S = 2;      /* under load */
static const uint64_t CHANGE_AFTER_S = 10; /* likewise */

/* Are prompts, of any length, on other devices than answers? */
static bool phases_are_apart(const char *text)
{
    ofr_plan plan;
    ofr_error ignored;
    if (ofr_plan_parse(text, &plan, &ignored) < 0)
        return false;
    const ofr_plan_phase *decode = &plan.phases[OFR_PLAN_PHASE_DECODE];
    bool apart = decode->n_stages > 0 && plan.phases[OFR_PLAN_PHASE_PREFILL].n_stages > 0;
    for (uint32_t i = 0; i <= plan.n_longer; i++) {
        const ofr_plan_phase *prefill =
            i == 0 ? &plan.phases[OFR_PLAN_PHASE_PREFILL] : &plan.longer[i - 1].prefill;
        for (uint32_t p = 0; p < prefill->n_stages; p++)
            for (uint32_t d = 0; d < decode->n_stages; d++)
                apart = apart && strcmp(prefill->stages[p].device, decode->stages[d].device) != 0;
    }
    return apart;
}

/* The plan may be another one than before. */
static void note_plan(ofr_serve_engine *engine)
{
    const ofr_client_info *info = ofr_client_get_info(engine->session->client);
    engine->session->info = *info;
    engine->apart = phases_are_apart(info->plan);
    engine->look = true; /* what changed while nobody was told */
    if (engine->told)
        ofr_service_set_plan(engine->told, info);
}

/* On the client's thread. */
static void wake_batch(void *user)
{
    ofr_serve_engine *engine = user;
    pthread_mutex_lock(&engine->lock);
    if (engine->batch)
        ofr_batch_wake(engine->batch);
    pthread_mutex_unlock(&engine->lock);
}

void ofr_serve_engine_set_batch(ofr_serve_engine *engine, ofr_batch *batch)
{
    pthread_mutex_lock(&engine->lock);
    engine->batch = batch;
    pthread_mutex_unlock(&engine->lock);
}

/* To an executive of the same shape as before, where there was one. */
static int connect_to(ofr_serve_engine *engine, const char *plan, ofr_error *err)
{
    ofr_engine_session *session = engine->session;
    const ofr_client_info *shape = &engine->shape;
    ofr_client_options options = {
        .package_directory = ofr_package_directory(session->package),
        .instance = engine->common->instance,
        .plan = plan,
        .start = true,
        .threads = (uint32_t)engine->common->threads,
        .context = shape->n_slots ? shape->context : (uint32_t)engine->common->context,
        .slots = shape->n_slots ? shape->n_slots : engine->slots,
        .cache_dir = engine->cache_dir,
        .notify = ofr_command_notify,
        .conditions_changed = wake_batch,
        .user = engine,
    };
    session->client = ofr_client_close(session->client);
    int r = ofr_client_connect(&options, &session->client, err);
    if (r < 0)
        return r;
    const ofr_client_info *info = ofr_client_get_info(session->client);
    uint32_t vocab_size = ofr_package_params(session->package)->vocab_size;
    if (info->vocab_size != vocab_size ||
        (shape->n_slots && (info->n_slots != shape->n_slots || info->context != shape->context ||
                            info->chunk_max != shape->chunk_max))) {
        r = ofr_fail(err, OFR_EPROTOCOL,
                     "the executive (pid %ld) has another shape than before: %u slots of %u tokens",
                     (long)info->executive_pid, info->n_slots, info->context);
        session->client = ofr_client_close(session->client);
        return r;
    }
    engine->shape = *info;
    if (plan != session->plan)
        snprintf(session->plan, sizeof session->plan, "%s", plan);
    session->conditions_version = 0; /* of an executive that may be another one */
    note_plan(engine);
    return 0;
}

int ofr_serve_engine_open(ofr_serve_engine *engine, ofr_error *err)
{
    char plan[OFR_PLAN_TEXT_MAX];
    pthread_mutex_init(&engine->lock, NULL);
    int r = ofr_plan_auto_text(engine->session, engine->common, true, plan, err);
    return r < 0 ? r : connect_to(engine, plan, err);
}

void ofr_serve_engine_done(ofr_serve_engine *engine)
{
    pthread_mutex_destroy(&engine->lock);
}

/* After an executive that could not be replaced there is none. */
static int check_client(const ofr_serve_engine *engine, ofr_error *err)
{
    return engine->session->client ? 0 : ofr_fail(err, OFR_EGONE, "there is no executive");
}

static int engine_run(void *user, const ofr_client_job *job, ofr_client_result *ret_result,
                      ofr_error *err)
{
    ofr_serve_engine *engine = user;
    int r = check_client(engine, err);
    return r < 0 ? r : ofr_client_run(engine->session->client, job, ret_result, err);
}

static const float *engine_logits(void *user, uint32_t row)
{
    ofr_serve_engine *engine = user;
    return ofr_client_logits(engine->session->client, row);
}

static const ofr_candidate *engine_candidates(void *user, uint32_t row)
{
    ofr_serve_engine *engine = user;
    return ofr_client_candidates(engine->session->client, row);
}

static bool engine_overlaps(void *user)
{
    return ((ofr_serve_engine *)user)->apart;
}

static int engine_submit(void *user, const ofr_client_job *job, uint32_t *ret_ticket,
                         ofr_error *err)
{
    ofr_serve_engine *engine = user;
    int r = check_client(engine, err);
    return r < 0 ? r : ofr_client_submit(engine->session->client, job, ret_ticket, err);
}

static int engine_wait(void *user, uint32_t ticket, ofr_client_result *ret_result, ofr_error *err)
{
    ofr_serve_engine *engine = user;
    return ofr_client_wait(engine->session->client, ticket, ret_result, err);
}

static int engine_wait_any(void *user, uint32_t *ret_ticket, ofr_error *err)
{
    ofr_serve_engine *engine = user;
    return ofr_client_wait_any(engine->session->client, ret_ticket, err);
}

static uint32_t engine_chunk(void *user, uint32_t prompt_tokens)
{
    ofr_serve_engine *engine = user;
    return engine->session->client ? ofr_client_chunk(engine->session->client, prompt_tokens) : 0;
}

static int engine_wait_ready(void *user, uint32_t timeout_ms, ofr_error *err)
{
    ofr_serve_engine *engine = user;
    int r = ofr_client_wait_ready(engine->session->client, timeout_ms, err);
    note_plan(engine);
    return r;
}

static const int32_t *engine_slot_tokens(void *user, uint32_t slot, uint32_t *ret_n)
{
    ofr_serve_engine *engine = user;
    *ret_n = 0;
    return engine->session->client ? ofr_client_slot_tokens(engine->session->client, slot, ret_n)
                                   : NULL;
}

static int engine_copy(void *user, uint32_t from, uint32_t to, uint32_t n, ofr_error *err)
{
    ofr_serve_engine *engine = user;
    int r = check_client(engine, err);
    return r < 0 ? r : ofr_client_copy(engine->session->client, from, to, n, err);
}

/* The dead executive's place is taken by one with the same slots and context. */
static int engine_reconnect(void *user, ofr_error *err)
{
    ofr_serve_engine *engine = user;
    int r = OFR_EGONE;
    for (int tries = 0; r < 0 && tries < RECONNECT_TRIES; tries++)
        r = connect_to(engine, engine->session->plan, err);
    return r;
}

static bool engine_plan_is_due(void *user, bool idle)
{
    ofr_serve_engine *engine = user;
    if (!engine->session->client)
        return false;
    if (ofr_client_take_conditions(engine->session->client)) {
        engine->look = true;
        engine->stuck = false;
    }
    uint64_t now = ofr_clock_ns();
    if (engine->look && !engine->stuck &&
        (idle || now - engine->looked_ns > LOOK_GAP_S * SECOND_NS)) {
        bool waited = engine->choice.other;
        ofr_error ignored = {0}; /* an executive that is gone is noticed by the next job */
        engine->look = false;
        engine->looked_ns = now;
        ofr_engine_session_choose(engine->session, engine->common, &engine->choice, &ignored);
        if (!waited)
            engine->chosen_ns = now;
    }
    return engine->choice.other && (idle || now - engine->chosen_ns > CHANGE_AFTER_S * SECOND_NS);
}

/* Where the other plan cannot be taken, the one before is kept until conditions change again. */
static int engine_change_plan(void *user, ofr_error *err)
{
    ofr_serve_engine *engine = user;
    ofr_error why = {0};
    engine->choice.other = false;
    int r = connect_to(engine, engine->choice.plan, &why);
    if (r == 0) {
        ofr_engine_choice_tell(&engine->choice);
        return 0;
    }
    char line[sizeof engine->choice.plan + sizeof why.text + 64];
    snprintf(line, sizeof line, "the plan stays, %s cannot be used now: %s", engine->choice.plan,
             why.text);
    ofr_command_notify(NULL, line);
    engine->stuck = true;
    return connect_to(engine, engine->session->plan, &why) == 0
               ? 0
               : ofr_fail(err, OFR_EGONE, "%s", why.text);
}

void ofr_serve_engine_fill(ofr_serve_engine *engine, ofr_service_plan *told,
                           ofr_batch_engine *ret_engine)
{
    const ofr_client_info *info = &engine->shape;
    engine->told = told;
    *ret_engine = (ofr_batch_engine){
        .engine =
            {
                .run = engine_run,
                .logits = engine_logits,
                .candidates = engine_candidates,
                .wait_ready = engine_wait_ready,
                .user = engine,
                .context = info->context,
                .chunk_max = info->chunk_max,
                .chunk_preferred = info->chunk_preferred,
                .vocab_size = info->vocab_size,
                .submit = engine_submit,
                .wait = engine_wait,
                .chunk = engine_chunk,
            },
        .n_slots = info->n_slots,
        .slot_tokens = engine_slot_tokens,
        .copy = engine_copy,
        .reconnect = engine_reconnect,
        .overlaps = engine_overlaps,
        .wait_any = engine_wait_any,
        .plan_is_due = engine_plan_is_due,
        .change_plan = engine_change_plan,
    };
}
