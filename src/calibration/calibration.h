/* Calibrated quantization of a decoder, layer by layer: two streams of hidden states go through the
 * model together, one through the source's weights and one through the quantized ones. Every matrix
 * is fitted to the input that it will really have, and to the output that the source has there, so
 * that what earlier layers lost is made up for as far as it can be.
 *
 * Tokens come in sequences; those marked `held_out` are not fitted to and serve to measure the
 * loss. Deterministic: the same source, tokens and options give the same bytes, whatever the number
 * of threads.
 *
 * Memory: with T tokens, d = d_model, f = the widest input of a matrix (d_ff): about
 * 4 T (5 d + f) + 12 f^2 bytes, three copies of a layer's weights in fp32, and 40 MiB. */
#ifndef OFR_CALIBRATION_CALIBRATION_H
#define OFR_CALIBRATION_CALIBRATION_H

#include <signal.h>

#include "package/package.h"

/* Rows [first, first + n) of a tensor of the source under its name in the package (a vector is one
 * row), as floats. 1; 0 where there is no such tensor; or a negative code. */
typedef int (*ofr_calibration_read)(void *context, const char *name, uint64_t first, uint64_t n,
                                    float *ret_values, ofr_error *err);

typedef struct ofr_calibration_sequence {
    const int32_t *tokens; /* borrowed until ofr_calibration_new returns */
    uint32_t n;
    bool held_out;
} ofr_calibration_sequence;

typedef struct ofr_calibration_options {
    float damping;    /* added to the diagonal of the moments, as a share of their mean */
    unsigned rounds;  /* of coordinate descent after the error feedback */
    float correction; /* 0 .. 1: how far matrices make up for what earlier layers lost */
    unsigned threads;
    const volatile sig_atomic_t *cancel; /* NULL: never */
} ofr_calibration_options;

typedef struct ofr_calibration ofr_calibration;

/* `read` is called for the embedding now, for weights while their layer is at work. */
int ofr_calibration_new(const ofr_model_params *params, ofr_calibration_read read, void *context,
                        const ofr_calibration_sequence *sequences, size_t n_sequences,
                        const ofr_calibration_options *options, ofr_calibration **ret_calibration,
                        ofr_error *err);
/* Accepts NULL; returns NULL. */
ofr_calibration *ofr_calibration_free(ofr_calibration *calibration);

enum { OFR_CALIBRATION_MATRICES = 7 }; /* of a layer: q, k, v, o, gate, up, down */

/* A matrix of the layer that was quantized last; valid until the next layer or the end. */
typedef struct ofr_calibration_matrix {
    char name[64]; /* behind "model.layers.<i>.": "self_attn.q_proj.weight" */
    uint64_t rows, columns;
    uint32_t group;         /* to be set by the caller before the first layer, see below */
    bool wide;              /* 8 bits, else 4 */
    const int8_t *values;   /* [rows, columns] -8 .. 7, or -127 .. 127 */
    const uint16_t *scales; /* [rows, columns / group] f16 */
    double error, energy;   /* of the outputs over the tokens, squared */
} ofr_calibration_matrix;

/* The group size of the seven matrices; each divides its columns. */
void ofr_calibration_set_groups(ofr_calibration *calibration,
                                const uint32_t groups[OFR_CALIBRATION_MATRICES]);
/* Which of the seven get 8 bits in the layers from here on; none at first. */
void ofr_calibration_set_wide(ofr_calibration *calibration,
                              const bool wide[OFR_CALIBRATION_MATRICES]);
/* Layers in order, from 0. */
int ofr_calibration_layer(ofr_calibration *calibration, uint32_t layer, ofr_error *err);
const ofr_calibration_matrix *ofr_calibration_find(const ofr_calibration *calibration,
                                                   const char *name);

/* After the last layer: the sum of -ln p over the tokens of held-out sequence `index` (its first is
 * not scored), for the source and for what was made of it. `head_read` gives the head's rows as the
 * package has them; the source's come from `read`. */
int ofr_calibration_loss(ofr_calibration *calibration, ofr_calibration_read head_read,
                         void *head_context, double *ret_source_nll, double *ret_nll, /* [n] */
                         uint64_t *ret_tokens, ofr_error *err);

#endif
