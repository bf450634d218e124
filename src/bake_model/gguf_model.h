/* From a GGUF file to a model: hyper-parameters, and which tensor of the file becomes which tensor
 * of the package.
 *
 * Known architectures: gemma2, gemma3, granite, llama (Llama 1 to 3, Mistral, SmolLM and others
 * that llama.cpp files under that name), phi3, qwen2, qwen3, smollm3. Rows of Q and K in files of
 * granite, llama and smollm3 are ordered for a rotation of neighbours (2i, 2i+1); the package pairs
 * i with i + dims/2, so the rows are put back (ofr_bake_rope_row). */
#ifndef OFR_BAKE_MODEL_GGUF_MODEL_H
#define OFR_BAKE_MODEL_GGUF_MODEL_H

#include "bake_model/bake_source.h"
#include "bake_model/gguf.h"

/* parts [n_parts]: a file, or the files that it was split into; the first has the metadata. Part i
 * is file i of the source. group_size: 128, 64, 32 (the largest of these that is at most this and
 * divides a row), or -1 (one group per row). max_context 0: the model's own. */
int ofr_gguf_model_init(ofr_bake_model *model, const ofr_gguf *const *parts, size_t n_parts,
                        int group_size, uint32_t max_context, ofr_error *err);

#endif
