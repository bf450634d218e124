/* What a decoder layer computes beside matrix products, in fp32, for calibration: RMSNorm, RoPE,
 * causal attention with grouped queries, SwiGLU, log-probabilities. Sums run in a fixed order: the
 * result depends neither on threads nor on the width of registers. Pure functions; any thread. */
#ifndef OFR_CALIBRATION_LAYER_MATH_H
#define OFR_CALIBRATION_LAYER_MATH_H

#include <stddef.h>
#include <stdint.h>

/* y = x / rms(x) * weight, n elements (arXiv 1910.07467). */
void ofr_layer_rms_norm(const float *x, const float *weight, size_t n, float epsilon, float *y);
/* Rotates one head in place: element i with i + half (engine/rope.h). */
void ofr_layer_rotate(float *head, const float *cosine, const float *sine, size_t half);
/* gate = silu(gate) * up (arXiv 2002.05202) */
void ofr_layer_swiglu(float *gate, const float *up, size_t n);
/* One query head over one sequence: q and out [n][q_stride], k and v [n][kv_stride], `dims`
 * elements each; token t sees 0 .. t. work [dims * padded + padded] with padded = n rounded up to
 * 16. */
void ofr_layer_attention(const float *q, size_t q_stride, const float *k, const float *v,
                         size_t kv_stride, size_t n, size_t dims, float *work, float *out);
size_t ofr_layer_attention_work(size_t n, size_t dims);
/* Takes n more logits into a running log-sum-exp: *maximum begins at -INFINITY, *sum at 0; the
 * logits are used up. */
void ofr_layer_add_logits(float *logits, size_t n, float *maximum, double *sum);

#endif
