/* POSIX shared memory that has no name: created, unlinked at once, passed as a descriptor. Nothing
 * can be squatted by another user and nothing is left behind by a kill. */
#ifndef OFR_BASE_SHM_H
#define OFR_BASE_SHM_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A zeroed segment of `bytes`, mode 0600 whatever the umask, close-on-exec. Pages are committed
 * when first touched; the free space of /dev/shm is checked now (OFR_ENOSPACE with the fix). */
int ofr_shm_create(uint64_t bytes, int *ret_fd, ofr_error *err);

/* Maps all `bytes` of the segment for reading and writing. The segment must be at least that large
 * (OFR_EPROTOCOL): a page beyond its end would be a SIGBUS. Unmap with ofr_shm_unmap. */
int ofr_shm_map(int fd, uint64_t bytes, void **ret_base, ofr_error *err);
/* Accepts NULL. */
void ofr_shm_unmap(void *base, uint64_t bytes);

/* Bytes that tmpfs has committed for the segment. */
uint64_t ofr_shm_committed(int fd);

/* Free and total bytes of /dev/shm. */
int ofr_shm_space(uint64_t *ret_free, uint64_t *ret_total, ofr_error *err);

/* MemAvailable of /proc/meminfo in bytes; 0 where it is unknown. */
uint64_t ofr_memory_available(void);

#endif
