/* The graph that OpenVINO GenAI's LLMPipeline expects: openvino_model.xml.
 *
 * Inputs: input_ids, attention_mask, position_ids [batch, T] i64 (attention_mask [batch, total]),
 * beam_idx [1] i32. Output: logits [batch, T, vocab] f32. K and V of the tokens so far are
 * variables, past_key_values.<i>.keypresent.<i>.key and so on, [batch, n_kv_heads, total, head_dim]
 * f32. Batch and sequence are the only dynamic dimensions. beam_idx picks the row of the batch that
 * goes on, so a sequence that has a past is one. RoPE is computed from the positions, for contexts
 * of the length that the package has. */
#ifndef OFR_GRAPH_STATEFUL_H
#define OFR_GRAPH_STATEFUL_H

#include "graph/decoder.h"

int ofr_graph_stateful(const ofr_graph_source *source, ofr_ir_pool *pool, char **ret_text,
                       size_t *ret_size, ofr_error *err);

#endif
