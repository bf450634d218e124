/* The tokenizer and the detokenizer of a package as graphs of OpenVINO Tokenizers, which OpenVINO
 * GenAI loads beside the model: text in, input_ids and attention_mask [batch, n] i64 out; ids
 * [batch, n] i64 in, text out. Byte-level BPE and SentencePiece's BPE with byte fallback.
 *
 * Where they differ from our tokenizer: the last step of ignore_merges (a word that is a token is
 * taken whole) is missing, so that a word may fall into parts; "<0x0A>" written in a text is taken
 * for that byte's token in vocabularies with byte fallback; the space before a text is taken away
 * at the beginning of the whole output only; NFC and NFKC do not sort marks behind one letter. */
#ifndef OFR_GRAPH_TOKENIZER_GRAPH_H
#define OFR_GRAPH_TOKENIZER_GRAPH_H

#include "graph/ir.h"

typedef struct ofr_tokenizer_graph {
    char *xml; /* owned */
    size_t xml_size;
    ofr_ir_pool constants; /* the bytes of the .bin beside it */
} ofr_tokenizer_graph;

/* `image` [size bytes] is a tokenizer.bin; `chat_template` its text, NUL-terminated, or NULL.
 * OFR_EUNSUPPORTED: the operations cannot express this vocabulary; the text says why. */
int ofr_tokenizer_graph_encoder(const void *image, size_t size, const char *chat_template,
                                ofr_tokenizer_graph *ret_graph, ofr_error *err);
int ofr_tokenizer_graph_decoder(const void *image, size_t size, ofr_tokenizer_graph *ret_graph,
                                ofr_error *err);
void ofr_tokenizer_graph_done(ofr_tokenizer_graph *graph); /* accepts a zeroed one */

#endif
