/* GPTQ as error feedback: LANES rows of the matrix go through all columns together, one row a lane;
 * rows do not depend on each other. */
#include "calibration/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/fp16.h"

/* A register of AVX2: GCC passes vectors of two registers through memory, which took most of the
 * time. */
enum { LANES = 8, STEPS = 14, MAX_ATTEMPTS = 8 };

typedef float lanes __attribute__((vector_size(LANES * 4), aligned(32)));
typedef int32_t lanes_int __attribute__((vector_size(LANES * 4), aligned(32)));

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* ---- what matrices of one input share ---- */

typedef struct ranked {
    float rank;
    uint32_t index;
} ranked;

/* Descending; equal ones in their natural order. */
static int compare_ranked(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank > y->rank ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int choose_order(ofr_gptq_input *input, const float *h, ofr_error *err)
{
    size_t k = input->k, group = input->group, n_groups = k / group;
    ranked *groups = malloc(n_groups * sizeof *groups), *columns = malloc(group * sizeof *columns);
    if (!groups || !columns) {
        free(groups);
        free(columns);
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    }
    for (size_t g = 0; g < n_groups; g++) {
        groups[g] = (ranked){0, (uint32_t)g};
        for (size_t i = g * group; i < (g + 1) * group; i++)
            groups[g].rank = fmaxf(groups[g].rank, h[i * k + i]);
    }
    qsort(groups, n_groups, sizeof *groups, compare_ranked);
    for (size_t place = 0; place < n_groups; place++) {
        for (size_t i = 0; i < group; i++) {
            size_t column = groups[place].index * group + i;
            columns[i] = (ranked){h[column * k + column], (uint32_t)column};
        }
        qsort(columns, group, sizeof *columns, compare_ranked);
        for (size_t i = 0; i < group; i++)
            input->order[place * group + i] = columns[i].index;
    }
    free(groups);
    free(columns);
    return 0;
}

/* R from the Cholesky factor of H with its order reversed: R_jk = L[n-1-j][n-1-k]. */
static bool factorize(ofr_gptq_input *input, ofr_matrix_engine *engine, float *work)
{
    size_t k = input->k;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j <= i; j++)
            work[i * k + j] = input->moments[(k - 1 - i) * k + (k - 1 - j)];
    if (!ofr_matrix_cholesky(engine, work, k))
        return false;
    memset(input->feedback, 0, k * k * sizeof *input->feedback);
    for (size_t c = 0; c < k; c++) {
        float diagonal = work[(k - 1 - c) * k + (k - 1 - c)];
        input->pivots[c] = diagonal * diagonal;
        for (size_t j = 0; j < c; j++)
            input->feedback[j * k + c] = work[(k - 1 - j) * k + (k - 1 - c)] / diagonal;
    }
    size_t group = input->group;
    for (size_t c = 0; c < k; c++)
        for (size_t j = 0; j < group; j++)
            input->inner[c * group + j] = input->feedback[(c / group * group + j) * k + c];
    return true;
}

int ofr_gptq_input_init(ofr_gptq_input *input, ofr_matrix_engine *engine, const float *h, size_t k,
                        size_t group, float damping, ofr_error *err)
{
    *input = (ofr_gptq_input){.k = k, .group = group};
    input->order = malloc(k * sizeof *input->order);
    input->moments = malloc(k * k * sizeof *input->moments);
    input->feedback = malloc(k * k * sizeof *input->feedback);
    input->pivots = malloc(k * sizeof *input->pivots);
    input->inner = malloc(k * group * sizeof *input->inner);
    float *work = malloc(k * k * sizeof *work);
    int r = 0;
    if (!input->order || !input->moments || !input->feedback || !input->pivots || !input->inner ||
        !work)
        r = ofr_fail(err, OFR_ENOMEM, "calibration: no memory for moments of %zu inputs", k);
    if (r == 0)
        r = choose_order(input, h, err);
    if (r < 0)
        goto out;
    double mean = 0;
    for (size_t i = 0; i < k; i++)
        mean += (double)h[i * k + i] / (double)k;
    mean = mean > 0 ? mean : 1;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++) {
            size_t x = input->order[i], y = input->order[j];
            input->moments[i * k + j] = x >= y ? h[x * k + y] : h[y * k + x];
        }
    float added = 0;
    damping = damping > 1e-6f ? damping : 1e-6f;
    bool done = false;
    for (int attempt = 0; attempt < MAX_ATTEMPTS && !done; attempt++, damping *= 10) {
        for (size_t i = 0; i < k; i++)
            input->moments[i * k + i] += damping * (float)mean - added;
        added = damping * (float)mean;
        done = factorize(input, engine, work);
    }
    if (!done)
        r = ofr_fail(err, OFR_EFORMAT, "calibration: activations are not finite");
out:
    free(work);
    if (r < 0)
        ofr_gptq_input_done(input);
    return r;
}

void ofr_gptq_input_done(ofr_gptq_input *input)
{
    free(input->order);
    free(input->moments);
    free(input->feedback);
    free(input->pivots);
    free(input->inner);
    *input = (ofr_gptq_input){0};
}

/* ---- rows ---- */

/* LANES rows on their way. All arrays in processing order. */
typedef struct row_block {
    const ofr_gptq_input *input;
    lanes *target;                      /* [k] W */
    lanes *error;                       /* [k] W - q s */
    lanes *integer;                     /* [k] q */
    lanes *shifted;                     /* [group] target plus the feedback of earlier groups */
    lanes *trial_error, *trial_integer; /* [group] */
    lanes *scale;                       /* [k / group] */
    lanes *gradient;                    /* [k] error . H */
} row_block;

static inline __attribute__((always_inline)) lanes spread(float x)
{
    return (lanes){x, x, x, x, x, x, x, x};
}

/* Adding and subtracting 1.5 * 2^23 rounds to even; vectorizes everywhere. */
static inline __attribute__((always_inline)) lanes round_i4(lanes x)
{
    lanes low = spread(-8), high = spread(7), magic = spread(12582912.0f);
    lanes_int below = x<low, above = x> high;
    x = (lanes)((below & (lanes_int)low) | (above & (lanes_int)high) |
                (~(below | above) & (lanes_int)x));
    return (x + magic) - magic;
}

/* What f16 keeps of the scales; 0 where they vanish. */
static inline __attribute__((always_inline)) lanes to_half(lanes scale)
{
    lanes result;
    for (int i = 0; i < LANES; i++) {
        float x = scale[i];
        x = x > 65504 ? 65504 : x < -65504 ? -65504 : x;
        result[i] = ofr_half_to_float(ofr_float_to_half(x));
    }
    return result;
}

static inline __attribute__((always_inline)) lanes inverse_of(lanes scale)
{
    lanes result;
    for (int i = 0; i < LANES; i++) {
        float inverse = scale[i] != 0 ? 1 / scale[i] : 0;
        result[i] = isfinite(inverse) ? inverse : 0;
    }
    return result;
}

/* shifted = target + feedback of all columns before `begin`. */
CLONES static void shift_group(const row_block *b, size_t begin)
{
    size_t k = b->input->k, group = b->input->group;
    for (size_t c = 0; c < group; c += 4) {
        lanes sum[4];
        for (size_t i = 0; i < 4; i++)
            sum[i] = b->target[begin + c + i];
        for (size_t j = 0; j < begin; j++) {
            const float *f = b->input->feedback + j * k + begin + c;
            lanes e = b->error[j];
            for (size_t i = 0; i < 4; i++)
                sum[i] += e * f[i];
        }
        for (size_t i = 0; i < 4; i++)
            b->shifted[c + i] = sum[i];
    }
}

/* The group at `begin` with these scales: trial_error, trial_integer, and what it costs. */
CLONES static void try_group(const row_block *b, size_t begin, const lanes *scale,
                             const lanes *inverse, lanes *ret_cost)
{
    size_t group = b->input->group;
    lanes cost = {0};
    for (size_t c = 0; c < group; c++) {
        const float *f = b->input->inner + (begin + c) * group;
        const lanes *e = b->trial_error;
        lanes v = b->shifted[c], v1 = {0}, v2 = {0}, v3 = {0};
        size_t j = 0;
        for (; j + 4 <= c; j += 4) {
            v += e[j] * f[j];
            v1 += e[j + 1] * f[j + 1];
            v2 += e[j + 2] * f[j + 2];
            v3 += e[j + 3] * f[j + 3];
        }
        for (; j < c; j++)
            v += e[j] * f[j];
        v += v1 + (v2 + v3);
        lanes q = round_i4(v * *inverse);
        lanes back = q * *scale, miss = v - back;
        b->trial_integer[c] = q;
        b->trial_error[c] = b->target[begin + c] - back;
        cost += miss * miss * b->input->pivots[begin + c];
    }
    *ret_cost = cost;
}

static void quantize_group(const row_block *b, size_t begin)
{
    size_t group = b->input->group;
    shift_group(b, begin);
    lanes extreme = {0}, best_cost, best_scale = {0};
    for (int i = 0; i < LANES; i++) {
        best_cost[i] = INFINITY;
        for (size_t c = 0; c < group; c++)
            if (fabsf(b->shifted[c][i]) > fabsf(extreme[i]))
                extreme[i] = b->shifted[c][i];
    }
    for (int step = 0; step <= 2 * STEPS; step++) {
        lanes scale, cost;
        /* The extreme lands on 5.6 .. 8.98, at either end; last the best once more. */
        float target = 5.6f + 0.26f * (float)(step / 2);
        scale = step == 2 * STEPS ? best_scale
                                  : to_half(extreme / spread(step % 2 == 0 ? target : -target));
        lanes inverse = inverse_of(scale);
        try_group(b, begin, &scale, &inverse, &cost);
        for (int i = 0; i < LANES; i++)
            if (step < 2 * STEPS && cost[i] < best_cost[i]) {
                best_cost[i] = cost[i];
                best_scale[i] = scale[i];
            }
    }
    memcpy(b->error + begin, b->trial_error, group * sizeof(lanes));
    memcpy(b->integer + begin, b->trial_integer, group * sizeof(lanes));
    b->scale[begin / group] = best_scale;
}

/* ---- coordinate descent ---- */

/* gradient = error . H */
CLONES static void find_gradient(const row_block *b)
{
    size_t k = b->input->k;
    for (size_t c = 0; c < k; c += 8) {
        lanes sum[8] = {{0}};
        for (size_t j = 0; j < k; j++) {
            const float *h = b->input->moments + j * k + c;
            lanes e = b->error[j];
            for (size_t i = 0; i < 8; i++)
                sum[i] += e * h[i];
        }
        for (size_t i = 0; i < 8; i++)
            b->gradient[c + i] = sum[i];
    }
}

/* The error of column j changes by `change`: so does the gradient of every column. */
CLONES static void change_error(const row_block *b, size_t j, const lanes *change)
{
    size_t k = b->input->k;
    const float *h = b->input->moments + j * k;
    lanes by = *change;
    b->error[j] += by;
    for (size_t c = 0; c < k; c++)
        b->gradient[c] += by * h[c];
}

/* q H q^T and q . gradient of the group at `begin`. */
CLONES static void group_forms(const row_block *b, size_t begin, lanes *ret_square,
                               lanes *ret_slope)
{
    size_t k = b->input->k, group = b->input->group;
    lanes square = {0}, slope = {0};
    for (size_t i = 0; i < group; i++) {
        const float *h = b->input->moments + (begin + i) * k + begin;
        lanes sum = {0};
        for (size_t j = 0; j < group; j++)
            sum += b->integer[begin + j] * h[j];
        square += sum * b->integer[begin + i];
        slope += b->gradient[begin + i] * b->integer[begin + i];
    }
    *ret_square = square;
    *ret_slope = slope;
}

/* Each group's scale at its optimum for the integers as they are. */
static void descend_scales(const row_block *b)
{
    size_t group = b->input->group;
    for (size_t begin = 0; begin < b->input->k; begin += group) {
        lanes square, slope, old = b->scale[begin / group], made;
        group_forms(b, begin, &square, &slope);
        for (int i = 0; i < LANES; i++)
            made[i] = square[i] > 0 ? old[i] + slope[i] / square[i] : old[i];
        made = to_half(made);
        bool any = false;
        for (int i = 0; i < LANES; i++) {
            /* The error is a parabola in the scale: better only within twice the step. */
            float step = made[i] - old[i], wanted = square[i] > 0 ? slope[i] / square[i] : 0;
            if (!(step * wanted > 0 && fabsf(step) < 2 * fabsf(wanted)) || made[i] == 0)
                made[i] = old[i];
            any |= made[i] != old[i];
        }
        if (!any)
            continue;
        b->scale[begin / group] = made;
        for (size_t c = begin; c < begin + group; c++) {
            lanes change = b->integer[c] * (old - made);
            change_error(b, c, &change);
        }
    }
}

/* Each integer at its optimum for all others; false where none changed. */
static bool descend_integers(const row_block *b)
{
    size_t k = b->input->k, group = b->input->group;
    bool changed = false;
    for (size_t begin = 0; begin < k; begin += group) {
        lanes scale = b->scale[begin / group], inverse = inverse_of(scale);
        for (size_t c = begin; c < begin + group; c++) {
            lanes old = b->integer[c];
            float curvature = b->input->moments[c * k + c];
            lanes made = round_i4(old + b->gradient[c] * spread(1 / curvature) * inverse);
            lanes_int differs = made != old;
            bool any = false;
            for (int i = 0; i < LANES; i++)
                any |= differs[i] != 0;
            if (!any)
                continue;
            changed = true;
            b->integer[c] = made;
            lanes change = (old - made) * scale;
            change_error(b, c, &change);
        }
    }
    return changed;
}

static void measure(const row_block *b, double *add_error, double *add_energy)
{
    double error = 0;
    for (size_t c = 0; c < b->input->k; c++)
        for (int i = 0; i < LANES; i++)
            error += (double)b->error[c][i] * (double)b->gradient[c][i];
    *add_error += error;
    /* The energy by its diagonal: a measure of size, not of error. */
    for (size_t c = 0; c < b->input->k; c++) {
        double h = (double)b->input->moments[c * b->input->k + c];
        for (int i = 0; i < LANES; i++)
            *add_energy += h * (double)b->target[c][i] * (double)b->target[c][i];
    }
}

/* ---- a whole matrix ---- */

typedef struct quantization {
    ofr_thread_pool *pool;
    const ofr_gptq_input *input;
    const float *w;
    size_t n;
    unsigned rounds;
    int8_t *q;
    uint16_t *scales;
    double *errors, *energies; /* [blocks of rows] */
    lanes *memory;             /* per thread */
    size_t memory_lanes;
} quantization;

static size_t block_lanes(const ofr_gptq_input *input)
{
    return 4 * input->k + 3 * input->group + input->k / input->group;
}

static void quantize_rows(const quantization *work, const row_block *b, size_t row, size_t block)
{
    const ofr_gptq_input *input = work->input;
    size_t k = input->k, rows = work->n - row < LANES ? work->n - row : LANES;
    for (size_t c = 0; c < k; c++)
        for (size_t i = 0; i < LANES; i++)
            b->target[c][i] = i < rows ? work->w[(row + i) * k + input->order[c]] : 0;
    for (size_t begin = 0; begin < k; begin += input->group)
        quantize_group(b, begin);
    find_gradient(b);
    for (unsigned round = 0; round < work->rounds; round++) {
        descend_scales(b);
        if (!descend_integers(b))
            break;
    }
    if (work->rounds > 0)
        find_gradient(b); /* afresh: the updates have rounded */
    measure(b, &work->errors[block], &work->energies[block]);
    for (size_t c = 0; c < k; c++)
        for (size_t i = 0; i < rows; i++)
            work->q[(row + i) * k + input->order[c]] = (int8_t)b->integer[c][i];
    for (size_t g = 0; g < k / input->group; g++)
        for (size_t i = 0; i < rows; i++)
            work->scales[(row + i) * (k / input->group) +
                         input->order[g * input->group] / input->group] =
                ofr_float_to_half(b->scale[g][i]);
}

static void quantize_region(void *context, uint32_t thread)
{
    quantization *work = context;
    const ofr_gptq_input *input = work->input;
    lanes *at = work->memory + thread * work->memory_lanes;
    row_block b = {.input = input, .target = at};
    b.error = b.target + input->k;
    b.integer = b.error + input->k;
    b.gradient = b.integer + input->k;
    b.shifted = b.gradient + input->k;
    b.trial_error = b.shifted + input->group;
    b.trial_integer = b.trial_error + input->group;
    b.scale = b.trial_integer + input->group;
    for (;;) {
        size_t block = ofr_thread_pool_next(work->pool);
        if (block * LANES >= work->n)
            return;
        quantize_rows(work, &b, block * LANES, block);
    }
}

int ofr_gptq_quantize(ofr_matrix_engine *engine, const ofr_gptq_input *input, const float *w,
                      size_t n, unsigned rounds, int8_t *ret_q, uint16_t *ret_scales,
                      double *ret_error, double *ret_energy, ofr_error *err)
{
    ofr_thread_pool *pool = ofr_matrix_engine_pool(engine);
    size_t blocks = (n + LANES - 1) / LANES;
    quantization work = {.pool = pool,
                         .input = input,
                         .w = w,
                         .n = n,
                         .rounds = rounds,
                         .q = ret_q,
                         .scales = ret_scales,
                         .memory_lanes = block_lanes(input)};
    work.errors = calloc(2 * blocks, sizeof *work.errors);
    work.energies = work.errors + blocks;
    work.memory = aligned_alloc(sizeof(lanes),
                                ofr_thread_pool_size(pool) * work.memory_lanes * sizeof(lanes));
    if (!work.errors || !work.memory) {
        free(work.errors);
        free(work.memory);
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    }
    ofr_thread_pool_run(pool, quantize_region, &work);
    *ret_error = *ret_energy = 0;
    for (size_t i = 0; i < blocks; i++) {
        *ret_error += work.errors[i];
        *ret_energy += work.energies[i];
    }
    free(work.errors);
    free(work.memory);
    return 0;
}

/* ---- least squares ---- */

typedef struct solution {
    ofr_thread_pool *pool;
    const ofr_gptq_input *input;
    const float *m;
    size_t n;
    float share, *w;
    lanes *memory;
} solution;

/* x H = m with H = R R^T, R_jk = f_jk r_k (f_kk = 1): y R^T = m from the last column to the first,
 * then x R = y from the first to the last. */
CLONES static void solve_lanes(const ofr_gptq_input *input, lanes *x)
{
    size_t k = input->k;
    const float *f = input->feedback;
    /* m_j = sum_{c>=j} z_c R_jc with z = x R; here z is kept as z_c r_c. */
    for (size_t j = k; j-- > 0;) {
        lanes sum = x[j];
        for (size_t c = j + 1; c < k; c++)
            sum -= x[c] * f[j * k + c];
        x[j] = sum;
    }
    for (size_t c = 0; c < k; c++)
        x[c] /= spread(input->pivots[c]);
    /* z_c / r_c = x_c + sum_{j<c} x_j f_jc */
    for (size_t j = 0; j < k; j++) {
        lanes value = x[j];
        for (size_t c = j + 1; c < k; c++)
            x[c] -= value * f[j * k + c];
    }
}

static void solve_region(void *context, uint32_t thread)
{
    const solution *work = context;
    size_t k = work->input->k;
    const uint32_t *order = work->input->order;
    lanes *x = work->memory + thread * k;
    for (;;) {
        size_t row = ofr_thread_pool_next(work->pool) * (size_t)LANES;
        if (row >= work->n)
            return;
        size_t rows = work->n - row < LANES ? work->n - row : LANES;
        for (size_t c = 0; c < k; c++)
            for (size_t i = 0; i < LANES; i++)
                x[c][i] = i < rows ? work->m[(row + i) * k + order[c]] : 0;
        solve_lanes(work->input, x);
        for (size_t c = 0; c < k; c++)
            for (size_t i = 0; i < rows; i++)
                work->w[(row + i) * k + order[c]] += work->share * x[c][i];
    }
}

int ofr_gptq_solve(ofr_matrix_engine *engine, const ofr_gptq_input *input, const float *m, size_t n,
                   float share, float *w, ofr_error *err)
{
    ofr_thread_pool *pool = ofr_matrix_engine_pool(engine);
    solution work = {pool, input, m, n, share, w, NULL};
    work.memory =
        aligned_alloc(sizeof(lanes), ofr_thread_pool_size(pool) * input->k * sizeof(lanes));
    if (!work.memory)
        return ofr_fail(err, OFR_ENOMEM, "calibration: out of memory");
    ofr_thread_pool_run(pool, solve_region, &work);
    free(work.memory);
    return 0;
}
