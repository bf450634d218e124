/* SHA-256 over libcrypto's EVP interface, which picks the processor's own instructions where it
 * has them. */
#include "base/sha256.h"

#include <openssl/evp.h>
#include <stdlib.h>

#include "base/file.h"

enum { PIECE_BYTES = 1 << 20 };

int ofr_sha256_init(ofr_sha256 *sha, ofr_error *err)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(context);
        sha->context = NULL;
        return ofr_fail(err, OFR_ENOMEM, "cannot set up sha256");
    }
    sha->context = context;
    return 0;
}

int ofr_sha256_update(ofr_sha256 *sha, const void *data, size_t size, ofr_error *err)
{
    if (size > 0 && EVP_DigestUpdate(sha->context, data, size) != 1)
        return ofr_fail(err, OFR_EINTERNAL, "sha256 failed on %zu bytes", size);
    return 0;
}

int ofr_sha256_finish_hex(ofr_sha256 *sha, char ret_hex[OFR_SHA256_HEX_SIZE], ofr_error *err)
{
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (EVP_DigestFinal_ex(sha->context, digest, &size) != 1 || size != OFR_SHA256_BYTES)
        return ofr_fail(err, OFR_EINTERNAL, "sha256 could not be finished");
    for (unsigned i = 0; i < OFR_SHA256_BYTES; i++) {
        ret_hex[2 * i] = digits[digest[i] >> 4];
        ret_hex[2 * i + 1] = digits[digest[i] & 15];
    }
    ret_hex[2 * OFR_SHA256_BYTES] = '\0';
    return 0;
}

void ofr_sha256_done(ofr_sha256 *sha)
{
    EVP_MD_CTX_free(sha->context);
    sha->context = NULL;
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
