/* Files of KV: writing, finding, checking and reading them. */
#include "executive_shard/kv_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/sha256.h"

enum { PIECE_BYTES = 1 << 20, FILES_MAX = 4096, NAME_PACKAGE = 16, NAME_TOKENS = 32 };

typedef struct cache_file {
    char name[256];
    uint64_t bytes;
    struct timespec used;
} cache_file;

/* Where bytes go: into a file and a checksum. */
typedef struct sink {
    int fd;
    uint64_t at;
    ofr_sha256 sha;
} sink;

static int put(sink *s, const char *path, const void *data, size_t size, ofr_error *err)
{
    int r = ofr_sha256_update(&s->sha, data, size, err);
    if (r == 0)
        r = ofr_file_pwrite(s->fd, path, data, size, s->at, err);
    s->at += size;
    return r;
}

static uint64_t padded_tokens(uint32_t n)
{
    return ((uint64_t)n * 4 + 63) / 64 * 64;
}

static uint64_t payload_bytes(const ofr_kv_layout *layout, uint32_t n)
{
    return padded_tokens(n) + 2 * (uint64_t)layout->n_layers * layout->row_bytes * n;
}

/* Offset of strip `index` of a slot in the arena: K and V of the layers in turn. */
static uint64_t strip_at(const ofr_kv_layout *layout, uint32_t slot, uint32_t index)
{
    return index % 2 ? ofr_kv_strip_v(layout, slot, index / 2)
                     : ofr_kv_strip_k(layout, slot, index / 2);
}

static int put_strips(const ofr_kv_cache *cache, uint32_t slot, uint32_t n, sink *s,
                      const char *path, ofr_error *err)
{
    char *piece = malloc(PIECE_BYTES);
    int r = piece ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory to keep KV");
    for (uint32_t i = 0; i < 2 * cache->layout->n_layers && r == 0; i++) {
        uint64_t left = cache->layout->row_bytes * n, at = strip_at(cache->layout, slot, i);
        while (left > 0 && r == 0) {
            size_t size = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
            r = ofr_file_pread(cache->kv_fd, "KV arena", piece, size, at, err);
            if (r == 0)
                r = put(s, path, piece, size, err);
            left -= size;
            at += size;
        }
    }
    free(piece);
    return r;
}

static ofr_kv_cache_header header_of(const ofr_kv_cache *cache, uint32_t n)
{
    ofr_kv_cache_header header = {
        .magic = OFR_KV_CACHE_MAGIC,
        .version = OFR_KV_CACHE_VERSION,
        .layout_version = cache->layout->version,
        .n_layers = cache->layout->n_layers,
        .n_kv_heads = cache->layout->n_kv_heads,
        .head_dim = cache->layout->head_dim,
        .element_bytes = 2,
        .n_tokens = n,
        .payload_bytes = payload_bytes(cache->layout, n),
    };
    memcpy(header.fingerprint, cache->fingerprint, sizeof header.fingerprint);
    return header;
}

static int write_payload(const ofr_kv_cache *cache, uint32_t slot, const int32_t *tokens,
                         uint32_t n, sink *s, const char *path, ofr_error *err)
{
    static const char zeros[64];
    ofr_kv_cache_header header = header_of(cache, n);
    char hex[OFR_SHA256_HEX_SIZE];
    int r = put(s, path, tokens, (size_t)n * 4, err);
    if (r == 0)
        r = put(s, path, zeros, (size_t)(padded_tokens(n) - (uint64_t)n * 4), err);
    if (r == 0)
        r = put_strips(cache, slot, n, s, path, err);
    if (r == 0)
        r = ofr_sha256_finish_hex(&s->sha, hex, err);
    if (r == 0) {
        memcpy(header.sha256, hex, sizeof header.sha256);
        r = ofr_file_pwrite(s->fd, path, &header, sizeof header, 0, err);
    }
    return r;
}

/* "<package>-<tokens>.kv" */
static int name_of(const ofr_kv_cache *cache, const int32_t *tokens, uint32_t n, char *ret_name,
                   size_t size, ofr_error *err)
{
    char hex[OFR_SHA256_HEX_SIZE];
    int r = ofr_sha256_hex(tokens, (size_t)n * 4, hex, err);
    if (r == 0)
        snprintf(ret_name, size, "%.*s-%.*s.kv", NAME_PACKAGE, cache->fingerprint, NAME_TOKENS,
                 hex);
    return r;
}

static int save_slot(const ofr_kv_cache *cache, uint32_t slot, const int32_t *tokens, uint32_t n,
                     ofr_error *err)
{
    char name[128];
    int r = name_of(cache, tokens, n, name, sizeof name, err);
    char *path = r == 0 ? ofr_path_join(cache->directory, name) : NULL;
    char *partial = r == 0 ? ofr_path_join(cache->directory, ".partial") : NULL;
    if (r == 0 && (!path || !partial))
        r = ofr_fail(err, OFR_ENOMEM, "no memory for a path");
    if (r == 0 && utimensat(AT_FDCWD, path, NULL, 0) < 0) { /* not there yet */
        sink s = {.fd = open(partial, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600),
                  .at = OFR_KV_CACHE_HEADER_BYTES};
        r = s.fd < 0 ? ofr_fail_errno(err, errno, "%s: cannot write", partial)
                     : ofr_sha256_init(&s.sha, err);
        if (r == 0)
            r = write_payload(cache, slot, tokens, n, &s, partial, err);
        ofr_sha256_done(&s.sha);
        if (s.fd >= 0)
            close(s.fd);
        if (r == 0 && rename(partial, path) < 0)
            r = ofr_fail_errno(err, errno, "%s: cannot rename", partial);
        if (r < 0)
            unlink(partial);
    }
    free(partial);
    free(path);
    return r;
}

static int by_age(const void *a, const void *b)
{
    const cache_file *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? 1 : -1;
    if (x->used.tv_nsec != y->used.tv_nsec)
        return x->used.tv_nsec < y->used.tv_nsec ? 1 : -1;
    return strcmp(x->name, y->name);
}

/* All files of the directory, the one used last first. */
static int list_files(const char *directory, cache_file **ret_files, size_t *ret_n, ofr_error *err)
{
    DIR *opened = opendir(directory);
    if (!opened)
        return ofr_fail_errno(err, errno, "%s: cannot list", directory);
    cache_file *files = calloc(FILES_MAX, sizeof *files);
    size_t n = 0;
    struct dirent *entry;
    while (files && n < FILES_MAX && (entry = readdir(opened)) != NULL) {
        size_t length = strlen(entry->d_name);
        struct stat info;
        if (length < 4 || length >= sizeof files->name ||
            strcmp(entry->d_name + length - 3, ".kv") != 0 ||
            fstatat(dirfd(opened), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISREG(info.st_mode))
            continue;
        memcpy(files[n].name, entry->d_name, length + 1);
        files[n].bytes = (uint64_t)info.st_size;
        files[n++].used = info.st_mtim;
    }
    closedir(opened);
    if (!files)
        return ofr_fail(err, OFR_ENOMEM, "no memory to list %s", directory);
    qsort(files, n, sizeof *files, by_age);
    *ret_files = files;
    *ret_n = n;
    return 0;
}

static int remove_file(const char *directory, const char *name, ofr_error *err)
{
    char *path = ofr_path_join(directory, name);
    if (!path)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a path");
    int r = unlink(path) < 0 && errno != ENOENT ? ofr_fail_errno(err, errno, "%s", path) : 0;
    free(path);
    return r;
}

static int prune(const ofr_kv_cache *cache, ofr_error *err)
{
    cache_file *files = NULL;
    size_t n = 0;
    uint64_t total = 0;
    int r = list_files(cache->directory, &files, &n, err);
    for (size_t i = 0; i < n && r == 0; i++) {
        total += files[i].bytes;
        if (total > cache->max_bytes) {
            total -= files[i].bytes;
            r = remove_file(cache->directory, files[i].name, err);
        }
    }
    free(files);
    return r;
}

/* Is tokens [n] the beginning of what another slot holds? Of two that are the same, the first. */
static bool is_covered(int32_t *const *tokens, const uint32_t *n, uint32_t n_slots, uint32_t slot)
{
    for (uint32_t i = 0; i < n_slots; i++)
        if (i != slot && (n[i] > n[slot] || (n[i] == n[slot] && i < slot)) &&
            memcmp(tokens[i], tokens[slot], (size_t)n[slot] * 4) == 0)
            return true;
    return false;
}

int ofr_kv_cache_save(const ofr_kv_cache *cache, uint64_t *ret_tokens, ofr_error *err)
{
    uint32_t n_slots = cache->layout->n_slots;
    int32_t **tokens = calloc(n_slots, sizeof *tokens);
    uint32_t *n = calloc(n_slots, sizeof *n);
    uint64_t kept = 0, bytes = 0;
    int r = tokens && n ? ofr_directory_make(cache->directory, 0700, err)
                        : ofr_fail(err, OFR_ENOMEM, "no memory to keep KV");
    for (uint32_t i = 0; i < n_slots && r == 0; i++)
        r = ofr_slot_ledger_read(cache->ledger, cache->ledger_fd, i, &tokens[i], &n[i], err);
    for (uint32_t i = 0; i < n_slots && r == 0; i++) {
        uint64_t more = OFR_KV_CACHE_HEADER_BYTES + payload_bytes(cache->layout, n[i]);
        if (n[i] < OFR_KV_CACHE_TOKENS_MIN || more > cache->max_bytes - bytes ||
            is_covered(tokens, n, n_slots, i))
            continue;
        r = save_slot(cache, i, tokens[i], n[i], err);
        bytes += more;
        kept += n[i];
    }
    if (r == 0)
        r = prune(cache, err);
    for (uint32_t i = 0; tokens && i < n_slots; i++)
        free(tokens[i]);
    free(tokens);
    free(n);
    if (r == 0)
        *ret_tokens = kept;
    return r;
}

/* The header says what it should, and the bytes after it are those of its checksum. */
static bool is_good(const ofr_kv_cache *cache, int fd, const char *path, uint64_t size,
                    ofr_kv_cache_header *ret_header)
{
    ofr_kv_cache_header found, expected;
    char hex[OFR_SHA256_HEX_SIZE];
    if (size < sizeof found || ofr_file_pread(fd, path, &found, sizeof found, 0, NULL) < 0 ||
        found.n_tokens == 0 || found.n_tokens > cache->layout->context)
        return false;
    expected = header_of(cache, found.n_tokens);
    memcpy(expected.sha256, found.sha256, sizeof expected.sha256);
    if (memcmp(&expected, &found, sizeof found) != 0 ||
        size - sizeof found != expected.payload_bytes ||
        ofr_sha256_file(fd, path, sizeof found, expected.payload_bytes, NULL, NULL, hex, NULL) < 0)
        return false;
    *ret_header = found;
    return memcmp(hex, found.sha256, sizeof found.sha256) == 0;
}

static int read_strips(const ofr_kv_cache *cache, int fd, const char *path, uint32_t slot,
                       uint32_t n, ofr_error *err)
{
    char *piece = malloc(PIECE_BYTES);
    uint64_t from = OFR_KV_CACHE_HEADER_BYTES + padded_tokens(n);
    int r = piece ? 0 : ofr_fail(err, OFR_ENOMEM, "no memory to read KV");
    for (uint32_t i = 0; i < 2 * cache->layout->n_layers && r == 0; i++) {
        uint64_t left = cache->layout->row_bytes * n, at = strip_at(cache->layout, slot, i);
        while (left > 0 && r == 0) {
            size_t size = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
            r = ofr_file_pread(fd, path, piece, size, from, err);
            if (r == 0)
                r = ofr_file_pwrite(cache->kv_fd, "KV arena", piece, size, at, err);
            left -= size;
            from += size;
            at += size;
        }
    }
    free(piece);
    return r;
}

/* *ret_n stays 0 where the file cannot be used; it is removed then. */
static int load_file(const ofr_kv_cache *cache, const char *name, uint32_t slot, uint32_t *ret_n,
                     ofr_error *err)
{
    ofr_kv_cache_header header;
    uint64_t size = 0;
    int fd = -1;
    char *path = ofr_path_join(cache->directory, name);
    int r = path ? ofr_file_open_read(path, &fd, &size, err)
                 : ofr_fail(err, OFR_ENOMEM, "no memory for a path");
    if (r == 0 && is_good(cache, fd, path, size, &header)) {
        uint32_t n = header.n_tokens;
        int32_t *tokens = malloc((size_t)n * 4);
        r = tokens ? ofr_file_pread(fd, path, tokens, (size_t)n * 4, OFR_KV_CACHE_HEADER_BYTES, err)
                   : ofr_fail(err, OFR_ENOMEM, "no memory for %u tokens", n);
        if (r == 0)
            r = read_strips(cache, fd, path, slot, n, err);
        if (r == 0)
            r = ofr_slot_ledger_write(cache->ledger, cache->ledger_fd, slot, tokens, n, err);
        if (r == 0)
            *ret_n = n;
        free(tokens);
    } else if (r == 0) {
        r = remove_file(cache->directory, name, err);
    }
    if (fd >= 0)
        close(fd);
    free(path);
    return r;
}

int ofr_kv_cache_load(const ofr_kv_cache *cache, uint64_t *ret_tokens, ofr_error *err)
{
    cache_file *files = NULL;
    size_t n = 0;
    uint32_t slot = 0;
    uint64_t tokens = 0;
    int r = ofr_directory_make(cache->directory, 0700, err);
    if (r == 0)
        r = list_files(cache->directory, &files, &n, err);
    for (size_t i = 0; i < n && r == 0 && slot < cache->layout->n_slots; i++) {
        uint32_t here = 0;
        if (strncmp(files[i].name, cache->fingerprint, NAME_PACKAGE) != 0)
            continue;
        r = load_file(cache, files[i].name, slot, &here, err);
        slot += here > 0;
        tokens += here;
    }
    free(files);
    if (r == 0)
        *ret_tokens = tokens;
    return r;
}
