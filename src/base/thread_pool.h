/* A persistent pool of threads that run parallel regions together.
 *
 * The calling thread is thread 0 of every region. Within a region, ofr_thread_pool_barrier
 * synchronizes all threads and ofr_thread_pool_next hands out chunk numbers from one atomic
 * counter, so that fast and slow cores balance by themselves. Waiting spins for a short while, then
 * sleeps on a futex. No allocation and no lock after ofr_thread_pool_new.
 *
 * A pool belongs to one calling thread at a time. */
#ifndef OFR_BASE_THREAD_POOL_H
#define OFR_BASE_THREAD_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { OFR_THREAD_POOL_MAX = 256 };

typedef struct ofr_thread_pool ofr_thread_pool;
typedef void (*ofr_thread_pool_function)(void *context, uint32_t thread);

/* n_threads counts the caller. With `pin`, workers are bound to one physical core each where the
 * process may run on that many; the calling thread is never bound. */
int ofr_thread_pool_new(uint32_t n_threads, bool pin, ofr_thread_pool **ret_pool, ofr_error *err);
/* Accepts NULL; returns NULL. Not while a region runs. */
ofr_thread_pool *ofr_thread_pool_free(ofr_thread_pool *pool);
uint32_t ofr_thread_pool_size(const ofr_thread_pool *pool);

/* Runs function(context, thread) once on every thread and returns when all are done. */
void ofr_thread_pool_run(ofr_thread_pool *pool, ofr_thread_pool_function function, void *context);

/* Inside a region, called by every thread: all arrive before any leaves, writes before it are
 * visible after it, and the chunk counter is back at 0. */
void ofr_thread_pool_barrier(ofr_thread_pool *pool);
/* Inside a region: the next chunk number, from 0 on, since the region's start or last barrier. */
uint32_t ofr_thread_pool_next(ofr_thread_pool *pool);

#endif
