/* Reads OpenVINO IR (XML) as far as a check of its graph needs: operations, the types and shapes of
 * their ports, constants, edges. Text from outside: every count and every number is checked, memory
 * is bounded by the limits below, nesting by a fixed stack. Entities and CDATA are not known; no IR
 * has them.
 *
 * What is read points into the text, which must outlive the document. One thread. */
#ifndef OFR_GRAPH_IR_READ_H
#define OFR_GRAPH_IR_READ_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    OFR_IR_READ_RANK_MAX = 8,
    OFR_IR_READ_TEXT_MAX = 256 << 20,
    OFR_IR_READ_NODES_MAX = 1 << 18,
    OFR_IR_READ_PORTS_MAX = 1 << 20,
    OFR_IR_READ_EDGES_MAX = 1 << 20,
};

/* A piece of the text; size 0: it is not there. */
typedef struct ofr_ir_text {
    const char *at;
    size_t size;
} ofr_ir_text;

typedef struct ofr_ir_read_port {
    uint32_t id, rank;
    ofr_ir_text precision;              /* "FP32"; of outputs only */
    int64_t dims[OFR_IR_READ_RANK_MAX]; /* -1: dynamic */
} ofr_ir_read_port;

typedef struct ofr_ir_read_node {
    uint64_t id;
    ofr_ir_text name, type, version;
    /* attributes of <data> */
    ofr_ir_text element_type, destination_type, shape, offset, size, variable_shape;
    uint32_t ports, n_inputs, n_outputs; /* inputs at `ports`, outputs behind them */
} ofr_ir_read_node;

/* Indexes of nodes and of ports of the document. */
typedef struct ofr_ir_read_edge {
    uint32_t from, to, from_port, to_port;
} ofr_ir_read_edge;

typedef struct ofr_ir_document {
    ofr_ir_read_node *nodes;
    ofr_ir_read_port *ports;
    ofr_ir_read_edge *edges;
    size_t n_nodes, n_ports, n_edges;
} ofr_ir_document;

/* OFR_EFORMAT names the line. Fills a zeroed document. */
int ofr_ir_read(const char *text, size_t size, ofr_ir_document *ret_document, ofr_error *err);
void ofr_ir_document_done(ofr_ir_document *document); /* accepts a zeroed one */

int ofr_ir_text_is(ofr_ir_text text, const char *value);
/* A decimal number without sign; OFR_EFORMAT: it is none. */
int ofr_ir_text_number(ofr_ir_text text, uint64_t *ret_value);

#endif
