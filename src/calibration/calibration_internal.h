/* What the files of the calibration share. */
#ifndef OFR_CALIBRATION_CALIBRATION_INTERNAL_H
#define OFR_CALIBRATION_CALIBRATION_INTERNAL_H

#include "calibration/calibration.h"
#include "calibration/gptq.h"
#include "calibration/matrix.h"
#include "engine/rope.h"

enum {
    CHUNK_TOKENS = 2048, /* about what goes through a layer at once: whole sequences */
    MATRIX_Q = 0,
    MATRIX_K,
    MATRIX_V,
    MATRIX_O,
    MATRIX_GATE,
    MATRIX_UP,
    MATRIX_DOWN,
};

typedef struct calibration_weight {
    ofr_calibration_matrix public;
    float *source; /* [rows, columns] */
    float *made;   /* what was made of it, as floats */
    float *bias;   /* [rows] or NULL */
    int8_t *q;
    uint16_t *scales;
} calibration_weight;

typedef struct calibration_span {
    size_t first, n; /* tokens */
    bool held_out;
} calibration_span;

struct ofr_calibration {
    ofr_model_params params;
    ofr_calibration_options options;
    ofr_calibration_read read;
    void *context;
    ofr_matrix_engine *engine;
    ofr_rope rope;
    int32_t *tokens;         /* [n_tokens], fitted sequences first */
    calibration_span *spans; /* [n_spans], in the order of tokens */
    size_t n_spans, n_tokens, n_fitted, longest, chunk;
    float *cosines, *sines;           /* [longest][rope.half] */
    float *attention_norm, *mlp_norm; /* [d_model] of the layer */
    calibration_weight weights[OFR_CALIBRATION_MATRICES];
    float *exact, *exact_middle, *exact_out; /* [n_tokens][d_model] the source's stream */
    float *hidden;                           /* [n_tokens][d_model] the quantized stream */
    float *kept;                             /* [n_tokens][widest] inputs of o or down */
    float *normed, *other, *q, *k, *v, *up;  /* [chunk][...] */
    float *moments, *cross, *fitted;         /* [widest][widest], [widest rows][widest] */
    float *attention_work;                   /* per thread */
    size_t attention_floats;
    uint32_t n_layers_done;
};

/* Runs the tokens [first, first + n) (whole sequences) through the layer's attention up to the
 * input of o: `weights` picks the source's or the quantized ones. */
enum calibration_stream { STREAM_SOURCE, STREAM_MADE };
void calibration_attend(ofr_calibration *c, enum calibration_stream stream, const float *hidden,
                        size_t first, size_t n, float *ret_attention);
void calibration_norm(ofr_calibration *c, const float *x, const float *weight, size_t n, float *y);
/* y = x . w^T + bias */
void calibration_linear(ofr_calibration *c, enum calibration_stream stream, int matrix,
                        const float *x, size_t n, float *y);
void calibration_gate(ofr_calibration *c, enum calibration_stream stream, const float *normed,
                      size_t n, float *gate);
/* The chunk of whole sequences that begins at span *span: its tokens; *span moves behind it. */
size_t calibration_next_chunk(const ofr_calibration *c, size_t *span, size_t *ret_first);

#endif
