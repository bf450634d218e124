/* Fuzz target: a client's control message. */
#include <stdint.h>

#include "executive_shard/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_control_request request;
    ofr_error err;
    ofr_control_request_parse(data, size, &request, &err);
    return 0;
}
