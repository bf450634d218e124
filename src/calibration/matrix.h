/* Products of fp32 matrices and the Cholesky factor, for calibration.
 *
 * Deterministic: every element of a product is the same chain of fused multiply-adds over k, cut
 * every OFR_MATRIX_DEPTH steps, whatever the instruction set, the number of threads or the blocks.
 * An object belongs to one calling thread at a time; it uses the pool's threads inside. */
#ifndef OFR_CALIBRATION_MATRIX_H
#define OFR_CALIBRATION_MATRIX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "base/thread_pool.h"

enum { OFR_MATRIX_DEPTH = 256 };

typedef struct ofr_matrix_engine ofr_matrix_engine;

int ofr_matrix_engine_new(unsigned n_threads, ofr_matrix_engine **ret_engine, ofr_error *err);
/* Accepts NULL; returns NULL. */
ofr_matrix_engine *ofr_matrix_engine_free(ofr_matrix_engine *engine);
/* Borrowed; for parallel regions of the caller's own between products. */
ofr_thread_pool *ofr_matrix_engine_pool(const ofr_matrix_engine *engine);

/* C(i, j) = sum over k of A(i, k) B(k, j), added to what is in C if `accumulate`. Any strides for A
 * and B; rows of C are contiguous. */
typedef struct ofr_matrix_product {
    size_t m, n, k;
    const float *a; /* A(i, k) = a[i * a_row + k * a_column] */
    size_t a_row, a_column;
    const float *b; /* B(k, j) = b[k * b_row + j * b_column] */
    size_t b_row, b_column;
    float *c; /* C(i, j) = c[i * c_row + j]; apart from A and B */
    size_t c_row;
    bool accumulate;
    bool lower;  /* only blocks that touch the lower triangle are computed */
    bool negate; /* the product counts negative */
} ofr_matrix_product;

void ofr_matrix_multiply(ofr_matrix_engine *engine, const ofr_matrix_product *product);

/* The shapes that calibration needs, all row-major:
 * c [m][n] (+)= a [m][k] . b [n][k]^T */
void ofr_matrix_multiply_nt(ofr_matrix_engine *engine, const float *a, const float *b, float *c,
                            size_t m, size_t n, size_t k, bool accumulate);
/* c [m][n] += a [t][m]^T . b [t][n]; with a == b and m == n only the lower triangle. */
void ofr_matrix_add_gram(ofr_matrix_engine *engine, const float *a, const float *b, float *c,
                         size_t m, size_t n, size_t t);

/* In place: the lower triangle of a [n][n] (symmetric, positive definite) becomes its Cholesky
 * factor L; above it is undefined. False: not positive definite. */
bool ofr_matrix_cholesky(ofr_matrix_engine *engine, float *a, size_t n);

#endif
