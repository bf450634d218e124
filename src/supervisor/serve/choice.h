/* One answer being generated: from logits to tokens, text, log-probabilities, and its end.
 *
 * Text comes out in whole UTF-8 characters and is held back as long as it may turn out to be the
 * beginning of a stop text. A choice belongs to one thread at a time. */
#ifndef OFR_SUPERVISOR_SERVE_CHOICE_H
#define OFR_SUPERVISOR_SERVE_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/logprobs.h"
#include "engine/sampler.h"
#include "supervisor/serve/text.h"
#include "tokenizer/tokenizer.h"

/* Restricts what may come next: a grammar. Each slot gets `user`; all but `mask` may be NULL. */
typedef struct ofr_token_constraint {
    /* The tokens allowed next, as ofr_sampler_sample_masked takes them; NULL: all. Valid until the
     * next call. */
    int (*mask)(void *user, const uint32_t **ret_mask, ofr_error *err);
    /* `token` was chosen; end tokens too. */
    int (*accept)(void *user, int32_t token, ofr_error *err);
    /* Nothing can follow: the answer ends here. */
    bool (*done)(void *user);
    void (*free)(void *user);
    void *user;
} ofr_token_constraint;

typedef struct ofr_choice_options {
    const ofr_tokenizer *tokenizer; /* borrowed */
    ofr_sampling sampling;
    int64_t max_tokens; /* 0: until the context is full */
    int64_t min_tokens; /* end tokens are not chosen before */
    bool ignore_eos;
    char *const *stops; /* [n_stops], borrowed */
    uint32_t n_stops;
    bool logprobs;
    uint32_t top_logprobs;
    const int32_t *shown; /* [n_shown] control tokens that are written as text, borrowed */
    uint32_t n_shown;
    ofr_token_constraint constraint; /* owned by the choice from ofr_choice_init on */
} ofr_choice_options;

enum ofr_choice_finish {
    OFR_CHOICE_FINISH_NONE, /* still running, or it failed */
    OFR_CHOICE_FINISH_STOP,
    OFR_CHOICE_FINISH_LENGTH,
};

/* One generated token with what a client may ask about it. */
typedef struct ofr_choice_token {
    int32_t id;
    float logprob;
    uint32_t text_offset; /* where its text begins, in bytes of the answer */
    uint32_t n_top;
    ofr_token_logprob top[OFR_LOGPROBS_TOP_MAX];
} ofr_choice_token;

typedef struct ofr_choice {
    ofr_choice_options options;
    ofr_sampler *sampler;
    ofr_detokenizer *detokenizer;
    ofr_text text; /* all of it; [0, text_ready) is certain, the rest may be a stop text */
    size_t text_ready;
    ofr_choice_token *tokens; /* [n_kept], owned; only with logprobs */
    uint32_t n_kept, kept_room;
    uint32_t n_generated; /* tokens of the answer, for the usage */
    uint32_t *end_mask;   /* all but end tokens; made where min_tokens asks for it */
    enum ofr_choice_finish finish;
} ofr_choice;

int ofr_choice_init(ofr_choice *choice, const ofr_choice_options *options, ofr_error *err);
void ofr_choice_done(ofr_choice *choice);
/* Tells the sampler of the prompt. */
void ofr_choice_prompt(ofr_choice *choice, const int32_t *tokens, uint32_t n);

/* How many candidates are enough for the next ofr_choice_next; 0: it needs logits, for a mask or
 * for log-probabilities, or because the sampler does. */
uint32_t ofr_choice_candidates_wanted(const ofr_choice *choice);
/* Takes one token. *ret_token is what follows, or -1 where the answer has ended
 * (`finish` says why). `text_ready` tells what text is there. */
int ofr_choice_next(ofr_choice *choice, const ofr_prediction *prediction, int32_t *ret_token,
                    ofr_error *err);
/* The context is full: ends with finish LENGTH. */
int ofr_choice_cut(ofr_choice *choice, ofr_error *err);
/* Kept tokens whose text begins before `text_end` bytes, for those who send both in step. */
uint32_t ofr_choice_tokens_before(const ofr_choice *choice, uint32_t from, size_t text_end);

/* The stop text that ends the earliest in text [size], looked for from `from` on: its offset, or
 * SIZE_MAX. *ret_held is the number of bytes at the end that may begin one. */
size_t ofr_stop_find(const char *text, size_t size, size_t from, char *const *stops,
                     uint32_t n_stops, size_t *ret_held);

#endif
