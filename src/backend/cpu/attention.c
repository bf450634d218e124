/* Attention on the KV strips: RoPE, storing K and V, loading queries. */
#include "backend/cpu/attention.h"

#include <math.h>

/* The RoPE row of a token for a layer. */
typedef struct rope_row {
    const float *cosines, *sines;
    uint32_t half; /* 0: not rotated */
} rope_row;

static rope_row rope_of(const ofr_backend_session *session, const ofr_layer *layer, uint32_t token)
{
    if (layer->flags & OFR_LAYER_UNROTATED) {
        return (rope_row){NULL, NULL, 0};
    }
    uint32_t half = session->rope_local.half;
    if (half > 0 && (layer->flags & OFR_LAYER_WINDOWED)) {
        return (rope_row){session->local_cosines + (size_t)token * half,
                          session->local_sines + (size_t)token * half, half};
    }
    half = session->rope.half;
    return (rope_row){session->cosines + (size_t)token * half,
                      session->sines + (size_t)token * half, half};
}

uint32_t ofr_cpu_first_key(const ofr_backend_session *session, uint32_t layer, uint32_t position)
{
    uint32_t window = session->params->sliding_window;
    bool windowed = session->model->layers[layer].flags & OFR_LAYER_WINDOWED;
    return windowed && position >= window ? position + 1 - window : 0;
}

void ofr_cpu_cap_scores(const ofr_backend_session *session, float *x, size_t n)
{
    float cap = session->params->attention_softcap;
    for (size_t i = 0; cap != 0 && i < n; i++) {
        x[i] = cap * tanhf(x[i] / cap);
    }
}

void ofr_cpu_store_kv(ofr_backend_session *session, uint32_t layer, uint32_t token, uint32_t head)
{
    const ofr_model_params *params = session->params;
    const cpu_token *at = &session->tokens[token];
    size_t row = (size_t)params->n_kv_heads * params->head_dim;
    size_t from = token * row + (size_t)head * params->head_dim;
    size_t to = at->position * row + (size_t)head * params->head_dim;
    float *k = session->k + from;
    const ofr_layer *weights = &session->model->layers[layer];
    rope_row rope = rope_of(session, weights, token);
    if (weights->k_norm != NULL) {
        session->kernels->rms_norm(k, weights->k_norm, params->head_dim, params->rms_epsilon, k);
    }
    session->kernels->rotate(k, rope.cosines, rope.sines, rope.half, params->head_dim, 1, k);
    const ofr_kv_layout *layout = &session->options.kv_layout;
    session->kernels->float_to_half(
        k, params->head_dim, cpu_kv_strip(session, ofr_kv_strip_k(layout, at->slot, layer)) + to);
    session->kernels->float_to_half(session->v + from, params->head_dim,
                                    cpu_kv_strip(session, ofr_kv_strip_v(layout, at->slot, layer)) +
                                        to);
}

void ofr_cpu_load_query(const ofr_backend_session *session, uint32_t layer, uint32_t token,
                        uint32_t group, float *y)
{
    const ofr_model_params *params = session->params;
    const ofr_layer *weights = &session->model->layers[layer];
    rope_row rope = rope_of(session, weights, token);
    float factor = ofr_model_params_attention_scale(params);
    const float *q =
        session->q + ((size_t)token * params->n_heads + (size_t)group * session->heads_per_group) *
                         params->head_dim;
    for (uint32_t h = 0; h < session->heads_per_group; h++) {
        const float *from = q + (size_t)h * params->head_dim;
        float *to = y + (size_t)h * params->head_dim;
        if (weights->q_norm != NULL) {
            session->kernels->rms_norm(from, weights->q_norm, params->head_dim, params->rms_epsilon,
                                       to);
            from = to;
        }
        session->kernels->rotate(from, rope.cosines, rope.sines, rope.half, params->head_dim,
                                 factor, to);
    }
}

void ofr_cpu_attention(ofr_backend_session *session, uint32_t thread, uint32_t layer)
{
    if (session->all_single) {
        ofr_cpu_attention_single(session, thread, layer);
    } else {
        ofr_cpu_attention_blocks(session, thread, layer);
    }
}
