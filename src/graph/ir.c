/* Building a graph: operations, shape inference, the pool of small constants. */
#include "graph/ir.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/ir_internal.h"

enum { POOL_ALIGN = 8, POOL_SHARED_MAX = 64 << 10, LAYERS_MAX = 1 << 20 };

static const struct {
    const char *precision, *element;
    unsigned bits;
} types[] = {
#define OFR_IR_TYPE_ROW(symbol, precision_name, element_name, size)                                \
    [symbol] = {precision_name, element_name, size},
    OFR_IR_TYPE_TABLE(OFR_IR_TYPE_ROW)
#undef OFR_IR_TYPE_ROW
};

const char *ofr_ir_type_precision(enum ofr_ir_type type)
{
    return types[type].precision;
}

const char *ofr_ir_type_element(enum ofr_ir_type type)
{
    return types[type].element;
}

int ofr_ir_new(const char *name, ofr_ir_pool *pool, ofr_ir **ret_ir, ofr_error *err)
{
    ofr_ir *ir = calloc(1, sizeof *ir);
    if (ir)
        ir->name = strdup(name);
    if (!ir || !ir->name) {
        free(ir);
        return ofr_fail(err, OFR_ENOMEM, "graph '%s': out of memory", name);
    }
    ir->pool = pool;
    *ret_ir = ir;
    return 0;
}

ofr_ir *ofr_ir_free(ofr_ir *ir)
{
    if (!ir)
        return NULL;
    for (size_t i = 0; i < ir->n_layers; i++) {
        free(ir->layers[i].name);
        free(ir->layers[i].data);
    }
    free(ir->layers);
    free(ir->info);
    free(ir->name);
    free(ir);
    return NULL;
}

void ofr_ir_pool_done(ofr_ir_pool *pool)
{
    free(pool->bytes);
    *pool = (ofr_ir_pool){0};
}

static const ir_port *port_of(const ofr_ir *ir, ofr_ir_value value)
{
    static const ir_port none = {.type = OFR_IR_F32};
    if (value.layer >= ir->n_layers || value.output >= ir->layers[value.layer].n_outputs)
        return &none;
    return &ir->layers[value.layer].outputs[value.output];
}

enum ofr_ir_type ofr_ir_type_of(const ofr_ir *ir, ofr_ir_value value)
{
    return port_of(ir, value)->type;
}

ofr_ir_shape ofr_ir_shape_of(const ofr_ir *ir, ofr_ir_value value)
{
    return port_of(ir, value)->shape;
}

static void format_shape(ofr_ir_shape shape, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (uint32_t i = 0; i < shape.rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "",
                                 (long long)shape.dims[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
}

static ofr_ir_value misfit(ofr_ir *ir, const char *what, ofr_ir_value a, ofr_ir_value b)
{
    char first[96], second[96];
    format_shape(ofr_ir_shape_of(ir, a), first, sizeof first);
    format_shape(ofr_ir_shape_of(ir, b), second, sizeof second);
    if (ir->result == 0)
        ir->result = ofr_fail(&ir->error, OFR_EINTERNAL, "graph '%s': %s of %s and %s", ir->name,
                              what, first, second);
    return (ofr_ir_value){0};
}

/* A new operation; NULL after a failure. Its data text is printf-style. */
__attribute__((format(printf, 5, 6))) static ir_layer *add_layer(ofr_ir *ir, const char *type,
                                                                 const char *opset,
                                                                 const char *name,
                                                                 const char *format, ...)
{
    if (ir->result < 0)
        return NULL;
    if (ir->n_layers == ir->room) {
        size_t room = ir->room ? ir->room * 2 : 256;
        ir_layer *grown =
            room <= LAYERS_MAX ? realloc(ir->layers, room * sizeof *ir->layers) : NULL;
        if (!grown) {
            ir->result = ofr_fail(&ir->error, OFR_ENOMEM, "graph '%s': out of memory", ir->name);
            return NULL;
        }
        ir->layers = grown;
        ir->room = room;
    }
    ir_layer *layer = &ir->layers[ir->n_layers];
    *layer = (ir_layer){.type = type, .opset = opset};
    int named = name ? (layer->name = strdup(name)) != NULL
                     : asprintf(&layer->name, "%s_%zu", type, ir->n_layers) >= 0;
    va_list arguments;
    va_start(arguments, format);
    int written = format[0] ? vasprintf(&layer->data, format, arguments) : 0;
    va_end(arguments);
    if (!named || written < 0) {
        if (named)
            free(layer->name);
        ir->result = ofr_fail(&ir->error, OFR_ENOMEM, "graph '%s': out of memory", ir->name);
        return NULL;
    }
    ir->n_layers++;
    return layer;
}

static ofr_ir_value output(ofr_ir *ir, ir_layer *layer, enum ofr_ir_type type, ofr_ir_shape shape)
{
    if (!layer)
        return (ofr_ir_value){0};
    layer->outputs[layer->n_outputs] = (ir_port){.type = type, .shape = shape};
    return (ofr_ir_value){(uint32_t)(layer - ir->layers), layer->n_outputs++};
}

static void input(ir_layer *layer, ofr_ir_value value)
{
    if (layer)
        layer->inputs[layer->n_inputs++] = value;
}

ofr_ir_value ofr_ir_parameter(ofr_ir *ir, const char *name, enum ofr_ir_type type,
                              ofr_ir_shape shape)
{
    char dims[96] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < shape.rank; i++) {
        used += (size_t)snprintf(dims + used, sizeof dims - used, "%s", i ? "," : "");
        if (shape.dims[i] == OFR_IR_DYNAMIC)
            used += (size_t)snprintf(dims + used, sizeof dims - used, "?");
        else
            used +=
                (size_t)snprintf(dims + used, sizeof dims - used, "%lld", (long long)shape.dims[i]);
    }
    ir_layer *layer = add_layer(ir, "Parameter", "opset1", name, "shape=\"%s\" element_type=\"%s\"",
                                dims, types[type].element);
    if (layer)
        layer->named = true;
    return output(ir, layer, type, shape);
}

void ofr_ir_result(ofr_ir *ir, const char *name, ofr_ir_value value)
{
    if (ir->result < 0)
        return;
    /* The tensor has the name, and so has the operation: runtimes look for either. */
    port_of(ir, value);
    ir->layers[value.layer].outputs[value.output].result = ir->n_layers + 1;
    ir_layer *layer = add_layer(ir, "Result", "opset1", name, "%s", "");
    input(layer, value);
}

/* ---- constants ---- */

static uint64_t elements(ofr_ir_shape shape)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < shape.rank; i++)
        n *= (uint64_t)shape.dims[i];
    return n;
}

ofr_ir_value ofr_ir_tensor(ofr_ir *ir, const char *name, enum ofr_ir_type type, ofr_ir_shape shape,
                           uint64_t offset, uint64_t bytes)
{
    char dims[96] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < shape.rank; i++)
        used += (size_t)snprintf(dims + used, sizeof dims - used, "%s%lld", i ? ", " : "",
                                 (long long)shape.dims[i]);
    if (ir->result == 0 && (elements(shape) * types[type].bits + 7) / 8 != bytes)
        ir->result = ofr_fail(&ir->error, OFR_EINTERNAL,
                              "graph '%s': constant '%s' has %llu bytes, its shape another number",
                              ir->name, name ? name : "", (unsigned long long)bytes);
    ir_layer *layer =
        add_layer(ir, "Const", "opset1", name,
                  "element_type=\"%s\" shape=\"%s\" offset=\"%llu\" size=\"%llu\"",
                  types[type].element, dims, (unsigned long long)offset, (unsigned long long)bytes);
    return output(ir, layer, type, shape);
}

static ofr_ir_value pooled(ofr_ir *ir, enum ofr_ir_type type, ofr_ir_shape shape, const void *data,
                           size_t size)
{
    ofr_ir_pool *pool = ir->pool;
    /* A vocabulary is not looked for: there is no other like it. */
    size_t at = size > POOL_SHARED_MAX ? pool->size : 0;
    while (at + size <= pool->size && memcmp(pool->bytes + at, data, size) != 0)
        at += POOL_ALIGN;
    if (at + size > pool->size) {
        at = pool->size;
        size_t end = (at + size + POOL_ALIGN - 1) / POOL_ALIGN * POOL_ALIGN;
        if (end > pool->room) {
            size_t room = end * 2;
            uint8_t *grown = realloc(pool->bytes, room);
            if (!grown) {
                if (ir->result == 0)
                    ir->result =
                        ofr_fail(&ir->error, OFR_ENOMEM, "graph '%s': out of memory", ir->name);
                return (ofr_ir_value){0};
            }
            pool->bytes = grown;
            pool->room = room;
        }
        memset(pool->bytes + at, 0, end - at);
        memcpy(pool->bytes + at, data, size);
        pool->size = end;
    }
    return ofr_ir_tensor(ir, NULL, type, shape, pool->base + at, size);
}

ofr_ir_value ofr_ir_i64(ofr_ir *ir, int64_t value)
{
    return pooled(ir, OFR_IR_I64, (ofr_ir_shape){0}, &value, sizeof value);
}

ofr_ir_value ofr_ir_i64s(ofr_ir *ir, const int64_t *values, size_t n)
{
    return pooled(ir, OFR_IR_I64, OFR_IR_SHAPE((int64_t)n), values, n * sizeof *values);
}

ofr_ir_value ofr_ir_i32s(ofr_ir *ir, const int32_t *values, size_t n)
{
    return pooled(ir, OFR_IR_I32, OFR_IR_SHAPE((int64_t)n), values, n * sizeof *values);
}

ofr_ir_value ofr_ir_i32(ofr_ir *ir, int32_t value)
{
    return pooled(ir, OFR_IR_I32, (ofr_ir_shape){0}, &value, sizeof value);
}

ofr_ir_value ofr_ir_u8s(ofr_ir *ir, const void *bytes, size_t n)
{
    return pooled(ir, OFR_IR_U8, OFR_IR_SHAPE((int64_t)n), bytes, n);
}

ofr_ir_value ofr_ir_f32(ofr_ir *ir, float value)
{
    return pooled(ir, OFR_IR_F32, (ofr_ir_shape){0}, &value, sizeof value);
}

ofr_ir_value ofr_ir_f32s(ofr_ir *ir, const float *values, ofr_ir_shape shape)
{
    return pooled(ir, OFR_IR_F32, shape, values, (size_t)elements(shape) * sizeof *values);
}

/* ---- element by element ---- */

ofr_ir_value ofr_ir_convert(ofr_ir *ir, ofr_ir_value x, enum ofr_ir_type type)
{
    if (ofr_ir_type_of(ir, x) == type)
        return x;
    ofr_ir_shape shape = ofr_ir_shape_of(ir, x);
    ir_layer *layer =
        add_layer(ir, "Convert", "opset1", NULL, "destination_type=\"%s\"", types[type].element);
    input(layer, x);
    return output(ir, layer, type, shape);
}

static bool broadcast_shapes(ofr_ir_shape a, ofr_ir_shape b, ofr_ir_shape *ret_shape)
{
    ofr_ir_shape shape = {.rank = a.rank > b.rank ? a.rank : b.rank};
    for (uint32_t i = 0; i < shape.rank; i++) {
        int64_t x = i < a.rank ? a.dims[a.rank - 1 - i] : 1;
        int64_t y = i < b.rank ? b.dims[b.rank - 1 - i] : 1;
        if (x != y && x != 1 && y != 1 && x != OFR_IR_DYNAMIC && y != OFR_IR_DYNAMIC)
            return false;
        int64_t *dim = &shape.dims[shape.rank - 1 - i];
        if (x == 1 || y == 1)
            *dim = x == 1 ? y : x;
        else
            *dim = x == OFR_IR_DYNAMIC ? y : x;
    }
    *ret_shape = shape;
    return true;
}

static ofr_ir_value broadcasting(ofr_ir *ir, const char *type, ofr_ir_value a, ofr_ir_value b,
                                 enum ofr_ir_type result)
{
    ofr_ir_shape shape;
    if (ofr_ir_type_of(ir, a) != ofr_ir_type_of(ir, b) ||
        !broadcast_shapes(ofr_ir_shape_of(ir, a), ofr_ir_shape_of(ir, b), &shape))
        return misfit(ir, type, a, b);
    bool divides = strcmp(type, "Divide") == 0;
    ir_layer *layer = add_layer(ir, type, "opset1", NULL, "auto_broadcast=\"numpy\"%s",
                                divides ? " m_pythondiv=\"true\"" : "");
    input(layer, a);
    input(layer, b);
    return output(ir, layer, result, shape);
}

ofr_ir_value ofr_ir_binary(ofr_ir *ir, const char *type, ofr_ir_value a, ofr_ir_value b)
{
    return broadcasting(ir, type, a, b, ofr_ir_type_of(ir, a));
}

ofr_ir_value ofr_ir_compare(ofr_ir *ir, const char *type, ofr_ir_value a, ofr_ir_value b)
{
    return broadcasting(ir, type, a, b, OFR_IR_BOOLEAN);
}

ofr_ir_value ofr_ir_select(ofr_ir *ir, ofr_ir_value condition, ofr_ir_value a, ofr_ir_value b)
{
    ofr_ir_shape shape;
    if (!broadcast_shapes(ofr_ir_shape_of(ir, a), ofr_ir_shape_of(ir, b), &shape) ||
        !broadcast_shapes(shape, ofr_ir_shape_of(ir, condition), &shape))
        return misfit(ir, "Select", a, b);
    enum ofr_ir_type type = ofr_ir_type_of(ir, a);
    ir_layer *layer = add_layer(ir, "Select", "opset1", NULL, "auto_broadcast=\"%s\"", "numpy");
    input(layer, condition);
    input(layer, a);
    input(layer, b);
    return output(ir, layer, type, shape);
}

/* An element-wise layer; `attributes` are its data, "" where it has none. */
static ofr_ir_value elementwise(ofr_ir *ir, const char *type, const char *opset,
                                const char *attributes, ofr_ir_value x)
{
    ofr_ir_shape shape = ofr_ir_shape_of(ir, x);
    enum ofr_ir_type element = ofr_ir_type_of(ir, x);
    ir_layer *layer = add_layer(ir, type, opset, NULL, "%s", attributes);
    input(layer, x);
    return output(ir, layer, element, shape);
}

ofr_ir_value ofr_ir_unary(ofr_ir *ir, const char *type, ofr_ir_value x)
{
    return elementwise(ir, type, "opset1", "", x);
}

ofr_ir_value ofr_ir_swish(ofr_ir *ir, ofr_ir_value x)
{
    return elementwise(ir, "Swish", "opset4", "", x);
}

ofr_ir_value ofr_ir_gelu_tanh(ofr_ir *ir, ofr_ir_value x)
{
    return elementwise(ir, "Gelu", "opset7", "approximation_mode=\"TANH\"", x);
}

/* ---- matrices and shapes ---- */

ofr_ir_value ofr_ir_matmul(ofr_ir *ir, ofr_ir_value a, ofr_ir_value b, int transpose_b)
{
    ofr_ir_shape x = ofr_ir_shape_of(ir, a), y = ofr_ir_shape_of(ir, b), batch;
    if (x.rank < 2 || y.rank < 2)
        return misfit(ir, "MatMul", a, b);
    int64_t rows = x.dims[x.rank - 2], depth = x.dims[x.rank - 1];
    int64_t columns = y.dims[transpose_b ? y.rank - 2 : y.rank - 1];
    int64_t other = y.dims[transpose_b ? y.rank - 1 : y.rank - 2];
    x.rank -= 2;
    y.rank -= 2;
    if (ofr_ir_type_of(ir, a) != ofr_ir_type_of(ir, b) || depth != other ||
        !broadcast_shapes(x, y, &batch))
        return misfit(ir, "MatMul", a, b);
    batch.dims[batch.rank] = rows;
    batch.dims[batch.rank + 1] = columns;
    batch.rank += 2;
    enum ofr_ir_type type = ofr_ir_type_of(ir, a);
    ir_layer *layer =
        add_layer(ir, "MatMul", "opset1", NULL, "transpose_a=\"false\" transpose_b=\"%s\"",
                  transpose_b ? "true" : "false");
    input(layer, a);
    input(layer, b);
    return output(ir, layer, type, batch);
}

ofr_ir_value ofr_ir_reshape(ofr_ir *ir, ofr_ir_value x, ofr_ir_shape shape)
{
    if (elements(shape) != elements(ofr_ir_shape_of(ir, x)) && ir->result == 0) {
        char from[96], to[96];
        format_shape(ofr_ir_shape_of(ir, x), from, sizeof from);
        format_shape(shape, to, sizeof to);
        ir->result = ofr_fail(&ir->error, OFR_EINTERNAL, "graph '%s': Reshape of %s to %s",
                              ir->name, from, to);
    }
    return ofr_ir_reshape_by(ir, x, ofr_ir_i64s(ir, shape.dims, shape.rank), shape);
}

ofr_ir_value ofr_ir_reshape_by(ofr_ir *ir, ofr_ir_value x, ofr_ir_value pattern, ofr_ir_shape shape)
{
    enum ofr_ir_type type = ofr_ir_type_of(ir, x);
    ir_layer *layer = add_layer(ir, "Reshape", "opset1", NULL, "special_zero=\"%s\"", "true");
    input(layer, x);
    input(layer, pattern);
    return output(ir, layer, type, shape);
}

ofr_ir_value ofr_ir_broadcast(ofr_ir *ir, ofr_ir_value x, ofr_ir_value target, ofr_ir_shape shape)
{
    enum ofr_ir_type type = ofr_ir_type_of(ir, x);
    ir_layer *layer = add_layer(ir, "Broadcast", "opset3", NULL, "mode=\"%s\"", "numpy");
    input(layer, x);
    input(layer, target);
    return output(ir, layer, type, shape);
}

ofr_ir_value ofr_ir_transpose(ofr_ir *ir, ofr_ir_value x, const uint32_t *order)
{
    ofr_ir_shape from = ofr_ir_shape_of(ir, x), to = {.rank = from.rank};
    int64_t values[OFR_IR_MAX_RANK] = {0};
    for (uint32_t i = 0; i < from.rank; i++) {
        values[i] = order[i];
        to.dims[i] = from.dims[order[i]];
    }
    ofr_ir_value permutation = ofr_ir_i64s(ir, values, from.rank);
    enum ofr_ir_type type = ofr_ir_type_of(ir, x);
    ir_layer *layer = add_layer(ir, "Transpose", "opset1", NULL, "%s", "");
    input(layer, x);
    input(layer, permutation);
    return output(ir, layer, type, to);
}

ofr_ir_value ofr_ir_unsqueeze(ofr_ir *ir, ofr_ir_value x, int64_t axis)
{
    ofr_ir_shape from = ofr_ir_shape_of(ir, x), to = {.rank = from.rank + 1};
    for (uint32_t i = 0, j = 0; i < to.rank; i++)
        to.dims[i] = i == (uint32_t)axis ? 1 : from.dims[j++];
    ofr_ir_value axes = ofr_ir_i64s(ir, &axis, 1);
    enum ofr_ir_type type = ofr_ir_type_of(ir, x);
    ir_layer *layer = add_layer(ir, "Unsqueeze", "opset1", NULL, "%s", "");
    input(layer, x);
    input(layer, axes);
    return output(ir, layer, type, to);
}

ofr_ir_value ofr_ir_concat(ofr_ir *ir, const ofr_ir_value *parts, uint32_t n, uint32_t axis)
{
    ofr_ir_shape shape = ofr_ir_shape_of(ir, parts[0]);
    for (uint32_t i = 1; i < n; i++) {
        ofr_ir_shape other = ofr_ir_shape_of(ir, parts[i]);
        if (other.rank != shape.rank)
            return misfit(ir, "Concat", parts[0], parts[i]);
        for (uint32_t k = 0; k < shape.rank; k++) {
            int64_t *dim = &shape.dims[k];
            bool known = *dim != OFR_IR_DYNAMIC && other.dims[k] != OFR_IR_DYNAMIC;
            if (k == axis)
                *dim = known ? *dim + other.dims[k] : OFR_IR_DYNAMIC;
            else if (known && *dim != other.dims[k])
                return misfit(ir, "Concat", parts[0], parts[i]);
            else if (!known && *dim == OFR_IR_DYNAMIC)
                *dim = other.dims[k];
        }
    }
    enum ofr_ir_type type = ofr_ir_type_of(ir, parts[0]);
    /* Counted from the end where it is the last: plug-ins look for RoPE with the axis -1. */
    int at = axis + 1 == shape.rank ? -1 : (int)axis;
    ir_layer *layer = add_layer(ir, "Concat", "opset1", NULL, "axis=\"%d\"", at);
    for (uint32_t i = 0; i < n; i++)
        input(layer, parts[i]);
    return output(ir, layer, type, shape);
}

void ofr_ir_split(ofr_ir *ir, ofr_ir_value x, uint32_t axis, const int64_t *lengths, uint32_t n,
                  ofr_ir_value *ret_parts)
{
    ofr_ir_shape shape = ofr_ir_shape_of(ir, x);
    enum ofr_ir_type type = ofr_ir_type_of(ir, x);
    int64_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        total += lengths[i];
    if (total != shape.dims[axis])
        misfit(ir, "VariadicSplit", x, x);
    ofr_ir_value at = ofr_ir_i64(ir, axis), sizes = ofr_ir_i64s(ir, lengths, n);
    ir_layer *layer = add_layer(ir, "VariadicSplit", "opset1", NULL, "%s", "");
    input(layer, x);
    input(layer, at);
    input(layer, sizes);
    for (uint32_t i = 0; i < n; i++) {
        shape.dims[axis] = lengths[i];
        ret_parts[i] = output(ir, layer, type, shape);
    }
}

ofr_ir_value ofr_ir_softmax(ofr_ir *ir, ofr_ir_value x)
{
    ofr_ir_shape shape = ofr_ir_shape_of(ir, x);
    enum ofr_ir_type type = ofr_ir_type_of(ir, x);
    ir_layer *layer = add_layer(ir, "SoftMax", "opset8", NULL, "axis=\"%d\"", -1);
    input(layer, x);
    return output(ir, layer, type, shape);
}

ofr_ir_value ofr_ir_reduce_mean(ofr_ir *ir, ofr_ir_value x)
{
    ofr_ir_shape shape = ofr_ir_shape_of(ir, x);
    enum ofr_ir_type type = ofr_ir_type_of(ir, x);
    int64_t last = -1;
    ofr_ir_value axis = ofr_ir_i64s(ir, &last, 1);
    ir_layer *layer = add_layer(ir, "ReduceMean", "opset1", NULL, "keep_dims=\"%s\"", "true");
    input(layer, x);
    input(layer, axis);
    shape.dims[shape.rank - 1] = 1;
    return output(ir, layer, type, shape);
}

ofr_ir_value ofr_ir_gather(ofr_ir *ir, ofr_ir_value data, ofr_ir_value indices, uint32_t axis)
{
    ofr_ir_shape from = ofr_ir_shape_of(ir, data), at = ofr_ir_shape_of(ir, indices);
    ofr_ir_shape shape = {0};
    if (from.rank + at.rank > OFR_IR_MAX_RANK + 1 || axis >= from.rank)
        return misfit(ir, "Gather", data, indices);
    for (uint32_t i = 0; i < from.rank; i++) {
        for (uint32_t k = 0; i == axis && k < at.rank; k++)
            shape.dims[shape.rank++] = at.dims[k];
        if (i != axis)
            shape.dims[shape.rank++] = from.dims[i];
    }
    enum ofr_ir_type type = ofr_ir_type_of(ir, data);
    ofr_ir_value along = ofr_ir_i64(ir, axis);
    ir_layer *layer = add_layer(ir, "Gather", "opset8", NULL, "batch_dims=\"%d\"", 0);
    input(layer, data);
    input(layer, indices);
    input(layer, along);
    return output(ir, layer, type, shape);
}

/* ---- dynamic shapes, attention, state ---- */

ofr_ir_value ofr_ir_shape_as_i64(ofr_ir *ir, ofr_ir_value x)
{
    int64_t rank = ofr_ir_shape_of(ir, x).rank;
    ir_layer *layer = add_layer(ir, "ShapeOf", "opset3", NULL, "output_type=\"%s\"", "i64");
    input(layer, x);
    return output(ir, layer, OFR_IR_I64, OFR_IR_SHAPE(rank));
}

ofr_ir_value ofr_ir_range(ofr_ir *ir, ofr_ir_value start, ofr_ir_value stop)
{
    ofr_ir_value step = ofr_ir_i64(ir, 1);
    ir_layer *layer = add_layer(ir, "Range", "opset4", NULL, "output_type=\"%s\"", "i64");
    input(layer, start);
    input(layer, stop);
    input(layer, step);
    return output(ir, layer, OFR_IR_I64, OFR_IR_SHAPE(OFR_IR_DYNAMIC));
}

ofr_ir_value ofr_ir_attention(ofr_ir *ir, ofr_ir_value q, ofr_ir_value k, ofr_ir_value v,
                              ofr_ir_value mask, ofr_ir_value scale)
{
    ofr_ir_shape shape = ofr_ir_shape_of(ir, q);
    ir_layer *layer =
        add_layer(ir, "ScaledDotProductAttention", "opset13", NULL, "causal=\"%s\"", "false");
    input(layer, q);
    input(layer, k);
    input(layer, v);
    input(layer, mask);
    input(layer, scale);
    return output(ir, layer, OFR_IR_F32, shape);
}

static void variable_dims(ofr_ir_shape shape, char *text, size_t size)
{
    size_t used = 0;
    for (uint32_t i = 0; i < shape.rank && used < size; i++)
        used += shape.dims[i] == OFR_IR_DYNAMIC
                    ? (size_t)snprintf(text + used, size - used, "%s?", i ? "," : "")
                    : (size_t)snprintf(text + used, size - used, "%s%lld", i ? "," : "",
                                       (long long)shape.dims[i]);
}

ofr_ir_value ofr_ir_read_value(ofr_ir *ir, const char *variable, ofr_ir_value initial,
                               ofr_ir_shape shape)
{
    char dims[96] = "";
    variable_dims(shape, dims, sizeof dims);
    enum ofr_ir_type type = ofr_ir_type_of(ir, initial);
    ir_layer *layer = add_layer(ir, "ReadValue", "opset6", NULL,
                                "variable_id=\"%s\" variable_type=\"%s\" variable_shape=\"%s\"",
                                variable, types[type].element, dims);
    input(layer, initial);
    return output(ir, layer, type, shape);
}

void ofr_ir_assign(ofr_ir *ir, const char *variable, ofr_ir_value value)
{
    ir_layer *layer = add_layer(ir, "Assign", "opset6", NULL, "variable_id=\"%s\"", variable);
    input(layer, value);
    output(ir, layer, ofr_ir_type_of(ir, value), ofr_ir_shape_of(ir, value));
}

/* ---- operations of others ---- */

void ofr_ir_operation(ofr_ir *ir, const char *type, const char *opset, const char *attributes,
                      const ofr_ir_value *inputs, uint32_t n_inputs, const ofr_ir_output *outputs,
                      uint32_t n_outputs, ofr_ir_value *ret_values)
{
    if (ir->result == 0 && (n_inputs > OFR_IR_MAX_INPUTS || n_outputs > OFR_IR_MAX_OUTPUTS))
        ir->result = ofr_fail(&ir->error, OFR_EINTERNAL, "graph '%s': %s has %u inputs, %u outputs",
                              ir->name, type, n_inputs, n_outputs);
    ir_layer *layer = add_layer(ir, type, opset, NULL, "%s", attributes ? attributes : "");
    for (uint32_t i = 0; i < n_inputs; i++)
        input(layer, inputs[i]);
    for (uint32_t i = 0; i < n_outputs; i++)
        ret_values[i] = output(ir, layer, outputs[i].type, outputs[i].shape);
}

void ofr_ir_info(ofr_ir *ir, const char *name, const char *value)
{
    if (ir->result < 0)
        return;
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (f) {
        fprintf(f, "%s<%s value=\"", ir->info ? ir->info : "", name);
        for (; *value; value++) {
            if (*value == '<' || *value == '&' || *value == '"' || (unsigned char)*value < ' ')
                fprintf(f, "&#%d;", *value);
            else
                fputc(*value, f);
        }
        fputs("\"/>\n", f);
    }
    if (!f || fclose(f) != 0) {
        free(text);
        ir->result = ofr_fail(&ir->error, OFR_ENOMEM, "graph '%s': out of memory", ir->name);
        return;
    }
    free(ir->info);
    ir->info = text;
}
