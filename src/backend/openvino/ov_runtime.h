/* OpenVINO as this project uses it: its C library opened at run time, graphs compiled for a device,
 * memory bound to their inputs and outputs by pointer.
 *
 * Only ov_runtime.c includes OpenVINO's headers. Loading the library, listing devices and compiling
 * load drivers that can abort the process: call these in worker processes or children only.
 *
 * A runtime and its graphs belong to one thread at a time. Graphs are freed before their runtime.
 */
#ifndef OFR_BACKEND_OPENVINO_OV_RUNTIME_H
#define OFR_BACKEND_OPENVINO_OV_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { OFR_OV_OLDEST_YEAR = 2025, OFR_OV_PROPERTIES_MAX = 16 };

typedef struct ofr_ov ofr_ov;

/* `library` NULL: $OFFERING_OPENVINO_LIBRARY, else that of venv_offering, else the system's.
 * OFR_EUNSUPPORTED: not found, not usable, or older than OFR_OV_OLDEST_YEAR. */
int ofr_ov_open(const char *library, ofr_ov **ret_ov, ofr_error *err);
ofr_ov *ofr_ov_close(ofr_ov *ov); /* accepts NULL */
/* "2026.4.1-..." */
const char *ofr_ov_version(const ofr_ov *ov);

/* Devices that OpenVINO sees, comma-separated: "CPU,GPU,NPU". */
int ofr_ov_devices(ofr_ov *ov, char *ret_names, size_t size, ofr_error *err);
/* A device's property as text. */
int ofr_ov_property(ofr_ov *ov, const char *device, const char *key, char *ret_text, size_t size,
                    ofr_error *err);
bool ofr_ov_supports(ofr_ov *ov, const char *device, const char *key);
/* Is the NPU plug-in's own compiler installed beside the library? */
bool ofr_ov_has_npu_compiler(const ofr_ov *ov);

typedef struct ofr_ov_option {
    const char *key, *value;
} ofr_ov_option;

typedef struct ofr_ov_graph ofr_ov_graph;

/* Compiles IR text whose constants lie in `weights` [weights_size], borrowed until the graph is
 * freed, and makes one inference request. */
typedef struct ofr_ov_compile {
    const char *device;
    const char *name; /* of the graph, for errors */
    const char *xml;
    size_t xml_size;
    const void *weights;
    size_t weights_size;
    const ofr_ov_option *options;
    size_t n_options;
} ofr_ov_compile;
int ofr_ov_graph_compile(ofr_ov *ov, const ofr_ov_compile *what, ofr_ov_graph **ret_graph,
                         ofr_error *err);
/* Likewise from what ofr_ov_graph_export wrote; of `what` device, name and options count. Takes
 * over `blob`, which is malloc'ed, also on error: plug-ins use constants in it in place. */
int ofr_ov_graph_import(ofr_ov *ov, const ofr_ov_compile *what, void *blob, size_t blob_size,
                        ofr_ov_graph **ret_graph, ofr_error *err);
int ofr_ov_graph_export(const ofr_ov_graph *graph, const char *path, ofr_error *err);
ofr_ov_graph *ofr_ov_graph_free(ofr_ov_graph *graph); /* accepts NULL */

/* The number of an input or output by name; negative: there is none. */
int ofr_ov_graph_port(const ofr_ov_graph *graph, const char *name);
/* Binds memory to a port until the next binding: the graph reads or writes it in place. `bytes`
 * must be what the port holds. Inputs are only read. Where the plug-in refuses the pointer, the
 * graph works in memory of its own, and each inference copies. */
int ofr_ov_graph_bind(ofr_ov_graph *graph, int port, const void *data, size_t bytes,
                      ofr_error *err);
int ofr_ov_graph_infer(ofr_ov_graph *graph, ofr_error *err);
/* Bytes copied since the graph was made: where the plug-in refused a pointer, or is known to copy
 * from one like it. */
uint64_t ofr_ov_graph_copied(const ofr_ov_graph *graph);

/* Imports a range of host memory once, whole, so that pointers into it are used in place by devices
 * with an address space of their own. 0 also where the device needs no import. */
int ofr_ov_import_memory(ofr_ov *ov, const char *device, const void *base, size_t bytes,
                         ofr_error *err);

#endif
