/* Fuzz target of the hub's answers: the description of a repository, addresses, names of files. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/http.h"
#include "bake_model/hub_listing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An origin that is accepted has a scheme of ours and nothing that could pass for another host. */
static void check_address(const char *text)
{
    char origin[300];
    if (!ofr_http_origin(text, origin, sizeof origin))
        return;
    if (strncmp(origin, "http://", 7) != 0 && strncmp(origin, "https://", 8) != 0)
        abort();
    if (strchr(origin, '@') || strlen(origin) >= sizeof origin)
        abort();
    (void)ofr_http_is_loopback(origin);
}

static void check_name(const char *name)
{
    char *escaped = ofr_http_escape_path(name);
    if (!escaped)
        return;
    if (strpbrk(escaped, "?# \r\n\\") || strlen(escaped) < strlen(name))
        abort(); /* it would not be a path */
    free(escaped);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_hub_listing listing = {0};
    ofr_error err;
    if (ofr_hub_listing_parse(&listing, "fuzz", (const char *)data, size, &err) == 0)
        for (size_t i = 0; i < listing.n; i++) {
            if (!listing.entries[i].name || listing.entries[i].size < -1)
                abort();
            check_name(listing.entries[i].name);
        }
    ofr_hub_listing_done(&listing);
    char *text = malloc(size + 1);
    if (text) {
        memcpy(text, data, size);
        text[size] = '\0';
        check_address(text);
        check_name(text);
    }
    free(text);
    return 0;
}
