/* Fuzz target of the package reader: model.json with its checksum mended, so that the values behind
 * it are reached. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "package/package_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_text(const char *text, size_t size)
{
    ofr_package_description description;
    ofr_error err;
    if (ofr_package_json_read("fuzz", text, size, &description, &err) < 0)
        return;
    /* What is accepted can be written, and read again. */
    char *again;
    size_t again_size;
    if (ofr_package_json_write(&description, NULL, &again, &again_size, &err) < 0)
        abort();
    ofr_package_description second;
    if (ofr_package_json_read("fuzz", again, again_size, &second, &err) < 0)
        abort();
    if (second.n_tensors != description.n_tensors ||
        memcmp(&second.params, &description.params, sizeof second.params) != 0)
        abort();
    free(again);
    ofr_package_description_done(&second);
    ofr_package_description_done(&description);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char prefix[] = "{\n  \"checksum\": \"";
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    read_text(text, size);
    if (size > sizeof prefix - 1 + 64) {
        char hex[OFR_SHA256_HEX_SIZE];
        memcpy(text, prefix, sizeof prefix - 1);
        memset(text + sizeof prefix - 1, '0', 64);
        if (ofr_sha256_hex(text, size, hex, NULL) == 0)
            memcpy(text + sizeof prefix - 1, hex, 64);
        read_text(text, size);
    }
    free(text);
    return 0;
}
