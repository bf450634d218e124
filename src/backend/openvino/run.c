/* Running a segment: chunks of the ladder, layer by layer through folded graphs, or at once through
 * a whole one. */
#include <string.h>

#include "backend/openvino/session.h"
#include "base/clock.h"

/* Where a chunk's rows of the residual stream come from and go to. */
typedef struct chunk {
    uint32_t slot, position;
    uint32_t tokens; /* of the graph */
    uint32_t n;      /* real ones */
    float *in, *out; /* [tokens, d_model]; out NULL: one of our own buffers */
} chunk;

static void fill_rope(ofr_backend_session *session, const chunk *c, const ov_positions *at)
{
    size_t half = at->rope->half;
    const float *cosines = session->rope_rows, *sines = cosines + c->tokens * half;
    ofr_rope_fill(at->rope, c->position, c->tokens, session->rope_rows,
                  session->rope_rows + c->tokens * half);
    for (size_t i = 0; i < c->tokens; i++) {
        for (size_t k = 0; k < half; k++) {
            size_t first = 2 * i * half + k, second = first + half;
            at->cosines[first] = at->cosines[second] = cosines[i * half + k];
            at->sines[first] = at->sines[second] = sines[i * half + k];
        }
    }
}

/* Does query `q` see key `k`, both counted from the beginning of the sequence? */
static bool sees(const ov_positions *at, uint32_t q, uint32_t k)
{
    return k <= q && (at->window == 0 || q - k < at->window);
}

static void fill_masks(const chunk *c, ov_positions *at)
{
    if (at->mask_tokens != c->tokens) {
        for (uint32_t i = 0; i < c->tokens; i++)
            for (uint32_t k = 0; k < c->tokens; k++)
                at->mask[(size_t)i * c->tokens + k] = sees(at, i, k) ? 0 : OFR_GRAPH_MASKED;
        at->mask_tokens = c->tokens;
    }
    for (uint32_t k = 0; k < at->past; k++)
        at->past_rows[k] = at->begin + k < c->position ? 1 : 0;
    for (uint32_t i = 0; i < c->tokens && at->past > 0; i++) {
        float *row = at->mask_past + (size_t)i * at->past;
        if (i > 0 && at->window == 0) {
            memcpy(row, at->mask_past, at->past * sizeof(float));
            continue;
        }
        for (uint32_t k = 0; k < at->past; k++) {
            bool seen = at->begin + k < c->position && sees(at, c->position + i, at->begin + k);
            row[k] = seen ? 0 : OFR_GRAPH_MASKED;
        }
    }
}

/* The fewest past rows that a graph must see, and where they begin. */
static int choose_past(const ofr_backend_session *session, const chunk *c, ov_positions *at,
                       ofr_error *err)
{
    enum { BEGIN_STEP = 64 }; /* rows: pointers into the strips stay aligned */
    uint32_t oldest = at->window && c->position >= at->window ? c->position + 1 - at->window : 0;
    at->begin = oldest / BEGIN_STEP * BEGIN_STEP;
    if (ofr_ladder_cover(&session->pasts, c->position - at->begin, &at->past) < 0)
        return ofr_fail(err, OFR_EUNSUPPORTED, "OpenVINO backend: no graph sees %u past tokens",
                        c->position - at->begin);
    const ofr_kv_layout *kv = &session->options.kv_layout;
    uint32_t rows = kv->context + kv->chunk_max;
    if (at->begin + at->past > rows)
        at->begin = rows - at->past;
    return 0;
}

/* For folded graphs; a whole graph's past is its own. */
static int prepare_positions(ofr_backend_session *session, const chunk *c, const ov_whole *whole,
                             ofr_error *err)
{
    ov_positions *at = session->at;
    for (int i = 0; i < 2; i++) {
        if (at[i].rope)
            fill_rope(session, c, &at[i]);
        at[i].begin = 0;
        at[i].past = whole ? whole->past : 0;
        int r = whole ? 0 : choose_past(session, c, &at[i], err);
        if (r < 0)
            return r;
        if (i == 0 || at[1].window)
            fill_masks(c, &at[i]);
    }
    return 0;
}

static int bind(ofr_ov_graph *graph, int port, const void *data, size_t bytes, int *result,
                ofr_error *err)
{
    if (*result == 0)
        *result = ofr_ov_graph_bind(graph, port, data, bytes, err);
    return *result;
}

/* Models without RoPE or without windows have graphs without these inputs. */
static void bind_if_any(ofr_ov_graph *graph, int port, const void *data, size_t bytes, int *result,
                        ofr_error *err)
{
    if (port >= 0)
        bind(graph, port, data, bytes, result, err);
}

static void bind_positions(ofr_ov_graph *graph, const chunk *c, const ov_positions *at,
                           uint32_t dims, const int *ports, int *result, ofr_error *err)
{
    size_t rope = (size_t)c->tokens * dims * sizeof(float);
    bind_if_any(graph, ports[0], at->cosines, rope, result, err);
    bind_if_any(graph, ports[1], at->sines, rope, result, err);
    bind_if_any(graph, ports[2], at->mask, (size_t)c->tokens * c->tokens * sizeof(float), result,
                err);
    bind_if_any(graph, ports[3], at->mask_past, (size_t)c->tokens * at->past * sizeof(float),
                result, err);
}

static char *strip(const ofr_backend_session *session, uint32_t slot, uint32_t layer, bool value,
                   uint32_t row)
{
    const ofr_kv_layout *kv = &session->options.kv_layout;
    uint64_t at = value ? ofr_kv_strip_v(kv, slot, layer) : ofr_kv_strip_k(kv, slot, layer);
    return (char *)session->options.kv_arena + at + row * kv->row_bytes;
}

static void bind_matrix(const ov_block *block, int which, const ofr_linear *linear, int *result,
                        ofr_error *err)
{
    const ofr_tensor *t = linear->weight;
    bind(block->graph, block->weights[which], t->data, t->bytes, result, err);
    if (block->scales[which] >= 0)
        bind(block->graph, block->scales[which], t->scales, t->scale_bytes, result, err);
    if (block->biases[which] >= 0)
        bind(block->graph, block->biases[which], linear->bias, t->shape[0] * sizeof(float), result,
             err);
}

static void bind_norms(const ofr_backend_session *session, const ov_block *b,
                       const ofr_layer *layer, int *result, ofr_error *err)
{
    const ofr_model_params *p = session->params;
    const struct {
        const float *weight;
        size_t n;
    } norms[OV_NORMS] = {
        [OV_NORM_ATTENTION] = {layer->attention_norm, p->d_model},
        [OV_NORM_MLP] = {layer->mlp_norm, p->d_model},
        [OV_NORM_Q] = {layer->q_norm, p->head_dim},
        [OV_NORM_K] = {layer->k_norm, p->head_dim},
        [OV_NORM_ATTENTION_OUT] = {layer->attention_output_norm, p->d_model},
        [OV_NORM_MLP_OUT] = {layer->mlp_output_norm, p->d_model},
    };
    for (int i = 0; i < OV_NORMS; i++)
        if (norms[i].weight)
            bind(b->graph, b->norms[i], norms[i].weight, norms[i].n * sizeof(float), result, err);
}

/* A graph of `layers` layers that reads and writes `rows` rows of each strip: it converts them
 * between the strips' f16 and what it computes in. */
static int infer(ofr_backend_session *session, ofr_ov_graph *graph, uint64_t layers, uint64_t rows,
                 ofr_error *err)
{
    int r = ofr_ov_graph_infer(graph, err);
    if (r < 0)
        return r;
    session->graph_kv_bytes += 2 * layers * rows * session->options.kv_layout.row_bytes;
    if (session->options.progress)
        atomic_fetch_add_explicit(session->options.progress, 1, memory_order_relaxed);
    return 0;
}

static int run_layer(ofr_backend_session *session, const chunk *c, uint32_t index, const float *in,
                     float *out, ofr_error *err)
{
    const ofr_layer *layer = &session->model->layers[index];
    size_t d_bytes = session->params->d_model * sizeof(float);
    size_t row_bytes = session->options.kv_layout.row_bytes;
    const ov_positions *at = &session->at[(layer->flags & OFR_LAYER_WINDOWED) != 0];
    const ofr_rope_params *rope = ofr_graph_layer_rope(session->params, index);
    ov_block *b = NULL;
    int r = ofr_openvino_block(session, session->kinds[index], c->tokens, at->past, &b, err);
    if (r < 0)
        return r;
    const ofr_linear *linears[OFR_GRAPH_MATRICES] = {
        [OFR_GRAPH_Q] = &layer->q,       [OFR_GRAPH_K] = &layer->k,
        [OFR_GRAPH_V] = &layer->v,       [OFR_GRAPH_O] = &layer->o,
        [OFR_GRAPH_GATE] = &layer->gate, [OFR_GRAPH_UP] = &layer->up,
        [OFR_GRAPH_DOWN] = &layer->down};
    for (int i = 0; i < OFR_GRAPH_MATRICES; i++)
        bind_matrix(b, i, linears[i], &r, err);
    bind_norms(session, b, layer, &r, err);
    bind_positions(b->graph, c, at, rope ? rope->dims : 0, b->positions, &r, err);
    bind(b->graph, b->hidden, in, c->tokens * d_bytes, &r, err);
    bind(b->graph, b->hidden_out, out, c->tokens * d_bytes, &r, err);
    if (at->past) {
        size_t bytes = at->past * row_bytes;
        bind(b->graph, b->positions[4], at->past_rows, at->past * sizeof(float), &r, err);
        bind(b->graph, b->past_key, strip(session, c->slot, index, false, at->begin), bytes, &r,
             err);
        bind(b->graph, b->past_value, strip(session, c->slot, index, true, at->begin), bytes, &r,
             err);
    }
    bind(b->graph, b->key, strip(session, c->slot, index, false, c->position),
         c->tokens * row_bytes, &r, err);
    bind(b->graph, b->value, strip(session, c->slot, index, true, c->position),
         c->tokens * row_bytes, &r, err);
    return r < 0 ? r : infer(session, b->graph, 1, c->tokens + at->past, err);
}

static int run_layers(ofr_backend_session *session, chunk *c, ofr_error *err)
{
    uint32_t begin = session->options.layer_begin, end = session->options.layer_end;
    const float *in = c->in;
    int r = 0;
    for (uint32_t i = begin; i < end && r == 0; i++) {
        float *out = in == session->hidden[0] ? session->hidden[1] : session->hidden[0];
        if (i + 1 == end && c->out)
            out = c->out;
        r = run_layer(session, c, i, in, out, err);
        in = out;
        if (i + 1 == end)
            c->out = out;
    }
    return r;
}

static int embed(ofr_backend_session *session, const int32_t *tokens, uint32_t n, float *out,
                 ofr_error *err)
{
    int r = 0;
    size_t d = session->params->d_model;
    for (uint32_t i = 0; i < n && r == 0; i += OV_EMBED_ROWS) {
        uint32_t count = n - i < OV_EMBED_ROWS ? n - i : OV_EMBED_ROWS;
        ofr_segment segment = {.n_tokens = count};
        ofr_forward rows = {
            .segments = &segment, .n_segments = 1, .tokens = tokens + i, .hidden_out = out + i * d};
        r = session->cpu->forward(session->embed, &rows, err);
    }
    return r;
}

int ofr_openvino_run_head(ofr_backend_session *session, float *hidden, uint32_t n,
                          const ofr_forward *what, ofr_error *err)
{
    size_t d = session->params->d_model, vocab = session->params->vocab_size;
    int r = 0;
    for (uint32_t i = 0; i < n && r == 0; i += OV_HEAD_ROWS) {
        ofr_segment segment = {.n_tokens = n - i < OV_HEAD_ROWS ? n - i : OV_HEAD_ROWS};
        ofr_forward rows = {.segments = &segment,
                            .n_segments = 1,
                            .hidden_in = hidden + i * d,
                            .output = what->output};
        if (what->output == OFR_FORWARD_OUTPUT_LOGPROBS) {
            rows.targets = what->targets + i;
            rows.logprobs = what->logprobs + i;
        } else {
            rows.output = OFR_FORWARD_OUTPUT_ALL;
            rows.logits = what->logits + i * vocab;
        }
        r = session->cpu->forward(session->head, &rows, err);
    }
    return r;
}

/* Decides where the rows lie: in the caller's buffers where these have room for the padding too
 * (which would overwrite the rows of the next segment), else in our own, and then the copying is
 * counted. */
static int place_rows(ofr_backend_session *session, const ofr_forward *f, uint32_t row, chunk *c,
                      ofr_error *err)
{
    size_t d = session->params->d_model;
    uint32_t total = 0;
    for (uint32_t i = 0; i < f->n_segments; i++)
        total += f->segments[i].n_tokens;
    bool room = c->tokens == c->n || (row + c->n == total && row + c->tokens <= f->hidden_rows);
    c->in = session->hidden[0];
    if (session->options.layer_begin == 0) {
        int r = embed(session, f->tokens + row, c->n, c->in, err);
        if (r < 0)
            return r;
    } else if (room) {
        c->in = f->hidden_in + row * d;
    } else {
        memcpy(c->in, f->hidden_in + row * d, c->n * d * sizeof(float));
        session->copied += c->n * d * sizeof(float);
    }
    /* Padding is computed like other rows; its values must not be infinite or NaN. */
    memset(c->in + c->n * d, 0, (c->tokens - c->n) * d * sizeof(float));
    uint32_t layers = session->options.layer_end - session->options.layer_begin;
    bool ours = session->options.layer_end == session->params->n_layers || !room ||
                (layers == 1 && c->in == f->hidden_out + row * d);
    c->out = ours ? NULL : f->hidden_out + row * d;
    return 0;
}

/* Adds up the chunk's rows after the last norm; the first chunk of a segment begins the sum. */
static int add_hidden(ofr_backend_session *session, const ofr_forward *f, uint32_t segment,
                      uint32_t row, const chunk *c, ofr_error *err)
{
    size_t d = session->params->d_model;
    float *sum = f->logits + segment * d;
    uint32_t first = 0;
    for (uint32_t i = 0; i < segment; i++)
        first += f->segments[i].n_tokens;
    if (row == first)
        memset(sum, 0, d * sizeof *sum);
    int r = 0;
    for (uint32_t i = 0; i < c->n && r == 0; i += OV_HEAD_ROWS) {
        ofr_segment rows = {.n_tokens = c->n - i < OV_HEAD_ROWS ? c->n - i : OV_HEAD_ROWS};
        ofr_forward what = {.segments = &rows,
                            .n_segments = 1,
                            .hidden_in = c->out + i * d,
                            .output = OFR_FORWARD_OUTPUT_HIDDEN_SUM,
                            .logits = session->partial_sum};
        r = session->cpu->forward(session->head, &what, err);
        for (size_t k = 0; k < d && r == 0; k++)
            sum[k] += session->partial_sum[k];
    }
    return r;
}

/* What becomes of the last layer's rows. */
static int deliver(ofr_backend_session *session, const ofr_forward *f, uint32_t segment,
                   uint32_t row, bool last_chunk, const chunk *c, ofr_error *err)
{
    size_t d = session->params->d_model, vocab = session->params->vocab_size;
    if (session->options.layer_end < session->params->n_layers) {
        if (c->out != f->hidden_out + row * d) {
            memcpy(f->hidden_out + row * d, c->out, c->n * d * sizeof(float));
            session->copied += c->n * d * sizeof(float);
        }
        return 0;
    }
    ofr_forward what = *f;
    switch (f->output) {
    case OFR_FORWARD_OUTPUT_NONE:
    case OFR_FORWARD_OUTPUT_CANDIDATES: /* was refused */
        return 0;
    case OFR_FORWARD_OUTPUT_LAST:
        if (last_chunk)
            memcpy(session->last_rows + segment * d, c->out + (c->n - 1) * d, d * sizeof(float));
        return 0;
    case OFR_FORWARD_OUTPUT_ALL:
        what.logits = f->logits + row * vocab;
        return ofr_openvino_run_head(session, c->out, c->n, &what, err);
    case OFR_FORWARD_OUTPUT_HIDDEN_SUM:
        return add_hidden(session, f, segment, row, c, err);
    case OFR_FORWARD_OUTPUT_LOGPROBS:
        what.targets = f->targets + row;
        what.logprobs = f->logprobs + row;
        return ofr_openvino_run_head(session, c->out, c->n, &what, err);
    }
    return 0;
}

static int run_whole(ofr_backend_session *session, ov_whole *w, const ofr_forward *f,
                     uint32_t segment, uint32_t row, bool last_chunk, chunk *c, ofr_error *err)
{
    static const int32_t beam = 0;
    size_t row_bytes = session->options.kv_layout.row_bytes;
    size_t vocab = session->params->vocab_size;
    const ov_positions *at = session->at;
    int r = prepare_positions(session, c, w, err);
    for (uint32_t i = 0; i < c->tokens; i++)
        session->ids[i] = i < c->n ? f->tokens[row + i] : 0;
    const ofr_model_params *p = session->params;
    bind_positions(w->graph, c, &at[0], p->rope.dims, w->positions, &r, err);
    bind_positions(w->graph, c, &at[1], p->rope_local.dims, w->window, &r, err);
    if (w->past)
        bind(w->graph, w->positions[4], at[0].past_rows, w->past * sizeof(float), &r, err);
    bind(w->graph, w->ids, session->ids, c->tokens * sizeof *session->ids, &r, err);
    bind(w->graph, w->beams, &beam, sizeof beam, &r, err);
    *session->last_id = c->n - 1;
    bind(w->graph, w->last, session->last_id, sizeof *session->last_id, &r, err);
    bool wanted = last_chunk && f->output == OFR_FORWARD_OUTPUT_LAST;
    bind(w->graph, w->logits, wanted ? f->logits + segment * vocab : session->logits,
         vocab * sizeof(float), &r, err);
    for (uint32_t i = 0; i < session->params->n_layers; i++) {
        if (w->past) {
            bind(w->graph, w->past_keys[i], strip(session, c->slot, i, false, 0),
                 w->past * row_bytes, &r, err);
            bind(w->graph, w->past_values[i], strip(session, c->slot, i, true, 0),
                 w->past * row_bytes, &r, err);
        }
        bind(w->graph, w->keys[i], strip(session, c->slot, i, false, c->position),
             c->tokens * row_bytes, &r, err);
        bind(w->graph, w->values[i], strip(session, c->slot, i, true, c->position),
             c->tokens * row_bytes, &r, err);
    }
    return r < 0 ? r : infer(session, w->graph, p->n_layers, c->tokens + w->past, err);
}

static int run_chunk(ofr_backend_session *session, const ofr_forward *f, uint32_t segment,
                     uint32_t row, bool last_chunk, chunk *c, ofr_error *err)
{
    ov_whole *whole = NULL;
    session->figures.chunks++;
    session->figures.padded_tokens += c->tokens - c->n;
    if (f->output == OFR_FORWARD_OUTPUT_NONE || f->output == OFR_FORWARD_OUTPUT_LAST) {
        int r = ofr_openvino_whole(session, c->tokens, c->position, &whole, err);
        if (r == 0) {
            session->last_by_whole[segment] = last_chunk;
            return run_whole(session, whole, f, segment, row, last_chunk, c, err);
        }
        if (r != OFR_ENOENT)
            return r;
    }
    int r = prepare_positions(session, c, NULL, err);
    if (r == 0)
        r = place_rows(session, f, row, c, err);
    if (r == 0)
        r = run_layers(session, c, err);
    return r < 0 ? r : deliver(session, f, segment, row, last_chunk, c, err);
}

int ofr_openvino_run_segment(ofr_backend_session *session, const ofr_forward *forward,
                             uint32_t segment, uint32_t first, ofr_error *err)
{
    enum { CHUNKS_MAX = 512 };
    const ofr_segment *s = &forward->segments[segment];
    uint32_t chunks[CHUNKS_MAX], n_chunks = 0;
    int r = ofr_ladder_chunks(&session->chunks, session->costs, s->n_tokens, chunks, CHUNKS_MAX,
                              &n_chunks, err);
    uint32_t done = 0;
    for (uint32_t i = 0; i < n_chunks && r == 0; i++) {
        uint32_t left = s->n_tokens - done;
        chunk c = {.slot = s->slot,
                   .position = s->position + done,
                   .tokens = chunks[i],
                   .n = chunks[i] < left ? chunks[i] : left};
        uint32_t compiled = session->figures.graphs_compiled + session->figures.graphs_from_cache;
        uint64_t begin = ofr_clock_ns();
        r = run_chunk(session, forward, segment, first + done, i + 1 == n_chunks, &c, err);
        if (compiled == session->figures.graphs_compiled + session->figures.graphs_from_cache)
            ofr_openvino_learn_cost(session, c.tokens, (double)(ofr_clock_ns() - begin) * 1e-9);
        done += c.n;
    }
    return r;
}
