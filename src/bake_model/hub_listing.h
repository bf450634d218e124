/* What the hub says that a repository holds: the answer to
 * /api/models/ORG/NAME/revision/R?blobs=true.
 *
 *   {"sha": "<commit>", "siblings": [{"rfilename": "<path>", "size": n, "blobId": "<git sha1>",
 *                                     "lfs": {"size": n, "sha256": "<hex>"}}, ...]}
 *
 * All but "sha", "siblings" and "rfilename" may be absent. Nothing of it is trusted. Pure. */
#ifndef OFR_BAKE_MODEL_HUB_LISTING_H
#define OFR_BAKE_MODEL_HUB_LISTING_H

#include <stddef.h>
#include <stdint.h>

#include "base/sha256.h"

enum { OFR_HUB_COMMIT_SIZE = 128, OFR_HUB_MAX_ENTRIES = 100000, OFR_HUB_NAME_MAX = 400 };

typedef struct ofr_hub_entry {
    char *name;                       /* path in the repository, owned */
    int64_t size;                     /* -1: not stated */
    char sha256[OFR_SHA256_HEX_SIZE]; /* "": not stated */
    char sha1[41];                    /* of the git object of a small file; "": not stated */
} ofr_hub_entry;

typedef struct ofr_hub_listing {
    char commit[OFR_HUB_COMMIT_SIZE]; /* hexadecimal digits */
    ofr_hub_entry *entries;           /* [n], owned */
    size_t n;
} ofr_hub_listing;

/* Fills a zeroed listing; to be freed whatever the result. `path` is for errors. */
int ofr_hub_listing_parse(ofr_hub_listing *listing, const char *path, const char *text, size_t size,
                          ofr_error *err);
/* Accepts a zeroed object. */
void ofr_hub_listing_done(ofr_hub_listing *listing);

#endif
