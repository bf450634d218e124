/* Generation: the loop from a prompt to the end of an answer. */
#include "supervisor/generation.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

const char *ofr_finish_name(enum ofr_finish finish)
{
    switch (finish) {
#define OFR_FINISH_CASE(symbol, name)                                                              \
    case symbol:                                                                                   \
        return name;
        OFR_FINISH_TABLE(OFR_FINISH_CASE)
#undef OFR_FINISH_CASE
    }
    return "none";
}

int ofr_generation_init(ofr_generation *generation, const ofr_generation_options *options,
                        int32_t vocab_size, ofr_error *err)
{
    *generation = (ofr_generation){.options = *options};
    int r = ofr_sampler_new(&options->sampling, vocab_size, &generation->sampler, err);
    if (r == 0)
        r = ofr_detokenizer_new(options->tokenizer,
                                options->ignore_stop ? OFR_DETOKENIZE_SPECIAL : 0,
                                &generation->detokenizer, err);
    if (r < 0)
        ofr_generation_done(generation);
    return r;
}

void ofr_generation_done(ofr_generation *generation)
{
    ofr_sampler_free(generation->sampler);
    ofr_detokenizer_free(generation->detokenizer);
    free(generation->ids);
    free(generation->text);
    *generation = (ofr_generation){0};
}

static int emit(ofr_generation *generation, const char *text, size_t size, ofr_error *err)
{
    if (size == 0)
        return 0;
    if (size >= generation->text_room - generation->text_size) {
        size_t room = (generation->text_size + size + 1) * 2;
        char *grown = realloc(generation->text, room);
        if (!grown)
            return ofr_fail(err, OFR_ENOMEM, "no memory for an answer of %zu bytes", room);
        generation->text = grown;
        generation->text_room = room;
    }
    memcpy(generation->text + generation->text_size, text, size);
    generation->text_size += size;
    generation->text[generation->text_size] = '\0';
    if (!generation->options.on_text)
        return 0;
    return generation->options.on_text(generation->options.user, text, size, err);
}

int ofr_generation_flush(ofr_generation *generation, ofr_error *err)
{
    const char *text;
    size_t size;
    int r = ofr_detokenizer_finish(generation->detokenizer, &text, &size, err);
    return r < 0 ? r : emit(generation, text, size, err);
}

static int add_token(ofr_generation *generation, int32_t token, ofr_error *err)
{
    if (generation->n_ids == generation->ids_room) {
        uint32_t room = generation->ids_room ? generation->ids_room * 2 : 256;
        int32_t *grown = realloc(generation->ids, room * sizeof *grown);
        if (!grown)
            return ofr_fail(err, OFR_ENOMEM, "no memory for %u tokens", room);
        generation->ids = grown;
        generation->ids_room = room;
    }
    generation->ids[generation->n_ids++] = token;
    ofr_sampler_accept(generation->sampler, token);
    const char *text;
    size_t size;
    int r = ofr_detokenizer_push(generation->detokenizer, token, &text, &size, err);
    return r < 0 ? r : emit(generation, text, size, err);
}

static bool is_stop(const ofr_generation *generation, int32_t token)
{
    if (generation->options.ignore_stop)
        return false;
    size_t count;
    const int32_t *ids = ofr_tokenizer_stop_ids(generation->options.tokenizer, &count);
    for (size_t i = 0; i < count; i++)
        if (ids[i] == token)
            return true;
    return false;
}

/* Candidates that the next token needs; 0: all logits, since a matcher may allow none of them. */
static uint32_t candidates_wanted(const ofr_generation *generation)
{
    return generation->options.matcher ? 0 : ofr_sampler_candidates_wanted(generation->sampler);
}

static int choose(ofr_generation *generation, const ofr_prediction *prediction, int32_t *ret_token,
                  ofr_error *err)
{
    ofr_matcher *matcher = generation->options.matcher;
    const uint32_t *mask = NULL;
    int r = matcher ? ofr_matcher_mask(matcher, &mask, err) : 0;
    if (r == 0)
        r = prediction->logits
                ? ofr_sampler_sample_masked(generation->sampler, prediction->logits, mask,
                                            ret_token, err)
                : ofr_sampler_sample_candidates(generation->sampler, prediction->candidates,
                                                prediction->n_candidates, ret_token, err);
    return r < 0 || !matcher ? r : ofr_matcher_accept(matcher, *ret_token, err);
}

/* Samples the predicted token and forwards it, until something ends that. */
static int decode(ofr_generation *generation, ofr_sequence *sequence, ofr_prediction prediction,
                  ofr_error *err)
{
    const ofr_generation_options *options = &generation->options;
    for (;;) {
        int32_t token;
        int r = choose(generation, &prediction, &token, err);
        if (r < 0)
            return r;
        if (is_stop(generation, token)) {
            generation->finish = OFR_FINISH_STOP;
            return 0;
        }
        r = add_token(generation, token, err);
        if (r < 0)
            return r;
        if (options->matcher && ofr_matcher_is_done(options->matcher)) {
            generation->finish = OFR_FINISH_STOP;
            return 0;
        }
        if (options->max_tokens > 0 && generation->n_ids >= options->max_tokens) {
            generation->finish = OFR_FINISH_LENGTH;
            return 0;
        }
        if (sequence->n_tokens == sequence->engine.context) {
            generation->finish = OFR_FINISH_CONTEXT;
            return 0;
        }
        r = ofr_sequence_append(sequence, token, err);
        if (r == 0)
            r = ofr_sequence_forward(sequence, options->cancel, candidates_wanted(generation),
                                     &prediction, err);
        if (r < 0)
            return r;
        generation->decode_steps++;
    }
}

static int prefill(ofr_generation *generation, ofr_sequence *sequence, const int32_t *prompt,
                   uint32_t n_prompt, ofr_prediction *ret_prediction, ofr_error *err)
{
    uint32_t n = n_prompt + generation->n_ids;
    int32_t *tokens = malloc(n * sizeof *tokens);
    if (!tokens)
        return ofr_fail(err, OFR_ENOMEM, "no memory for %u tokens", n);
    memcpy(tokens, prompt, n_prompt * sizeof *tokens);
    if (generation->n_ids)
        memcpy(tokens + n_prompt, generation->ids, generation->n_ids * sizeof *tokens);
    uint32_t reused = 0;
    int r = ofr_sequence_set(sequence, tokens, n, &reused, err);
    free(tokens);
    if (r == 0)
        r = ofr_sequence_forward(sequence, generation->options.cancel,
                                 candidates_wanted(generation), ret_prediction, err);
    if (r == 0) {
        generation->reused_tokens += reused;
        generation->prefill_tokens += n - reused;
    }
    return r;
}

int ofr_generation_run(ofr_generation *generation, ofr_sequence *sequence, const int32_t *prompt,
                       uint32_t n_prompt, ofr_error *err)
{
    generation->finish = OFR_FINISH_NONE;
    generation->prompt_tokens = n_prompt;
    uint32_t context = sequence->engine.context;
    if (n_prompt >= context || generation->n_ids >= context - n_prompt)
        return ofr_fail(err, OFR_ELIMIT,
                        "the prompt has %u tokens and leaves no room for an answer: the context "
                        "holds %u; shorten the prompt",
                        n_prompt + generation->n_ids, context);
    if (generation->n_ids == 0)
        for (uint32_t i = 0; i < n_prompt; i++)
            ofr_sampler_accept_prompt(generation->sampler, prompt[i]);
    ofr_prediction prediction = {0};
    ofr_error reason = {0};
    uint64_t begin = ofr_clock_ns();
    int r = prefill(generation, sequence, prompt, n_prompt, &prediction, &reason);
    uint64_t prefilled = ofr_clock_ns();
    generation->prefill_ns += prefilled - begin;
    bool predicted = r == 0;
    if (r == 0)
        r = decode(generation, sequence, prediction, &reason);
    if (r == OFR_ECANCELED) {
        generation->finish = OFR_FINISH_CANCELED;
        r = 0;
    }
    /* A cut at the context may go on with a shorter prompt: its last character stays open. */
    if (r == 0 && generation->finish != OFR_FINISH_CONTEXT)
        r = ofr_generation_flush(generation, &reason);
    if (predicted)
        generation->decode_ns += ofr_clock_ns() - prefilled;
    if (r < 0) {
        generation->finish = OFR_FINISH_NONE;
        return ofr_fail(err, r, "%s", reason.text[0] ? reason.text : ofr_status_message(r));
    }
    return 0;
}

static double rate(uint32_t tokens, uint64_t ns)
{
    return ns ? (double)tokens * 1e9 / (double)ns : 0;
}

double ofr_generation_prefill_rate(const ofr_generation *generation)
{
    return rate(generation->prefill_tokens, generation->prefill_ns);
}

double ofr_generation_decode_rate(const ofr_generation *generation)
{
    return rate(generation->decode_steps, generation->decode_ns);
}
