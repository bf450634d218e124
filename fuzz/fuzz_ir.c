/* Fuzz target of the reader and the check of OpenVINO IR. */
#include <stdint.h>
#include <string.h>

#include "graph/ir_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_finding(void *user, const ofr_ir_finding *finding)
{
    size_t *bytes = user;
    *bytes += strlen(finding->node) + strlen(finding->what);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t bytes = 0;
    for (int kind = OFR_IR_CHECK_FOLDED; kind <= OFR_IR_CHECK_STATEFUL; kind++) {
        ofr_ir_check_options options = {.kind = (enum ofr_ir_check_kind)kind,
                                        .binary_bytes = 4096,
                                        .report = on_finding,
                                        .user = &bytes};
        ofr_error err;
        ofr_ir_check((const char *)data, size, &options, &err);
    }
    return bytes == SIZE_MAX;
}
