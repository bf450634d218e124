/* The one file that knows OpenVINO's C API. Functions are looked up by name, so that programs start
 * and run without OpenVINO. */
#include "backend/openvino/ov_runtime.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openvino/c/openvino.h>

enum { PORTS_MAX = 256, IMPORTS_MAX = 8, NAME_MAX_ = 64 };

#define OV_FUNCTIONS(X)                                                                            \
    X(ov_get_openvino_version)                                                                     \
    X(ov_version_free)                                                                             \
    X(ov_get_last_err_msg)                                                                         \
    X(ov_free)                                                                                     \
    X(ov_core_create)                                                                              \
    X(ov_core_free)                                                                                \
    X(ov_core_get_available_devices)                                                               \
    X(ov_available_devices_free)                                                                   \
    X(ov_core_get_property)                                                                        \
    X(ov_core_read_model_from_memory_buffer)                                                       \
    X(ov_core_compile_model_props)                                                                 \
    X(ov_core_import_model)                                                                        \
    X(ov_core_set_properties)                                                                      \
    X(ov_core_get_default_context)                                                                 \
    X(ov_remote_context_create_tensor_props)                                                       \
    X(ov_remote_context_free)                                                                      \
    X(ov_model_free)                                                                               \
    X(ov_compiled_model_inputs_size)                                                               \
    X(ov_compiled_model_outputs_size)                                                              \
    X(ov_compiled_model_input_by_index)                                                            \
    X(ov_compiled_model_output_by_index)                                                           \
    X(ov_compiled_model_create_infer_request)                                                      \
    X(ov_compiled_model_export_model)                                                              \
    X(ov_compiled_model_free)                                                                      \
    X(ov_const_port_get_shape)                                                                     \
    X(ov_port_get_any_name)                                                                        \
    X(ov_port_get_element_type)                                                                    \
    X(ov_output_const_port_free)                                                                   \
    X(ov_shape_create)                                                                             \
    X(ov_shape_free)                                                                               \
    X(ov_tensor_create_from_host_ptr)                                                              \
    X(ov_tensor_get_byte_size)                                                                     \
    X(ov_tensor_free)                                                                              \
    X(ov_infer_request_set_input_tensor_by_index)                                                  \
    X(ov_infer_request_set_output_tensor_by_index)                                                 \
    X(ov_infer_request_infer)                                                                      \
    X(ov_infer_request_free)

struct ofr_ov {
    void *library;
    char version[96];
    ov_core_t *core;
    struct {
        const void *base;
        size_t bytes;
        ov_tensor_t *tensor;
    } imports[IMPORTS_MAX];
    size_t n_imports;
#define OV_MEMBER(name) __typeof__(&name) name;
    OV_FUNCTIONS(OV_MEMBER)
#undef OV_MEMBER
};

typedef struct port {
    char name[NAME_MAX_];
    bool is_input;
    size_t index; /* among inputs or outputs */
    ov_element_type_e type;
    ov_shape_t shape;
    const void *bound;
    ov_tensor_t *tensor; /* of the binding; NULL: none yet */
    /* Where the plug-in refused the pointer: memory that it takes, copied at each inference. */
    void *staging; /* owned */
    size_t bytes;
    bool copied_inside; /* the plug-in takes the pointer and copies */
} port;

struct ofr_ov_graph {
    ofr_ov *ov;
    char name[NAME_MAX_];
    ov_compiled_model_t *compiled;
    ov_infer_request_t *request;
    port *ports;
    size_t n_ports;
    bool npu;
    uint64_t copied;
    void *blob; /* that it was imported from; NULL: compiled */
};

/* ---- the library ---- */

#ifdef __SANITIZE_ADDRESS__
/* OpenVINO's thread library opens a library of its own with RTLD_DEEPBIND, which the address
 * sanitizer ends the process for. Without the flag nothing else changes. */
void *dlopen(const char *file, int mode)
{
    void *(*next)(const char *, int) = NULL;
    *(void **)(void *)&next = dlsym(RTLD_NEXT, "dlopen");
    return next(file, mode & ~RTLD_DEEPBIND);
}
#endif

static int fail_status(const ofr_ov *ov, int code, ov_status_e status, ofr_error *err,
                       const char *what, const char *on)
{
    const char *message = ov->ov_get_last_err_msg();
    char line[600] = "";
    /* One line, without the source positions that begin OpenVINO's messages. */
    for (size_t i = 0, n = 0; message && message[i] && n < sizeof line - 1; i++) {
        char c = message[i] == '\n' || message[i] == '\r' ? ' ' : message[i];
        if (c != ' ' || (n > 0 && line[n - 1] != ' '))
            line[n++] = c;
    }
    return ofr_fail(err, code, "OpenVINO %.20s: %s %s: status %d: %s", ov->version, what, on,
                    (int)status, line);
}

static int load(ofr_ov *ov, const char *library, ofr_error *err)
{
    const char *candidates[3] = {library};
    if (!library) {
        const char *chosen = getenv("OFFERING_OPENVINO_LIBRARY");
        candidates[0] = chosen ? chosen : OFR_OPENVINO_LIBRARY;
        candidates[1] = chosen ? NULL : "libopenvino_c.so";
    }
    char reason[512] = "";
    for (size_t i = 0; i < 3 && candidates[i] && !ov->library; i++) {
        ov->library = dlopen(candidates[i], RTLD_NOW | RTLD_LOCAL);
        if (!ov->library && !reason[0])
            snprintf(reason, sizeof reason, "%s", dlerror());
    }
    if (!ov->library)
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenVINO cannot be loaded: %s; scripts/setup_env.sh installs it", reason);
        /* POSIX lets a pointer to an object become one to a function. */
#define OV_LOAD(name)                                                                              \
    *(void **)(void *)&ov->name = dlsym(ov->library, #name);                                       \
    if (!ov->name)                                                                                 \
        return ofr_fail(err, OFR_EUNSUPPORTED,                                                     \
                        "OpenVINO has no function %s: version %d or later is needed", #name,       \
                        OFR_OV_OLDEST_YEAR);
    OV_FUNCTIONS(OV_LOAD)
#undef OV_LOAD
    return 0;
}

static int check_version(ofr_ov *ov, ofr_error *err)
{
    ov_version_t version = {0};
    if (ov->ov_get_openvino_version(&version) == OK && version.buildNumber)
        snprintf(ov->version, sizeof ov->version, "%s", version.buildNumber);
    ov->ov_version_free(&version);
    if (atoi(ov->version) < OFR_OV_OLDEST_YEAR)
        return ofr_fail(err, OFR_EUNSUPPORTED,
                        "OpenVINO of version '%s' is too old: %d.0 or later is needed", ov->version,
                        OFR_OV_OLDEST_YEAR);
    return 0;
}

int ofr_ov_open(const char *library, ofr_ov **ret_ov, ofr_error *err)
{
    ofr_ov *ov = calloc(1, sizeof *ov);
    if (!ov)
        return ofr_fail(err, OFR_ENOMEM, "OpenVINO: out of memory");
    int r = load(ov, library, err);
    if (r == 0)
        r = check_version(ov, err);
    if (r == 0) {
        ov_status_e status = ov->ov_core_create(&ov->core);
        if (status != OK)
            r = fail_status(ov, OFR_EUNSUPPORTED, status, err, "cannot start", "its core");
    }
    if (r < 0)
        ofr_ov_close(ov);
    else
        *ret_ov = ov;
    return r;
}

ofr_ov *ofr_ov_close(ofr_ov *ov)
{
    if (!ov)
        return NULL;
    for (size_t i = 0; i < ov->n_imports; i++)
        if (ov->imports[i].tensor)
            ov->ov_tensor_free(ov->imports[i].tensor);
    if (ov->core)
        ov->ov_core_free(ov->core);
    /* The library stays loaded: its plug-ins leave threads and thread-local objects behind. */
    free(ov);
    return NULL;
}

const char *ofr_ov_version(const ofr_ov *ov)
{
    return ov->version;
}

int ofr_ov_devices(ofr_ov *ov, char *ret_names, size_t size, ofr_error *err)
{
    ov_available_devices_t devices = {0};
    ov_status_e status = ov->ov_core_get_available_devices(ov->core, &devices);
    if (status != OK)
        return fail_status(ov, OFR_EDEVICE, status, err, "cannot list", "devices");
    size_t used = 0;
    ret_names[0] = '\0';
    for (size_t i = 0; i < devices.size && used < size; i++)
        used += (size_t)snprintf(ret_names + used, size - used, "%s%s", i ? "," : "",
                                 devices.devices[i]);
    ov->ov_available_devices_free(&devices);
    return 0;
}

int ofr_ov_property(ofr_ov *ov, const char *device, const char *key, char *ret_text, size_t size,
                    ofr_error *err)
{
    char *value = NULL;
    ov_status_e status = ov->ov_core_get_property(ov->core, device, key, &value);
    if (status != OK)
        return fail_status(ov, OFR_EUNSUPPORTED, status, err, key, device);
    snprintf(ret_text, size, "%s", value);
    ov->ov_free(value);
    return 0;
}

/* The wheel and distributions without the compiler leave NPU graphs to the driver's. */
bool ofr_ov_has_npu_compiler(const ofr_ov *ov)
{
    Dl_info info;
    char path[4096];
    if (!dladdr(*(void *const *)(const void *)&ov->ov_core_create, &info) || !info.dli_fname)
        return false;
    const char *slash = strrchr(info.dli_fname, '/');
    int length = slash ? (int)(slash - info.dli_fname) : 0;
    snprintf(path, sizeof path, "%.*s/libopenvino_intel_npu_compiler.so", length, info.dli_fname);
    return access(path, F_OK) == 0;
}

bool ofr_ov_supports(ofr_ov *ov, const char *device, const char *key)
{
    char *value = NULL;
    if (ov->ov_core_get_property(ov->core, device, "SUPPORTED_PROPERTIES", &value) != OK)
        return false;
    bool found = false;
    size_t length = strlen(key);
    for (const char *at = value; !found && (at = strstr(at, key)) != NULL; at += length) {
        char before = at > value ? at[-1] : ' ', after = at[length];
        found = strchr(" ,", before) && (after == '\0' || strchr(" ,:", after));
    }
    ov->ov_free(value);
    return found;
}

/* ---- graphs ---- */

static int add_port(ofr_ov_graph *graph, bool is_input, size_t index, ofr_error *err)
{
    ofr_ov *ov = graph->ov;
    ov_output_const_port_t *handle = NULL;
    port *p = &graph->ports[graph->n_ports];
    char *name = NULL;
    ov_status_e status =
        is_input ? ov->ov_compiled_model_input_by_index(graph->compiled, index, &handle)
                 : ov->ov_compiled_model_output_by_index(graph->compiled, index, &handle);
    if (status == OK)
        status = ov->ov_port_get_any_name(handle, &name);
    if (status == OK)
        status = ov->ov_port_get_element_type(handle, &p->type);
    if (status == OK)
        status = ov->ov_const_port_get_shape(handle, &p->shape);
    if (name)
        snprintf(p->name, sizeof p->name, "%s", name);
    if (name)
        ov->ov_free(name);
    if (handle)
        ov->ov_output_const_port_free(handle);
    p->is_input = is_input;
    p->index = index;
    if (status != OK)
        return fail_status(ov, OFR_EDEVICE, status, err, "cannot describe a port of", graph->name);
    graph->n_ports++;
    return 0;
}

static bool is_npu(const char *device)
{
    return strncmp(device, "NPU", 3) == 0;
}

/* Takes over `compiled`. */
static int make_graph(ofr_ov *ov, const char *device, const char *name,
                      ov_compiled_model_t *compiled, ofr_ov_graph **ret_graph, ofr_error *err)
{
    ofr_ov_graph *graph = calloc(1, sizeof *graph);
    if (!graph) {
        ov->ov_compiled_model_free(compiled);
        return ofr_fail(err, OFR_ENOMEM, "OpenVINO: out of memory");
    }
    graph->ov = ov;
    graph->npu = is_npu(device);
    graph->compiled = compiled;
    snprintf(graph->name, sizeof graph->name, "%s", name);
    size_t inputs = 0, outputs = 0;
    ov_status_e status = ov->ov_compiled_model_inputs_size(compiled, &inputs);
    if (status == OK)
        status = ov->ov_compiled_model_outputs_size(compiled, &outputs);
    if (status == OK)
        status = ov->ov_compiled_model_create_infer_request(compiled, &graph->request);
    int r = 0;
    if (status != OK)
        r = fail_status(ov, OFR_EDEVICE, status, err, "cannot make a request for", name);
    if (r == 0)
        graph->ports = calloc(inputs + outputs, sizeof *graph->ports);
    if (r == 0 && !graph->ports)
        r = ofr_fail(err, OFR_ENOMEM, "OpenVINO: out of memory");
    for (size_t i = 0; i < inputs && r == 0; i++)
        r = add_port(graph, true, i, err);
    for (size_t i = 0; i < outputs && r == 0; i++)
        r = add_port(graph, false, i, err);
    if (r < 0)
        ofr_ov_graph_free(graph);
    else
        *ret_graph = graph;
    return r;
}

static int list_properties(const ofr_ov_compile *what,
                           ov_property_t ret_properties[OFR_OV_PROPERTIES_MAX], ofr_error *err)
{
    if (what->n_options > OFR_OV_PROPERTIES_MAX)
        return ofr_fail(err, OFR_EINVAL, "OpenVINO: too many options for %s", what->name);
    for (size_t i = 0; i < what->n_options; i++)
        ret_properties[i] = (ov_property_t){what->options[i].key, what->options[i].value};
    return 0;
}

int ofr_ov_graph_compile(ofr_ov *ov, const ofr_ov_compile *what, ofr_ov_graph **ret_graph,
                         ofr_error *err)
{
    int64_t size = (int64_t)what->weights_size;
    ov_shape_t shape = {0};
    ov_tensor_t *weights = NULL;
    ov_model_t *model = NULL;
    ov_compiled_model_t *compiled = NULL;
    ov_property_t properties[OFR_OV_PROPERTIES_MAX];
    int r = list_properties(what, properties, err);
    if (r < 0)
        return r;
    ov_status_e status = ov->ov_shape_create(1, &size, &shape);
    /* Read only, whatever the type says. */
    if (status == OK)
        status = ov->ov_tensor_create_from_host_ptr(U8, shape, (void *)(uintptr_t)what->weights,
                                                    &weights);
    size_t bytes = 0;
    if (status == OK && ov->ov_tensor_get_byte_size(weights, &bytes) == OK && bytes != (size_t)size)
        r = ofr_fail(err, OFR_EUNSUPPORTED,
                     "OpenVINO %s numbers its element types differently from the headers that "
                     "this program was built with",
                     ov->version);
    if (status == OK && r == 0)
        status = ov->ov_core_read_model_from_memory_buffer(ov->core, what->xml, what->xml_size,
                                                           weights, &model);
    if (status == OK && r == 0)
        status = ov->ov_core_compile_model_props(ov->core, model, what->device, what->n_options,
                                                 properties, &compiled);
    if (status != OK)
        r = fail_status(ov, OFR_EDEVICE, status, err, "cannot compile", what->name);
    if (model)
        ov->ov_model_free(model);
    if (weights)
        ov->ov_tensor_free(weights);
    ov->ov_shape_free(&shape);
    return r < 0 ? r : make_graph(ov, what->device, what->name, compiled, ret_graph, err);
}

int ofr_ov_graph_import(ofr_ov *ov, const ofr_ov_compile *what, void *blob, size_t blob_size,
                        ofr_ov_graph **ret_graph, ofr_error *err)
{
    ov_compiled_model_t *compiled = NULL;
    ov_property_t properties[OFR_OV_PROPERTIES_MAX];
    int r = list_properties(what, properties, err);
    /* Importing takes no options of its own, but those of the device. Without them a plug-in uses
     * its defaults: bf16 on a CPU that has it, and all cores. */
    ov_status_e status =
        r < 0 ? OK
              : ov->ov_core_set_properties(ov->core, what->device, what->n_options, properties);
    if (status == OK && r == 0)
        status = ov->ov_core_import_model(ov->core, blob, blob_size, what->device, &compiled);
    if (status != OK)
        r = fail_status(ov, OFR_EDEVICE, status, err, "cannot import", what->name);
    if (r == 0)
        r = make_graph(ov, what->device, what->name, compiled, ret_graph, err);
    if (r < 0)
        free(blob);
    else
        (*ret_graph)->blob = blob;
    return r;
}

int ofr_ov_graph_export(const ofr_ov_graph *graph, const char *path, ofr_error *err)
{
    ov_status_e status = graph->ov->ov_compiled_model_export_model(graph->compiled, path);
    return status == OK ? 0
                        : fail_status(graph->ov, OFR_EUNSUPPORTED, status, err, "cannot export",
                                      graph->name);
}

ofr_ov_graph *ofr_ov_graph_free(ofr_ov_graph *graph)
{
    if (!graph)
        return NULL;
    ofr_ov *ov = graph->ov;
    if (graph->request)
        ov->ov_infer_request_free(graph->request);
    for (size_t i = 0; i < graph->n_ports; i++) {
        if (graph->ports[i].tensor)
            ov->ov_tensor_free(graph->ports[i].tensor);
        ov->ov_shape_free(&graph->ports[i].shape);
        free(graph->ports[i].staging);
    }
    if (graph->compiled)
        ov->ov_compiled_model_free(graph->compiled);
    free(graph->blob);
    free(graph->ports);
    free(graph);
    return NULL;
}

int ofr_ov_graph_port(const ofr_ov_graph *graph, const char *name)
{
    for (size_t i = 0; i < graph->n_ports; i++)
        if (strcmp(graph->ports[i].name, name) == 0)
            return (int)i;
    return OFR_ENOENT;
}

/* An NPU takes a pointer without a copy where it lies in imported memory, or pointer and size are
 * whole pages; its plug-in copies any other, in silence. */
static bool taken_in_place(const ofr_ov_graph *graph, const void *data, size_t bytes)
{
    enum { PAGE = 4096 };
    const ofr_ov *ov = graph->ov;
    uintptr_t at = (uintptr_t)data;
    if (!graph->npu || (at % PAGE == 0 && bytes % PAGE == 0))
        return true;
    for (size_t i = 0; i < ov->n_imports; i++) {
        uintptr_t base = (uintptr_t)ov->imports[i].base;
        if (at >= base && at - base <= ov->imports[i].bytes &&
            bytes <= ov->imports[i].bytes - (at - base))
            return true;
    }
    return false;
}

static ov_status_e set_tensor(const ofr_ov_graph *graph, port *p, void *data)
{
    ofr_ov *ov = graph->ov;
    ov_tensor_t *tensor = NULL;
    ov_status_e status = ov->ov_tensor_create_from_host_ptr(p->type, p->shape, data, &tensor);
    if (status == OK)
        status =
            p->is_input
                ? ov->ov_infer_request_set_input_tensor_by_index(graph->request, p->index, tensor)
                : ov->ov_infer_request_set_output_tensor_by_index(graph->request, p->index, tensor);
    ov_tensor_t *former = status == OK ? p->tensor : tensor;
    if (status == OK)
        p->tensor = tensor;
    if (former)
        ov->ov_tensor_free(former);
    return status;
}

/* What the port holds; 0: it cannot be told. */
static size_t port_bytes(const ofr_ov_graph *graph, const port *p, const void *data)
{
    ofr_ov *ov = graph->ov;
    ov_tensor_t *tensor = NULL;
    size_t bytes = 0;
    if (ov->ov_tensor_create_from_host_ptr(p->type, p->shape, (void *)(uintptr_t)data, &tensor) !=
            OK ||
        ov->ov_tensor_get_byte_size(tensor, &bytes) != OK)
        bytes = 0;
    if (tensor)
        ov->ov_tensor_free(tensor);
    return bytes;
}

static int stage(ofr_ov_graph *graph, port *p, ov_status_e refusal, ofr_error *err)
{
    enum { PAGE = 4096 };
    if (posix_memalign(&p->staging, PAGE, (p->bytes + PAGE - 1) / PAGE * PAGE) != 0) {
        p->staging = NULL;
        return ofr_fail(err, OFR_ENOMEM, "graph %s: no %zu bytes to copy '%s' to", graph->name,
                        p->bytes, p->name);
    }
    if (set_tensor(graph, p, p->staging) == OK)
        return 0;
    free(p->staging);
    p->staging = NULL;
    return fail_status(graph->ov, OFR_EUNSUPPORTED, refusal, err, "cannot bind", p->name);
}

int ofr_ov_graph_bind(ofr_ov_graph *graph, int number, const void *data, size_t bytes,
                      ofr_error *err)
{
    if (number < 0 || (size_t)number >= graph->n_ports)
        return ofr_fail(err, OFR_EINTERNAL, "graph %s has no port %d", graph->name, number);
    port *p = &graph->ports[number];
    if (p->bound == data)
        return 0;
    if (!p->bytes)
        p->bytes = port_bytes(graph, p, data);
    if (p->bytes != bytes)
        return ofr_fail(err, OFR_EFORMAT, "graph %s: '%s' holds %zu bytes, not %zu", graph->name,
                        p->name, p->bytes, bytes);
    if (!p->staging) {
        ov_status_e status = set_tensor(graph, p, (void *)(uintptr_t)data);
        int r = status == OK ? 0 : stage(graph, p, status, err);
        if (r < 0)
            return r;
    }
    p->copied_inside = !p->staging && !taken_in_place(graph, data, bytes);
    p->bound = data;
    return 0;
}

int ofr_ov_graph_infer(ofr_ov_graph *graph, ofr_error *err)
{
    for (size_t i = 0; i < graph->n_ports; i++) {
        port *p = &graph->ports[i];
        if (p->staging && p->is_input)
            memcpy(p->staging, p->bound, p->bytes);
        if (p->staging || p->copied_inside)
            graph->copied += p->bytes;
    }
    ov_status_e status = graph->ov->ov_infer_request_infer(graph->request);
    if (status != OK)
        return fail_status(graph->ov, OFR_EDEVICE, status, err, "inference of", graph->name);
    for (size_t i = 0; i < graph->n_ports; i++) {
        port *p = &graph->ports[i];
        if (p->staging && !p->is_input)
            memcpy((void *)(uintptr_t)p->bound, p->staging, p->bytes);
    }
    return 0;
}

uint64_t ofr_ov_graph_copied(const ofr_ov_graph *graph)
{
    return graph->copied;
}

/* ---- memory ---- */

int ofr_ov_import_memory(ofr_ov *ov, const char *device, const void *base, size_t bytes,
                         ofr_error *err)
{
    if (!is_npu(device))
        return 0;
    for (size_t i = 0; i < ov->n_imports; i++)
        if (ov->imports[i].base == base)
            return 0;
    if (ov->n_imports == IMPORTS_MAX)
        return ofr_fail(err, OFR_ELIMIT, "OpenVINO: more than %d imported ranges", IMPORTS_MAX);
    ov_remote_context_t *context = NULL;
    ov_shape_t shape = {0};
    ov_tensor_t *tensor = NULL;
    int64_t size = (int64_t)bytes;
    ov_property_t properties[] = {{"MEM_TYPE", "CPU_VA"}, {"MEM_HANDLE", base}};
    ov_status_e status = ov->ov_core_get_default_context(ov->core, device, &context);
    if (status == OK)
        status = ov->ov_shape_create(1, &size, &shape);
    if (status == OK)
        status =
            ov->ov_remote_context_create_tensor_props(context, U8, shape, 2, properties, &tensor);
    ov->ov_shape_free(&shape);
    if (context)
        ov->ov_remote_context_free(context);
    if (status != OK)
        return fail_status(ov, OFR_EUNSUPPORTED, status, err, "cannot import memory for", device);
    ov->imports[ov->n_imports].base = base;
    ov->imports[ov->n_imports].bytes = bytes;
    ov->imports[ov->n_imports++].tensor = tensor;
    return 0;
}
