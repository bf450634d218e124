/* Work-group sizes: from the cache, or measured on the first layers' own weights.
 *
 * The cache file tuning-<key>.txt holds one line of decimal numbers, "OFRTUNE3" first; its key is
 * the SHA-256 of device, driver, kernels and the shape of the model. A line that does not parse or
 * has impossible numbers is ignored. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/opencl/opencl_session.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/sha256.h"

enum { LINE_MAX = 256, TUNED_LAYERS = 8, TUNED_TOKENS = 512, ROUNDS = 3 };

typedef struct gemv_size {
    uint32_t lanes, team_rows;
} gemv_size;

static const gemv_size gemv_sizes[] = {
    {16, 4}, {32, 1}, {32, 2}, {32, 4},  {32, 8},  {64, 2},
    {64, 4}, {64, 8}, {96, 4}, {128, 4}, {128, 8}, {256, 8},
};

typedef struct token_size {
    uint32_t items, depth, loads;
} token_size;

static const token_size token_sizes[] = {
    {512, 4, 1}, {512, 3, 1}, {512, 2, 1}, {512, 4, 0}, {256, 4, 1}, {1024, 2, 1},
};

typedef struct gemm_size {
    uint32_t tile_tokens, tile_rows, item_tokens, item_rows, units;
} gemm_size;

static const gemm_size gemm_sizes[] = {
    {64, 64, 4, 4, 1},  {64, 64, 8, 4, 2},   {64, 128, 8, 8, 1},  {64, 128, 8, 8, 2},
    {128, 64, 8, 8, 2}, {128, 128, 8, 8, 1}, {128, 128, 8, 8, 2},
};

static bool gemv_runs(const ofr_backend_session *session, const gemv_size *size, uint32_t tokens)
{
    const ofr_opencl_device *device = &session->device;
    uint64_t parts = size->lanes / device->warp;
    uint64_t local = 32 * tokens * (2 * parts + 2) * sizeof(float);
    return size->lanes > 0 && size->team_rows > 0 && 32 % size->team_rows == 0 &&
           size->lanes % device->warp == 0 && size->lanes <= 1024 &&
           size->lanes * 32 / size->team_rows <= device->max_work_group &&
           local <= device->local_bytes;
}

static bool token_runs(const ofr_backend_session *session, const token_size *size)
{
    uint32_t warp = session->device.warp == 32 ? 32 : 1;
    return size->items > 0 && size->items % warp == 0 && size->items / warp <= 32 &&
           32 % (size->items / warp) == 0 && size->items <= session->device.max_work_group &&
           size->depth >= 1 && size->depth <= 8 && size->loads <= 1;
}

static gemm_size gemm_of(const opencl_tuning *t)
{
    return (gemm_size){t->tile_tokens, t->tile_rows, t->item_tokens, t->item_rows, t->gemm_units};
}

static void set_gemm(opencl_tuning *t, const gemm_size *size)
{
    t->tile_tokens = size->tile_tokens;
    t->tile_rows = size->tile_rows;
    t->item_tokens = size->item_tokens;
    t->item_rows = size->item_rows;
    t->gemm_units = size->units;
}

static bool gemm_runs(const ofr_backend_session *session, const gemm_size *size)
{
    if (size->units == OPENCL_BY_MATRIX) {
        opencl_tuning t;
        set_gemm(&t, size);
        return ofr_opencl_matrix_runs(session, &t);
    }
    if (size->item_tokens == 0 || size->item_rows == 0 || size->tile_tokens > 256 ||
        size->tile_rows > 256 || size->units > 8 || size->tile_tokens % size->item_tokens != 0 ||
        size->tile_rows % size->item_rows != 0) {
        return false;
    }
    uint64_t items = size->tile_tokens / size->item_tokens * (size->tile_rows / size->item_rows);
    uint64_t tile = size->tile_tokens + size->tile_rows;
    uint64_t local = tile * ((2 * size->units + 1) * 16 + size->units * 4) + size->tile_tokens * 4;
    return items > 0 && items <= session->device.max_work_group &&
           local <= session->device.local_bytes;
}

/* Of the sources that sizes matter to. */
static int sources_key(char key[OFR_SHA256_HEX_SIZE])
{
    const char *const texts[] = {ofr_opencl_source_dot,
                                 ofr_opencl_source_matrix,
                                 ofr_opencl_source_attention,
                                 ofr_opencl_source_halves,
                                 ofr_opencl_source_token_exchange,
                                 ofr_opencl_source_token_products,
                                 ofr_opencl_source_token_attention,
                                 ofr_opencl_source_token};
    ofr_sha256 sha = {0};
    int result = ofr_sha256_init(&sha, NULL);
    for (size_t i = 0; result == 0 && i < sizeof texts / sizeof texts[0]; i++) {
        result = ofr_sha256_update(&sha, texts[i], strlen(texts[i]), NULL);
    }
    result = result == 0 ? ofr_sha256_finish_hex(&sha, key, NULL) : result;
    ofr_sha256_done(&sha);
    return result;
}

static char *cache_path(const ofr_backend_session *session)
{
    const ofr_model_params *p = session->params;
    char text[640], key[OFR_SHA256_HEX_SIZE], name[OFR_SHA256_HEX_SIZE + 16];
    if (session->cache_directory == NULL) {
        return NULL;
    }
    char sources[OFR_SHA256_HEX_SIZE];
    if (sources_key(sources) < 0) {
        return NULL;
    }
    snprintf(text, sizeof text, "%s|%s|%s|%s|%u|%u|%u|%u|%u", session->device.name,
             session->device.driver, session->device.platform_version, sources, p->d_model, p->d_ff,
             session->qkv_width, p->head_dim, p->n_kv_heads);
    if (ofr_sha256_hex(text, strlen(text), key, NULL) < 0) {
        return NULL;
    }
    snprintf(name, sizeof name, "tuning-%s.txt", key);
    return ofr_path_join(session->cache_directory, name);
}

static bool load(const ofr_backend_session *session, const char *path, opencl_tuning *ret_tuning)
{
    void *line = NULL;
    size_t size = 0;
    opencl_tuning t;
    if (ofr_file_read(path, LINE_MAX, &line, &size, NULL) < 0) {
        return false;
    }
    int n = sscanf(line, "OFRTUNE3 %u %u %u %u %u %u %u %u %u %u %u %u %u", &t.lanes[0],
                   &t.team_rows[0], &t.lanes[1], &t.team_rows[1], &t.tile_tokens, &t.tile_rows,
                   &t.item_tokens, &t.item_rows, &t.gemm_units, &t.token_items, &t.token_depth,
                   &t.token_loads, &t.attention_halves);
    free(line);
    gemm_size gemm = gemm_of(&t);
    if (n != 13 || t.attention_halves > ofr_opencl_halves_run(session) ||
        (t.token_items > 0 &&
         !token_runs(session, &(token_size){t.token_items, t.token_depth, t.token_loads})) ||
        !gemv_runs(session, &(gemv_size){t.lanes[0], t.team_rows[0]}, 1) ||
        !gemv_runs(session, &(gemv_size){t.lanes[1], t.team_rows[1]}, 4) ||
        !gemm_runs(session, &gemm)) {
        return false;
    }
    *ret_tuning = t;
    return true;
}

static void store(const opencl_tuning *t, const char *path)
{
    char line[LINE_MAX];
    int n = snprintf(line, sizeof line, "OFRTUNE3 %u %u %u %u %u %u %u %u %u %u %u %u %u\n",
                     t->lanes[0], t->team_rows[0], t->lanes[1], t->team_rows[1], t->tile_tokens,
                     t->tile_rows, t->item_tokens, t->item_rows, t->gemm_units, t->token_items,
                     t->token_depth, t->token_loads, t->attention_halves);
    ofr_file_replace(path, line, (size_t)n, 0600, NULL);
}

/* Nanoseconds of one round over the layers, the best of ROUNDS; 0: it does not run. */
static uint64_t measure(ofr_backend_session *session, enum opencl_tuned what, uint32_t n)
{
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    uint64_t best = 0;
    if (what != OPENCL_TUNED_STEPS) {
        n_layers = n_layers < TUNED_LAYERS ? n_layers : TUNED_LAYERS;
    }
    if (ofr_opencl_rebuild(session, what, NULL) < 0) {
        return 0;
    }
    for (uint32_t round = 0; round <= ROUNDS && session->status == CL_SUCCESS; round++) {
        uint64_t start = ofr_clock_ns();
        for (uint32_t i = 0; i < n_layers; i++) {
            ofr_opencl_run_tuned(session, i, what, n);
        }
        ofr_opencl_note(session, session->api->Finish(session->queue), "measuring sizes");
        uint64_t taken = ofr_clock_ns() - start;
        if (round > 0 && (best == 0 || taken < best)) { /* the first one warms up */
            best = taken;
        }
    }
    if (session->measured != NULL) {
        char size[128];
        const opencl_tuning *t = &session->tuning;
        if (what == OPENCL_TUNED_GEMM) {
            snprintf(size, sizeof size, "%s %ux%u by %ux%u, %u units",
                     t->gemm_units != OPENCL_BY_MATRIX ? "gemm" : "matrix", t->tile_tokens,
                     t->tile_rows, t->item_tokens, t->item_rows, t->gemm_units);
        } else if (what == OPENCL_TUNED_ATTENTION) {
            snprintf(size, sizeof size, "attention %s", t->attention_halves > 0 ? "f16" : "f32");
        } else if (what == OPENCL_TUNED_TOKEN) {
            snprintf(size, sizeof size, "token %u by %u, loads %u", t->token_items, t->token_depth,
                     t->token_loads);
        } else if (what == OPENCL_TUNED_STEPS) {
            snprintf(size, sizeof size, "a launch a step, without attention");
        } else {
            snprintf(size, sizeof size, "gemv %ux%u for %u", t->lanes[what], t->team_rows[what], n);
        }
        session->measured(session->measured_context, size, (double)best / 1e3);
    }
    if (session->status == CL_OUT_OF_RESOURCES || session->status == CL_INVALID_WORK_GROUP_SIZE) {
        session->status = CL_SUCCESS; /* too large for its registers: another size will do */
        return 0;
    }
    return session->status == CL_SUCCESS ? best : 0;
}

static void tune_gemv(ofr_backend_session *session, uint32_t several, uint32_t n)
{
    enum opencl_tuned what = several ? OPENCL_TUNED_GEMV_SEVERAL : OPENCL_TUNED_GEMV_ONE;
    opencl_tuning best = session->tuning;
    uint64_t fastest = measure(session, what, n);
    for (size_t i = 0; i < sizeof gemv_sizes / sizeof gemv_sizes[0]; i++) {
        if (!gemv_runs(session, &gemv_sizes[i], several ? 4 : 1)) {
            continue;
        }
        session->tuning.lanes[several] = gemv_sizes[i].lanes;
        session->tuning.team_rows[several] = gemv_sizes[i].team_rows;
        uint64_t taken = measure(session, what, n);
        if (taken > 0 && (fastest == 0 || taken < fastest)) {
            fastest = taken;
            best = session->tuning;
        }
    }
    session->tuning = best;
    ofr_opencl_rebuild(session, what, NULL);
}

static void tune_gemm(ofr_backend_session *session, uint32_t n)
{
    opencl_tuning best = session->tuning;
    uint64_t fastest = measure(session, OPENCL_TUNED_GEMM, n);
    for (size_t i = 0; i < sizeof gemm_sizes / sizeof gemm_sizes[0]; i++) {
        if (!gemm_runs(session, &gemm_sizes[i])) {
            continue;
        }
        set_gemm(&session->tuning, &gemm_sizes[i]);
        uint64_t taken = measure(session, OPENCL_TUNED_GEMM, n);
        if (taken > 0 && (fastest == 0 || taken < fastest)) {
            fastest = taken;
            best = session->tuning;
        }
    }
    const opencl_tuning tiles = best;
    for (uint32_t i = 0; ofr_opencl_matrix_size(session, i, &session->tuning); i++) {
        uint64_t taken = measure(session, OPENCL_TUNED_GEMM, n);
        if (taken > 0 && (fastest == 0 || taken < fastest)) {
            fastest = taken;
            best = session->tuning;
        }
    }
    session->tuning = best;
    if (best.gemm_units == OPENCL_BY_MATRIX && !ofr_opencl_matrix_agrees(session, &tiles, n)) {
        session->tuning = tiles;
    }
    ofr_opencl_rebuild(session, OPENCL_TUNED_GEMM, NULL);
}

/* fp16 where it is faster and computes the same. */
static void tune_attention(ofr_backend_session *session, uint32_t n)
{
    opencl_scratch scratch;
    uint64_t taken[2] = {0, 0};
    if (session->attention_wanted != OFR_OPENCL_ATTENTION_AUTO || !ofr_opencl_halves_run(session) ||
        !ofr_opencl_scratch_begin(session, n, &scratch)) {
        return;
    }
    for (uint32_t halves = 0; halves < 2; halves++) {
        session->tuning.attention_halves = halves;
        taken[halves] = measure(session, OPENCL_TUNED_ATTENTION, n);
    }
    ofr_opencl_scratch_end(session, &scratch);
    session->tuning.attention_halves =
        taken[1] > 0 && (taken[0] == 0 || taken[1] < taken[0]) && ofr_opencl_halves_agree(session);
    ofr_opencl_rebuild(session, OPENCL_TUNED_ATTENTION, NULL);
}

/* The best size of one launch for all layers; none where launches of single steps are faster. */
static void tune_token(ofr_backend_session *session)
{
    opencl_tuning best = session->tuning;
    uint64_t fastest = 0, steps = measure(session, OPENCL_TUNED_STEPS, 1);
    for (size_t i = 0; i < sizeof token_sizes / sizeof token_sizes[0]; i++) {
        if (!token_runs(session, &token_sizes[i]) || session->token_groups == 0) {
            continue;
        }
        session->tuning.token_items = token_sizes[i].items;
        session->tuning.token_depth = token_sizes[i].depth;
        session->tuning.token_loads = token_sizes[i].loads;
        uint64_t taken = measure(session, OPENCL_TUNED_TOKEN, 1);
        if (taken > 0 && (fastest == 0 || taken < fastest) && ofr_opencl_token_held(session)) {
            fastest = taken;
            best = session->tuning;
        }
    }
    session->tuning = best;
    if (fastest == 0 || (steps > 0 && steps < fastest)) {
        session->tuning.token_items = 0;
        session->token_groups = 0;
    } else if (ofr_opencl_rebuild(session, OPENCL_TUNED_TOKEN, NULL) < 0) {
        session->token_groups = 0;
    }
}

/* Kernels read the number of tokens from the descriptor. */
void ofr_opencl_describe_tokens(ofr_backend_session *session, uint32_t n)
{
    session->pass_host[OPENCL_PASS_TOKENS] = n;
    ofr_opencl_note(session,
                    session->api->EnqueueWriteBuffer(session->queue, session->pass, CL_TRUE, 0,
                                                     OPENCL_PASS_HEADER * 4, session->pass_host, 0,
                                                     NULL, NULL),
                    "sending a batch");
}

bool ofr_opencl_tune(ofr_backend_session *session, unsigned sizes)
{
    bool decided = false;
    char *path = cache_path(session);
    opencl_tuning found;
    if (path != NULL && load(session, path, &found)) {
        opencl_tuning before = session->tuning;
        session->tuning = found;
        if (session->attention_wanted != OFR_OPENCL_ATTENTION_AUTO) {
            session->tuning.attention_halves = before.attention_halves;
        }
        if (found.token_items == 0) { /* single steps are faster */
            session->token_groups = 0;
        }
        int result = 0;
        for (uint32_t what = 0;
             result == 0 &&
             what <= (session->token_groups > 0 ? OPENCL_TUNED_TOKEN : OPENCL_TUNED_ATTENTION);
             what++) {
            result = ofr_opencl_rebuild(session, what, NULL);
        }
        /* Another model of this shape may have measured it: whether fp16 will do is up to the
         * weights. */
        if (result == 0 && session->tuning.attention_halves > 0 &&
            session->attention_wanted == OFR_OPENCL_ATTENTION_AUTO) {
            session->tuning.attention_halves = ofr_opencl_halves_agree(session);
            result = ofr_opencl_rebuild(session, OPENCL_TUNED_ATTENTION, NULL);
        }
        if (result == 0) {
            free(path);
            return true;
        }
        session->tuning = before;
    }
    if (sizes != 0) {
        uint32_t most = session->options.max_batch_tokens;
        bool few = (sizes & OFR_OPENCL_AUTOTUNE_GEMV) != 0;
        ofr_opencl_describe_tokens(session, 1);
        if (few) {
            tune_gemv(session, 0, 1);
        }
        if ((sizes & OFR_OPENCL_AUTOTUNE_TOKEN) && session->token_groups > 0) {
            tune_token(session);
            decided = true;
        } else if (sizes & OFR_OPENCL_AUTOTUNE_TOKEN) {
            session->tuning.token_items = 0; /* not measured: the cache must not recommend it */
        }
        if (few && most >= 4) {
            ofr_opencl_describe_tokens(session, 4);
            tune_gemv(session, 1, 4);
        }
        if ((sizes & OFR_OPENCL_AUTOTUNE_GEMM) && most > session->narrow_tokens) {
            uint32_t n = most < TUNED_TOKENS ? most : TUNED_TOKENS;
            ofr_opencl_describe_tokens(session, n);
            tune_gemm(session, n);
        }
        if ((sizes & OFR_OPENCL_AUTOTUNE_ATTENTION) && most > session->narrow_tokens) {
            uint32_t context = session->options.kv_layout.context;
            uint32_t n = most < TUNED_TOKENS ? most : TUNED_TOKENS;
            tune_attention(session, n < context ? n : context);
        }
        if (path != NULL && session->status == CL_SUCCESS && sizes == OFR_OPENCL_AUTOTUNE_ALL) {
            store(&session->tuning, path);
        }
    }
    free(path);
    return decided;
}
