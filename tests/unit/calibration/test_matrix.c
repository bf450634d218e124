/* Products against plain loops for many shapes, whatever the threads; the Cholesky factor. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "calibration/matrix.h"
#include "calibration/matrix_kernel.h"

static float noise(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(*seed >> 8) * 0x1p-23f - 1;
}

static float *random_matrix(size_t n, uint32_t seed)
{
    float *values = malloc(n * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < n; i++)
        values[i] = noise(&seed);
    return values;
}

static ofr_matrix_engine *open_engine(unsigned threads)
{
    ofr_matrix_engine *engine = NULL;
    ofr_error err = {0};
    assert_int_equal(ofr_matrix_engine_new(threads, &engine, &err), 0);
    return engine;
}

/* What the header promises of one element: a chain of fmaf, cut every DEPTH steps. */
static float element(const float *a, const float *b, size_t k)
{
    float total = 0;
    for (size_t begin = 0; begin < k; begin += OFR_MATRIX_DEPTH) {
        float sum = 0;
        for (size_t i = begin; i < k && i < begin + OFR_MATRIX_DEPTH; i++)
            sum = fmaf(a[i], b[i], sum);
        total += sum;
    }
    return total;
}

static void products_have_the_promised_bits(void **state)
{
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1},    {3, 5, 7},     {6, 16, 32},   {13, 33, 300},
                                       {193, 70, 9}, {40, 530, 17}, {200, 513, 64}};
    for (unsigned threads = 1; threads <= 2; threads++) {
        ofr_matrix_engine *engine = open_engine(threads);
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            size_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            float *a = random_matrix(m * k, 1), *b = random_matrix(n * k, 2);
            float *c = random_matrix(m * n, 3);
            ofr_matrix_multiply_nt(engine, a, b, c, m, n, k, false);
            for (size_t i = 0; i < m; i++)
                for (size_t j = 0; j < n; j++)
                    assert_true(c[i * n + j] == element(a + i * k, b + j * k, k));
            free(a);
            free(b);
            free(c);
        }
        ofr_matrix_engine_free(engine);
    }
}

static void kernels_agree(void **state)
{
    (void)state;
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    const ofr_matrix_kernel *kernels[] = {ofr_matrix_kernel_generic(),
                                          features.avx2 ? ofr_matrix_kernel_avx2() : NULL,
                                          features.avx512 ? ofr_matrix_kernel_avx512() : NULL};
    enum { DEPTH = 37 };
    for (size_t i = 0; i < 3; i++) {
        const ofr_matrix_kernel *kernel = kernels[i];
        if (!kernel)
            continue;
        float *a = random_matrix(DEPTH * kernel->rows, 4);
        float *b = random_matrix(DEPTH * kernel->columns, 5);
        float *c = random_matrix(kernel->rows * kernel->columns, 6);
        float *before = random_matrix(kernel->rows * kernel->columns, 6);
        kernel->run(DEPTH, a, b, c, kernel->columns);
        for (size_t row = 0; row < kernel->rows; row++)
            for (size_t column = 0; column < kernel->columns; column++) {
                float sum = 0;
                for (size_t k = 0; k < DEPTH; k++)
                    sum = fmaf(a[k * kernel->rows + row], b[k * kernel->columns + column], sum);
                size_t at = row * kernel->columns + column;
                assert_true(c[at] == before[at] + sum);
            }
        free(a);
        free(b);
        free(c);
        free(before);
    }
}

static void gram_adds_to_the_lower_triangle(void **state)
{
    (void)state;
    enum { T = 70, K = 210 };
    ofr_matrix_engine *engine = open_engine(2);
    float *x = random_matrix((size_t)T * K, 7), *h = calloc((size_t)K * K, sizeof *h);
    assert_non_null(h);
    ofr_matrix_add_gram(engine, x, x, h, K, K, T);
    ofr_matrix_add_gram(engine, x, x, h, K, K, T);
    for (size_t i = 0; i < K; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t t = 0; t < T; t++)
                sum += 2 * (double)x[t * K + i] * (double)x[t * K + j];
            assert_true(fabs(sum - (double)h[i * K + j]) < 1e-4 * (1 + fabs(sum)));
        }
    free(x);
    free(h);
    ofr_matrix_engine_free(engine);
}

static void cholesky_gives_the_matrix_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 5, 64, 65, 150, 200};
    ofr_matrix_engine *engine = open_engine(2);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s], t = 2 * n + 3;
        float *x = random_matrix(t * n, 8), *h = calloc(n * n, sizeof *h);
        float *l = malloc(n * n * sizeof *l);
        assert_non_null(h);
        assert_non_null(l);
        ofr_matrix_add_gram(engine, x, x, h, n, n, t);
        memcpy(l, h, n * n * sizeof *l);
        assert_true(ofr_matrix_cholesky(engine, l, n));
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j <= i; j++) {
                double sum = 0;
                for (size_t k = 0; k <= j; k++)
                    sum += (double)l[i * n + k] * (double)l[j * n + k];
                assert_true(fabs(sum - (double)h[i * n + j]) < 1e-4 * (double)t);
            }
        h[n * n - 1] = -1; /* no longer positive definite */
        memcpy(l, h, n * n * sizeof *l);
        assert_false(ofr_matrix_cholesky(engine, l, n));
        free(x);
        free(h);
        free(l);
    }
    ofr_matrix_engine_free(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_have_the_promised_bits),
        cmocka_unit_test(kernels_agree),
        cmocka_unit_test(gram_adds_to_the_lower_triangle),
        cmocka_unit_test(cholesky_gives_the_matrix_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
