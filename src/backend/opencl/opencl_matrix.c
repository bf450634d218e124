/* The matrix extension of Intel GPUs (kernels/matrix.cl): its sizes, and whether it computes what
 * byte products do. */
#include <math.h>
#include <stdlib.h>

#include "backend/opencl/opencl_session.h"

/* Rows in sub-groups' lanes: of a work-group's tile, of a sub-group. */
static const struct matrix_size {
    uint32_t tile_tokens, tile_lanes, item_tokens, item_lanes;
} matrix_sizes[] = {
    {64, 8, 32, 2}, {32, 8, 32, 2}, {128, 8, 32, 2}, {64, 8, 16, 2}, {64, 8, 32, 1},
};
enum { N_SIZES = sizeof matrix_sizes / sizeof matrix_sizes[0] };

/* Both add the same integers, scaled, in the same order; compilers contract differently. */
static const double largest_error = 1e-4;

bool ofr_opencl_matrix_runs(const ofr_backend_session *session, const opencl_tuning *t)
{
    const ofr_opencl_device *device = &session->device;
    if (device->matrix_lanes == 0 || t->gemm_units != OPENCL_BY_MATRIX || t->item_tokens == 0 ||
        t->item_rows == 0 || t->tile_tokens == 0 || OPENCL_TILE_TOKENS_MAX % t->tile_tokens != 0 ||
        t->tile_rows > 256 || t->item_tokens % 8 != 0 || t->item_rows % device->matrix_lanes != 0 ||
        t->tile_tokens % t->item_tokens != 0 || t->tile_rows % t->item_rows != 0) {
        return false;
    }
    uint64_t teams = t->tile_tokens / t->item_tokens * (t->tile_rows / t->item_rows);
    return teams > 0 && teams * device->matrix_lanes <= device->max_work_group;
}

bool ofr_opencl_matrix_size(const ofr_backend_session *session, uint32_t index,
                            opencl_tuning *tuning)
{
    uint32_t lanes = session->device.matrix_lanes;
    for (uint32_t i = 0; i < N_SIZES; i++) {
        const struct matrix_size *size = &matrix_sizes[i];
        opencl_tuning made = *tuning;
        made.tile_tokens = size->tile_tokens;
        made.tile_rows = size->tile_lanes * lanes;
        made.item_tokens = size->item_tokens;
        made.item_rows = size->item_lanes * lanes;
        made.gemm_units = OPENCL_BY_MATRIX;
        if (ofr_opencl_matrix_runs(session, &made) && index-- == 0) {
            *tuning = made;
            return true;
        }
    }
    return false;
}

/* What the products of a size leave in the buffers of results, one after another. */
static bool products(ofr_backend_session *session, const opencl_tuning *tuning, uint32_t n,
                     uint32_t head_rows, float *results)
{
    const ofr_model_params *p = session->params;
    const struct {
        cl_mem buffer;
        size_t floats;
    } made[] = {{session->qkv, (size_t)n * session->qkv_width},
                {session->mlp, (size_t)n * p->d_ff},
                {session->logits, (size_t)head_rows * p->vocab_size}};
    session->tuning = *tuning;
    if (ofr_opencl_rebuild(session, OPENCL_TUNED_GEMM, NULL) < 0) {
        return false;
    }
    ofr_opencl_run_stored(session, n, head_rows);
    for (size_t i = 0; i < 3 && made[i].floats > 0; i++) {
        ofr_opencl_note(session,
                        session->api->EnqueueReadBuffer(session->queue, made[i].buffer, CL_TRUE, 0,
                                                        made[i].floats * sizeof *results, results,
                                                        0, NULL, NULL),
                        "fetching products");
        results += made[i].floats;
    }
    return session->status == CL_SUCCESS;
}

static bool near(const float *got, const float *expected, size_t begin, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = begin; i < begin + n; i++) {
        double d = (double)got[i] - (double)expected[i];
        difference += d * d;
        size += (double)expected[i] * (double)expected[i];
    }
    return sqrt(difference) <= largest_error * sqrt(size); /* false for what is no number */
}

bool ofr_opencl_matrix_agrees(ofr_backend_session *session, const opencl_tuning *tiles, uint32_t n)
{
    const ofr_model_params *p = session->params;
    const opencl_tuning own = session->tuning;
    uint32_t head_rows = session->options.layer_end < p->n_layers ? 0
                         : n < OPENCL_OUTPUT_ROWS                 ? n
                                                                  : (uint32_t)OPENCL_OUTPUT_ROWS;
    size_t inputs = (size_t)n * p->d_model;
    size_t heads = (size_t)n * session->qkv_width, gates = (size_t)n * p->d_ff;
    size_t logits = (size_t)head_rows * p->vocab_size, results = heads + gates + logits;
    float *x = malloc(inputs * sizeof *x), *expected = malloc(results * sizeof *expected);
    float *got = malloc(results * sizeof *got);
    bool agrees = x != NULL && expected != NULL && got != NULL;
    uint32_t random = 1;
    for (size_t i = 0; agrees && i < inputs; i++) {
        random = random * 1664525 + 1013904223;
        x[i] = (float)(int32_t)random * 0x1p-31f;
    }
    if (agrees) {
        ofr_opencl_describe_tokens(session, n);
        ofr_opencl_note(session,
                        session->api->EnqueueWriteBuffer(session->queue, session->hidden, CL_TRUE,
                                                         0, inputs * sizeof *x, x, 0, NULL, NULL),
                        "sending made-up input");
        agrees = products(session, tiles, n, head_rows, expected) &&
                 products(session, &own, n, head_rows, got) && near(got, expected, 0, heads) &&
                 near(got, expected, heads, gates) && near(got, expected, heads + gates, logits);
    }
    session->tuning = own;
    free(x);
    free(expected);
    free(got);
    return agrees;
}
