/* KV in place or mirrored, and the residual stream of layer ranges. */
#include <stdlib.h>
#include <string.h>

#include "backend/opencl/opencl_session.h"

enum { CLEAR_BYTES = 256 << 20, PREFETCHED_BYTES = 1 << 20 };

/* Zeroes a buffer, in pieces: drivers are slow or fail at filling gigabytes at once. */
void ofr_opencl_clear(ofr_backend_session *session, cl_mem buffer, uint64_t bytes)
{
    const cl_uint zero[4] = {0};
    size_t unit = bytes % sizeof zero == 0 ? sizeof zero : sizeof zero[0];
    for (uint64_t at = 0; at < bytes; at += CLEAR_BYTES) {
        uint64_t n = bytes - at < CLEAR_BYTES ? bytes - at : CLEAR_BYTES;
        ofr_opencl_note(session,
                        session->api->EnqueueFillBuffer(session->queue, buffer, zero, unit, at, n,
                                                        0, NULL, NULL),
                        "clearing memory");
    }
}

/* The strips of the layers [begin, end), in place or (mirrored) zeroed: unwritten rows are finite.
 */
static int bind_window(ofr_backend_session *session, uint32_t begin, uint32_t end, ofr_error *err)
{
    const ofr_kv_layout *kv = &session->options.kv_layout;
    uint64_t bytes = (end - begin) * kv->layer_bytes;
    opencl_kv_window *w = &session->kv_windows[session->n_kv_windows];
    cl_mem_flags flags = CL_MEM_READ_WRITE;
    char *host = NULL;
    if (session->shared) {
        flags |= CL_MEM_USE_HOST_PTR;
        host = (char *)session->options.kv_arena +
               (session->options.layer_begin + begin) * kv->layer_bytes;
    }
    int result = ofr_opencl_make_buffer(session, flags, bytes, host, "KV strips", &w->buffer, err);
    if (result < 0) {
        return result;
    }
    w->layer_begin = begin;
    w->layer_end = end;
    session->n_kv_windows++;
    for (uint32_t i = begin; i < end; i++) {
        session->layers[i].kv = w->buffer;
        session->layers[i].k_offset = (i - begin) * kv->layer_bytes / 2;
        session->layers[i].v_offset = session->layers[i].k_offset + kv->strip_bytes / 2;
    }
    if (!session->shared) {
        ofr_opencl_clear(session, w->buffer, bytes);
    }
    return ofr_opencl_error(session, err);
}

int ofr_opencl_bind_kv(ofr_backend_session *session, ofr_error *err)
{
    const ofr_kv_layout *kv = &session->options.kv_layout;
    uint32_t n_layers = session->options.layer_end - session->options.layer_begin;
    uint64_t fit = session->device.max_allocation / kv->layer_bytes; /* layers of a buffer */
    if (fit == 0) {
        return ofr_fail(err, OFR_ELIMIT,
                        "OpenCL backend: KV strips of one layer, %u slots, need %llu MiB in one "
                        "buffer, %s allows %llu MiB; use a shorter context or fewer slots",
                        kv->n_slots, (unsigned long long)(kv->layer_bytes >> 20),
                        session->device.name,
                        (unsigned long long)(session->device.max_allocation >> 20));
    }
    session->kv_slot_stride = kv->strip_bytes; /* K's and V's, in halves */
    session->kv_windows = calloc(n_layers, sizeof *session->kv_windows);
    int result = session->kv_windows != NULL ? 0 : OFR_ENOMEM;
    if (result == 0 && !session->shared) {
        session->mirrored = calloc(kv->n_slots, sizeof *session->mirrored);
        session->fingerprints =
            calloc((size_t)kv->n_slots * kv->context, sizeof *session->fingerprints);
        result = session->mirrored != NULL && session->fingerprints != NULL ? 0 : OFR_ENOMEM;
    }
    if (result < 0) {
        return ofr_fail(err, OFR_ENOMEM, "OpenCL backend: out of memory");
    }
    for (uint32_t at = 0, end; result == 0 && at < n_layers; at = end) {
        end = n_layers - at > fit ? at + (uint32_t)fit : n_layers;
        result = bind_window(session, at, end, err);
    }
    return result;
}

void ofr_opencl_release_kv(ofr_backend_session *session)
{
    for (uint32_t i = 0; i < session->n_kv_windows; i++) {
        session->api->ReleaseMemObject(session->kv_windows[i].buffer);
    }
    free(session->kv_windows);
    free(session->mirrored);
    free(session->fingerprints);
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15U;
    return hash ^ hash >> 29;
}

/* In four chains, which do not wait for one another. */
static uint64_t hash_row(const uint8_t *row, uint64_t bytes, uint64_t hash)
{
    uint64_t chains[4] = {hash, 1, 2, 3}, words[4], at = 0;
    for (; at + sizeof words <= bytes; at += sizeof words) {
        memcpy(words, row + at, sizeof words);
        for (uint32_t i = 0; i < 4; i++) {
            chains[i] = mix(chains[i], words[i]);
        }
    }
    for (; at < bytes; at++) {
        chains[0] = mix(chains[0], row[at]);
    }
    return mix(mix(mix(chains[0], chains[1]), chains[2]), chains[3]);
}

/* Of K and V of a row in the last layer of the range. What they hold follows from all tokens up to
 * theirs, so that equal fingerprints of row r mean equal rows up to r in all layers; in layer 0,
 * where only the row's own token counts, every row is compared. */
static uint64_t fingerprint(const ofr_backend_session *session, uint32_t slot, uint32_t row)
{
    const ofr_kv_layout *kv = &session->options.kv_layout;
    uint32_t last = session->options.layer_end - 1;
    const uint8_t *arena = session->options.kv_arena;
    uint64_t hash =
        hash_row(arena + ofr_kv_strip_k(kv, slot, last) + row * kv->row_bytes, kv->row_bytes, 1);
    return hash_row(arena + ofr_kv_strip_v(kv, slot, last) + row * kv->row_bytes, kv->row_bytes,
                    hash);
}

/* How many of the first `wanted` rows of the slot the mirror holds as the host has them. */
static uint32_t rows_in_mirror(const ofr_backend_session *session, uint32_t slot, uint32_t wanted)
{
    const uint64_t *known =
        session->fingerprints + (size_t)slot * session->options.kv_layout.context;
    uint32_t low = 0;
    uint32_t high = session->mirrored[slot] < wanted ? session->mirrored[slot] : wanted;
    if (session->options.layer_end == 1) {
        while (low < high && fingerprint(session, slot, low) == known[low]) {
            low++;
        }
        return low;
    }
    if (high > 0 && fingerprint(session, slot, high - 1) == known[high - 1]) {
        return high; /* as nearly always */
    }
    while (low < high) { /* the longest prefix that agrees */
        uint32_t middle = low + (high - low) / 2;
        if (fingerprint(session, slot, middle) == known[middle]) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Room for `wanted`, whose `from` is filled in. */
static char *stage(ofr_backend_session *session, const opencl_staged *wanted)
{
    size_t bytes = wanted->bytes * wanted->group_rows * wanted->n;
    if (session->staging_host == NULL || session->n_staged == OPENCL_STAGED_MAX ||
        bytes > OPENCL_STAGING_BYTES - session->staging_used) {
        return NULL;
    }
    char *at = session->staging_host + session->staging_used;
    session->staging_used += (bytes + 255) / 256 * 256;
    session->staging_used =
        session->staging_used < OPENCL_STAGING_BYTES ? session->staging_used : OPENCL_STAGING_BYTES;
    session->staged[session->n_staged] = *wanted;
    session->staged[session->n_staged++].from = at;
    return at;
}

char *ofr_opencl_stage(ofr_backend_session *session, void *to, size_t to_pitch, size_t bytes,
                       uint64_t n)
{
    return stage(
        session,
        &(opencl_staged){.to = to, .bytes = bytes, .to_pitch = to_pitch, .n = 1, .group_rows = n});
}

/* Where row r of what is staged goes. */
static char *destination(const opencl_staged *s, uint64_t r)
{
    return s->to + r / s->group_rows * s->group_pitch + r % s->group_rows * s->to_pitch;
}

static void unstage_one(const opencl_staged *s)
{
    for (uint64_t r = 0; r < s->n * s->group_rows; r++) {
        memcpy(destination(s, r), s->from + r * s->bytes, s->bytes);
    }
}

void ofr_opencl_unstage(ofr_backend_session *session)
{
    for (uint32_t i = 0; i < session->n_staged && session->status == CL_SUCCESS; i++) {
        unstage_one(&session->staged[i]);
    }
    session->n_staged = 0;
    session->staging_used = 0;
}

/* Fetches where staged rows go into the caches while the device works: single rows of many strips
 * are pages far apart. */
static void prefetch_destinations(ofr_backend_session *session)
{
    enum { LINE = 64 };
    size_t left = PREFETCHED_BYTES;
    if (session->n_staged > 0 && session->status == CL_SUCCESS) {
        ofr_opencl_note(session, session->api->Flush(session->queue), "starting the queue");
    }
    for (uint32_t i = 0; i < session->n_staged; i++) {
        const opencl_staged *s = &session->staged[i];
        size_t bytes = s->bytes * s->group_rows * s->n;
        if (bytes > left) {
            continue;
        }
        left -= bytes;
        for (uint64_t r = 0; r < s->n * s->group_rows; r++) {
            const char *to = destination(s, r);
            for (size_t at = 0; at < s->bytes; at += LINE) {
                __builtin_prefetch(to + at, 1);
            }
        }
    }
}

/* The rows of the early layers, as soon as those are through, while the device goes on; *rows is
 * then what is left. Without a place for them all are left. */
static void fetch_early(ofr_backend_session *session, opencl_staged *rows)
{
    const ofr_opencl_api *api = session->api;
    opencl_staged early = *rows;
    early.n = session->early_layers;
    size_t bytes = early.bytes * early.group_rows * early.n;
    uint32_t first = session->n_staged;
    char *staged = session->early_event != NULL ? stage(session, &early) : NULL;
    if (staged == NULL) {
        session->early_layers = 0;
        return;
    }
    ofr_opencl_note(session, api->Flush(session->queue), "starting the queue");
    ofr_opencl_note(session,
                    api->EnqueueReadBuffer(session->early_queue, session->collected, CL_FALSE, 0,
                                           bytes, staged, 1, &session->early_event, NULL),
                    "fetching KV rows");
    ofr_opencl_note(session, api->Finish(session->early_queue), "waiting for the device");
    if (session->status == CL_SUCCESS) {
        unstage_one(&session->staged[first]);
    }
    session->n_staged = first;
    session->stats.kv_downloaded += bytes;
    rows->to += early.n * early.group_pitch;
    rows->n -= early.n;
}

/* A few new rows, put together on the device and fetched at once; false: not this way. */
static bool fetch_collected(ofr_backend_session *session, uint32_t slot, uint32_t from, uint32_t to)
{
    const ofr_kv_layout *kv = &session->options.kv_layout;
    uint32_t layers = session->options.layer_end - session->options.layer_begin;
    uint64_t bytes = (to - from) * kv->row_bytes, strip_words = kv->strip_bytes / 4;
    uint64_t slot_words = slot * 2 * strip_words, layer_words = kv->layer_bytes / 4;
    opencl_staged wanted = {.to = (char *)session->options.kv_arena +
                                  ofr_kv_strip_k(kv, slot, session->options.layer_begin) +
                                  from * kv->row_bytes,
                            .bytes = bytes,
                            .to_pitch = kv->strip_bytes,
                            .group_pitch = kv->layer_bytes,
                            .n = layers,
                            .group_rows = 2};
    if (session->early_layers > 0) {
        fetch_early(session, &wanted);
        layers -= session->early_layers;
    }
    char *staged = stage(session, &wanted);
    if (staged == NULL) {
        return false;
    }
    cl_kernel kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_COLLECT_ROWS);
    uint32_t first = (uint32_t)(from * kv->row_bytes / 4), n = (uint32_t)(bytes / 4);
    const ofr_opencl_api *api = session->api;
    uint32_t n_windows = ofr_opencl_token_collected(session) ? 0 : session->n_kv_windows;
    for (uint32_t i = 0; kernel != NULL && i < n_windows; i++) {
        const opencl_kv_window *w = &session->kv_windows[i];
        uint32_t at = 2 * w->layer_begin * n;
        cl_int status = api->SetKernelArg(kernel, 0, sizeof(cl_mem), &w->buffer);
        status |= api->SetKernelArg(kernel, 1, sizeof slot_words, &slot_words);
        status |= api->SetKernelArg(kernel, 2, sizeof layer_words, &layer_words);
        status |= api->SetKernelArg(kernel, 3, sizeof strip_words, &strip_words);
        status |= api->SetKernelArg(kernel, 4, sizeof first, &first);
        status |= api->SetKernelArg(kernel, 5, sizeof n, &n);
        status |= api->SetKernelArg(kernel, 6, sizeof at, &at);
        status |= api->SetKernelArg(kernel, 7, sizeof(cl_mem), &session->collected);
        ofr_opencl_note(session, status, "setting a kernel's arguments");
        ofr_opencl_launch(session, kernel, 64, (n + 63) / 64, 2 * (w->layer_end - w->layer_begin),
                          1);
    }
    if (kernel != NULL) {
        ofr_opencl_note(session,
                        api->EnqueueReadBuffer(session->queue, session->collected, CL_FALSE,
                                               bytes * 2 * session->early_layers,
                                               bytes * layers * 2, staged, 0, NULL, NULL),
                        "fetching KV rows");
    }
    session->stats.kv_downloaded += bytes * layers * 2;
    return true;
}

/* Rows [from, to) of a slot's strips, one way or the other. */
static void copy_rows(ofr_backend_session *session, uint32_t slot, uint32_t from, uint32_t to,
                      bool up)
{
    const ofr_kv_layout *kv = &session->options.kv_layout;
    const ofr_opencl_api *api = session->api;
    size_t row = kv->strip_bytes, slice = kv->layer_bytes;
    void *arena = session->options.kv_arena;
    if (!up && fetch_collected(session, slot, from, to)) {
        return;
    }
    for (uint32_t i = 0; i < session->n_kv_windows; i++) { /* layers, of K and V, of some bytes */
        const opencl_kv_window *w = &session->kv_windows[i];
        size_t device_at[3] = {from * kv->row_bytes, 2 * (size_t)slot, 0};
        size_t host_at[3] = {from * kv->row_bytes, 2 * (size_t)slot,
                             session->options.layer_begin + w->layer_begin};
        size_t region[3] = {(to - from) * kv->row_bytes, 2, w->layer_end - w->layer_begin};
        cl_int status =
            up ? api->EnqueueWriteBufferRect(session->queue, w->buffer, CL_FALSE, device_at,
                                             host_at, region, row, slice, row, slice, arena, 0,
                                             NULL, NULL)
               : api->EnqueueReadBufferRect(session->queue, w->buffer, CL_FALSE, device_at, host_at,
                                            region, row, slice, row, slice, arena, 0, NULL, NULL);
        ofr_opencl_note(session, status, up ? "sending KV rows" : "fetching KV rows");
        *(up ? &session->stats.kv_uploaded : &session->stats.kv_downloaded) +=
            (uint64_t)region[0] * region[1] * region[2];
    }
}

void ofr_opencl_kv_to_device(ofr_backend_session *session)
{
    if (session->shared) {
        for (uint32_t i = 0; i < session->n_kv_windows; i++) {
            opencl_kv_window *w = &session->kv_windows[i];
            if (w->mapped != NULL) {
                ofr_opencl_note(session,
                                session->api->EnqueueUnmapMemObject(session->queue, w->buffer,
                                                                    w->mapped, 0, NULL, NULL),
                                "giving KV to the device");
                w->mapped = NULL;
            }
        }
        return;
    }
    for (uint32_t i = 0; i < session->call->n_segments; i++) {
        const ofr_segment *s = &session->call->segments[i];
        uint32_t held = rows_in_mirror(session, s->slot, s->position);
        if (held < s->position) {
            copy_rows(session, s->slot, held, s->position, true);
            uint64_t *known =
                session->fingerprints + (size_t)s->slot * session->options.kv_layout.context;
            for (uint32_t row = held; row < s->position; row++) {
                known[row] = fingerprint(session, s->slot, row);
            }
        }
        session->mirrored[s->slot] = s->position;
    }
}

void ofr_opencl_kv_to_host(ofr_backend_session *session)
{
    if (session->shared) {
        for (uint32_t i = 0; i < session->n_kv_windows; i++) {
            opencl_kv_window *w = &session->kv_windows[i];
            uint64_t bytes =
                (w->layer_end - w->layer_begin) * session->options.kv_layout.layer_bytes;
            cl_int status = CL_SUCCESS;
            w->mapped = session->api->EnqueueMapBuffer(session->queue, w->buffer, CL_TRUE,
                                                       CL_MAP_READ | CL_MAP_WRITE, 0, bytes, 0,
                                                       NULL, NULL, &status);
            ofr_opencl_note(session, status, "taking KV from the device");
        }
        return;
    }
    for (uint32_t i = 0; i < session->call->n_segments; i++) {
        const ofr_segment *s = &session->call->segments[i];
        copy_rows(session, s->slot, s->position, s->position + s->n_tokens, false);
    }
    if (session->early_event != NULL) {
        session->api->ReleaseEvent(session->early_event);
        session->early_event = NULL;
    }
    session->early_layers = 0;
    prefetch_destinations(session);
    ofr_opencl_note(session, session->api->Finish(session->queue), "waiting for the device");
    if (session->status != CL_SUCCESS) {
        return;
    }
    ofr_opencl_unstage(session);
    for (uint32_t i = 0; i < session->call->n_segments; i++) {
        const ofr_segment *s = &session->call->segments[i];
        uint64_t *known =
            session->fingerprints + (size_t)s->slot * session->options.kv_layout.context;
        session->mirrored[s->slot] = s->position + s->n_tokens;
        for (uint32_t row = s->position; row < s->position + s->n_tokens; row++) {
            known[row] = fingerprint(session, s->slot, row);
        }
    }
}

/* Binds the caller's stream; the steps know the buffer, so a new one means new steps. */
static void bind_stream(ofr_backend_session *session, void *host, size_t bytes)
{
    if (session->stream != NULL && session->stream_host == host && session->stream_bytes >= bytes) {
        return;
    }
    cl_int status = CL_SUCCESS;
    if (session->stream != NULL) {
        session->api->ReleaseMemObject(session->stream);
        session->stream_mapped = NULL;
    }
    session->stream = session->api->CreateBuffer(
        session->context, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, bytes, host, &status);
    ofr_opencl_note(session, status, "binding hidden states");
    session->stream_host = host;
    session->stream_bytes = bytes;
}

void ofr_opencl_stream_to_device(ofr_backend_session *session)
{
    const ofr_forward *call = session->call;
    size_t row = session->params->d_model * sizeof(float), n = session->n_tokens;
    bool input = session->options.layer_begin > 0;
    bool output = session->options.layer_end < session->params->n_layers;
    cl_mem before = session->hidden;
    session->hidden = session->own_hidden;
    if (session->shared && (input || output)) {
        float *stream = output ? call->hidden_out : call->hidden_in;
        if (input && output && call->hidden_in != call->hidden_out) {
            memmove(call->hidden_out, call->hidden_in, n * row);
            session->stats.hidden_copied += n * row;
        }
        bool moved = session->stream_host != stream;
        if (session->stream_mapped != NULL) {
            ofr_opencl_note(session,
                            session->api->EnqueueUnmapMemObject(session->queue, session->stream,
                                                                session->stream_mapped, 0, NULL,
                                                                NULL),
                            "giving hidden states to the device");
            session->stream_mapped = NULL;
            if (moved) {
                ofr_opencl_note(session, session->api->Finish(session->queue),
                                "waiting for the device");
            }
        }
        bind_stream(session, stream, (call->hidden_rows > n ? call->hidden_rows : n) * row);
        session->hidden = session->stream;
    } else if (input) {
        ofr_opencl_note(session,
                        session->api->EnqueueWriteBuffer(session->queue, session->hidden, CL_FALSE,
                                                         0, n * row, call->hidden_in, 0, NULL,
                                                         NULL),
                        "sending hidden states");
        session->stats.hidden_copied += n * row;
    }
    if (before != session->hidden) {
        ofr_opencl_drop_steps(session);
    }
}

void ofr_opencl_stream_to_host(ofr_backend_session *session)
{
    const ofr_forward *call = session->call;
    size_t bytes = session->n_tokens * session->params->d_model * sizeof(float);
    if (session->status != CL_SUCCESS) {
        return;
    }
    if (session->hidden == session->stream) {
        cl_int status = CL_SUCCESS;
        session->stream_mapped = session->api->EnqueueMapBuffer(
            session->queue, session->stream, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, 0,
            session->stream_bytes, 0, NULL, NULL, &status);
        ofr_opencl_note(session, status, "taking hidden states from the device");
    } else if (session->options.layer_end < session->params->n_layers) {
        ofr_opencl_note(session,
                        session->api->EnqueueReadBuffer(session->queue, session->hidden, CL_FALSE,
                                                        0, bytes, call->hidden_out, 0, NULL, NULL),
                        "fetching hidden states");
        session->stats.hidden_copied += bytes;
    }
}
