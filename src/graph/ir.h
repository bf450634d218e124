/* A small builder of OpenVINO IR (version 11): operations with their shapes, written as XML.
 *
 * Only what our graphs need. Each function adds one operation and returns its value; shapes are
 * inferred here, so that a graph that does not fit together fails before anything is written. The
 * first failure sticks: later calls do nothing, ofr_ir_write returns it.
 *
 * Constants are not in the XML: it names offsets in one binary file, which for us is weights.bin.
 * Tensors of the package are named where they lie; small constants (shapes, axes, epsilon) go to a
 * pool that the bake writes there as one more tensor.
 *
 * A graph belongs to one thread. A dimension of OFR_IR_DYNAMIC is unknown until run time. */
#ifndef OFR_GRAPH_IR_H
#define OFR_GRAPH_IR_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { OFR_IR_MAX_RANK = 5, OFR_IR_MAX_INPUTS = 16, OFR_IR_MAX_OUTPUTS = 8, OFR_IR_DYNAMIC = -1 };

/* X(symbol, name of a port's precision, name of an element type, bits) */
#define OFR_IR_TYPE_TABLE(X)                                                                       \
    X(OFR_IR_F32, "FP32", "f32", 32)                                                               \
    X(OFR_IR_F16, "FP16", "f16", 16)                                                               \
    X(OFR_IR_I4, "I4", "i4", 4)                                                                    \
    X(OFR_IR_U4, "U4", "u4", 4)                                                                    \
    X(OFR_IR_I8, "I8", "i8", 8)                                                                    \
    X(OFR_IR_U8, "U8", "u8", 8)                                                                    \
    X(OFR_IR_I32, "I32", "i32", 32)                                                                \
    X(OFR_IR_I64, "I64", "i64", 64)                                                                \
    X(OFR_IR_BOOLEAN, "BOOL", "boolean", 8)                                                        \
    X(OFR_IR_STRING, "STRING", "string", 0) /* of inputs and results: no constant has it */
enum ofr_ir_type {
#define OFR_IR_TYPE_ENUM(symbol, precision, element, bits) symbol,
    OFR_IR_TYPE_TABLE(OFR_IR_TYPE_ENUM)
#undef OFR_IR_TYPE_ENUM
};

typedef struct ofr_ir_shape {
    uint32_t rank;
    int64_t dims[OFR_IR_MAX_RANK];
} ofr_ir_shape;

/* OFR_IR_SHAPE(1, t, d): a shape of as many dimensions as there are arguments. */
#define OFR_IR_SHAPE(...)                                                                          \
    ((ofr_ir_shape){.rank = sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t),                    \
                    .dims = {__VA_ARGS__}})

/* One output of one operation. */
typedef struct ofr_ir_value {
    uint32_t layer, output;
} ofr_ir_value;

/* Constants; those of up to 64 KiB are stored once. `base` is where the pool lies in the binary
 * file. */
typedef struct ofr_ir_pool {
    uint8_t *bytes; /* owned */
    size_t size, room;
    uint64_t base;
} ofr_ir_pool;
void ofr_ir_pool_done(ofr_ir_pool *pool);

typedef struct ofr_ir ofr_ir;

/* `pool` is borrowed until ofr_ir_free. */
int ofr_ir_new(const char *name, ofr_ir_pool *pool, ofr_ir **ret_ir, ofr_error *err);
ofr_ir *ofr_ir_free(ofr_ir *ir); /* accepts NULL */
/* The whole XML, malloc'ed. */
int ofr_ir_write(ofr_ir *ir, char **ret_text, size_t *ret_size, ofr_error *err);

enum ofr_ir_type ofr_ir_type_of(const ofr_ir *ir, ofr_ir_value value);
ofr_ir_shape ofr_ir_shape_of(const ofr_ir *ir, ofr_ir_value value);

ofr_ir_value ofr_ir_parameter(ofr_ir *ir, const char *name, enum ofr_ir_type type,
                              ofr_ir_shape shape);
void ofr_ir_result(ofr_ir *ir, const char *name, ofr_ir_value value);
/* `bytes` at `offset` of the binary file; checked against type and shape. */
ofr_ir_value ofr_ir_tensor(ofr_ir *ir, const char *name, enum ofr_ir_type type, ofr_ir_shape shape,
                           uint64_t offset, uint64_t bytes);
ofr_ir_value ofr_ir_i64(ofr_ir *ir, int64_t value);                            /* scalar */
ofr_ir_value ofr_ir_i64s(ofr_ir *ir, const int64_t *values, size_t n);         /* [n] */
ofr_ir_value ofr_ir_i32s(ofr_ir *ir, const int32_t *values, size_t n);         /* [n] */
ofr_ir_value ofr_ir_i32(ofr_ir *ir, int32_t value);                            /* scalar */
ofr_ir_value ofr_ir_u8s(ofr_ir *ir, const void *bytes, size_t n);              /* [n], n > 0 */
ofr_ir_value ofr_ir_f32(ofr_ir *ir, float value);                              /* scalar */
ofr_ir_value ofr_ir_f32s(ofr_ir *ir, const float *values, ofr_ir_shape shape); /* row-major */

ofr_ir_value ofr_ir_convert(ofr_ir *ir, ofr_ir_value x, enum ofr_ir_type type);
/* "Add", "Subtract", "Multiply", "Divide", "Power"; dimensions broadcast as in numpy. */
ofr_ir_value ofr_ir_binary(ofr_ir *ir, const char *type, ofr_ir_value a, ofr_ir_value b);
/* "LessEqual", "Less", "GreaterEqual", "LogicalAnd", ...: boolean. */
ofr_ir_value ofr_ir_compare(ofr_ir *ir, const char *type, ofr_ir_value a, ofr_ir_value b);
ofr_ir_value ofr_ir_select(ofr_ir *ir, ofr_ir_value condition, ofr_ir_value a, ofr_ir_value b);
/* "Sqrt", "Cos", "Sin", "Tanh": element by element. */
ofr_ir_value ofr_ir_unary(ofr_ir *ir, const char *type, ofr_ir_value x);
ofr_ir_value ofr_ir_swish(ofr_ir *ir, ofr_ir_value x);
/* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
ofr_ir_value ofr_ir_gelu_tanh(ofr_ir *ir, ofr_ir_value x);
/* a [..., M, K] . b [..., K, N], or b [..., N, K] with transpose_b. */
ofr_ir_value ofr_ir_matmul(ofr_ir *ir, ofr_ir_value a, ofr_ir_value b, int transpose_b);
ofr_ir_value ofr_ir_reshape(ofr_ir *ir, ofr_ir_value x, ofr_ir_shape shape);
/* A shape that is computed; `shape` is what is known of the result. Zeros in the pattern copy the
 * input's dimension. */
ofr_ir_value ofr_ir_reshape_by(ofr_ir *ir, ofr_ir_value x, ofr_ir_value pattern,
                               ofr_ir_shape shape);
ofr_ir_value ofr_ir_broadcast(ofr_ir *ir, ofr_ir_value x, ofr_ir_value target, ofr_ir_shape shape);
ofr_ir_value ofr_ir_transpose(ofr_ir *ir, ofr_ir_value x, const uint32_t *order);
ofr_ir_value ofr_ir_unsqueeze(ofr_ir *ir, ofr_ir_value x, int64_t axis);
ofr_ir_value ofr_ir_concat(ofr_ir *ir, const ofr_ir_value *parts, uint32_t n, uint32_t axis);
/* VariadicSplit along `axis` into parts of the given lengths; ret_parts [n]. */
void ofr_ir_split(ofr_ir *ir, ofr_ir_value x, uint32_t axis, const int64_t *lengths, uint32_t n,
                  ofr_ir_value *ret_parts);
ofr_ir_value ofr_ir_softmax(ofr_ir *ir, ofr_ir_value x);     /* last axis */
ofr_ir_value ofr_ir_reduce_mean(ofr_ir *ir, ofr_ir_value x); /* last axis, kept as 1 */
ofr_ir_value ofr_ir_gather(ofr_ir *ir, ofr_ir_value data, ofr_ir_value indices, uint32_t axis);
ofr_ir_value ofr_ir_shape_as_i64(ofr_ir *ir, ofr_ir_value x); /* ShapeOf: [rank] */
/* [start, stop), step 1: i64. */
ofr_ir_value ofr_ir_range(ofr_ir *ir, ofr_ir_value start, ofr_ir_value stop);
/* ScaledDotProductAttention with an additive mask; `scale` is a scalar. */
ofr_ir_value ofr_ir_attention(ofr_ir *ir, ofr_ir_value q, ofr_ir_value k, ofr_ir_value v,
                              ofr_ir_value mask, ofr_ir_value scale);
/* A state variable: its value before the inference, `initial` where it was never assigned. */
ofr_ir_value ofr_ir_read_value(ofr_ir *ir, const char *variable, ofr_ir_value initial,
                               ofr_ir_shape shape);
void ofr_ir_assign(ofr_ir *ir, const char *variable, ofr_ir_value value);

/* Any other operation, whose outputs nothing is inferred of. `type` and `opset` are static texts
 * ("extension": of a library that the runtime has loaded), `attributes` is their XML or NULL. */
typedef struct ofr_ir_output {
    enum ofr_ir_type type;
    ofr_ir_shape shape;
} ofr_ir_output;
void ofr_ir_operation(ofr_ir *ir, const char *type, const char *opset, const char *attributes,
                      const ofr_ir_value *inputs, uint32_t n_inputs, const ofr_ir_output *outputs,
                      uint32_t n_outputs, ofr_ir_value *ret_values);
/* What the graph says of itself: `name` is an XML name, `value` any text that XML can hold. */
void ofr_ir_info(ofr_ir *ir, const char *name, const char *value);

#endif
