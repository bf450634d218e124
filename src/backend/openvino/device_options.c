/* Options per device, each probed before it is used. */
#include "backend/openvino/device_options.h"

#include <string.h>

enum { CPU = 1 << 0, GPU = 1 << 1, NPU = 1 << 2 };

static unsigned kind_of(const char *device)
{
    if (strncmp(device, "NPU", 3) == 0)
        return NPU;
    return strncmp(device, "GPU", 3) == 0 ? GPU : CPU;
}

size_t ofr_openvino_device_options(ofr_ov *ov, const char *device, const char *precision,
                                   const char *threads,
                                   ofr_ov_option ret_options[OFR_OPENVINO_OPTIONS_MAX])
{
    const struct {
        unsigned devices;
        ofr_ov_option option;
    } wanted[] = {
        {CPU | GPU | NPU, {"PERFORMANCE_HINT", "LATENCY"}},
        {CPU | GPU, {"NUM_STREAMS", "1"}},
        {CPU | GPU | NPU, {"INFERENCE_PRECISION_HINT", precision}},
        {CPU, {"INFERENCE_NUM_THREADS", threads}},
        /* Workers share the CPU's cores with other devices' workers: the system places threads. */
        {CPU, {"ENABLE_CPU_PINNING", "NO"}},
        /* The plug-in may default to a compiler of its own that is not in every installation. */
        {NPU, {"NPU_COMPILER_TYPE", ofr_ov_has_npu_compiler(ov) ? "" : "DRIVER"}},
        /* Without it, grouped weights that are inputs are expanded before each inference. */
        {NPU, {"NPU_COMPILER_DYNAMIC_QUANTIZATION", "YES"}},
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        const ofr_ov_option *option = &wanted[i].option;
        if ((wanted[i].devices & kind_of(device)) && option->value[0] &&
            ofr_ov_supports(ov, device, option->key))
            ret_options[n++] = *option;
    }
    return n;
}
