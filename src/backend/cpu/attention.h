/* What the two forms of attention share: single tokens, split over heads and context, and blocks of
 * queries of longer segments. Online softmax (arXiv 1805.02867) over blocks of keys; the heads of a
 * group share every load of K and V. */
#ifndef OFR_BACKEND_CPU_ATTENTION_H
#define OFR_BACKEND_CPU_ATTENTION_H

#include "backend/cpu/session.h"

static inline uint32_t cpu_min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t cpu_divide_up(uint32_t a, uint32_t b)
{
    return (a - 1) / b + 1;
}

/* A strip of K or V in the KV arena, by its offset there. */
static inline uint16_t *cpu_kv_strip(const ofr_backend_session *session, uint64_t offset)
{
    return (uint16_t *)(void *)((char *)session->options.kv_arena + offset);
}

/* Where the result of a query head of a token of the pass goes. */
static inline float *cpu_attention_row(const ofr_backend_session *session, uint32_t token,
                                       uint32_t head)
{
    return session->attention +
           ((size_t)token * session->params->n_heads + head) * session->params->head_dim;
}

/* The first key that a query at `position` sees. */
uint32_t ofr_cpu_first_key(const ofr_backend_session *session, uint32_t layer, uint32_t position);
/* x = c tanh(x / c) where the model caps its scores */
void ofr_cpu_cap_scores(const ofr_backend_session *session, float *x, size_t n);
/* K, normed and rotated, and V of a token of the pass into its slot's strips. */
void ofr_cpu_store_kv(ofr_backend_session *session, uint32_t layer, uint32_t token, uint32_t head);
/* The query heads of one group of one token, rotated and scaled, into y [heads][head_dim]. */
void ofr_cpu_load_query(const ofr_backend_session *session, uint32_t layer, uint32_t token,
                        uint32_t group, float *y);

/* All tokens of a pass, on every thread; both end with a barrier. */
void ofr_cpu_attention_single(ofr_backend_session *session, uint32_t thread, uint32_t layer);
void ofr_cpu_attention_blocks(ofr_backend_session *session, uint32_t thread, uint32_t layer);

#endif
