/* INT4 with error compensation (GPTQ, arXiv 2210.17323), for one matrix W [N, K] whose input has
 * the second moments H = sum x x^T [K, K]: minimises sum over rows of (w - q s) H (w - q s)^T.
 *
 * Written as error feedback (LDLQ, arXiv 2307.13304): with H = R R^T, R upper triangular, column k
 * is rounded at w_k + sum_{j<k} (w_j - q_j s_j) R_jk / R_kk, which needs no inverse of H. Columns
 * are taken in order of activation: groups by their largest H_kk, columns of a group by H_kk, so
 * that the groups of the format stay whole and each group's scale is chosen when its turn comes, by
 * trying candidates with the compensation inside the group. Then rounds of coordinate descent:
 * each scale in closed form, then each integer, against the whole H.
 *
 * Deterministic whatever the number of threads. */
#ifndef OFR_CALIBRATION_GPTQ_H
#define OFR_CALIBRATION_GPTQ_H

#include <stdint.h>

#include "calibration/matrix.h"

/* What all matrices share that read the same input. */
typedef struct ofr_gptq_input {
    size_t k, group;
    uint32_t *order; /* [k] column of the matrix at each place of the processing order; owned */
    float *moments;  /* [k][k] H with damping, in processing order; owned */
    float *feedback; /* [k][k] R_jk / R_kk at [j * k + k'], j < k'; owned */
    float *inner;    /* [k / group][group][group] feedback within a group, transposed: a column's
                        coefficients are contiguous; owned */
    float *pivots;   /* [k] R_kk^2; owned */
} ofr_gptq_input;

/* h [k][k]: the lower triangle is read. `damping` is what is added to the diagonal, as a share of
 * its mean; more is added by itself where H is singular. */
int ofr_gptq_input_init(ofr_gptq_input *input, ofr_matrix_engine *engine, const float *h, size_t k,
                        size_t group, float damping, ofr_error *err);
void ofr_gptq_input_done(ofr_gptq_input *input);

/* ret_q [n][k] in -8 .. 7 and ret_scales [n][k / group] f16. `rounds` of coordinate descent.
 * *ret_error is the sum that is minimised, *ret_energy the same of W itself. */
int ofr_gptq_quantize(ofr_matrix_engine *engine, const ofr_gptq_input *input, const float *w,
                      size_t n, unsigned rounds, int8_t *ret_q, uint16_t *ret_scales,
                      double *ret_error, double *ret_energy, ofr_error *err);

/* w [n][k] += share * m (H + damping)^-1: the least-squares change of W for residuals whose
 * products with the input are m [n][k] = sum r x^T. */
int ofr_gptq_solve(ofr_matrix_engine *engine, const ofr_gptq_input *input, const float *m, size_t n,
                   float share, float *w, ofr_error *err);

#endif
