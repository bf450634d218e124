/* The thread pool: one generation counter starts regions, another passes barriers; both are futex
 * words. Acquire/release pairs are named where they are used. */
#include "base/thread_pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cpu_features.h"

/* About 20 microseconds: longer than the imbalance of one stage of decoding, shorter than what a
 * descheduled peer costs anyway. Between regions the same wait bridges the sampling of a token. */
enum { SPIN_LIMIT = 2000, CACHE_LINE = 64, RANGE_BITS = 20 };

_Static_assert(OFR_THREAD_POOL_ITEMS_MAX <= 1 << RANGE_BITS, "a range holds all items");

typedef struct pool_event {
    alignas(CACHE_LINE) atomic_uint value; /* futex word, only ever incremented */
    atomic_uint sleepers;
} pool_event;

/* What is taken of a thread's range, of the stage that `barrier` counts: bits 0 to 19 from the
 * front, 20 to 39 from the end, above them the stage. A range of another stage is untouched: nobody
 * has to reset it. */
typedef struct pool_range {
    alignas(CACHE_LINE) atomic_ullong taken;
} pool_range;

typedef struct worker {
    ofr_thread_pool *pool;
    pthread_t thread;
    uint32_t index;
} worker;

struct ofr_thread_pool {
    pool_event start;   /* incremented: a region begins, or the pool ends */
    pool_event barrier; /* incremented by the last thread to arrive */
    alignas(CACHE_LINE) atomic_uint arrived;
    alignas(CACHE_LINE) atomic_uint next_chunk;
    alignas(CACHE_LINE) ofr_thread_pool_function function; /* published by `start` */
    void *context;
    bool stop;
    uint32_t n_threads, n_workers;
    pool_range *ranges; /* [n_threads], owned */
    worker *workers;    /* [n_threads - 1], owned; n_workers of them run */
};

static void event_wait(pool_event *self, unsigned old)
{
    for (unsigned spin = 0; spin < SPIN_LIMIT; spin++) {
        /* acquire: pairs with the release in event_raise */
        if (atomic_load_explicit(&self->value, memory_order_acquire) != old) {
            return;
        }
        __builtin_ia32_pause();
    }
    /* seq_cst on both sides: either the raiser sees the sleeper or the sleeper the new value */
    atomic_fetch_add(&self->sleepers, 1);
    while (atomic_load(&self->value) == old) {
        syscall(SYS_futex, &self->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    }
    atomic_fetch_sub(&self->sleepers, 1);
}

static void event_raise(pool_event *self)
{
    atomic_fetch_add(&self->value, 1);
    if (atomic_load(&self->sleepers) > 0) {
        syscall(SYS_futex, &self->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    }
}

void ofr_thread_pool_barrier(ofr_thread_pool *pool)
{
    if (pool->n_threads == 1) {
        atomic_store_explicit(&pool->next_chunk, 0, memory_order_relaxed);
        return;
    }
    unsigned old = atomic_load_explicit(&pool->barrier.value, memory_order_acquire);
    /* acq_rel: the last thread to arrive sees the writes of all, event_raise publishes them */
    unsigned arrived = atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel);
    if (arrived + 1 == pool->n_threads) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->next_chunk, 0, memory_order_relaxed);
        event_raise(&pool->barrier);
    } else {
        event_wait(&pool->barrier, old);
    }
}

uint32_t ofr_thread_pool_next(ofr_thread_pool *pool)
{
    return atomic_fetch_add_explicit(&pool->next_chunk, 1, memory_order_relaxed);
}

/* One item of the range of `owner`, [begin, end); from its front or its end. */
static bool take_of(ofr_thread_pool *pool, uint32_t owner, uint64_t stage, uint32_t size,
                    bool front, uint32_t *ret_offset)
{
    const uint64_t mask = (1U << RANGE_BITS) - 1;
    atomic_ullong *taken = &pool->ranges[owner].taken;
    unsigned long long old = atomic_load_explicit(taken, memory_order_relaxed);
    for (;;) {
        uint64_t from_front = 0, from_end = 0;
        if (old >> (2 * RANGE_BITS) == stage) {
            from_front = old & mask;
            from_end = old >> RANGE_BITS & mask;
        }
        if (from_front + from_end >= size) {
            return false;
        }
        uint64_t offset = front ? from_front : size - 1 - from_end;
        *(front ? &from_front : &from_end) += 1;
        unsigned long long next = stage << (2 * RANGE_BITS) | from_end << RANGE_BITS | from_front;
        /* relaxed: what was written before the stage is visible since its barrier */
        if (atomic_compare_exchange_weak_explicit(taken, &old, next, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            *ret_offset = (uint32_t)offset;
            return true;
        }
    }
}

bool ofr_thread_pool_take(ofr_thread_pool *pool, uint32_t thread, uint32_t n_items,
                          uint32_t *ret_item)
{
    uint32_t n = pool->n_threads;
    if (n == 1) {
        *ret_item = ofr_thread_pool_next(pool);
        return *ret_item < n_items;
    }
    uint64_t stage = atomic_load_explicit(&pool->barrier.value, memory_order_relaxed);
    stage &= ((uint64_t)1 << (64 - 2 * RANGE_BITS)) - 1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t owner = (thread + i) % n;
        uint32_t begin = (uint32_t)((uint64_t)n_items * owner / n);
        uint32_t end = (uint32_t)((uint64_t)n_items * (owner + 1) / n);
        uint32_t offset = 0;
        if (take_of(pool, owner, stage, end - begin, i == 0, &offset)) {
            *ret_item = begin + offset;
            return true;
        }
    }
    return false;
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    ofr_thread_pool *pool = self->pool;
    unsigned generation = 0;
    for (;;) {
        event_wait(&pool->start, generation);
        generation++;
        if (pool->stop) {
            return NULL;
        }
        pool->function(pool->context, self->index);
        ofr_thread_pool_barrier(pool);
    }
}

void ofr_thread_pool_run(ofr_thread_pool *pool, ofr_thread_pool_function function, void *context)
{
    pool->function = function;
    pool->context = context;
    atomic_store_explicit(&pool->next_chunk, 0, memory_order_relaxed);
    if (pool->n_threads > 1) {
        event_raise(&pool->start);
    }
    function(context, 0);
    ofr_thread_pool_barrier(pool);
}

uint32_t ofr_thread_pool_size(const ofr_thread_pool *pool)
{
    return pool->n_threads;
}

/* Best effort: a container may forbid it, and nothing but speed depends on it. */
static void pin_workers(ofr_thread_pool *pool)
{
    int cpus[OFR_THREAD_POOL_MAX];
    uint32_t n_cores = ofr_cpu_physical_cores(cpus, OFR_THREAD_POOL_MAX);
    if (n_cores < pool->n_threads) {
        return;
    }
    for (uint32_t i = 0; i < pool->n_workers; i++) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)cpus[pool->workers[i].index], &set);
        pthread_setaffinity_np(pool->workers[i].thread, sizeof set, &set);
    }
}

int ofr_thread_pool_new(uint32_t n_threads, bool pin, ofr_thread_pool **ret_pool, ofr_error *err)
{
    if (n_threads == 0 || n_threads > OFR_THREAD_POOL_MAX) {
        return ofr_fail(err, OFR_EINVAL, "thread pool: %u threads asked for; 1 to %d are allowed",
                        n_threads, OFR_THREAD_POOL_MAX);
    }
    ofr_thread_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    if (pool == NULL) {
        return ofr_fail(err, OFR_ENOMEM, "thread pool: out of memory");
    }
    /* The first stage is not the 0 that the ranges begin with. */
    *pool = (ofr_thread_pool){.n_threads = n_threads, .barrier.value = 1};
    if (n_threads > 1) {
        pool->ranges = aligned_alloc(CACHE_LINE, n_threads * sizeof *pool->ranges);
        pool->workers = calloc(n_threads - 1, sizeof *pool->workers);
        if (pool->workers == NULL || pool->ranges == NULL) {
            ofr_thread_pool_free(pool);
            return ofr_fail(err, OFR_ENOMEM, "thread pool: out of memory");
        }
    }
    for (uint32_t i = 0; n_threads > 1 && i < n_threads; i++) {
        atomic_init(&pool->ranges[i].taken, 0);
    }
    for (uint32_t i = 0; i + 1 < n_threads; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i + 1};
        int errnum = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
        if (errnum != 0) {
            ofr_thread_pool_free(pool);
            return ofr_fail_errno(err, errnum, "thread pool: cannot start thread %u of %u", i + 2,
                                  n_threads);
        }
        pool->n_workers++;
    }
    if (pin) {
        pin_workers(pool);
    }
    *ret_pool = pool;
    return 0;
}

ofr_thread_pool *ofr_thread_pool_free(ofr_thread_pool *pool)
{
    if (pool == NULL) {
        return NULL;
    }
    pool->stop = true;
    event_raise(&pool->start);
    for (uint32_t i = 0; i < pool->n_workers; i++) {
        pthread_join(pool->workers[i].thread, NULL);
    }
    free(pool->workers);
    free(pool->ranges);
    free(pool);
    return NULL;
}
