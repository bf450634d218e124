/* The innermost loop of products, one table entry per instruction set. The including file defines
 * MATRIX_LANES (floats of a register), MATRIX_ROWS and MATRIX_VECTORS (registers a row). */
#ifndef OFR_CALIBRATION_MATRIX_KERNEL_H
#define OFR_CALIBRATION_MATRIX_KERNEL_H

#include <stddef.h>

#include "base/cpu_features.h"

typedef struct ofr_matrix_kernel {
    size_t rows, columns; /* of a tile of C */
    /* c [rows][c_row] += a . b, a [depth][rows], b [depth][columns]: c is read and written once. */
    void (*run)(size_t depth, const float *a, const float *b, float *c, size_t c_row);
} ofr_matrix_kernel;

enum { OFR_MATRIX_MAX_ROWS = 16, OFR_MATRIX_MAX_COLUMNS = 64 };

const ofr_matrix_kernel *ofr_matrix_kernel_generic(void);
const ofr_matrix_kernel *ofr_matrix_kernel_avx2(void);
const ofr_matrix_kernel *ofr_matrix_kernel_avx512(void);

#ifdef MATRIX_LANES
typedef float matrix_vector __attribute__((vector_size(MATRIX_LANES * 4), aligned(4), may_alias));

static void run(size_t depth, const float *a, const float *b, float *c, size_t c_row)
{
    matrix_vector sum[MATRIX_ROWS][MATRIX_VECTORS];
    for (int r = 0; r < MATRIX_ROWS; r++)
        for (int v = 0; v < MATRIX_VECTORS; v++)
            sum[r][v] = (matrix_vector){0};
    for (size_t k = 0; k < depth; k++) {
        matrix_vector right[MATRIX_VECTORS];
        for (int v = 0; v < MATRIX_VECTORS; v++)
            right[v] = *(const matrix_vector *)(const void *)(b + v * MATRIX_LANES);
#pragma GCC unroll 16
        for (int r = 0; r < MATRIX_ROWS; r++)
            for (int v = 0; v < MATRIX_VECTORS; v++)
                sum[r][v] += a[r] * right[v];
        a += MATRIX_ROWS;
        b += MATRIX_VECTORS * MATRIX_LANES;
    }
    for (int r = 0; r < MATRIX_ROWS; r++)
        for (int v = 0; v < MATRIX_VECTORS; v++)
            *(matrix_vector *)(void *)(c + (size_t)r * c_row + v * MATRIX_LANES) += sum[r][v];
}
#endif

#endif
