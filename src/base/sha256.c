/* SHA-256 over libcrypto. The low-level context is used, not EVP: only its state can be saved and
 * taken up by another process, which a bake that was interrupted needs. It picks the processor's
 * own instructions all the same. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "base/sha256.h"

#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { PIECE_BYTES = 1 << 20 };

int ofr_sha256_init(ofr_sha256 *sha, ofr_error *err)
{
    sha->context = malloc(sizeof(SHA256_CTX));
    if (!sha->context || SHA256_Init(sha->context) != 1) {
        ofr_sha256_done(sha);
        return ofr_fail(err, OFR_ENOMEM, "cannot set up sha256");
    }
    return 0;
}

int ofr_sha256_update(ofr_sha256 *sha, const void *data, size_t size, ofr_error *err)
{
    if (size > 0 && SHA256_Update(sha->context, data, size) != 1)
        return ofr_fail(err, OFR_EINTERNAL, "sha256 failed on %zu bytes", size);
    return 0;
}

int ofr_sha256_finish_hex(ofr_sha256 *sha, char ret_hex[OFR_SHA256_HEX_SIZE], ofr_error *err)
{
    unsigned char digest[OFR_SHA256_BYTES];
    if (SHA256_Final(digest, sha->context) != 1)
        return ofr_fail(err, OFR_EINTERNAL, "sha256 could not be finished");
    for (unsigned i = 0; i < OFR_SHA256_BYTES; i++)
        snprintf(ret_hex + 2 * (size_t)i, 3, "%02x", digest[i]);
    return 0;
}

void ofr_sha256_done(ofr_sha256 *sha)
{
    free(sha->context);
    sha->context = NULL;
}

void ofr_sha256_export(const ofr_sha256 *sha, char ret_text[OFR_SHA256_STATE_SIZE])
{
    const SHA256_CTX *c = sha->context;
    char *at = ret_text;
    for (int i = 0; i < 8; i++)
        at += snprintf(at, 9, "%08x", (unsigned)c->h[i]);
    unsigned long long bytes = ((unsigned long long)c->Nh << 32 | c->Nl) / 8;
    at += snprintf(at, 17, "%016llx", bytes);
    const unsigned char *block = (const unsigned char *)c->data;
    for (unsigned i = 0; i < c->num; i++)
        at += snprintf(at, 3, "%02x", block[i]);
}

int ofr_sha256_import(ofr_sha256 *sha, const char *text, ofr_error *err)
{
    size_t size = strlen(text);
    unsigned pending = size >= 80 ? (unsigned)(size - 80) / 2 : 0;
    if (size < 80 || size % 2 != 0 || pending > 63 || strspn(text, "0123456789abcdef") != size)
        return ofr_fail(err, OFR_EFORMAT, "this is not the state of a sha256");
    int r = ofr_sha256_init(sha, err);
    if (r < 0)
        return r;
    SHA256_CTX *c = sha->context;
    for (int i = 0; i < 8; i++) {
        unsigned word = 0;
        sscanf(text + 8 * (size_t)i, "%8x", &word);
        c->h[i] = word;
    }
    unsigned long long bytes = 0;
    sscanf(text + 64, "%16llx", &bytes);
    if (bytes % 64 != pending || bytes > 1ULL << 60) {
        ofr_sha256_done(sha);
        return ofr_fail(err, OFR_EFORMAT, "this is not the state of a sha256");
    }
    c->Nl = (SHA_LONG)(bytes * 8);
    c->Nh = (SHA_LONG)(bytes * 8 >> 32);
    c->num = pending;
    unsigned char *block = (unsigned char *)c->data;
    for (unsigned i = 0; i < pending; i++) {
        unsigned byte = 0;
        sscanf(text + 80 + 2 * (size_t)i, "%2x", &byte);
        block[i] = (unsigned char)byte;
    }
    return 0;
}

int ofr_sha256_hex(const void *data, size_t size, char ret_hex[OFR_SHA256_HEX_SIZE], ofr_error *err)
{
    ofr_sha256 sha;
    int r = ofr_sha256_init(&sha, err);
    if (r < 0)
        return r;
    r = ofr_sha256_update(&sha, data, size, err);
    if (r == 0)
        r = ofr_sha256_finish_hex(&sha, ret_hex, err);
    ofr_sha256_done(&sha);
    return r;
}

int ofr_sha256_file(int fd, const char *path, uint64_t offset, uint64_t size,
                    ofr_sha256_on_bytes on_bytes, void *context, char ret_hex[OFR_SHA256_HEX_SIZE],
                    ofr_error *err)
{
    void *piece = malloc(PIECE_BYTES);
    if (!piece)
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", path);
    ofr_sha256 sha;
    int r = ofr_sha256_init(&sha, err);
    while (r == 0 && size > 0) {
        size_t n = size < PIECE_BYTES ? (size_t)size : PIECE_BYTES;
        r = ofr_file_pread(fd, path, piece, n, offset, err);
        if (r == 0)
            r = ofr_sha256_update(&sha, piece, n, err);
        if (r == 0 && on_bytes)
            r = on_bytes(context, n, err);
        offset += n;
        size -= n;
    }
    if (r == 0)
        r = ofr_sha256_finish_hex(&sha, ret_hex, err);
    ofr_sha256_done(&sha);
    free(piece);
    return r;
}
