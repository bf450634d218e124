/* The product's innermost loop for AVX2 with FMA: 6 x 16 floats of C in 12 registers. */
#define MATRIX_LANES   8
#define MATRIX_ROWS    6
#define MATRIX_VECTORS 2
#include "calibration/matrix_kernel.h"

static const ofr_matrix_kernel table = {MATRIX_ROWS, MATRIX_VECTORS *MATRIX_LANES, run};

const ofr_matrix_kernel *ofr_matrix_kernel_avx2(void)
{
    return &table;
}
