/* The functions of OpenVINO's C library that the backend uses, played: an NPU and a CPU with the
 * properties that FAKE_OPENVINO asks for (words, comma-separated):
 *   old            the library is of 2023
 *   no_compile     every compilation fails
 *   picky          pointers that are not page-aligned are refused
 *   no_import      memory cannot be imported
 *   no_quantization  the NPU does not know NPU_COMPILER_DYNAMIC_QUANTIZATION
 * $FAKE_OPENVINO_LOG gets a line per compilation ("NPU KEY=VALUE ...") and per import. An inference
 * copies nothing and computes nothing: each output becomes 0x5a in every byte. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openvino/c/openvino.h>

#include "graph/ir_read.h"

struct ov_core {
    int unused;
};
struct ov_model {
    char *text;
    size_t size;
};
struct ov_compiled_model {
    char *text;
    ofr_ir_document graph;
};
struct ov_output_const_port {
    const ofr_ir_document *graph;
    const ofr_ir_read_node *node;
};
struct ov_tensor {
    void *data;
    size_t bytes;
};
enum { PORTS_MAX = 256 };
struct ov_infer_request {
    const struct ov_compiled_model *compiled;
    struct ov_tensor inputs[PORTS_MAX], outputs[PORTS_MAX];
};
struct ov_remote_context {
    int unused;
};

static bool asked(const char *word)
{
    const char *words = getenv("FAKE_OPENVINO");
    size_t length = strlen(word);
    for (const char *at = words; at && (at = strstr(at, word)) != NULL; at += length)
        if ((at == words || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

static FILE *log_file(void)
{
    const char *path = getenv("FAKE_OPENVINO_LOG");
    return path ? fopen(path, "ae") : NULL;
}

ov_status_e ov_get_openvino_version(ov_version_t *version)
{
    version->buildNumber = asked("old") ? "2023.3.0-fake" : "2026.9.9-fake";
    version->description = "fake";
    return OK;
}
void ov_version_free(ov_version_t *version)
{
    (void)version;
}
const char *ov_get_last_err_msg(void)
{
    return "Exception from src/fake.cpp:7:\nit was asked to fail\n";
}
void ov_free(const char *content)
{
    free((void *)(uintptr_t)content);
}
ov_status_e ov_core_create(ov_core_t **core)
{
    *core = calloc(1, sizeof **core);
    return *core ? OK : UNKNOW_EXCEPTION;
}
void ov_core_free(ov_core_t *core)
{
    free(core);
}
ov_status_e ov_core_get_available_devices(const ov_core_t *core, ov_available_devices_t *devices)
{
    (void)core;
    static char *names[] = {"CPU", "NPU"};
    devices->devices = names;
    devices->size = 2;
    return OK;
}
void ov_available_devices_free(ov_available_devices_t *devices)
{
    devices->size = 0;
}
ov_status_e ov_core_get_property(const ov_core_t *core, const char *device, const char *key,
                                 char **value)
{
    (void)core;
    bool npu = strcmp(device, "NPU") == 0;
    const char *found = NULL;
    if (!npu && strcmp(device, "CPU") != 0)
        return NOT_FOUND;
    if (strcmp(key, "FULL_DEVICE_NAME") == 0)
        found = npu ? "Fake NPU" : "Fake CPU";
    else if (npu && strcmp(key, "NPU_DRIVER_VERSION") == 0)
        found = "1777";
    else if (strcmp(key, "SUPPORTED_PROPERTIES") == 0)
        found = !npu
                    ? "PERFORMANCE_HINT NUM_STREAMS INFERENCE_PRECISION_HINT INFERENCE_NUM_THREADS "
                      "ENABLE_CPU_PINNING"
                : asked("no_quantization")
                    ? "PERFORMANCE_HINT NUM_STREAMS INFERENCE_PRECISION_HINT NPU_COMPILER_TYPE "
                      "NPU_DRIVER_VERSION"
                    : "PERFORMANCE_HINT NUM_STREAMS INFERENCE_PRECISION_HINT NPU_COMPILER_TYPE "
                      "NPU_DRIVER_VERSION NPU_COMPILER_DYNAMIC_QUANTIZATION";
    *value = found ? strdup(found) : NULL;
    return *value ? OK : NOT_FOUND;
}
ov_status_e ov_core_read_model_from_memory_buffer(const ov_core_t *core, const char *text,
                                                  const size_t size, const ov_tensor_t *weights,
                                                  ov_model_t **model)
{
    (void)core;
    (void)weights;
    *model = calloc(1, sizeof **model);
    (*model)->text = strndup(text, size);
    (*model)->size = size;
    return OK;
}
void ov_model_free(ov_model_t *model)
{
    free(model->text);
    free(model);
}

ov_status_e ov_core_compile_model_props(const ov_core_t *core, const ov_model_t *model,
                                        const char *device, const size_t n,
                                        const ov_property_t *properties,
                                        ov_compiled_model_t **compiled)
{
    (void)core;
    FILE *log = log_file();
    if (log) {
        fprintf(log, "%s", device);
        for (size_t i = 0; i < n; i++)
            fprintf(log, " %s=%s", properties[i].key, (const char *)properties[i].value);
        fputc('\n', log);
        fclose(log);
    }
    if (asked("no_compile"))
        return GENERAL_ERROR;
    struct ov_compiled_model *made = calloc(1, sizeof *made);
    made->text = strndup(model->text, model->size);
    ofr_error err;
    if (ofr_ir_read(made->text, model->size, &made->graph, &err) < 0) {
        free(made->text);
        free(made);
        return GENERAL_ERROR;
    }
    *compiled = made;
    return OK;
}
ov_status_e ov_core_set_properties(const ov_core_t *core, const char *device, const size_t n,
                                   const ov_property_t *properties)
{
    (void)core;
    (void)device;
    (void)n;
    (void)properties;
    return OK;
}
ov_status_e ov_core_import_model(const ov_core_t *core, const char *content, const size_t size,
                                 const char *device, ov_compiled_model_t **compiled)
{
    (void)core;
    (void)content;
    (void)size;
    (void)device;
    (void)compiled;
    return NOT_IMPLEMENTED;
}
ov_status_e ov_core_get_default_context(const ov_core_t *core, const char *device,
                                        ov_remote_context_t **context)
{
    (void)core;
    (void)device;
    if (asked("no_import"))
        return NOT_IMPLEMENTED;
    *context = calloc(1, sizeof **context);
    return OK;
}
ov_status_e ov_remote_context_create_tensor_props(const ov_remote_context_t *context,
                                                  const ov_element_type_e type,
                                                  const ov_shape_t shape, const size_t n,
                                                  const ov_property_t *properties,
                                                  ov_tensor_t **tensor)
{
    (void)context;
    (void)type;
    FILE *log = log_file();
    if (log) {
        fprintf(log, "import of %lld with %s\n", (long long)shape.dims[0],
                n > 0 ? (const char *)properties[0].value : "");
        fclose(log);
    }
    *tensor = calloc(1, sizeof **tensor);
    return OK;
}
void ov_remote_context_free(ov_remote_context_t *context)
{
    free(context);
}

/* ---- ports ---- */

static const ofr_ir_read_node *nth(const ofr_ir_document *graph, const char *type, size_t index,
                                   size_t *ret_count)
{
    size_t n = 0;
    const ofr_ir_read_node *found = NULL;
    for (size_t i = 0; i < graph->n_nodes; i++)
        if (ofr_ir_text_is(graph->nodes[i].type, type) && n++ == index)
            found = &graph->nodes[i];
    *ret_count = n;
    return found;
}
ov_status_e ov_compiled_model_inputs_size(const ov_compiled_model_t *compiled, size_t *size)
{
    nth(&compiled->graph, "Parameter", SIZE_MAX, size);
    return OK;
}
ov_status_e ov_compiled_model_outputs_size(const ov_compiled_model_t *compiled, size_t *size)
{
    nth(&compiled->graph, "Result", SIZE_MAX, size);
    return OK;
}
static ov_status_e port_at(const ov_compiled_model_t *compiled, const char *type, size_t index,
                           ov_output_const_port_t **port)
{
    size_t n;
    const ofr_ir_read_node *node = nth(&compiled->graph, type, index, &n);
    *port = calloc(1, sizeof **port);
    (*port)->graph = &compiled->graph;
    (*port)->node = node;
    return node ? OK : OUT_OF_BOUNDS;
}
ov_status_e ov_compiled_model_input_by_index(const ov_compiled_model_t *compiled,
                                             const size_t index, ov_output_const_port_t **port)
{
    return port_at(compiled, "Parameter", index, port);
}
ov_status_e ov_compiled_model_output_by_index(const ov_compiled_model_t *compiled,
                                              const size_t index, ov_output_const_port_t **port)
{
    return port_at(compiled, "Result", index, port);
}
ov_status_e ov_port_get_any_name(const ov_output_const_port_t *port, char **name)
{
    *name = strndup(port->node->name.at, port->node->name.size);
    return OK;
}
/* Of a Result: the output that it comes from, which has the type too. */
static const ofr_ir_read_port *described(const ov_output_const_port_t *port)
{
    const ofr_ir_document *g = port->graph;
    uint32_t own = port->node->ports;
    for (size_t i = 0; i < g->n_edges; i++)
        if (port->node->n_inputs == 1 && g->edges[i].to_port == own)
            return &g->ports[g->edges[i].from_port];
    return &g->ports[own];
}
static const struct {
    const char *precision;
    ov_element_type_e type;
    unsigned bits;
} types[] = {{"FP32", F32, 32}, {"FP16", F16, 16}, {"I4", I4, 4},
             {"I8", I8, 8},     {"I32", I32, 32},  {"I64", I64, 64}};
ov_status_e ov_port_get_element_type(const ov_output_const_port_t *port, ov_element_type_e *type)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (ofr_ir_text_is(described(port)->precision, types[i].precision)) {
            *type = types[i].type;
            return OK;
        }
    }
    return NOT_FOUND;
}
ov_status_e ov_const_port_get_shape(const ov_output_const_port_t *port, ov_shape_t *shape)
{
    const ofr_ir_read_port *p = described(port);
    return ov_shape_create(p->rank, p->dims, shape);
}
void ov_output_const_port_free(ov_output_const_port_t *port)
{
    free(port);
}
void ov_compiled_model_free(ov_compiled_model_t *compiled)
{
    ofr_ir_document_done(&compiled->graph);
    free(compiled->text);
    free(compiled);
}
ov_status_e ov_compiled_model_export_model(const ov_compiled_model_t *compiled, const char *path)
{
    (void)compiled;
    (void)path;
    return NOT_IMPLEMENTED;
}

/* ---- tensors ---- */

ov_status_e ov_shape_create(const int64_t rank, const int64_t *dims, ov_shape_t *shape)
{
    shape->rank = rank;
    shape->dims = calloc((size_t)rank + 1, sizeof *shape->dims);
    memcpy(shape->dims, dims, (size_t)rank * sizeof *dims);
    return OK;
}
ov_status_e ov_shape_free(ov_shape_t *shape)
{
    free(shape->dims);
    shape->dims = NULL;
    return OK;
}
ov_status_e ov_tensor_create_from_host_ptr(const ov_element_type_e type, const ov_shape_t shape,
                                           void *data, ov_tensor_t **tensor)
{
    size_t bits = type == U8 ? 8 : 0;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].type == type)
            bits = types[i].bits;
    *tensor = calloc(1, sizeof **tensor);
    (*tensor)->data = data;
    for (int64_t i = 0; i < shape.rank; i++)
        bits *= (size_t)shape.dims[i];
    (*tensor)->bytes = (bits + 7) / 8;
    return OK;
}
ov_status_e ov_tensor_get_byte_size(const ov_tensor_t *tensor, size_t *size)
{
    *size = tensor->bytes;
    return OK;
}
void ov_tensor_free(ov_tensor_t *tensor)
{
    free(tensor);
}

/* ---- requests ---- */

ov_status_e ov_compiled_model_create_infer_request(const ov_compiled_model_t *compiled,
                                                   ov_infer_request_t **request)
{
    *request = calloc(1, sizeof **request);
    (*request)->compiled = compiled;
    return OK;
}
static ov_status_e set(struct ov_tensor *ports, size_t index, const ov_tensor_t *tensor)
{
    if (index >= PORTS_MAX)
        return OUT_OF_BOUNDS;
    if (asked("picky") && (uintptr_t)tensor->data % 4096 != 0)
        return PARAMETER_MISMATCH;
    ports[index] = *tensor;
    return OK;
}
ov_status_e ov_infer_request_set_input_tensor_by_index(ov_infer_request_t *request,
                                                       const size_t index,
                                                       const ov_tensor_t *tensor)
{
    return set(request->inputs, index, tensor);
}
ov_status_e ov_infer_request_set_output_tensor_by_index(ov_infer_request_t *request,
                                                        const size_t index,
                                                        const ov_tensor_t *tensor)
{
    return set(request->outputs, index, tensor);
}
ov_status_e ov_infer_request_infer(ov_infer_request_t *request)
{
    for (size_t i = 0; i < PORTS_MAX; i++)
        if (request->outputs[i].data)
            memset(request->outputs[i].data, 0x5a, request->outputs[i].bytes);
    return OK;
}
void ov_infer_request_free(ov_infer_request_t *request)
{
    free(request);
}
