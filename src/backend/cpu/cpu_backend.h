/* The CPU backend: INT4/INT8 weights read in place from the package, activations quantized to int8
 * per group, KV strips in fp16. Kernels are chosen at run time by instruction set.
 *
 * Names for ofr_backend_options.kernels: "generic", "avx2", "avx-vnni", "avx512-vnni". Asking for
 * one that this CPU lacks is OFR_EUNSUPPORTED with the list of those it has. */
#ifndef OFR_BACKEND_CPU_CPU_BACKEND_H
#define OFR_BACKEND_CPU_CPU_BACKEND_H

#include "base/cpu_features.h"
#include "engine/backend.h"

/* The table; static const, valid for ever. */
const ofr_backend *ofr_cpu_backend(void);

/* The kernel sets a CPU can run, best first: names into ret_names, their number as the result. */
uint32_t ofr_cpu_kernel_names(const ofr_cpu_features *features, const char **ret_names,
                              uint32_t capacity);

#endif
