/* Files and directories: mappings, whole small files, atomic replacement, paths.
 *
 * All descriptors are close-on-exec. Errors name the path. Functions keep no state; any thread may
 * call them. */
#ifndef OFR_BASE_FILE_H
#define OFR_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/status.h"

/* A read-only, shared mapping of a whole regular file. `data` is NULL for an empty file. */
typedef struct ofr_file_map {
    const void *data;
    size_t size;
    int fd; /* stays open until ofr_file_map_close; -1: none */
} ofr_file_map;
#define OFR_FILE_MAP_EMPTY                                                                         \
    {                                                                                              \
        .data = NULL, .size = 0, .fd = -1                                                          \
    }

/* Anything but a regular file is refused. */
int ofr_file_map_open(const char *path, ofr_file_map *ret_map, ofr_error *err);
/* Accepts OFR_FILE_MAP_EMPTY and a map that was closed already. */
void ofr_file_map_close(ofr_file_map *map);

/* Opens a regular file for reading; *ret_size (may be NULL) is its size. */
int ofr_file_open_read(const char *path, int *ret_fd, uint64_t *ret_size, ofr_error *err);

/* Reads a whole file of at most `cap` bytes (OFR_ELIMIT beyond). *ret_data is malloc'ed, the caller
 * frees it; a NUL byte follows the content and is not counted. */
int ofr_file_read(const char *path, size_t cap, void **ret_data, size_t *ret_size, ofr_error *err);

/* Exactly `size` bytes at `offset`; a file that ends before is OFR_EFORMAT ("truncated"). */
int ofr_file_pread(int fd, const char *path, void *data, size_t size, uint64_t offset,
                   ofr_error *err);
int ofr_file_pwrite(int fd, const char *path, const void *data, size_t size, uint64_t offset,
                    ofr_error *err);
/* At the descriptor's position; also for pipes and sockets in blocking mode. */
int ofr_file_write_all(int fd, const char *path, const void *data, size_t size, ofr_error *err);

/* Makes `path` hold exactly these bytes, or leaves what was there: temporary file in the same
 * directory, fsync, rename, fsync of the directory. */
int ofr_file_replace(const char *path, const void *data, size_t size, mode_t mode, ofr_error *err);

/* mkdir -p; what exists already keeps its mode. */
int ofr_directory_make(const char *path, mode_t mode, ofr_error *err);
/* Makes names in the directory durable. */
int ofr_directory_sync(const char *path, ofr_error *err);
/* Removes the directory and all in it; symbolic links are removed, not followed. A path that does
 * not exist is no error. */
int ofr_directory_remove(const char *path, ofr_error *err);
/* *ret_empty is true if the directory has no entries. */
int ofr_directory_is_empty(const char *path, bool *ret_empty, ofr_error *err);

/* "directory/name", malloc'ed; NULL without memory. Exactly one slash between the parts. */
char *ofr_path_join(const char *directory, const char *name);
/* The directory part of a path as dirname(1) gives it, malloc'ed ("a/b/" -> "a", "a" -> "."). */
char *ofr_path_parent(const char *path);
/* The last component, without trailing slashes, malloc'ed. */
char *ofr_path_base(const char *path);

#endif
