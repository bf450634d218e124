/* An answer being generated. */
#include "supervisor/serve/choice.h"

#include <stdlib.h>
#include <string.h>

size_t ofr_stop_find(const char *text, size_t size, size_t from, char *const *stops,
                     uint32_t n_stops, size_t *ret_held)
{
    size_t found = SIZE_MAX, held = 0;
    for (uint32_t i = 0; i < n_stops; i++) {
        size_t length = strlen(stops[i]);
        /* A stop text may have begun before what is new. */
        size_t begin = from > length ? from - length : 0;
        const char *hit =
            length && size >= begin ? memmem(text + begin, size - begin, stops[i], length) : NULL;
        if (hit && (size_t)(hit - text) < found)
            found = (size_t)(hit - text);
        for (size_t n = length < size + 1 ? length - (length > 0) : size; n > held; n--) {
            if (memcmp(text + size - n, stops[i], n) == 0) {
                held = n;
                break;
            }
        }
    }
    *ret_held = held;
    return found;
}

int ofr_choice_init(ofr_choice *choice, const ofr_choice_options *options, ofr_error *err)
{
    *choice = (ofr_choice){.options = *options};
    ofr_tokenizer_info info;
    ofr_tokenizer_get_info(options->tokenizer, &info);
    int r = ofr_sampler_new(&options->sampling, info.vocab_size, &choice->sampler, err);
    if (r == 0)
        r = ofr_detokenizer_new(options->tokenizer,
                                options->ignore_eos || options->n_shown ? OFR_DETOKENIZE_SPECIAL
                                                                        : 0,
                                &choice->detokenizer, err);
    if (r == 0 && options->min_tokens > 0) {
        size_t words = ((size_t)info.vocab_size + 31) / 32, n = 0;
        choice->end_mask = malloc(words * sizeof *choice->end_mask);
        if (!choice->end_mask) {
            r = ofr_fail(err, OFR_ENOMEM, "no memory for an answer");
        } else {
            memset(choice->end_mask, 0xff, words * sizeof *choice->end_mask);
            const int32_t *ids = ofr_tokenizer_stop_ids(options->tokenizer, &n);
            for (size_t i = 0; i < n; i++)
                choice->end_mask[ids[i] / 32] &= ~(UINT32_C(1) << (ids[i] % 32));
        }
    }
    if (r < 0)
        ofr_choice_done(choice);
    return r;
}

void ofr_choice_done(ofr_choice *choice)
{
    ofr_sampler_free(choice->sampler);
    ofr_detokenizer_free(choice->detokenizer);
    ofr_text_done(&choice->text);
    free(choice->tokens);
    free(choice->end_mask);
    if (choice->options.constraint.free)
        choice->options.constraint.free(choice->options.constraint.user);
    *choice = (ofr_choice){0};
}

void ofr_choice_prompt(ofr_choice *choice, const int32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ofr_sampler_accept_prompt(choice->sampler, tokens[i]);
}

static bool is_end_token(const ofr_choice *choice, int32_t token)
{
    size_t n = 0;
    const int32_t *ids = ofr_tokenizer_stop_ids(choice->options.tokenizer, &n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] == token)
            return true;
    return false;
}

/* Control tokens are no text, but for those that are asked for. */
static bool is_visible(const ofr_choice *choice, int32_t token)
{
    const ofr_choice_options *o = &choice->options;
    if (o->ignore_eos || o->n_shown == 0 || !ofr_tokenizer_is_control(o->tokenizer, token))
        return true;
    for (uint32_t i = 0; i < o->n_shown; i++)
        if (o->shown[i] == token)
            return true;
    return false;
}

static int keep_token(ofr_choice *choice, int32_t token, const float *logits, ofr_error *err)
{
    if (choice->n_kept == choice->kept_room) {
        uint32_t room = choice->kept_room ? choice->kept_room * 2 : 64;
        ofr_choice_token *grown = realloc(choice->tokens, room * sizeof *grown);
        if (!grown)
            return ofr_fail(err, OFR_ENOMEM, "no memory for log-probabilities");
        choice->tokens = grown;
        choice->kept_room = room;
    }
    ofr_choice_token *kept = &choice->tokens[choice->n_kept++];
    ofr_tokenizer_info info;
    ofr_tokenizer_get_info(choice->options.tokenizer, &info);
    ofr_token_logprob chosen;
    kept->n_top = ofr_logprobs_compute(logits, info.vocab_size, token, choice->options.top_logprobs,
                                       &chosen, kept->top);
    kept->id = token;
    kept->logprob = chosen.logprob;
    kept->text_offset = (uint32_t)choice->text.size;
    return 0;
}

/* New text since `from`: looks for stop texts. True: one ended the answer. */
static bool settle(ofr_choice *choice, size_t from, bool last)
{
    size_t held = 0;
    size_t at = ofr_stop_find(choice->text.data, choice->text.size, from, choice->options.stops,
                              choice->options.n_stops, &held);
    if (at != SIZE_MAX) {
        choice->text.size = choice->text_ready = at;
        while (choice->n_kept && choice->tokens[choice->n_kept - 1].text_offset >= at)
            choice->n_kept--;
        choice->finish = OFR_CHOICE_FINISH_STOP;
        return true;
    }
    choice->text_ready = last ? choice->text.size : choice->text.size - held;
    return false;
}

/* Ends the answer: what is still held back belongs to it. */
static int finish(ofr_choice *choice, enum ofr_choice_finish why, ofr_error *err)
{
    const char *text = NULL;
    size_t size = 0, from = choice->text.size;
    int r = ofr_detokenizer_finish(choice->detokenizer, &text, &size, err);
    if (r < 0)
        return r;
    ofr_text_add(&choice->text, text, size);
    choice->finish = why;
    settle(choice, from, true);
    return choice->text.failed ? ofr_fail(err, OFR_ENOMEM, "no memory for an answer") : 0;
}

int ofr_choice_cut(ofr_choice *choice, ofr_error *err)
{
    return finish(choice, OFR_CHOICE_FINISH_LENGTH, err);
}

/* End tokens are not chosen yet. */
static bool may_not_end(const ofr_choice *choice)
{
    return choice->end_mask && choice->n_generated < choice->options.min_tokens;
}

uint32_t ofr_choice_candidates_wanted(const ofr_choice *choice)
{
    const ofr_choice_options *o = &choice->options;
    bool masked = o->constraint.mask || may_not_end(choice);
    return masked || o->logprobs ? 0 : ofr_sampler_candidates_wanted(choice->sampler);
}

static int sample(ofr_choice *choice, const ofr_prediction *prediction, int32_t *ret_token,
                  ofr_error *err)
{
    const ofr_choice_options *o = &choice->options;
    const uint32_t *mask = NULL;
    int r = o->constraint.mask ? o->constraint.mask(o->constraint.user, &mask, err) : 0;
    if (!mask && may_not_end(choice))
        mask = choice->end_mask;
    if (r == 0)
        r = prediction->logits
                ? ofr_sampler_sample_masked(choice->sampler, prediction->logits, mask, ret_token,
                                            err)
                : ofr_sampler_sample_candidates(choice->sampler, prediction->candidates,
                                                prediction->n_candidates, ret_token, err);
    if (r == 0 && o->constraint.accept)
        r = o->constraint.accept(o->constraint.user, *ret_token, err);
    return r;
}

int ofr_choice_next(ofr_choice *choice, const ofr_prediction *prediction, int32_t *ret_token,
                    ofr_error *err)
{
    const ofr_choice_options *o = &choice->options;
    int32_t token = -1;
    int r = sample(choice, prediction, &token, err);
    if (r < 0)
        return r;
    choice->n_generated++;
    *ret_token = -1;
    if (!o->ignore_eos && is_end_token(choice, token))
        return finish(choice, OFR_CHOICE_FINISH_STOP, err);
    if (o->logprobs)
        r = keep_token(choice, token, prediction->logits, err);
    ofr_sampler_accept(choice->sampler, token);
    const char *text = NULL;
    size_t size = 0, from = choice->text.size;
    if (r == 0 && is_visible(choice, token))
        r = ofr_detokenizer_push(choice->detokenizer, token, &text, &size, err);
    if (r < 0)
        return r;
    ofr_text_add(&choice->text, text, size);
    if (choice->text.failed)
        return ofr_fail(err, OFR_ENOMEM, "no memory for an answer");
    if (settle(choice, from, false))
        return 0;
    if (o->constraint.done && o->constraint.done(o->constraint.user))
        return finish(choice, OFR_CHOICE_FINISH_STOP, err);
    if (o->max_tokens > 0 && choice->n_generated >= o->max_tokens)
        return finish(choice, OFR_CHOICE_FINISH_LENGTH, err);
    *ret_token = token;
    return 0;
}

uint32_t ofr_choice_tokens_before(const ofr_choice *choice, uint32_t from, size_t text_end)
{
    uint32_t n = from;
    while (n < choice->n_kept && choice->tokens[n].text_offset < text_end)
        n++;
    return n;
}
