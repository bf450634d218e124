/* The thread pool: every thread runs every region, barriers hold, every chunk is taken once. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "base/thread_pool.h"

enum { THREADS = 4, STAGES = 200, CHUNKS = 37 };

typedef struct work {
    ofr_thread_pool *pool;
    atomic_uint runs[8];
    atomic_uint taken[STAGES][CHUNKS];
    atomic_uint ranges[STAGES][CHUNKS + 1];
    int plain[STAGES][CHUNKS]; /* written before a barrier, read after it by others */
    atomic_uint wrong;
} work;

static void run_stages(void *context, uint32_t thread)
{
    work *w = context;
    atomic_fetch_add(&w->runs[thread], 1);
    for (int stage = 0; stage < STAGES; stage++) {
        for (;;) {
            uint32_t chunk = ofr_thread_pool_next(w->pool);
            if (chunk >= CHUNKS) {
                break;
            }
            atomic_fetch_add(&w->taken[stage][chunk], 1);
            w->plain[stage][chunk] = stage + (int)chunk + 1;
        }
        ofr_thread_pool_barrier(w->pool);
        uint32_t item = 0, items = (uint32_t)(stage % (CHUNKS + 1));
        while (ofr_thread_pool_take(w->pool, thread, items, &item)) {
            atomic_fetch_add(&w->ranges[stage][item < items ? item : CHUNKS], 1);
        }
        ofr_thread_pool_barrier(w->pool);
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            if (w->plain[stage][chunk] != stage + chunk + 1) {
                atomic_fetch_add(&w->wrong, 1);
            }
        }
    }
}

static void check_pool(uint32_t n_threads, bool pin)
{
    static work w;
    w = (work){0};
    assert_int_equal(ofr_thread_pool_new(n_threads, pin, &w.pool, NULL), 0);
    assert_int_equal(ofr_thread_pool_size(w.pool), n_threads);
    for (unsigned round = 1; round <= 5; round++) {
        ofr_thread_pool_run(w.pool, run_stages, &w);
        for (uint32_t i = 0; i < n_threads; i++) {
            assert_int_equal(atomic_load(&w.runs[i]), round);
        }
        for (int stage = 0; stage < STAGES; stage++) {
            for (int chunk = 0; chunk < CHUNKS; chunk++) {
                assert_int_equal(atomic_load(&w.taken[stage][chunk]), round);
                assert_int_equal(atomic_load(&w.ranges[stage][chunk]),
                                 chunk < stage % (CHUNKS + 1) ? round : 0);
            }
        }
        /* Long enough that waiting workers go to sleep and must be woken. */
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    assert_int_equal(atomic_load(&w.wrong), 0);
    assert_null(ofr_thread_pool_free(w.pool));
}

/* Thread 0 takes one item and then nothing until the other has found no more. */
static void take_slowly(void *context, uint32_t thread)
{
    work *w = context;
    uint32_t item = 0;
    if (thread == 0) {
        assert_true(ofr_thread_pool_take(w->pool, 0, CHUNKS, &item));
        atomic_fetch_add(&w->ranges[0][item], 1);
        atomic_store(&w->runs[0], 1);
        while (atomic_load(&w->runs[1]) == 0) {
            sched_yield();
        }
        assert_false(ofr_thread_pool_take(w->pool, 0, CHUNKS, &item));
        return;
    }
    while (atomic_load(&w->runs[0]) == 0) {
        sched_yield();
    }
    for (uint32_t i = 0; ofr_thread_pool_take(w->pool, thread, CHUNKS, &item); i++) {
        /* its own half from the front, then the other's from the end */
        uint32_t own = CHUNKS - CHUNKS / 2;
        uint32_t expected = i < own ? CHUNKS / 2 + i : CHUNKS / 2 - 1 - (i - own);
        atomic_fetch_add(&w->wrong, item != expected);
        atomic_fetch_add(&w->ranges[1][item], 1);
    }
    atomic_store(&w->runs[1], 1);
}

static void idle_threads_take_from_the_end_of_ranges(void **state)
{
    (void)state;
    static work w;
    w = (work){0};
    assert_int_equal(ofr_thread_pool_new(2, false, &w.pool, NULL), 0);
    ofr_thread_pool_run(w.pool, take_slowly, &w);
    for (int i = 0; i < CHUNKS; i++) {
        assert_int_equal(atomic_load(&w.ranges[0][i]), i == 0);
        assert_int_equal(atomic_load(&w.ranges[1][i]), i != 0);
    }
    assert_int_equal(atomic_load(&w.wrong), 0);
    assert_null(ofr_thread_pool_free(w.pool));
}

static void one_thread_needs_no_other(void **state)
{
    (void)state;
    check_pool(1, true);
}

static void all_threads_take_part(void **state)
{
    (void)state;
    check_pool(2, true);
    check_pool(THREADS, false);
}

static void many_pools_come_and_go(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++) {
        ofr_thread_pool *pool = NULL;
        assert_int_equal(ofr_thread_pool_new(3, false, &pool, NULL), 0);
        assert_null(ofr_thread_pool_free(pool));
    }
    assert_null(ofr_thread_pool_free(NULL));
}

static void sizes_are_bounded(void **state)
{
    (void)state;
    ofr_thread_pool *pool = NULL;
    ofr_error err = {0};
    assert_int_equal(ofr_thread_pool_new(0, false, &pool, &err), OFR_EINVAL);
    assert_int_equal(ofr_thread_pool_new(OFR_THREAD_POOL_MAX + 1, false, &pool, &err), OFR_EINVAL);
    assert_null(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread_needs_no_other),
        cmocka_unit_test(all_threads_take_part),
        cmocka_unit_test(idle_threads_take_from_the_end_of_ranges),
        cmocka_unit_test(many_pools_come_and_go),
        cmocka_unit_test(sizes_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
