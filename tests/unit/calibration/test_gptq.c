/* Error feedback: the stated error is the real one, it is far below that of plain rounding where
 * inputs are correlated, coordinate descent lowers it further, threads do not show. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fp16.h"
#include "calibration/gptq.h"

enum { T = 300, K = 128, N = 40, GROUP = 64 };

typedef struct fixture {
    ofr_matrix_engine *engine;
    float *x, *h, *w;
    ofr_gptq_input input;
} fixture;

static float noise(uint32_t *seed)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        sum += (float)(*seed >> 8) * 0x1p-24f - 0.5f;
    }
    return sum;
}

static void open_fixture(fixture *f, unsigned threads, float damping)
{
    ofr_error err = {0};
    uint32_t seed = 3;
    assert_int_equal(ofr_matrix_engine_new(threads, &f->engine, &err), 0);
    f->x = malloc(sizeof(float) * T * K);
    f->h = calloc((size_t)K * K, sizeof(float));
    f->w = malloc(sizeof(float) * N * K);
    assert_non_null(f->x);
    assert_non_null(f->h);
    assert_non_null(f->w);
    for (size_t t = 0; t < T; t++) {
        float common = noise(&seed);
        for (size_t k = 0; k < K; k++) {
            float size = k % 17 == 0 ? 5 : 1;
            f->x[t * K + k] = size * (common + 0.5f * noise(&seed));
        }
    }
    for (size_t i = 0; i < (size_t)N * K; i++)
        f->w[i] = noise(&seed);
    ofr_matrix_add_gram(f->engine, f->x, f->x, f->h, K, K, T);
    assert_int_equal(ofr_gptq_input_init(&f->input, f->engine, f->h, K, GROUP, damping, &err), 0);
}

static void close_fixture(fixture *f)
{
    ofr_gptq_input_done(&f->input);
    ofr_matrix_engine_free(f->engine);
    free(f->x);
    free(f->h);
    free(f->w);
}

/* sum over tokens and rows of ((w - made) x)^2 */
static double real_error(const fixture *f, const int8_t *q, const uint16_t *scales)
{
    double total = 0;
    for (size_t t = 0; t < T; t++)
        for (size_t n = 0; n < N; n++) {
            double sum = 0;
            for (size_t k = 0; k < K; k++) {
                double scale = (double)ofr_half_to_float(scales[n * (K / GROUP) + k / GROUP]);
                sum += ((double)f->w[n * K + k] - (double)q[n * K + k] * scale) *
                       (double)f->x[t * K + k];
            }
            total += sum * sum;
        }
    return total;
}

static void round_plainly(const fixture *f, int8_t *q, uint16_t *scales)
{
    for (size_t g = 0; g < (size_t)N * K / GROUP; g++) {
        float largest = 0;
        for (size_t i = 0; i < GROUP; i++)
            largest = fmaxf(largest, fabsf(f->w[g * GROUP + i]));
        scales[g] = ofr_float_to_half(largest / 7);
        for (size_t i = 0; i < GROUP; i++)
            q[g * GROUP + i] = (int8_t)rintf(f->w[g * GROUP + i] / ofr_half_to_float(scales[g]));
    }
}

static void feedback_beats_rounding(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 2, 1e-4f);
    int8_t *q = malloc((size_t)N * K);
    uint16_t scales[N * K / GROUP];
    assert_non_null(q);
    round_plainly(&f, q, scales);
    double plain = real_error(&f, q, scales), before = plain;
    for (unsigned rounds = 0; rounds <= 3; rounds += 3) {
        double error = 0, energy = 0;
        ofr_error err = {0};
        assert_int_equal(
            ofr_gptq_quantize(f.engine, &f.input, f.w, N, rounds, q, scales, &error, &energy, &err),
            0);
        double real = real_error(&f, q, scales);
        /* What is minimised also counts the damping, which is small here. */
        assert_true(fabs(real - error) < 0.05 * error);
        print_message("%u rounds: error %.4g, of plain rounding %.4g\n", rounds, real, plain);
        assert_true(real < (rounds ? 0.995 : 0.15) * (rounds ? before : plain));
        assert_true(energy > 0);
        before = real;
        for (size_t i = 0; i < (size_t)N * K; i++)
            assert_true(q[i] >= -8 && q[i] <= 7);
    }
    free(q);
    close_fixture(&f);
}

static void threads_do_not_show(void **state)
{
    (void)state;
    int8_t *q[2];
    uint16_t scales[2][N * K / GROUP];
    for (unsigned i = 0; i < 2; i++) {
        fixture f;
        double error, energy;
        open_fixture(&f, i + 1, 0.01f);
        q[i] = malloc((size_t)N * K);
        assert_non_null(q[i]);
        assert_int_equal(ofr_gptq_quantize(f.engine, &f.input, f.w, N, 2, q[i], scales[i], &error,
                                           &energy, NULL),
                         0);
        close_fixture(&f);
    }
    assert_memory_equal(q[0], q[1], (size_t)N * K);
    assert_memory_equal(scales[0], scales[1], sizeof scales[0]);
    free(q[0]);
    free(q[1]);
}

static void solve_finds_the_least_squares_change(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 2, 1e-6f);
    /* Residuals that a change of the weights explains: D x, so m = D H and the answer is D. */
    float *change = malloc(sizeof(float) * N * K), *m = malloc(sizeof(float) * N * K);
    float *w = calloc((size_t)N * K, sizeof *w);
    uint32_t seed = 9;
    assert_non_null(change);
    assert_non_null(m);
    assert_non_null(w);
    for (size_t i = 0; i < (size_t)N * K; i++)
        change[i] = noise(&seed);
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++) {
            double sum = 0;
            for (size_t j = 0; j < K; j++)
                sum +=
                    (double)change[n * K + j] * (double)(j >= k ? f.h[j * K + k] : f.h[k * K + j]);
            m[n * K + k] = (float)sum;
        }
    assert_int_equal(ofr_gptq_solve(f.engine, &f.input, m, N, 0.5f, w, NULL), 0);
    for (size_t i = 0; i < (size_t)N * K; i++)
        assert_true(fabsf(w[i] - 0.5f * change[i]) < 0.02f);
    free(change);
    free(m);
    free(w);
    close_fixture(&f);
}

/* An input that is always zero must not stop anything. */
static void dead_inputs_are_survived(void **state)
{
    (void)state;
    ofr_matrix_engine *engine = NULL;
    ofr_gptq_input input;
    float *h = calloc((size_t)K * K, sizeof *h), *w = calloc((size_t)N * K, sizeof *w);
    int8_t *q = malloc((size_t)N * K);
    uint16_t scales[N * K / GROUP];
    double error, energy;
    assert_non_null(h);
    assert_non_null(w);
    assert_non_null(q);
    for (size_t i = 0; i < K; i += 2)
        h[i * K + i] = 1;
    for (size_t i = 0; i < (size_t)N * K; i++)
        w[i] = (float)(i % 7) - 3;
    assert_int_equal(ofr_matrix_engine_new(1, &engine, NULL), 0);
    assert_int_equal(ofr_gptq_input_init(&input, engine, h, K, GROUP, 0, NULL), 0);
    assert_int_equal(ofr_gptq_quantize(engine, &input, w, N, 2, q, scales, &error, &energy, NULL),
                     0);
    assert_true(isfinite(error) && error < 0.02 * energy);
    ofr_gptq_input_done(&input);
    ofr_matrix_engine_free(engine);
    free(h);
    free(w);
    free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(feedback_beats_rounding),
        cmocka_unit_test(threads_do_not_show),
        cmocka_unit_test(solve_finds_the_least_squares_change),
        cmocka_unit_test(dead_inputs_are_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
