/* The order of a stream does not depend on the order of arrival; it is bounded, and it ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <fcntl.h>
#include <time.h>

#include "bake_model/source_stream.h"

enum { WORKERS = 4 };

typedef struct remote {
    uint64_t fails_at; /* an offset that cannot be fetched; UINT64_MAX: none */
    atomic_uint_fast64_t farthest;
    bool blocks; /* until it is stopped */
} remote;

static unsigned char byte_of(uint32_t file, uint64_t at)
{
    return (unsigned char)(at * 31 + (at >> 8) * 7 + file * 101);
}

/* Later workers are faster: pieces arrive out of order. */
static int fetch(void *context, unsigned worker, uint32_t file, uint64_t offset, void *data,
                 size_t size, const atomic_bool *stop, ofr_error *err)
{
    remote *r = context;
    struct timespec pause = {0, (long)(WORKERS - worker) * 2000000};
    assert_true(worker < WORKERS);
    do
        nanosleep(&pause, NULL);
    while (r->blocks && !*stop);
    if (*stop)
        return ofr_fail(err, OFR_ECANCELED, "stopped");
    if (r->fails_at >= offset && r->fails_at < offset + size)
        return ofr_fail(err, OFR_EIO, "gone");
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)data)[i] = byte_of(file, offset + i);
    uint64_t end = offset + size;
    if (end > r->farthest)
        r->farthest = end;
    return 0;
}

static void make(ofr_source *source, remote *r)
{
    *source = (ofr_source){.fetch = fetch, .context = r, .workers = WORKERS};
    uint32_t file;
    for (int i = 0; i < 3; i++)
        assert_int_equal(
            ofr_source_add_remote(source, "f", "hub/f", (uint64_t)256 << 20, "", &file, NULL), 0);
}

static void bytes_come_in_the_order_of_the_spans(void **state)
{
    (void)state;
    remote r = {.fails_at = UINT64_MAX};
    ofr_source source;
    make(&source, &r);
    const ofr_source_span spans[] = {
        {0, 100, (9 << 20) + 5}, {1, 7, 7}, {2, 0, 3}, {1, 4 << 20, 13 << 20}};
    ofr_source_stream *stream = NULL;
    assert_int_equal(ofr_source_stream_open(&source, spans, 4, &stream, NULL), 0);
    for (size_t s = 0; s < 4; s++)
        for (uint64_t at = spans[s].begin; at < spans[s].end;) {
            const void *data;
            size_t n, wanted = at % 3 ? 70001 : 1 << 20;
            assert_int_equal(ofr_source_stream_next(stream, wanted, &data, &n, NULL), 0);
            assert_true(n > 0 && n <= wanted && n <= spans[s].end - at);
            for (size_t i = 0; i < n; i += 997)
                assert_int_equal(((const unsigned char *)data)[i], byte_of(spans[s].file, at + i));
            at += n;
        }
    const void *data;
    size_t n;
    assert_int_equal(ofr_source_stream_next(stream, 1, &data, &n, NULL), OFR_EINTERNAL);
    ofr_source_stream_close(stream);
    ofr_source_done(&source);
}

/* What the page cache holds is read from there, the rest around it: the same bytes, whatever the
 * beginnings and ends are multiples of. */
static void local_files_give_their_bytes_cached_or_not(void **state)
{
    (void)state;
    const size_t size = (9 << 20) + 123;
    char path[] = "test_source_stream.XXXXXX"; /* in the build directory: on a disk */
    int fd = mkstemp(path);
    unsigned char *bytes = malloc(size);
    assert_true(fd >= 0 && bytes);
    for (size_t i = 0; i < size; i++)
        bytes[i] = byte_of(0, i);
    assert_int_equal(write(fd, bytes, size), size);
    assert_int_equal(fsync(fd), 0);
    ofr_source source = {0};
    uint32_t file;
    assert_int_equal(ofr_source_add_local(&source, path, &file, NULL), 0);
    static const uint64_t begins[] = {0, 4096, 4097, (4 << 20) - 1, 8 << 20};
    for (size_t b = 0; b < sizeof begins / sizeof begins[0]; b++)
        for (int cached = 0; cached <= 1; cached++) {
            if (!cached)
                assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
            const ofr_source_span spans[] = {{file, begins[b], size - 17}, {file, 5, 6}};
            ofr_source_stream *stream = NULL;
            assert_int_equal(ofr_source_stream_open(&source, spans, 2, &stream, NULL), 0);
            for (size_t s = 0; s < 2; s++)
                for (uint64_t at = spans[s].begin; at < spans[s].end;) {
                    const void *data;
                    size_t n;
                    assert_int_equal(ofr_source_stream_next(stream, 1 << 20, &data, &n, NULL), 0);
                    assert_memory_equal(data, bytes + at, n);
                    at += n;
                }
            ofr_source_stream_close(stream);
        }
    ofr_source_done(&source);
    free(bytes);
    close(fd);
    unlink(path);
}

/* Nobody reads: what is fetched ahead stays within the window. */
static void the_window_is_bounded(void **state)
{
    (void)state;
    remote r = {.fails_at = UINT64_MAX};
    ofr_source source;
    make(&source, &r);
    const ofr_source_span span = {0, 0, (uint64_t)256 << 20};
    ofr_source_stream *stream = NULL;
    assert_int_equal(ofr_source_stream_open(&source, &span, 1, &stream, NULL), 0);
    struct timespec pause = {0, 20000000};
    for (int i = 0; i < 500 && r.farthest < OFR_SOURCE_WINDOW_BYTES; i++)
        nanosleep(&pause, NULL);
    nanosleep(&pause, NULL);
    assert_int_equal(r.farthest, OFR_SOURCE_WINDOW_BYTES);
    ofr_source_stream_close(stream);
    ofr_source_done(&source);
}

static void a_failure_is_told_where_it_lies(void **state)
{
    (void)state;
    remote r = {.fails_at = (5 << 20) + 1};
    ofr_source source;
    make(&source, &r);
    const ofr_source_span span = {0, 0, 12 << 20};
    ofr_source_stream *stream = NULL;
    assert_int_equal(ofr_source_stream_open(&source, &span, 1, &stream, NULL), 0);
    uint64_t got = 0;
    int result = 0;
    ofr_error err = {0};
    while (result == 0) {
        const void *data;
        size_t n;
        result = ofr_source_stream_next(stream, 1 << 20, &data, &n, &err);
        got += result == 0 ? n : 0;
    }
    assert_int_equal(result, OFR_EIO);
    assert_string_equal(err.text, "gone");
    assert_int_equal(got, OFR_SOURCE_PIECE_BYTES); /* what came before is good */
    ofr_source_stream_close(stream);
    ofr_source_done(&source);
}

static void closing_stops_what_waits(void **state)
{
    (void)state;
    remote r = {.fails_at = UINT64_MAX, .blocks = true};
    ofr_source source;
    make(&source, &r);
    const ofr_source_span span = {0, 0, 100 << 20};
    ofr_source_stream *stream = NULL;
    assert_int_equal(ofr_source_stream_open(&source, &span, 1, &stream, NULL), 0);
    assert_null(ofr_source_stream_close(stream)); /* returns */
    assert_null(ofr_source_stream_close(NULL));
    ofr_source_done(&source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_in_the_order_of_the_spans),
        cmocka_unit_test(local_files_give_their_bytes_cached_or_not),
        cmocka_unit_test(the_window_is_bounded),
        cmocka_unit_test(a_failure_is_told_where_it_lies),
        cmocka_unit_test(closing_stops_what_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
