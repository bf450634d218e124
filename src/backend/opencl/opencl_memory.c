/* Where things are on the device: weights in place or uploaded once, and the buffers of
 * activations. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fcntl.h>

#include "backend/opencl/opencl_session.h"

enum { PAGE = 4096, PACK_ALIGN = 256, UPLOAD_BYTES = 64 << 20, PIECES_PER_LAYER = 14 };

/* A range of host memory that kernels read, and where its place on the device is to be noted. */
typedef struct piece {
    const char *host;
    uint64_t bytes;
    cl_mem *ret_buffer;
    uint64_t *ret_offset;
    uint32_t window;
    uint64_t offset;
} piece;

typedef struct piece_list {
    piece *pieces;
    uint32_t n;
} piece_list;

int ofr_opencl_make_buffer(ofr_backend_session *session, cl_mem_flags flags, uint64_t bytes,
                           void *host, const char *what, cl_mem *ret_buffer, ofr_error *err)
{
    cl_int status = CL_SUCCESS;
    cl_mem buffer = NULL;
    if (bytes > session->device.max_allocation) {
        return ofr_fail(err, OFR_ELIMIT,
                        "OpenCL backend: %s need %llu MiB in one buffer, %s allows %llu MiB; use a "
                        "shorter context, fewer slots, or a layer range",
                        what, (unsigned long long)(bytes >> 20), session->device.name,
                        (unsigned long long)(session->device.max_allocation >> 20));
    }
    buffer =
        session->api->CreateBuffer(session->context, flags, bytes > 0 ? bytes : 16, host, &status);
    if (status != CL_SUCCESS) {
        return ofr_fail(err, ofr_opencl_status_code(status),
                        "OpenCL backend: no %llu MiB for %s on %s (%s); use a layer range, a "
                        "shorter context or another device",
                        (unsigned long long)(bytes >> 20), what, session->device.name,
                        ofr_opencl_status_name(status));
    }
    *ret_buffer = buffer;
    return 0;
}

static void add_piece(piece_list *list, const void *host, uint64_t bytes, cl_mem *ret_buffer,
                      uint64_t *ret_offset)
{
    list->pieces[list->n++] =
        (piece){.host = host, .bytes = bytes, .ret_buffer = ret_buffer, .ret_offset = ret_offset};
}

static void add_matrix(piece_list *list, const ofr_tensor *tensor, opencl_matrix *matrix)
{
    matrix->tensor = tensor;
    matrix->rows = (uint32_t)tensor->shape[0];
    matrix->columns = (uint32_t)tensor->shape[1];
    matrix->group = tensor->group_size;
    add_piece(list, tensor->data, tensor->bytes, &matrix->data, &matrix->data_offset);
    if (tensor->scales != NULL) {
        add_piece(list, tensor->scales, tensor->scale_bytes, &matrix->scales,
                  &matrix->scale_offset);
    }
}

static bool same_range(const piece *a, const piece *b)
{
    return a->host == b->host && a->bytes == b->bytes;
}

static int by_address(const void *a, const void *b)
{
    const piece *first = a, *second = b;
    return first->host < second->host ? -1 : first->host > second->host ? 1 : 0;
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* A window: host memory [begin, begin + bytes), bound as one buffer. */
typedef struct window {
    const char *begin;
    uint64_t bytes;
} window;

/* Cuts the sorted pieces into windows of at most `limit` bytes, whole pages of host memory. */
static int cut_in_place(const ofr_backend_session *session, piece_list *list, window *windows,
                        uint32_t *ret_windows, ofr_error *err)
{
    uint32_t n = 0;
    uint64_t limit = session->device.max_allocation;
    for (uint32_t i = 0; i < list->n; i++) {
        piece *p = &list->pieces[i];
        const char *begin = p->host - (uintptr_t)p->host % PAGE;
        uint64_t bytes = round_up((uint64_t)(p->host - begin) + p->bytes, PAGE);
        window *last = n > 0 ? &windows[n - 1] : NULL;
        uint64_t joined = last != NULL ? (uint64_t)(begin - last->begin) + bytes : 0;
        /* A hole of more than a megabyte is another device's layers: not bound. */
        bool near = last != NULL && (begin <= last->begin + last->bytes ||
                                     (uint64_t)(begin - last->begin) - last->bytes < 1 << 20);
        if (near && joined <= limit) {
            last->bytes = joined > last->bytes ? joined : last->bytes;
        } else {
            if (n == OPENCL_WINDOWS_MAX || bytes > limit) {
                return ofr_fail(err, OFR_ELIMIT,
                                "OpenCL backend: a tensor of %llu MiB is more than one buffer of "
                                "%s holds (%llu MiB)",
                                (unsigned long long)(p->bytes >> 20), session->device.name,
                                (unsigned long long)(limit >> 20));
            }
            windows[n++] = (window){begin, bytes};
        }
        p->window = n - 1;
        p->offset = (uint64_t)(p->host - windows[n - 1].begin);
    }
    *ret_windows = n;
    return 0;
}

/* Packs the sorted pieces one after another; windows get sizes only. */
static int cut_packed(const ofr_backend_session *session, piece_list *list, window *windows,
                      uint32_t *ret_windows, ofr_error *err)
{
    uint32_t n = 0;
    uint64_t limit = session->device.max_allocation / PAGE * PAGE;
    for (uint32_t i = 0; i < list->n; i++) {
        piece *p = &list->pieces[i];
        if (i > 0 && same_range(p, p - 1)) { /* a tied head */
            p->window = (p - 1)->window;
            p->offset = (p - 1)->offset;
            continue;
        }
        uint64_t bytes = round_up(p->bytes, PACK_ALIGN);
        if (n == 0 || windows[n - 1].bytes + bytes > limit) {
            if (n == OPENCL_WINDOWS_MAX || bytes > limit) {
                return ofr_fail(err, OFR_ELIMIT,
                                "OpenCL backend: a tensor of %llu MiB is more than one buffer of "
                                "%s holds (%llu MiB)",
                                (unsigned long long)(p->bytes >> 20), session->device.name,
                                (unsigned long long)(limit >> 20));
            }
            windows[n++] = (window){0};
        }
        p->window = n - 1;
        p->offset = windows[n - 1].bytes;
        windows[n - 1].bytes += bytes;
    }
    *ret_windows = n;
    return 0;
}

static int bind_windows(ofr_backend_session *session, const window *windows, uint32_t n,
                        ofr_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        int result = ofr_opencl_make_buffer(session, CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR,
                                            windows[i].bytes, (void *)(uintptr_t)windows[i].begin,
                                            "weights", &session->windows[session->n_windows], err);
        if (result < 0) {
            while (session->n_windows > 0) {
                session->api->ReleaseMemObject(session->windows[--session->n_windows]);
            }
            return result;
        }
        session->n_windows++;
    }
    return 0;
}

/* Copies the pieces into a memory file that nobody can change any more. */
static int fill_memory_file(ofr_backend_session *session, const piece_list *list, window *windows,
                            uint32_t n_windows, ofr_error *err)
{
    uint64_t total = 0, starts[OPENCL_WINDOWS_MAX];
    for (uint32_t i = 0; i < n_windows; i++) {
        starts[i] = total;
        windows[i].bytes = round_up(windows[i].bytes, PAGE);
        total += windows[i].bytes;
    }
    int fd = memfd_create("offering-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *base = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, (off_t)total) == 0) {
        base = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (base == MAP_FAILED) {
        if (fd >= 0) {
            close(fd);
        }
        return ofr_fail(err, OFR_ENOMEM,
                        "OpenCL backend: no %llu MiB of memory for the weights, whose file mapping "
                        "%s refuses",
                        (unsigned long long)(total >> 20), session->device.name);
    }
    session->memory_file = base;
    session->memory_file_bytes = total;
    for (uint32_t i = 0; i < list->n; i++) {
        const piece *p = &list->pieces[i];
        if (i > 0 && same_range(p, p - 1)) {
            continue;
        }
        memcpy((char *)base + starts[p->window] + p->offset, p->host, p->bytes);
        session->stats.weights_copied += p->bytes;
    }
    for (uint32_t i = 0; i < n_windows; i++) {
        windows[i].begin = (char *)base + starts[i];
    }
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
#ifdef F_SEAL_FUTURE_WRITE
    seals |= F_SEAL_FUTURE_WRITE;
#endif
    bool sealed = fcntl(fd, F_ADD_SEALS, seals) == 0;
    close(fd);
    return sealed ? 0 : ofr_fail(err, OFR_EIO, "OpenCL backend: cannot seal the weights' memory");
}

/* One copy in all: what was read of the package's mapping is given back. */
static void forget_mapping(const ofr_backend_session *session, const piece_list *list)
{
    for (uint32_t i = 0; session->model->package != NULL && i < list->n; i++) {
        const piece *p = &list->pieces[i];
        uintptr_t begin = round_up((uintptr_t)p->host, PAGE);
        uintptr_t end = ((uintptr_t)p->host + p->bytes) / PAGE * PAGE;
        if (end > begin) {
            madvise((void *)begin, end - begin, MADV_DONTNEED);
        }
    }
}

static int bind_shared(ofr_backend_session *session, piece_list *list, window *windows,
                       ofr_error *err)
{
    uint32_t n = 0;
    int result = 0;
    /* Weights that are in no package's mapping may lie anywhere, pages shared with other data. */
    bool in_place = session->model->package != NULL;
    if (in_place) {
        result = cut_in_place(session, list, windows, &n, err);
        if (result == 0 && bind_windows(session, windows, n, err) == 0) {
            for (uint32_t i = 0; i < n; i++) {
                session->stats.weights_in_place += windows[i].bytes;
            }
            return 0;
        }
    }
    if (result == 0) {
        result = cut_packed(session, list, windows, &n, err);
    }
    if (result == 0) {
        result = fill_memory_file(session, list, windows, n, err);
    }
    if (result == 0) {
        forget_mapping(session, list);
        result = bind_windows(session, windows, n, err);
    }
    return result;
}

static int upload(ofr_backend_session *session, cl_mem buffer, uint64_t offset, const void *host,
                  uint64_t bytes, ofr_error *err)
{
    for (uint64_t at = 0; at < bytes; at += UPLOAD_BYTES) {
        uint64_t n = bytes - at < UPLOAD_BYTES ? bytes - at : UPLOAD_BYTES;
        cl_int status =
            session->api->EnqueueWriteBuffer(session->queue, buffer, CL_TRUE, offset + at, n,
                                             (const char *)host + at, 0, NULL, NULL);
        if (status != CL_SUCCESS) {
            return ofr_fail(err, ofr_opencl_status_code(status),
                            "OpenCL backend: cannot upload weights to %s (%s)",
                            session->device.name, ofr_opencl_status_name(status));
        }
    }
    return 0;
}

static int bind_uploaded(ofr_backend_session *session, piece_list *list, window *windows,
                         ofr_error *err)
{
    uint32_t n = 0;
    int result = cut_packed(session, list, windows, &n, err);
    for (uint32_t i = 0; result == 0 && i < n; i++) {
        result = ofr_opencl_make_buffer(session, CL_MEM_READ_ONLY, windows[i].bytes, NULL,
                                        "weights", &session->windows[i], err);
        session->n_windows += result == 0;
    }
    for (uint32_t i = 0; result == 0 && i < list->n; i++) {
        const piece *p = &list->pieces[i];
        if (i > 0 && same_range(p, p - 1)) {
            continue;
        }
        result = upload(session, session->windows[p->window], p->offset, p->host, p->bytes, err);
        session->stats.weights_copied += p->bytes;
    }
    if (result == 0) {
        forget_mapping(session, list);
    }
    return result;
}

/* Norms and biases, a megabyte at most, in one buffer of their own. */
typedef struct vector_packer {
    float *values; /* NULL: count only */
    size_t used;
} vector_packer;

static uint32_t pack_vector(vector_packer *packer, const float *values, size_t n)
{
    if (values == NULL) {
        return (uint32_t)OPENCL_NO_VECTOR;
    }
    size_t at = packer->used;
    if (packer->values != NULL) {
        memcpy(packer->values + at, values, n * sizeof *values);
    }
    packer->used += n;
    return (uint32_t)at;
}

static void pack_vectors(ofr_backend_session *session, vector_packer *packer)
{
    const ofr_model *model = session->model;
    uint32_t d = session->params->d_model;
    for (uint32_t i = session->options.layer_begin; i < session->options.layer_end; i++) {
        const ofr_layer *from = &model->layers[i];
        opencl_layer *to = &session->layers[i - session->options.layer_begin];
        const ofr_linear *linears[OPENCL_PART_COUNT] = {
            &from->q, &from->k, &from->v, &from->o, &from->gate, &from->up, &from->down};
        to->attention_norm = pack_vector(packer, from->attention_norm, d);
        to->mlp_norm = pack_vector(packer, from->mlp_norm, d);
        to->attention_output_norm = pack_vector(packer, from->attention_output_norm, d);
        to->mlp_output_norm = pack_vector(packer, from->mlp_output_norm, d);
        to->q_norm = pack_vector(packer, from->q_norm, session->params->head_dim);
        to->k_norm = pack_vector(packer, from->k_norm, session->params->head_dim);
        for (uint32_t p = 0; p < OPENCL_PART_COUNT; p++) {
            to->parts[p].bias = pack_vector(packer, linears[p]->bias, linears[p]->weight->shape[0]);
        }
    }
    session->final_norm = pack_vector(packer, model->final_norm, d);
    session->head.bias = pack_vector(packer, model->head.bias, session->params->vocab_size);
}

static int bind_vectors(ofr_backend_session *session, ofr_error *err)
{
    vector_packer packer = {0};
    pack_vectors(session, &packer);
    size_t bytes = packer.used * sizeof(float);
    packer = (vector_packer){.values = malloc(bytes)};
    if (packer.values == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "OpenCL backend: out of memory");
    }
    pack_vectors(session, &packer);
    int result = ofr_opencl_make_buffer(session, CL_MEM_READ_ONLY, bytes, NULL, "norms",
                                        &session->vectors, err);
    if (result == 0) {
        result = upload(session, session->vectors, 0, packer.values, bytes, err);
    }
    free(packer.values);
    return result;
}

int ofr_opencl_bind_weights(ofr_backend_session *session, ofr_error *err)
{
    const ofr_model *model = session->model;
    uint32_t begin = session->options.layer_begin, end = session->options.layer_end;
    piece_list list = {
        .pieces = calloc((size_t)(end - begin) * PIECES_PER_LAYER + 4, sizeof *list.pieces)};
    window *windows = calloc(OPENCL_WINDOWS_MAX, sizeof *windows);
    int result = 0;
    if (list.pieces == NULL || windows == NULL) {
        result = ofr_fail(err, OFR_ENOMEM, "OpenCL backend: out of memory");
    }
    for (uint32_t i = begin; result == 0 && i < end; i++) {
        const ofr_layer *from = &model->layers[i];
        opencl_matrix *to = session->layers[i - begin].parts;
        const ofr_linear *linears[OPENCL_PART_COUNT] = {
            &from->q, &from->k, &from->v, &from->o, &from->gate, &from->up, &from->down};
        for (uint32_t p = 0; p < OPENCL_PART_COUNT; p++) {
            add_matrix(&list, linears[p]->weight, &to[p]);
        }
    }
    if (result == 0 && begin == 0) {
        add_matrix(&list, model->embedding, &session->embedding);
    }
    if (result == 0 && end == session->params->n_layers) {
        add_matrix(&list, model->head.weight, &session->head);
    }
    if (result == 0) {
        qsort(list.pieces, list.n, sizeof *list.pieces, by_address);
        result = session->shared ? bind_shared(session, &list, windows, err)
                                 : bind_uploaded(session, &list, windows, err);
    }
    for (uint32_t i = 0; result == 0 && i < list.n; i++) {
        const piece *p = &list.pieces[i];
        *p->ret_buffer = session->windows[p->window];
        *p->ret_offset = p->offset;
    }
    free(list.pieces);
    free(windows);
    return result == 0 ? bind_vectors(session, err) : result;
}

typedef struct wanted_buffer {
    cl_mem *ret_buffer;
    uint64_t bytes;
} wanted_buffer;

static int make_record(ofr_backend_session *session, opencl_record *record, uint32_t columns,
                       ofr_error *err)
{
    uint64_t n = session->options.max_batch_tokens > OPENCL_OUTPUT_ROWS
                     ? session->options.max_batch_tokens
                     : OPENCL_OUTPUT_ROWS;
    if (session->device.matrix_lanes > 0) { /* its kernel reads whole tiles */
        n = round_up(n, OPENCL_TILE_TOKENS_MAX);
    }
    record->columns = columns;
    int result = ofr_opencl_make_buffer(session, CL_MEM_READ_WRITE, n * columns, NULL,
                                        "activations", &record->values, err);
    if (result == 0) {
        result = ofr_opencl_make_buffer(session, CL_MEM_READ_WRITE, n * (columns / 32) * 8, NULL,
                                        "activations", &record->scales, err);
    }
    if (result == 0) {
        result = ofr_opencl_make_buffer(session, CL_MEM_READ_WRITE, n * (columns / 32) * 4, NULL,
                                        "activations", &record->squares, err);
    }
    return result;
}

/* Without it the caller's memory is written to directly, which is only slower. */
static void make_staging(ofr_backend_session *session)
{
    cl_int status = CL_SUCCESS;
    if (ofr_opencl_make_buffer(session, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR,
                               OPENCL_STAGING_BYTES, NULL, "staging", &session->staging,
                               NULL) < 0 ||
        ofr_opencl_make_buffer(session, CL_MEM_READ_WRITE, OPENCL_STAGING_BYTES, NULL, "staging",
                               &session->collected, NULL) < 0) {
        return;
    }
    session->staging_host = session->api->EnqueueMapBuffer(
        session->queue, session->staging, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, 0,
        OPENCL_STAGING_BYTES, 0, NULL, NULL, &status);
    if (status != CL_SUCCESS) {
        session->staging_host = NULL;
        return;
    }
    session->early_queue = session->api->CreateCommandQueueWithProperties(
        session->context, session->device.id, NULL, &status);
    if (status != CL_SUCCESS) {
        session->early_queue = NULL;
    }
}

int ofr_opencl_make_buffers(ofr_backend_session *session, ofr_error *err)
{
    const ofr_model_params *params = session->params;
    uint64_t n = session->options.max_batch_tokens, f = sizeof(float), out = OPENCL_OUTPUT_ROWS;
    uint64_t rows = n > out ? n : out, d = params->d_model;
    bool head = session->options.layer_end == params->n_layers;
    uint64_t chunks = params->vocab_size / OPENCL_TOP_CHUNK + 1;
    uint64_t chosen = head ? out * chunks * OFR_CANDIDATES_MAX * sizeof(ofr_candidate) : 0;
    uint64_t most_rows = session->block_rows > session->heads_per_group ? session->block_rows
                                                                        : session->heads_per_group;
    session->pass_words =
        OPENCL_PASS_HEADER +
        n * (4 + 4 + 1 + 1 + 2 * ((uint64_t)session->rope.half + session->rope_local.half));
    const wanted_buffer wanted[] = {
        {&session->own_hidden, n * d * f},
        {&session->normed, session->dot ? 0 : rows * d * f},
        {&session->qkv, n * session->qkv_width * f},
        {&session->attention, n * session->q_width * f},
        {&session->mlp, n * params->d_ff * f},
        {&session->branch, session->normed_outputs ? n * d * f : 0},
        {&session->gathered, out * d * f},
        {&session->logits, head ? out * params->vocab_size * f : 0},
        {&session->logprobs, out * f},
        {&session->partial,
         2 * (uint64_t)session->split_target * most_rows * (params->head_dim + 2) * f},
        {&session->counters, 2 * (uint64_t)session->split_target * 4},
        {&session->chosen[0], chosen},
        {&session->chosen[1], chosen},
        {&session->not_finite, 4},
        {&session->pass, session->pass_words * 4},
    };
    int result = 0;
    for (size_t i = 0; result == 0 && i < sizeof wanted / sizeof wanted[0]; i++) {
        result = ofr_opencl_make_buffer(session, CL_MEM_READ_WRITE, wanted[i].bytes, NULL,
                                        "activations", wanted[i].ret_buffer, err);
    }
    session->hidden = session->own_hidden;
    if (result == 0 && session->dot) {
        result = make_record(session, &session->input, params->d_model, err);
        result =
            result == 0 ? make_record(session, &session->attended, session->q_width, err) : result;
        result = result == 0 ? make_record(session, &session->gated, params->d_ff, err) : result;
    }
    if (result == 0) {
        ofr_opencl_clear(session, session->counters, 2 * (uint64_t)session->split_target * 4);
        ofr_opencl_clear(session, session->not_finite, 4);
        result = ofr_opencl_error(session, err);
    }
    if (result == 0 && !session->shared) {
        make_staging(session);
    }
    session->pass_host = calloc(session->pass_words, 4);
    session->slot_used = calloc(session->options.kv_layout.n_slots, 1);
    if (result == 0 && (session->pass_host == NULL || session->slot_used == NULL)) {
        result = ofr_fail(err, OFR_ENOMEM, "OpenCL backend: out of memory");
    }
    return result;
}

static void release(const ofr_backend_session *session, cl_mem buffer)
{
    if (buffer != NULL) {
        session->api->ReleaseMemObject(buffer);
    }
}

void ofr_opencl_release_memory(ofr_backend_session *session)
{
    const opencl_record *records[] = {&session->input, &session->attended, &session->gated};
    cl_mem buffers[] = {session->staging,
                        session->collected,
                        session->own_hidden,
                        session->stream,
                        session->branch,
                        session->token_plan,
                        session->token_sync,
                        session->token_partial,
                        session->token_heads,
                        session->token_records[0],
                        session->token_records[1],
                        session->token_records[2],
                        session->token_helped,
                        session->normed,
                        session->qkv,
                        session->attention,
                        session->mlp,
                        session->gathered,
                        session->logits,
                        session->logprobs,
                        session->partial,
                        session->counters,
                        session->pass,
                        session->chosen[0],
                        session->chosen[1],
                        session->not_finite,
                        session->vectors};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        release(session, buffers[i]);
    }
    for (size_t i = 0; i < 3; i++) {
        release(session, records[i]->values);
        release(session, records[i]->scales);
        release(session, records[i]->squares);
    }
    for (uint32_t i = 0; i < session->n_windows; i++) {
        release(session, session->windows[i]);
    }
    if (session->memory_file != NULL) {
        munmap(session->memory_file, session->memory_file_bytes);
    }
    free(session->pass_host);
    free(session->slot_used);
}
