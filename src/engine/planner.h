/* The planner: from what each device of a machine was measured to do, which device should run which
 * phase. Pure: figures in, decision out; no files, no clocks, no devices (planner_figures.h reads
 * and writes the figures). documentation/plan.md explains it to users.
 *
 * The cost of a prompt of n tokens and a typical answer of A tokens, prefilled by P, decoded by D:
 *
 *     first token (P, n)    = sum over P's stages of  share * prefill(device, n) * slowdown
 *                             + per further stage:    hop(device) + n * hidden_bytes / copy(device)
 *     handoff (P, D, n)     = 0 where P is D; otherwise hop(D's first device)
 *                             + the K and V of the n tokens, for D's stages on a device with memory
 *                               of its own that did not compute them: bytes / copy(device)
 *     per token (D, depth)  = sum over D's stages of  share * decode(device, depth) * slowdown
 *                             + per further stage:    hop(device)
 *     total (P, D, n)       = first token + handoff + A * per token (D, n + A / 2)
 *
 * prefill() and decode() are the measured points, joined by straight lines; below the first point
 * the first point holds, beyond the last one the last line goes on; tokens of a longer prompt cost
 * at least what those of the longest measured one did. A stage's share is its part of the layers in
 * prefill (whose head sees one token), of the bytes read in decode (where the head goes with the
 * last stage). slowdown is 1, or what the device's condition says.
 *
 * A route is a whole device. Layers are split only where a device's memory does not hold the model:
 * as many layers as fit, the rest on another device. One token passes the stages one after the
 * other, so where memory does not force it a split decodes no faster than its better device. (The
 * chunks of a long prompt may be in several stages at once; whether devices that share memory and
 * power gain by it is not predicted here: a plan that is given with --plan may do it.)
 *
 * What is chosen, over prompts of 16, 32, 64, ... tokens, as far as the context goes:
 *   1. the best single device: least mean of total / (least total of any), over the lengths;
 *   2. for every D, at each length, the P with the least total among those that win over D alone:
 *      by more than OFR_PLANNER_NOISE in total, or by more than OFR_PLANNER_FIRST_TOKEN in the time
 *      to the first token and OFR_PLANNER_FELT in total; D itself where none does;
 *   3. the D whose plan has the least mean, if it is the best single device's or wins by more than
 *      OFR_PLANNER_NOISE over it; and never one that is slower than it at any length.
 * So a combination is never predicted slower than the best single device. */
#ifndef OFR_ENGINE_PLANNER_H
#define OFR_ENGINE_PLANNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/plan.h"

enum {
    OFR_PLANNER_DEVICES_MAX = 8,
    OFR_PLANNER_POINTS_MAX = 16,
    OFR_PLANNER_LENGTHS_MAX = 16,
    OFR_PLANNER_ROUTES_MAX = OFR_PLANNER_DEVICES_MAX * OFR_PLANNER_DEVICES_MAX,
    OFR_PLANNER_ANSWER_TOKENS = 128, /* of a typical answer */
    OFR_PLANNER_TEXT_MAX = 512,
};
#define OFR_PLANNER_NOISE       0.03 /* a difference below this share is no difference */
#define OFR_PLANNER_FIRST_TOKEN 0.10 /* what a second device must save of the wait, */
#define OFR_PLANNER_FELT        0.01 /* and of the whole, to be worth it */

typedef struct ofr_planner_point {
    uint32_t tokens; /* prefill: of the prompt, from an empty past; decode: the depth */
    double ms;       /* prefill: to the logits of its last token; decode: of one token */
} ofr_planner_point;

typedef struct ofr_planner_device {
    char name[OFR_PLAN_NAME_MAX]; /* as plans name it */
    enum ofr_plan_device_kind kind;
    char description[128];
    char machine[16]; /* the machine's device below it ("igpu"), which conditions are kept for */
    /* Ascending in tokens; of the whole model, also where memory holds only a part. */
    ofr_planner_point prefill[OFR_PLANNER_POINTS_MAX], decode[OFR_PLANNER_POINTS_MAX];
    uint32_t n_prefill, n_decode;
    double hop_us;         /* from the end of another device's job to the begin of its own */
    double copy_gb_s;      /* to memory of its own; 0: it works in the host's, nothing is copied */
    uint64_t memory_bytes; /* of its own, as far as a model may use it; 0: the host's */
    char failure[256];     /* why it cannot be used; "": it can */
    double slowdown;       /* of its condition: 1.5 is half as long again; 0 means 1 */
    char condition[192];   /* why it is slowed down; "": it is not */
} ofr_planner_device;

typedef struct ofr_planner_model {
    char name[128];
    uint32_t n_layers;
    uint32_t context;
    uint64_t layer_bytes;  /* weights of one layer */
    uint64_t head_bytes;   /* weights outside the layers that a token reads */
    uint64_t kv_bytes;     /* K and V of one token, all layers */
    uint64_t hidden_bytes; /* hidden state of one token */
} ofr_planner_model;

typedef struct ofr_planner_input {
    ofr_planner_model model;
    ofr_planner_device devices[OFR_PLANNER_DEVICES_MAX];
    uint32_t n_devices;
    uint32_t answer_tokens; /* 0: OFR_PLANNER_ANSWER_TOKENS */
} ofr_planner_input;

/* A way through the model: one device, or layers over two. */
typedef struct ofr_planner_route {
    ofr_plan_phase phase;
    uint32_t devices[2]; /* indexes of phase.stages' devices */
    char text[2 * OFR_PLAN_NAME_MAX + 32];
} ofr_planner_route;

typedef struct ofr_planner_candidate {
    uint32_t prompt_tokens;
    uint32_t prefill, decode; /* routes */
    double first_token_ms, handoff_ms, per_token_ms, total_ms;
    bool chosen;
    bool best_single; /* one device, the best one over all lengths */
} ofr_planner_candidate;

typedef struct ofr_planner_refusal {
    char device[OFR_PLAN_NAME_MAX];
    char reason[OFR_PLANNER_TEXT_MAX];
} ofr_planner_refusal;

typedef struct ofr_planner_decision {
    ofr_plan plan;                     /* resolved; no phase is left to be chosen */
    char plan_text[512];               /* ofr_plan_format */
    char reason[OFR_PLANNER_TEXT_MAX]; /* one or two sentences */
    uint32_t answer_tokens;
    ofr_planner_route routes[OFR_PLANNER_ROUTES_MAX];
    uint32_t n_routes;
    /* All of them, by prompt length, then total. */
    ofr_planner_candidate *candidates;
    size_t n_candidates;
    ofr_planner_refusal refusals[OFR_PLANNER_DEVICES_MAX];
    uint32_t n_refusals;
} ofr_planner_decision;

/* OFR_EINVAL: the figures make no sense (names the device); OFR_EDEVICE: no device, and no split
 * over two, can run the model (says why not). *ret_decision is the caller's. */
int ofr_planner_decide(const ofr_planner_input *input, ofr_planner_decision **ret_decision,
                       ofr_error *err);
/* Accepts NULL. */
void ofr_planner_decision_free(ofr_planner_decision *decision);

/* What the model above says of one combination; NULL for an absent combination. */
const ofr_planner_candidate *ofr_planner_find(const ofr_planner_decision *decision,
                                              uint32_t prompt_tokens, const char *prefill,
                                              const char *decode);
/* The points of a device at a length, see above; no slowdown. */
double ofr_planner_interpolate(const ofr_planner_point *points, uint32_t n, double tokens);

#endif
