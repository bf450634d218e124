/* Compiled graphs on disk: what a plug-in exported, under a key that names everything it depends on
 * (device, driver, OpenVINO, graph, options).
 *
 * A file is: "OFRBLOB1", the content's size as u64 little-endian, its sha256 as 64 hex digits, 48
 * zero bytes, the content. An entry whose size or checksum is wrong is removed and counts as
 * absent. No failure of the cache is fatal to its user. Any thread; entries appear under their name
 * in one rename. */
#ifndef OFR_BACKEND_OPENVINO_BLOB_CACHE_H
#define OFR_BACKEND_OPENVINO_BLOB_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { OFR_BLOB_HEADER_BYTES = 128 };
#define OFR_BLOB_CACHE_BUDGET (UINT64_C(2) << 30)

/* $XDG_CACHE_HOME/offering/blobs or ~/.cache/offering/blobs, malloc'ed, made if need be; NULL:
 * there is no place for it. */
char *ofr_blob_cache_directory(void);

/* `key` is a hex digest. OFR_ENOENT: no (good) entry. *ret_data is malloc'ed. */
int ofr_blob_cache_get(const char *directory, const char *key, void **ret_data, size_t *ret_size,
                       ofr_error *err);
/* Stores, then removes the entries that were used longest ago until all fit into `budget`. */
int ofr_blob_cache_put(const char *directory, const char *key, const void *data, size_t size,
                       uint64_t budget, ofr_error *err);

#endif
