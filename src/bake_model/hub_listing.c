/* Parses the hub's description of a repository. */
#include "bake_model/hub_listing.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_hex(const char *text, size_t size)
{
    return text && strlen(text) == size && strspn(text, "0123456789abcdef") == size;
}

/* Entries without a usable name are passed over: no file of a model has such a one. */
static int add_entry(ofr_hub_listing *listing, const json_t *json, ofr_error *err)
{
    const char *name = json_string_value(json_object_get(json, "rfilename"));
    const json_t *lfs = json_object_get(json, "lfs"), *size = json_object_get(json, "size");
    const char *sha256 = json_string_value(json_object_get(lfs, "sha256"));
    const char *sha1 = json_string_value(json_object_get(json, "blobId"));
    if (!sha256)
        sha256 = json_string_value(json_object_get(lfs, "oid"));
    if (!name || !*name || strlen(name) >= OFR_HUB_NAME_MAX)
        return 0;
    ofr_hub_entry *entry = &listing->entries[listing->n];
    *entry = (ofr_hub_entry){.name = strdup(name), .size = -1};
    if (!entry->name)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    listing->n++;
    if (json_is_integer(size) && json_integer_value(size) >= 0)
        entry->size = json_integer_value(size);
    if (is_hex(sha256, 64))
        memcpy(entry->sha256, sha256, 65);
    if (!lfs && is_hex(sha1, 40))
        memcpy(entry->sha1, sha1, 41);
    return 0;
}

int ofr_hub_listing_parse(ofr_hub_listing *listing, const char *path, const char *text, size_t size,
                          ofr_error *err)
{
    json_error_t problem;
    json_t *root = json_loadb(text, size, 0, &problem);
    const char *sha = json_string_value(json_object_get(root, "sha"));
    const json_t *siblings = json_object_get(root, "siblings");
    size_t n = json_array_size(siblings), length = sha ? strlen(sha) : 0;
    int r = 0;
    if (length == 0 || length >= sizeof listing->commit ||
        strspn(sha, "0123456789abcdefABCDEF") != length || !json_is_array(siblings) ||
        n > OFR_HUB_MAX_ENTRIES)
        r = ofr_fail(err, OFR_EPROTOCOL, "%s answered with what is no description of a model",
                     path);
    else
        memcpy(listing->commit, sha, length + 1);
    if (r == 0 && !(listing->entries = calloc(n + 1, sizeof *listing->entries)))
        r = ofr_fail(err, OFR_ENOMEM, "out of memory");
    for (size_t i = 0; i < n && r == 0; i++)
        r = add_entry(listing, json_array_get(siblings, i), err);
    json_decref(root);
    return r;
}

void ofr_hub_listing_done(ofr_hub_listing *listing)
{
    for (size_t i = 0; i < listing->n; i++)
        free(listing->entries[i].name);
    free(listing->entries);
    *listing = (ofr_hub_listing){0};
}
