/* The layer loop of the CPU backend, run by all threads together. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/session.h"
#include "base/fp16.h"

enum { FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x40 }; /* MXCSR, Intel SDM vol. 1, 10.2.3 */

/* Row `token` of the embedding as fp32. */
static void embed_row(const ofr_backend_session *session, uint32_t token, float *y)
{
    const ofr_tensor *table = session->model->embedding;
    size_t d = session->params->d_model, first = token * d;
    switch (table->dtype) {
    case OFR_DTYPE_F32:
        memcpy(y, (const float *)table->data + first, d * sizeof *y);
        return;
    case OFR_DTYPE_F16:
        session->kernels->half_to_float((const uint16_t *)table->data + first, d, y);
        return;
    case OFR_DTYPE_I8:
    case OFR_DTYPE_I4:
    case OFR_DTYPE_I4M:
        break;
    }
    const uint8_t *bytes = table->data;
    const uint16_t *scales = table->scales;
    size_t group = table->group_size;
    for (size_t g = 0; g < d / group; g++) {
        size_t own = token * (d / group) + g;
        float scale = ofr_half_to_float(scales[own]), minimum = 0;
        bool shifted = table->dtype == OFR_DTYPE_I4M;
        if (shifted) {
            minimum = ofr_half_to_float(scales[(size_t)table->shape[0] * (d / group) + own]);
        }
        for (size_t i = g * group; i < (g + 1) * group; i++) {
            int32_t value;
            if (table->dtype == OFR_DTYPE_I8) {
                value = (int8_t)bytes[first + i];
            } else {
                uint8_t pair = bytes[(first + i) / 2];
                value = ((i % 2 == 0 ? pair & 15 : pair >> 4) ^ 8) - 8;
            }
            y[i] = shifted ? (float)(value + 8) * scale + minimum : (float)value * scale;
        }
    }
}

/* Embedding (or the hidden states handed in) and RoPE rows of every token. */
static void begin_pass(ofr_backend_session *session)
{
    const ofr_forward *pass = session->pass;
    size_t d = session->params->d_model;
    uint32_t half = session->rope.half;
    for (;;) {
        uint32_t i = ofr_thread_pool_next(session->pool);
        if (i >= session->n_tokens) {
            break;
        }
        if (session->options.layer_begin == 0) {
            embed_row(session, (uint32_t)pass->tokens[i], session->hidden + i * d);
            if (session->params->embedding_scale != 0) {
                session->kernels->scale(session->hidden + i * d, d,
                                        session->params->embedding_scale);
            }
        } else if (session->hidden != pass->hidden_in) {
            memcpy(session->hidden + i * d, pass->hidden_in + i * d, d * sizeof(float));
        }
        ofr_rope_fill(&session->rope, session->tokens[i].position, 1,
                      session->cosines + (size_t)i * half, session->sines + (size_t)i * half);
        size_t local = session->rope_local.half;
        if (local > 0) {
            ofr_rope_fill(&session->rope_local, session->tokens[i].position, 1,
                          session->local_cosines + i * local, session->local_sines + i * local);
        }
    }
    ofr_thread_pool_barrier(session->pool);
}

/* Adds what a linear layer makes of the input to the residual, normed first where the layer does
 * that. */
static void add_branch(ofr_backend_session *session, uint32_t thread, const cpu_input *input,
                       const ofr_linear *linear, const float *norm)
{
    uint32_t n = session->n_tokens, d = session->params->d_model;
    if (norm == NULL) {
        cpu_product product = {linear, NULL, CPU_SINK_ADD, session->hidden, d};
        ofr_cpu_linear(session, thread, input, n, &product, 1);
        return;
    }
    cpu_product product = {linear, NULL, CPU_SINK_STORE, session->branch, d};
    ofr_cpu_linear(session, thread, input, n, &product, 1);
    for (;;) {
        uint32_t i = ofr_thread_pool_next(session->pool);
        if (i >= n) {
            break;
        }
        float *branch = session->branch + (size_t)i * d, *to = session->hidden + (size_t)i * d;
        session->kernels->rms_norm(branch, norm, d, session->params->rms_epsilon, branch);
        for (uint32_t j = 0; j < d; j++) {
            to[j] += branch[j] * session->residual_scale;
        }
    }
    ofr_thread_pool_barrier(session->pool);
}

static void run_mlp(ofr_backend_session *session, uint32_t thread, const ofr_layer *layer)
{
    const ofr_model_params *params = session->params;
    uint32_t n = session->n_tokens;
    cpu_input input = {session->hidden, params->d_model, layer->mlp_norm};
    const ofr_tensor *gate = layer->gate.weight, *up = layer->up.weight;
    if (gate->dtype == up->dtype && gate->group_size == up->group_size) {
        cpu_product product = {&layer->gate, &layer->up, CPU_SINK_STORE, session->mlp,
                               params->d_ff};
        ofr_cpu_linear(session, thread, &input, n, &product, 1);
    } else {
        cpu_product products[2] = {
            {&layer->gate, NULL, CPU_SINK_STORE, session->mlp, params->d_ff},
            {&layer->up, NULL, CPU_SINK_SWIGLU, session->mlp, params->d_ff},
        };
        ofr_cpu_linear(session, thread, &input, n, products, 2);
    }
    cpu_input gated = {session->mlp, params->d_ff, NULL};
    add_branch(session, thread, &gated, &layer->down, layer->mlp_output_norm);
}

static void run_layer(ofr_backend_session *session, uint32_t thread, uint32_t index)
{
    const ofr_model_params *params = session->params;
    const ofr_layer *layer = &session->model->layers[index];
    uint32_t n = session->n_tokens;
    size_t q_width = (size_t)params->n_heads * params->head_dim;
    size_t kv_width = (size_t)params->n_kv_heads * params->head_dim;
    cpu_input input = {session->hidden, params->d_model, layer->attention_norm};
    cpu_product qkv[3] = {
        {&layer->q, NULL, CPU_SINK_STORE, session->q, q_width},
        {&layer->k, NULL, CPU_SINK_STORE, session->k, kv_width},
        {&layer->v, NULL, CPU_SINK_STORE, session->v, kv_width},
    };
    ofr_cpu_linear(session, thread, &input, n, qkv, 3);
    ofr_cpu_attention(session, thread, index);
    cpu_input attention = {session->attention, q_width, NULL};
    add_branch(session, thread, &attention, &layer->o, layer->attention_output_norm);
    run_mlp(session, thread, layer);
}

static void run_head(ofr_backend_session *session, uint32_t thread, const float *hidden, uint32_t n,
                     float *logits)
{
    const ofr_model_params *params = session->params;
    cpu_input input = {hidden, params->d_model, session->model->final_norm};
    cpu_product head = {&session->model->head, NULL, CPU_SINK_STORE, logits, params->vocab_size};
    ofr_cpu_linear(session, thread, &input, n, &head, 1);
    float scale = ofr_scale_or_one(params->logit_scale), cap = params->logit_softcap;
    if (scale == 1 && cap == 0) {
        return;
    }
    for (;;) {
        uint32_t i = ofr_thread_pool_next(session->pool);
        if (i >= n) {
            break;
        }
        float *row = logits + (size_t)i * params->vocab_size;
        for (uint32_t j = 0; j < params->vocab_size; j++) {
            row[j] *= scale;
            row[j] = cap != 0 ? cap * tanhf(row[j] / cap) : row[j];
        }
    }
    ofr_thread_pool_barrier(session->pool);
}

/* Moves the last token of each segment to the front of the hidden states; the others are done. */
static void gather_last(ofr_backend_session *session)
{
    size_t d = session->params->d_model, end = 0;
    for (uint32_t s = 0; s < session->pass->n_segments; s++) {
        end += session->pass->segments[s].n_tokens;
        memmove(session->hidden + s * d, session->hidden + (end - 1) * d, d * sizeof(float));
    }
}

/* ln p(target) of `n` rows of logits, which are overwritten. */
static void log_probabilities(ofr_backend_session *session, uint32_t first, uint32_t n)
{
    const ofr_forward *pass = session->pass;
    uint32_t vocab = session->params->vocab_size;
    for (;;) {
        uint32_t i = ofr_thread_pool_next(session->pool);
        if (i >= n) {
            break;
        }
        int32_t target = pass->targets[first + i];
        if (target < 0) {
            pass->logprobs[first + i] = 0;
            continue;
        }
        float *logits = session->block_logits + (size_t)i * vocab;
        float chosen = logits[target];
        float largest = session->kernels->maximum(logits, vocab);
        float sum = session->kernels->exp_sum(logits, vocab, largest);
        pass->logprobs[first + i] = chosen - largest - logf(sum);
    }
    ofr_thread_pool_barrier(session->pool);
}

/* Thread 0: the normed hidden states of each segment, added up. */
static void sum_hidden(ofr_backend_session *session)
{
    const ofr_forward *pass = session->pass;
    uint32_t d = session->params->d_model, token = 0;
    float *normed = session->scratch[0].normed;
    for (uint32_t s = 0; s < pass->n_segments; s++) {
        float *sums = pass->logits + (size_t)s * d;
        memset(sums, 0, d * sizeof *sums);
        for (uint32_t end = token + pass->segments[s].n_tokens; token < end; token++) {
            session->kernels->rms_norm(session->hidden + (size_t)token * d,
                                       session->model->final_norm, d, session->params->rms_epsilon,
                                       normed);
            for (uint32_t i = 0; i < d; i++) {
                sums[i] += normed[i];
            }
        }
    }
}

static void end_pass(ofr_backend_session *session, uint32_t thread)
{
    const ofr_forward *pass = session->pass;
    size_t d = session->params->d_model;
    uint32_t n = session->n_tokens;
    if (session->options.layer_end < session->params->n_layers) {
        return; /* the residual stream is hidden_out */
    }
    switch (pass->output) {
    case OFR_FORWARD_OUTPUT_NONE:
    case OFR_FORWARD_OUTPUT_CANDIDATES: /* was refused */
        return;
    case OFR_FORWARD_OUTPUT_LAST:
        if (!session->all_single) {
            n = pass->n_segments;
            if (thread == 0) {
                gather_last(session);
            }
            ofr_thread_pool_barrier(session->pool);
        }
        run_head(session, thread, session->hidden, n, pass->logits);
        return;
    case OFR_FORWARD_OUTPUT_ALL:
        run_head(session, thread, session->hidden, n, pass->logits);
        return;
    case OFR_FORWARD_OUTPUT_HIDDEN_SUM:
        if (thread == 0) {
            sum_hidden(session);
        }
        return;
    case OFR_FORWARD_OUTPUT_LOGPROBS:
        for (uint32_t i = 0; i < n; i += OFR_CPU_LOGPROB_ROWS) {
            uint32_t count = n - i < OFR_CPU_LOGPROB_ROWS ? n - i : OFR_CPU_LOGPROB_ROWS;
            run_head(session, thread, session->hidden + i * d, count, session->block_logits);
            log_probabilities(session, i, count);
        }
        return;
    }
}

void ofr_cpu_forward_region(void *context, uint32_t thread)
{
    ofr_backend_session *session = context;
    /* Weights of far keys and the like are too small to matter, and cost a hundred cycles each
     * where they are denormal. */
    unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
    begin_pass(session);
    for (uint32_t i = session->options.layer_begin; i < session->options.layer_end; i++) {
        run_layer(session, thread, i);
        if (thread == 0 && session->options.progress) {
            atomic_fetch_add_explicit(session->options.progress, 1, memory_order_relaxed);
        }
    }
    end_pass(session, thread);
    _mm_setcsr(saved);
}
