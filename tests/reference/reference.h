/* A plain fp32 forward pass, for tests only: the textbook formulas over dequantized weights, with
 * its own KV cache, sharing no code with the backends. One sequence, one thread at a time (it uses
 * several inside). */
#ifndef OFR_TESTS_REFERENCE_REFERENCE_H
#define OFR_TESTS_REFERENCE_REFERENCE_H

#include <stdint.h>

#include "engine/model.h"

typedef struct ofr_reference ofr_reference;

/* Fills `ret_values` [n] with a tensor's elements as fp32, in the package's terms: names, row order
 * and shapes of package.h. Returns 1, 0 if there is no such tensor, or a negative code. */
typedef int (*ofr_reference_source)(void *context, const char *name, uint64_t n, float *ret_values,
                                    ofr_error *err);

/* Reads all weights at once; `context` tokens is the longest sequence. */
int ofr_reference_new(const ofr_model_params *params, ofr_reference_source source, void *data,
                      uint32_t context, uint32_t n_threads, ofr_reference **ret_reference,
                      ofr_error *err);
ofr_reference *ofr_reference_free(ofr_reference *reference);

/* A tensor's elements; n is what the caller expects. Returns 1 or a negative code. */
int ofr_reference_from_tensor(const ofr_tensor *tensor, uint64_t n, float *ret_values,
                              ofr_error *err);
/* Source over an open package: `data` is the `const ofr_package *`. */
int ofr_reference_from_package(void *data, const char *name, uint64_t n, float *ret_values,
                               ofr_error *err);

/* Forgets all tokens from `position` on. */
void ofr_reference_rewind(ofr_reference *reference, uint32_t position);
/* Appends n tokens. hidden, if not NULL: [n_layers + 1][n][d_model], the input of each layer and
 * the output of the last; logits, if not NULL: [n][vocab]. */
int ofr_reference_forward(ofr_reference *reference, const int32_t *tokens, uint32_t n,
                          float *hidden, float *logits);

#endif
