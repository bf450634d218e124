/* Generation: prefill a prompt, then decode token by token until something ends it.
 *
 * A generation holds what one answer has so far (tokens, text, sampler, an unfinished character),
 * so that it can go on after the prompt before it was made shorter. It belongs to one thread. */
#ifndef OFR_SUPERVISOR_GENERATION_H
#define OFR_SUPERVISOR_GENERATION_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/sampler.h"
#include "grammar/matcher.h"
#include "supervisor/sequence.h"
#include "tokenizer/tokenizer.h"

/* X(symbol, name in JSON) */
#define OFR_FINISH_TABLE(X)                                                                        \
    X(OFR_FINISH_NONE, "none")         /* still running, or ended by an error */                   \
    X(OFR_FINISH_STOP, "stop")         /* the model ended its turn, or the grammar did */          \
    X(OFR_FINISH_LENGTH, "length")     /* max_tokens */                                            \
    X(OFR_FINISH_CONTEXT, "length")    /* the context is full */                                   \
    X(OFR_FINISH_CANCELED, "canceled") /* interrupted */
enum ofr_finish {
#define OFR_FINISH_ENUM(symbol, name) symbol,
    OFR_FINISH_TABLE(OFR_FINISH_ENUM)
#undef OFR_FINISH_ENUM
};
const char *ofr_finish_name(enum ofr_finish finish);

typedef struct ofr_generation_options {
    const ofr_tokenizer *tokenizer; /* borrowed */
    ofr_sampling sampling;
    int64_t max_tokens;                  /* 0: until the context is full */
    bool ignore_stop;                    /* stop tokens are tokens like others */
    const volatile sig_atomic_t *cancel; /* may be NULL */
    ofr_matcher *matcher;                /* what the text must match; borrowed; may be NULL */
    /* Whole UTF-8 characters as they come; a negative return ends the generation with it. May be
     * NULL. */
    int (*on_text)(void *user, const char *text, size_t size, ofr_error *err);
    void *user;
} ofr_generation_options;

typedef struct ofr_generation {
    ofr_generation_options options;
    ofr_sampler *sampler;
    ofr_detokenizer *detokenizer;
    int32_t *ids; /* [n_ids] generated; the stop token is not among them */
    uint32_t n_ids, ids_room;
    char *text; /* [text_size], NUL-terminated; NULL before the first text */
    size_t text_size, text_room;
    enum ofr_finish finish;
    uint32_t prompt_tokens;  /* of the last run */
    uint32_t prefill_tokens; /* prompt tokens forwarded: those not reused; all runs */
    uint32_t reused_tokens;  /* prompt tokens that the strips held already; all runs */
    uint32_t decode_steps;   /* forward calls of one generated token; all runs */
    uint64_t prefill_ns;     /* until the logits of the prompt's last token */
    uint64_t decode_ns;      /* from there to the end: sampling, detokenizing, output, forward */
} ofr_generation;

int ofr_generation_init(ofr_generation *generation, const ofr_generation_options *options,
                        int32_t vocab_size, ofr_error *err);
void ofr_generation_done(ofr_generation *generation);

/* Continues after `prompt` [n_prompt] and what was generated so far. Always leaves in `generation`
 * what was generated, also on error. Returns 0 with `finish` set, or an error (`finish` is
 * OFR_FINISH_NONE then). A prompt that leaves no room for a token is OFR_ELIMIT, before any work.
 */
int ofr_generation_run(ofr_generation *generation, ofr_sequence *sequence, const int32_t *prompt,
                       uint32_t n_prompt, ofr_error *err);

/* Writes out a character that the tokens so far left unfinished, as U+FFFD. ofr_generation_run does
 * so itself but where the context is full: there the caller may go on with a shorter prompt, or
 * call this. */
int ofr_generation_flush(ofr_generation *generation, ofr_error *err);

/* Tokens per second; 0 where nothing was measured. */
double ofr_generation_prefill_rate(const ofr_generation *generation);
double ofr_generation_decode_rate(const ofr_generation *generation);

#endif
