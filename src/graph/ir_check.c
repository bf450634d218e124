/* The rules, one after the other, over a graph that was read. */
#include "graph/ir_check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/ir_read.h"

/* Five dimensions: STATIC_RANK_MAX_DIMS of the NPU compiler, and what a graph's argument has in
 * Level Zero's graph extension. The size of a tensor is a bound of our own: none is published. */
enum { NPU_RANK_MAX = 5 };
static const uint64_t TENSOR_BYTES_MAX = UINT64_C(4) << 30;

/* Of the operations that the NPU compiler imports (frontend/IE.cpp of
 * openvinotoolkit/npu_compiler), directly or after it has rewritten a later version, those that a
 * decoder may be made of. */
static const char *const npu_operations[] = {
    "Add",       "Broadcast",  "Concat",     "Const",     "Convert",   "Cos",           "Divide",
    "Equal",     "Exp",        "Gather",     "Gelu",      "Greater",   "GreaterEqual",  "Less",
    "LessEqual", "LogicalAnd", "LogicalNot", "LogicalOr", "MatMul",    "Maximum",       "Minimum",
    "Multiply",  "Negative",   "Parameter",  "Power",     "ReduceMax", "ReduceMean",    "ReduceSum",
    "Relu",      "Reshape",    "Result",     "Select",    "Sigmoid",   "Sin",           "Slice",
    "SoftMax",   "Softmax",    "Split",      "Sqrt",      "Squeeze",   "StridedSlice",  "Subtract",
    "Swish",     "Tanh",       "Tile",       "Transpose", "Unsqueeze", "VariadicSplit",
};

/* Bits of an element, by the name that ports and constants give its type. */
static const struct {
    const char *element, *precision;
    unsigned bits;
} types[] = {
    {"f32", "FP32", 32}, {"f16", "FP16", 16}, {"bf16", "BF16", 16},   {"i64", "I64", 64},
    {"i32", "I32", 32},  {"i8", "I8", 8},     {"u8", "U8", 8},        {"i4", "I4", 4},
    {"u4", "U4", 4},     {"u1", "BIN", 1},    {"boolean", "BOOL", 8}, {"i16", "I16", 16},
    {"u16", "U16", 16},  {"u32", "U32", 32},  {"u64", "U64", 64},     {"f64", "FP64", 64},
};

typedef struct checker {
    const ofr_ir_document *graph;
    const ofr_ir_check_options *options;
    uint32_t *source; /* [n_ports] of each input: 1 + the port it comes from; 0: none */
    uint32_t *owner;  /* [n_ports] node of each port */
} checker;

__attribute__((format(printf, 4, 5))) static void find(const checker *c, bool is_error,
                                                       const ofr_ir_read_node *node,
                                                       const char *format, ...)
{
    char name[256] = "", what[384];
    if (node)
        snprintf(name, sizeof name, "%.*s", (int)(node->name.size < 255 ? node->name.size : 255),
                 node->name.at);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    ofr_ir_finding finding = {is_error, name, what};
    c->options->report(c->options->user, &finding);
}

static unsigned bits_of(ofr_ir_text type)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (ofr_ir_text_is(type, types[i].element) || ofr_ir_text_is(type, types[i].precision))
            return types[i].bits;
    return 0;
}

static bool is_operation(const ofr_ir_read_node *node, const char *type)
{
    return ofr_ir_text_is(node->type, type);
}

static bool is_weight(const ofr_ir_read_node *node)
{
    return is_operation(node, "Const") || is_operation(node, "Parameter");
}

/* Elements of a static shape; UINT64_MAX where they overflow. */
static uint64_t elements(const int64_t *dims, uint32_t rank)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < rank; i++)
        if (dims[i] < 0 || __builtin_mul_overflow(n, (uint64_t)dims[i], &n))
            return UINT64_MAX;
    return n;
}

/* ---- shapes ---- */

static bool may_be_dynamic(const checker *c)
{
    return c->options->kind == OFR_IR_CHECK_STATEFUL || c->options->kind == OFR_IR_CHECK_TOKENIZER;
}

static void check_port(const checker *c, const ofr_ir_read_node *node, const ofr_ir_read_port *p,
                       bool is_output)
{
    bool dynamic = false;
    for (uint32_t i = 0; i < p->rank; i++)
        dynamic |= p->dims[i] < 0;
    if (dynamic && !may_be_dynamic(c))
        find(c, true, node, "%s %u has a dynamic dimension; an NPU takes static shapes only",
             is_output ? "output" : "input", p->id);
    if (p->rank > NPU_RANK_MAX)
        find(c, true, node, "a tensor of %u dimensions; an NPU takes up to %d", p->rank,
             NPU_RANK_MAX);
    unsigned bits = is_output ? bits_of(p->precision) : 0;
    if (!is_output || dynamic)
        return;
    if (bits == 0) {
        find(c, true, node, "a type that is not known, '%.*s'",
             (int)(p->precision.size < 32 ? p->precision.size : 32), p->precision.at);
        return;
    }
    uint64_t n = elements(p->dims, p->rank);
    if (n > TENSOR_BYTES_MAX * 8 / bits)
        find(c, true, node, "a tensor of more than 4 GiB");
}

/* A Parameter's shape as written, against its port. */
static void check_parameter_shape(const checker *c, const ofr_ir_read_node *node)
{
    bool question = memchr(node->shape.at ? node->shape.at : "", '?', node->shape.size) != NULL ||
                    (node->shape.at && memmem(node->shape.at, node->shape.size, "-1", 2));
    if (question && !may_be_dynamic(c))
        find(c, true, node, "the input's shape '%.*s' is dynamic; an NPU takes static shapes only",
             (int)(node->shape.size < 64 ? node->shape.size : 64), node->shape.at);
}

static void check_shapes(const checker *c)
{
    for (size_t i = 0; i < c->graph->n_nodes; i++) {
        const ofr_ir_read_node *node = &c->graph->nodes[i];
        const ofr_ir_read_port *ports = c->graph->ports + node->ports;
        if (is_operation(node, "Parameter"))
            check_parameter_shape(c, node);
        for (uint32_t k = 0; k < node->n_outputs; k++)
            check_port(c, node, &ports[node->n_inputs + k], true);
        for (uint32_t k = 0; k < node->n_inputs; k++)
            if (!c->source[node->ports + k])
                find(c, true, node, "input %u comes from nowhere", ports[k].id);
    }
}

/* Both ends of an edge must say the same, or one of them lies. */
static void check_edges(const checker *c)
{
    for (size_t i = 0; i < c->graph->n_edges; i++) {
        const ofr_ir_read_edge *e = &c->graph->edges[i];
        const ofr_ir_read_port *a = &c->graph->ports[e->from_port];
        const ofr_ir_read_port *b = &c->graph->ports[e->to_port];
        if (a->rank != b->rank || memcmp(a->dims, b->dims, a->rank * sizeof a->dims[0]) != 0)
            find(c, true, &c->graph->nodes[e->to],
                 "input %u has another shape than the output that it comes from", b->id);
    }
}

static const ofr_ir_read_node *node_named(const checker *c, const char *type, const char *name)
{
    for (size_t i = 0; i < c->graph->n_nodes; i++) {
        const ofr_ir_read_node *node = &c->graph->nodes[i];
        if (is_operation(node, type) && ofr_ir_text_is(node->name, name))
            return node;
    }
    return NULL;
}

static void check_beams(const checker *c)
{
    if (c->options->kind == OFR_IR_CHECK_FOLDED)
        return;
    const ofr_ir_read_node *node = node_named(c, "Parameter", "beam_idx");
    if (!node) {
        find(c, true, NULL, "it has no input beam_idx");
        return;
    }
    const ofr_ir_read_port *port = &c->graph->ports[node->ports];
    if (node->n_outputs != 1 || port->rank != 1 || port->dims[0] != 1)
        find(c, true, node, "its shape must be [1]");
}

/* Where the stateful graph may be dynamic: batch and sequence, the first two of an input or output,
 * the first and third of K and V. */
static void check_stateful_ends(const checker *c)
{
    for (size_t i = 0; i < c->graph->n_nodes; i++) {
        const ofr_ir_read_node *node = &c->graph->nodes[i];
        bool state = is_operation(node, "ReadValue");
        if (!state && !is_operation(node, "Parameter") && !is_operation(node, "Result"))
            continue;
        const ofr_ir_read_port *ports = c->graph->ports + node->ports;
        const ofr_ir_read_port *port = &ports[is_operation(node, "Result") ? 0 : node->n_inputs];
        if (node->n_inputs + node->n_outputs == 0)
            continue;
        for (uint32_t k = 0; k < port->rank; k++)
            if (port->dims[k] < 0 && k != 0 && k != (state ? 2 : 1))
                find(c, true, node, "dimension %u is dynamic; only batch and sequence may be", k);
    }
}

/* ---- operations ---- */

static void check_operations(const checker *c)
{
    for (size_t i = 0; i < c->graph->n_nodes; i++) {
        const ofr_ir_read_node *node = &c->graph->nodes[i];
        bool known = false;
        for (size_t k = 0; k < sizeof npu_operations / sizeof npu_operations[0]; k++)
            known |= is_operation(node, npu_operations[k]);
        if (!known)
            find(c, true, node, "operation %.*s (%.*s) is none that the NPU plug-in documents",
                 (int)(node->type.size < 64 ? node->type.size : 64), node->type.at,
                 (int)(node->version.size < 32 ? node->version.size : 32), node->version.at);
    }
}

/* ---- weights ---- */

static void check_int4(const checker *c, const ofr_ir_read_node *node)
{
    const ofr_ir_read_port *port = &c->graph->ports[node->ports + node->n_inputs];
    if (port->rank == 2)
        return; /* one group per row */
    int64_t group = port->rank == 3 ? port->dims[2] : 0;
    if (group == 128)
        return;
    if (group == 64 || group == 32)
        find(c, false, node,
             "INT4 in groups of %" PRId64 ": OpenVINO documents 128 and -1 (one per row) for the "
             "NPU; whether it takes others shows on the device",
             group);
    else
        find(c, true, node, "INT4 in groups of %" PRId64 ": an NPU takes 128 and -1 (one per row)",
             group);
}

static void check_weights(const checker *c)
{
    for (size_t i = 0; i < c->graph->n_nodes; i++) {
        const ofr_ir_read_node *node = &c->graph->nodes[i];
        if (!is_weight(node) || node->n_outputs != 1)
            continue;
        const ofr_ir_read_port *port = &c->graph->ports[node->ports + node->n_inputs];
        if (ofr_ir_text_is(node->element_type, "u4") || ofr_ir_text_is(port->precision, "U4"))
            find(c, true, node, "unsigned INT4 has a zero point; an NPU takes symmetric i4 only");
        else if (ofr_ir_text_is(node->element_type, "i4") || ofr_ir_text_is(port->precision, "I4"))
            check_int4(c, node);
    }
}

/* A Subtract between a 4-bit or 8-bit weight's Convert and the product is a zero point. */
static void check_zero_points(const checker *c)
{
    for (size_t i = 0; i < c->graph->n_nodes; i++) {
        const ofr_ir_read_node *node = &c->graph->nodes[i];
        if (!is_operation(node, "Subtract") || node->n_inputs < 1 || !c->source[node->ports])
            continue;
        const ofr_ir_read_node *from = &c->graph->nodes[c->owner[c->source[node->ports] - 1]];
        if (!is_operation(from, "Convert") || from->n_inputs < 1 || !c->source[from->ports])
            continue;
        const ofr_ir_read_node *weight = &c->graph->nodes[c->owner[c->source[from->ports] - 1]];
        bool quantized = ofr_ir_text_is(weight->element_type, "i4") ||
                         ofr_ir_text_is(weight->element_type, "u4");
        if (is_weight(weight) && quantized)
            find(c, true, node, "a zero point of '%.*s'; an NPU takes symmetric INT4 only",
                 (int)(weight->name.size < 128 ? weight->name.size : 128), weight->name.at);
    }
}

/* "1,2,3" or "1, 2, 3"; the number of elements, UINT64_MAX: no such list. */
static uint64_t listed_elements(ofr_ir_text shape)
{
    uint64_t n = 1;
    while (shape.size > 0) {
        const char *comma = memchr(shape.at, ',', shape.size);
        size_t length = comma ? (size_t)(comma - shape.at) : shape.size;
        uint64_t dim;
        if (ofr_ir_text_number((ofr_ir_text){shape.at, length}, &dim) < 0 ||
            __builtin_mul_overflow(n, dim, &n))
            return UINT64_MAX;
        length += comma != NULL;
        while (length < shape.size && shape.at[length] == ' ')
            length++;
        shape.at += length;
        shape.size -= length;
    }
    return n;
}

static void check_constants(const checker *c)
{
    for (size_t i = 0; i < c->graph->n_nodes; i++) {
        const ofr_ir_read_node *node = &c->graph->nodes[i];
        uint64_t offset, size, n = listed_elements(node->shape);
        if (!is_operation(node, "Const"))
            continue;
        unsigned bits = bits_of(node->element_type);
        if (bits == 0 || n > UINT64_MAX / 64 || ofr_ir_text_number(node->offset, &offset) < 0 ||
            ofr_ir_text_number(node->size, &size) < 0) {
            find(c, true, node, "a constant without type, shape, offset or size");
            continue;
        }
        if (size != (n * bits + 7) / 8)
            find(c, true, node, "%" PRIu64 " bytes for %" PRIu64 " elements of %u bits", size, n,
                 bits);
        if (size > c->options->binary_bytes || offset > c->options->binary_bytes - size)
            find(c, true, node, "its bytes %" PRIu64 " to %" PRIu64 " are beyond the end of %s",
                 offset, offset + size,
                 c->options->kind == OFR_IR_CHECK_TOKENIZER ? "the file beside it" : "weights.bin");
    }
}

/* ---- all ---- */

static int connect(checker *c, ofr_error *err)
{
    const ofr_ir_document *g = c->graph;
    c->source = calloc(g->n_ports + 1, sizeof *c->source);
    c->owner = calloc(g->n_ports + 1, sizeof *c->owner);
    if (!c->source || !c->owner)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    for (size_t i = 0; i < g->n_nodes; i++)
        for (uint32_t k = 0; k < g->nodes[i].n_inputs + g->nodes[i].n_outputs; k++)
            c->owner[g->nodes[i].ports + k] = (uint32_t)i;
    for (size_t i = 0; i < g->n_edges; i++)
        c->source[g->edges[i].to_port] = g->edges[i].from_port + 1;
    return 0;
}

int ofr_ir_check(const char *text, size_t size, const ofr_ir_check_options *options, ofr_error *err)
{
    ofr_ir_document graph = {0};
    int r = ofr_ir_read(text, size, &graph, err);
    if (r < 0)
        return r;
    checker c = {.graph = &graph, .options = options};
    r = connect(&c, err);
    if (r == 0) {
        check_shapes(&c);
        check_edges(&c);
        check_constants(&c);
    }
    if (r == 0 && options->kind != OFR_IR_CHECK_TOKENIZER) {
        check_beams(&c);
        if (options->kind == OFR_IR_CHECK_STATEFUL)
            check_stateful_ends(&c);
        else
            check_operations(&c);
        check_weights(&c);
        check_zero_points(&c);
    }
    free(c.source);
    free(c.owner);
    ofr_ir_document_done(&graph);
    return r;
}
