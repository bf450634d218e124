/* What building and writing a graph share. Internal to src/graph. */
#ifndef OFR_GRAPH_IR_INTERNAL_H
#define OFR_GRAPH_IR_INTERNAL_H

#include <stdbool.h>

#include "graph/ir.h"

typedef struct ir_port {
    enum ofr_ir_type type;
    ofr_ir_shape shape;
    size_t result; /* 1 + index of the Result that this is the tensor of; 0: none */
} ir_port;

typedef struct ir_layer {
    const char *type, *opset; /* static */
    char *name, *data;        /* owned; data is the text of the attributes or NULL */
    bool named;               /* the output tensor has the layer's name */
    uint32_t n_inputs, n_outputs;
    ofr_ir_value inputs[OFR_IR_MAX_INPUTS];
    ir_port outputs[OFR_IR_MAX_OUTPUTS];
} ir_layer;

struct ofr_ir {
    char *name;
    ofr_ir_pool *pool;
    ir_layer *layers;
    size_t n_layers, room;
    char *info; /* text of the elements of rt_info, or NULL; owned */
    int result; /* of the first failure */
    ofr_error error;
};

const char *ofr_ir_type_precision(enum ofr_ir_type type);
const char *ofr_ir_type_element(enum ofr_ir_type type);

#endif
