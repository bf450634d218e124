/* The product's innermost loop for AVX-512: 12 x 32 floats of C in 24 registers. */
#define MATRIX_LANES   16
#define MATRIX_ROWS    12
#define MATRIX_VECTORS 2
#include "calibration/matrix_kernel.h"

static const ofr_matrix_kernel table = {MATRIX_ROWS, MATRIX_VECTORS *MATRIX_LANES, run};

const ofr_matrix_kernel *ofr_matrix_kernel_avx512(void)
{
    return &table;
}
