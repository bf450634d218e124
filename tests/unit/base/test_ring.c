/* The ring: order, fullness, wake-ups between two processes, and a peer that lies. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/ring.h"
#include "base/status.h"

enum { CAPACITY = 8 };

struct entry {
    uint64_t number, copy;
};

static void *shared(void)
{
    void *base = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(base != MAP_FAILED);
    return base;
}

static void entries_come_in_order_and_the_ring_fills(void **state)
{
    (void)state;
    void *base = shared();
    ofr_ring producer, consumer;
    ofr_ring_init(&producer, base, CAPACITY, sizeof(struct entry));
    ofr_ring_init(&consumer, base, CAPACITY, sizeof(struct entry));
    struct entry e = {0};
    assert_int_equal(ofr_ring_pop(&consumer, &e), OFR_EAGAIN);
    for (uint64_t round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < CAPACITY; i++) {
            e = (struct entry){round * CAPACITY + i, 0};
            assert_int_equal(ofr_ring_push(&producer, &e), 0);
        }
        assert_int_equal(ofr_ring_push(&producer, &e), OFR_EAGAIN);
        for (uint64_t i = 0; i < CAPACITY; i++) {
            assert_int_equal(ofr_ring_pop(&consumer, &e), 0);
            assert_int_equal(e.number, round * CAPACITY + i);
        }
        assert_int_equal(ofr_ring_pop(&consumer, &e), OFR_EAGAIN);
    }
    munmap(base, 4096);
}

static void a_lying_peer_is_found_out(void **state)
{
    (void)state;
    void *base = shared();
    ofr_ring ring;
    struct entry e = {0};
    ofr_ring_init(&ring, base, CAPACITY, sizeof e);
    atomic_store(&ring.header->head, 1000);
    assert_int_equal(ofr_ring_pop(&ring, &e), OFR_EPROTOCOL);
    ofr_ring_init(&ring, base, CAPACITY, sizeof e);
    atomic_store(&ring.header->tail, 5);
    assert_int_equal(ofr_ring_push(&ring, &e), OFR_EPROTOCOL);
    munmap(base, 4096);
}

static void a_wait_ends_by_time(void **state)
{
    (void)state;
    void *base = shared();
    ofr_ring ring;
    ofr_ring_init(&ring, base, CAPACITY, sizeof(struct entry));
    assert_int_equal(ofr_ring_wait(&ring, ofr_ring_bell(&ring), 1000, 2000000), OFR_ETIMEDOUT);
    uint32_t bell = ofr_ring_bell(&ring);
    ofr_ring_notify(ring.header);
    assert_int_equal(ofr_ring_wait(&ring, bell, 0, UINT64_MAX), 0);
    munmap(base, 4096);
}

/* Takes every entry of the other process in order; sleeps without a time limit in between, so a
 * lost wake-up hangs and the test runner's limit fails the test. */
static void no_wake_up_is_lost_between_processes(void **state)
{
    (void)state;
    enum { ENTRIES = 20000 };
    void *base = shared();
    ofr_ring ring;
    ofr_ring_init(&ring, base, CAPACITY, sizeof(struct entry));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        for (uint64_t i = 0; i < ENTRIES; i++) {
            struct entry e = {i, ~i};
            while (ofr_ring_push(&ring, &e) == OFR_EAGAIN)
                ;
        }
        _exit(0);
    }
    for (uint64_t i = 0; i < ENTRIES;) {
        struct entry e;
        uint32_t bell = ofr_ring_bell(&ring);
        int r = ofr_ring_pop(&ring, &e);
        if (r == OFR_EAGAIN) {
            assert_int_equal(ofr_ring_wait(&ring, bell, i % 2 ? 20000 : 0, UINT64_MAX), 0);
            continue;
        }
        assert_int_equal(r, 0);
        assert_true(e.number == i && e.copy == ~i);
        i++;
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    munmap(base, 4096);
}

struct side {
    ofr_ring ring;
    uint64_t count;
};

static void *push_all(void *argument)
{
    struct side *side = argument;
    for (uint64_t i = 0; i < side->count; i++) {
        struct entry e = {i, ~i};
        while (ofr_ring_push(&side->ring, &e) == OFR_EAGAIN)
            sched_yield();
    }
    return NULL;
}

/* Two threads, so that ThreadSanitizer sees both sides: entries and a plain array beside them are
 * published by the ring alone. */
static void two_threads_share_it_without_races(void **state)
{
    (void)state;
    void *base = shared();
    struct side producer = {.count = 5000};
    ofr_ring consumer;
    pthread_t thread;
    ofr_ring_init(&producer.ring, base, CAPACITY, sizeof(struct entry));
    ofr_ring_init(&consumer, base, CAPACITY, sizeof(struct entry));
    assert_int_equal(pthread_create(&thread, NULL, push_all, &producer), 0);
    for (uint64_t i = 0; i < producer.count;) {
        struct entry e;
        uint32_t bell = ofr_ring_bell(&consumer);
        if (ofr_ring_pop(&consumer, &e) == OFR_EAGAIN) {
            ofr_ring_wait(&consumer, bell, i % 2 ? 20000 : 0, UINT64_MAX);
            continue;
        }
        assert_true(e.number == i && e.copy == ~i);
        i++;
    }
    pthread_join(thread, NULL);
    munmap(base, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_come_in_order_and_the_ring_fills),
        cmocka_unit_test(a_lying_peer_is_found_out),
        cmocka_unit_test(a_wait_ends_by_time),
        cmocka_unit_test(no_wake_up_is_lost_between_processes),
        cmocka_unit_test(two_threads_share_it_without_races),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
