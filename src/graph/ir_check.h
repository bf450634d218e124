/* What a graph must be so that an NPU takes it: static shapes, operations that the plug-in
 * documents, symmetric INT4 by groups that it documents, sizes that it can hold; and constants that
 * lie in the binary file. Judged from the text alone: no OpenVINO is needed. */
#ifndef OFR_GRAPH_IR_CHECK_H
#define OFR_GRAPH_IR_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum ofr_ir_check_kind {
    OFR_IR_CHECK_FOLDED,   /* block_<T>_<S>.xml */
    OFR_IR_CHECK_WHOLE,    /* prefill_<T>.xml, decode.xml: beam_idx is [1] */
    OFR_IR_CHECK_STATEFUL, /* openvino_model.xml: batch and sequence are dynamic, beam_idx is [1] */
    /* openvino_tokenizer.xml, openvino_detokenizer.xml: no NPU runs them; edges and constants. */
    OFR_IR_CHECK_TOKENIZER,
};

typedef struct ofr_ir_finding {
    bool is_error;    /* else a warning */
    const char *node; /* name of the operation at fault, NUL-terminated; "" for the whole graph */
    const char *what; /* what is wrong, without the node's name */
} ofr_ir_finding;
typedef void (*ofr_ir_report)(void *user, const ofr_ir_finding *finding);

typedef struct ofr_ir_check_options {
    enum ofr_ir_check_kind kind;
    uint64_t binary_bytes; /* of the file that constants lie in */
    ofr_ir_report report;  /* called for each finding, in the order of the graph */
    void *user;
} ofr_ir_check_options;

/* 0 where the graph could be read, whatever was found; OFR_EFORMAT: it is no IR. */
int ofr_ir_check(const char *text, size_t size, const ofr_ir_check_options *options,
                 ofr_error *err);

#endif
