/* Fuzz target: the body of a request to the server. The first byte says which endpoint. */
#include <stdint.h>

#include "supervisor/serve/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_api_request request = {0};
    ofr_api_error err = {0};
    if (size == 0)
        return 0;
    enum ofr_api api = (enum ofr_api)(data[0] % (OFR_API_DETOKENIZE + 1));
    if (ofr_api_request_parse(api, (const char *)data + 1, size - 1, 49152, &request, &err) == 0)
        ofr_api_request_done(&request);
    return 0;
}
