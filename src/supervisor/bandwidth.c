/* Read bandwidth of memory: threads that sum up a buffer much larger than the caches. */
#include "supervisor/bandwidth.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

enum { PASSES = 8, BLOCK = 4096 };

enum gate_state { GATE_CLOSED, GATE_OPEN, GATE_CANCELED };

/* Holds the readers back until all exist: a barrier that not all reach holds forever. */
struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum gate_state state;
};

struct reader {
    pthread_t thread;
    struct gate *gate;
    pthread_barrier_t *barrier;
    unsigned char *data;
    size_t size;
    uint64_t begin_ns[PASSES], end_ns[PASSES];
    uint64_t sum; /* keeps the compiler from dropping the reads */
};

/* Eight independent sums of 16 bytes: enough loads in flight for the compiler's baseline ISA. */
typedef uint64_t vector __attribute__((vector_size(16), aligned(16)));

static uint64_t read_all(const unsigned char *data, size_t size)
{
    vector sums[8] = {{0}};
    for (size_t at = 0; at + sizeof sums <= size; at += sizeof sums) {
        const vector *v = (const vector *)(const void *)(data + at);
        for (int i = 0; i < 8; i++)
            sums[i] += v[i];
    }
    vector total = sums[0];
    for (int i = 1; i < 8; i++)
        total += sums[i];
    return total[0] + total[1];
}

static bool pass_gate(struct gate *gate)
{
    pthread_mutex_lock(&gate->mutex);
    while (gate->state == GATE_CLOSED)
        pthread_cond_wait(&gate->changed, &gate->mutex);
    bool open = gate->state == GATE_OPEN;
    pthread_mutex_unlock(&gate->mutex);
    return open;
}

static void *reader_main(void *user)
{
    struct reader *reader = user;
    if (!pass_gate(reader->gate))
        return NULL;
    /* The thread that reads a page is the first to write it, so that it is near. */
    memset(reader->data, 1, reader->size);
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_barrier_wait(reader->barrier);
        reader->begin_ns[pass] = ofr_clock_ns();
        reader->sum += read_all(reader->data, reader->size);
        reader->end_ns[pass] = ofr_clock_ns();
    }
    return NULL;
}

static size_t buffer_size(uint32_t threads)
{
    long page = sysconf(_SC_PAGESIZE), cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    long available = sysconf(_SC_AVPHYS_PAGES);
    size_t size = (size_t)512 << 20;
    if (cache > 0 && (size_t)cache * 8 > size)
        size = (size_t)cache * 8;
    if (page > 0 && available > 0 && size > (size_t)page * (size_t)available / 4)
        size = (size_t)page * (size_t)available / 4;
    size_t unit = (size_t)BLOCK * threads;
    return size < unit ? unit : size / unit * unit;
}

/* From the first reader's begin to the last one's end. */
static double best_pass(const struct reader *readers, uint32_t threads, size_t size)
{
    double best = 0;
    for (int pass = 1; pass < PASSES; pass++) { /* the first one warms up */
        uint64_t begin = UINT64_MAX, end = 0;
        for (uint32_t i = 0; i < threads; i++) {
            if (readers[i].begin_ns[pass] < begin)
                begin = readers[i].begin_ns[pass];
            if (readers[i].end_ns[pass] > end)
                end = readers[i].end_ns[pass];
        }
        double rate = (double)size * 1e9 / (double)(end - begin + 1);
        if (rate > best)
            best = rate;
    }
    return best;
}

/* Starts as many readers as can be, and lets them work on equal parts if it is all of them. */
static int run_readers(struct reader *readers, uint32_t threads, unsigned char *data, size_t size,
                       ofr_error *err)
{
    pthread_barrier_t barrier;
    struct gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, GATE_CLOSED};
    if (pthread_barrier_init(&barrier, NULL, threads) != 0)
        return ofr_fail(err, OFR_ENOMEM, "cannot measure the bandwidth: no barrier");
    size_t part = size / threads;
    uint32_t started = 0;
    for (; started < threads; started++) {
        readers[started] = (struct reader){
            .gate = &gate, .barrier = &barrier, .data = data + started * part, .size = part};
        if (pthread_create(&readers[started].thread, NULL, reader_main, &readers[started]) != 0)
            break;
    }
    pthread_mutex_lock(&gate.mutex);
    gate.state = started == threads ? GATE_OPEN : GATE_CANCELED;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
    for (uint32_t i = 0; i < started; i++)
        pthread_join(readers[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    if (started < threads)
        return ofr_fail(err, OFR_ENOMEM, "cannot measure the bandwidth: only %u of %u threads",
                        started, threads);
    return 0;
}

int ofr_bandwidth_measure(uint32_t threads, ofr_bandwidth *ret_bandwidth, ofr_error *err)
{
    if (threads == 0 || threads > 1024)
        return ofr_fail(err, OFR_EINVAL, "cannot measure the bandwidth with %u threads", threads);
    size_t size = buffer_size(threads);
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return ofr_fail(err, OFR_ENOMEM, "cannot measure the bandwidth: no buffer of %zu bytes",
                        size);
    madvise(data, size, MADV_HUGEPAGE);
    struct reader *readers = calloc(threads, sizeof *readers);
    int r = readers ? run_readers(readers, threads, data, size, err)
                    : ofr_fail(err, OFR_ENOMEM, "no memory for %u readers", threads);
    if (r == 0)
        *ret_bandwidth = (ofr_bandwidth){
            .bytes_per_second = best_pass(readers, threads, size),
            .buffer_bytes = size,
            .threads = threads,
        };
    free(readers);
    munmap(data, size);
    return r;
}
