/* SHA-256, streaming, over libcrypto. A context belongs to one thread at a time. */
#ifndef OFR_BASE_SHA256_H
#define OFR_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    OFR_SHA256_BYTES = 32,
    OFR_SHA256_HEX_SIZE = 65, /* with the NUL */
    OFR_SHA256_STATE_SIZE = 2 * (32 + 8 + 63) + 1,
};

typedef struct ofr_sha256 {
    void *context; /* libcrypto's SHA256_CTX, owned */
} ofr_sha256;

int ofr_sha256_init(ofr_sha256 *sha, ofr_error *err);
int ofr_sha256_update(ofr_sha256 *sha, const void *data, size_t size, ofr_error *err);
/* Writes 64 lower-case hex digits and a NUL. Afterwards only ofr_sha256_done may be called. */
int ofr_sha256_finish_hex(ofr_sha256 *sha, char ret_hex[OFR_SHA256_HEX_SIZE], ofr_error *err);
/* Accepts a zeroed object and one that was done already. */
void ofr_sha256_done(ofr_sha256 *sha);

/* The state as text, to go on in another process: the eight words of the hash, the count of bytes,
 * and the bytes of the unfinished block, all in hex. Import takes a zeroed object and refuses text
 * that no export has written. */
void ofr_sha256_export(const ofr_sha256 *sha, char ret_text[OFR_SHA256_STATE_SIZE]);
int ofr_sha256_import(ofr_sha256 *sha, const char *text, ofr_error *err);

/* The checksum of memory in one call. */
int ofr_sha256_hex(const void *data, size_t size, char ret_hex[OFR_SHA256_HEX_SIZE],
                   ofr_error *err);

/* The checksum of the bytes [offset, offset + size) of an open file, read in pieces. `path` is only
 * for errors. `on_bytes` (may be NULL) is called after each piece with the bytes of that piece; a
 * negative return value ends the call and is returned. A file that ends early is OFR_EFORMAT. */
typedef int (*ofr_sha256_on_bytes)(void *context, size_t bytes, ofr_error *err);
int ofr_sha256_file(int fd, const char *path, uint64_t offset, uint64_t size,
                    ofr_sha256_on_bytes on_bytes, void *context, char ret_hex[OFR_SHA256_HEX_SIZE],
                    ofr_error *err);

#endif
