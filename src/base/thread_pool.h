/* A persistent pool of threads that run parallel regions together.
 *
 * The calling thread is thread 0 of every region. Within a region, ofr_thread_pool_barrier
 * synchronizes all threads. Work is handed out so that fast and slow cores balance by themselves:
 * ofr_thread_pool_next from one counter, ofr_thread_pool_take from ranges that stay together.
 * Waiting spins for a short while, then sleeps on a futex. No allocation and no lock after
 * ofr_thread_pool_new.
 *
 * A pool belongs to one calling thread at a time. */
#ifndef OFR_BASE_THREAD_POOL_H
#define OFR_BASE_THREAD_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

enum { OFR_THREAD_POOL_MAX = 256, OFR_THREAD_POOL_ITEMS_MAX = 1 << 20 };

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
/* Inside a region: the next of n_items, each of which is taken once since the region's start or
 * last barrier; false: none is left. Every thread has a range of its own, which it takes from the
 * front, so that what it reads is one stream; who has finished takes from the end of others'
 * ranges. n_items is at most ITEMS_MAX and the same for all threads and calls up to the next
 * barrier. */
bool ofr_thread_pool_take(ofr_thread_pool *pool, uint32_t thread, uint32_t n_items,
                          uint32_t *ret_item);

#endif
