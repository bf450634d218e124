/* A ring of pieces between the threads that fetch and the one that reads. */
#include "bake_model/source_stream.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"

enum {
    N_SLOTS = OFR_SOURCE_WINDOW_BYTES / OFR_SOURCE_PIECE_BYTES,
    LOCAL_WORKERS = 2,
    DIRECT_ALIGN = 4096, /* of offsets, sizes and memory, where the page cache is passed by */
};

typedef struct piece {
    char *data; /* [PIECE_BYTES], aligned to DIRECT_ALIGN */
    uint32_t file;
    uint64_t offset;
    size_t size;
    bool ready;
    int result;
    ofr_error failure;
} piece;

typedef struct fetcher {
    ofr_source_stream *stream;
    unsigned number;
    pthread_t thread;
} fetcher;

struct ofr_source_stream {
    const ofr_source *source;
    ofr_source_span *spans; /* [n_spans]; begin moves as pieces are handed out */
    size_t n_spans, span;
    int *direct; /* [source->n_files] without the page cache; -1: not opened, or not possible */
    pthread_mutex_t lock; /* of everything below; the only lock here */
    pthread_cond_t changed;
    piece slots[N_SLOTS];
    uint64_t handed_out; /* pieces given to workers: number n lies in slot n % N_SLOTS */
    uint64_t read;       /* pieces that the reader is through with */
    size_t at;           /* of the reader in piece `read` */
    atomic_bool stop;
    unsigned n_workers;
    fetcher workers[OFR_SOURCE_MAX_WORKERS];
};

/* A file without the page cache: copying out of it costs a tenth of a bake, and 15 GB that are read
 * once would push out what others keep there. -1 where the file system cannot. */
static int open_direct(int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

/* Does the page cache hold where the piece begins? Then it is quicker than the disk. */
static bool is_cached(int fd, const piece *p)
{
    unsigned char resident = 0;
    void *map = mmap(NULL, DIRECT_ALIGN, PROT_READ, MAP_SHARED, fd, (off_t)p->offset);
    if (map == MAP_FAILED)
        return false;
    bool cached = mincore(map, DIRECT_ALIGN, &resident) == 0 && resident & 1;
    munmap(map, DIRECT_ALIGN);
    return cached;
}

/* False: nothing is said of the piece, read it as usual. */
static bool fetch_direct(const ofr_source_stream *stream, const piece *p)
{
    int direct = stream->direct[p->file];
    if (direct < 0 || p->offset % DIRECT_ALIGN != 0 ||
        is_cached(stream->source->files[p->file].fd, p))
        return false;
    size_t whole = (p->size + DIRECT_ALIGN - 1) / DIRECT_ALIGN * DIRECT_ALIGN;
    ssize_t n = pread(direct, p->data, whole, (off_t)p->offset);
    return n >= 0 && (size_t)n >= p->size;
}

static int fetch(const ofr_source_stream *stream, unsigned worker, const piece *p, ofr_error *err)
{
    const ofr_source_file *file = &stream->source->files[p->file];
    if (file->fd >= 0 && fetch_direct(stream, p))
        return 0;
    if (file->fd >= 0)
        return ofr_file_pread(file->fd, file->path, p->data, p->size, p->offset, err);
    return stream->source->fetch(stream->source->context, worker, p->file, p->offset, p->data,
                                 p->size, &stream->stop, err);
}

/* The next piece to fetch, waiting for room in the window; NULL: all are handed out, or stop. */
static piece *hand_out(ofr_source_stream *stream)
{
    piece *found = NULL;
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        while (stream->span < stream->n_spans &&
               stream->spans[stream->span].begin == stream->spans[stream->span].end)
            stream->span++;
        if (stream->stop || stream->span == stream->n_spans)
            break;
        if (stream->handed_out - stream->read == N_SLOTS) {
            pthread_cond_wait(&stream->changed, &stream->lock);
            continue;
        }
        ofr_source_span *span = &stream->spans[stream->span];
        uint64_t left = span->end - span->begin;
        found = &stream->slots[stream->handed_out++ % N_SLOTS];
        found->file = span->file;
        found->offset = span->begin;
        /* Behind a first one, all begin at multiples of the size. */
        uint64_t size = OFR_SOURCE_PIECE_BYTES - span->begin % OFR_SOURCE_PIECE_BYTES;
        found->size = (size_t)(left < size ? left : size);
        found->ready = false;
        span->begin += found->size;
        break;
    }
    pthread_mutex_unlock(&stream->lock);
    return found;
}

static void *fetch_pieces(void *argument)
{
    const fetcher *self = argument;
    ofr_source_stream *stream = self->stream;
    for (piece *p; (p = hand_out(stream));) {
        p->failure = (ofr_error){0};
        int r = fetch(stream, self->number, p, &p->failure);
        pthread_mutex_lock(&stream->lock);
        p->result = r;
        p->ready = true;
        pthread_cond_broadcast(&stream->changed);
        pthread_mutex_unlock(&stream->lock);
        if (r < 0)
            break;
    }
    return NULL;
}

static int start(ofr_source_stream *stream, ofr_error *err)
{
    unsigned wanted = stream->source->fetch ? stream->source->workers : LOCAL_WORKERS;
    wanted = wanted < 1 ? 1 : wanted;
    wanted = wanted > OFR_SOURCE_MAX_WORKERS ? OFR_SOURCE_MAX_WORKERS : wanted;
    for (unsigned i = 0; i < wanted; i++) {
        stream->workers[i] = (fetcher){.stream = stream, .number = i};
        if (pthread_create(&stream->workers[i].thread, NULL, fetch_pieces, &stream->workers[i]))
            break;
        stream->n_workers++;
    }
    return stream->n_workers > 0 ? 0 : ofr_fail(err, OFR_ENOMEM, "no thread could be started");
}

int ofr_source_stream_open(const ofr_source *source, const ofr_source_span *spans, size_t n_spans,
                           ofr_source_stream **ret_stream, ofr_error *err)
{
    ofr_source_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    stream->source = source;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    stream->spans = calloc(n_spans + 1, sizeof *spans);
    stream->n_spans = n_spans;
    stream->direct = malloc((source->n_files + 1) * sizeof *stream->direct);
    int r = stream->spans && stream->direct ? 0 : OFR_ENOMEM;
    for (size_t i = 0; i < source->n_files && stream->direct; i++)
        stream->direct[i] = -1;
    if (r == 0)
        memcpy(stream->spans, spans, n_spans * sizeof *spans);
    for (size_t i = 0; i < N_SLOTS && r == 0; i++)
        if (!(stream->slots[i].data = aligned_alloc(DIRECT_ALIGN, OFR_SOURCE_PIECE_BYTES)))
            r = OFR_ENOMEM;
    if (r < 0)
        ofr_fail(err, r, "out of memory for a window of %d MiB", OFR_SOURCE_WINDOW_BYTES >> 20);
    for (size_t i = 0; i < n_spans && r == 0; i++) {
        uint32_t file = spans[i].file;
        if (source->files[file].fd < 0)
            continue;
        (void)posix_fadvise(source->files[file].fd, (off_t)spans[i].begin, 0,
                            POSIX_FADV_SEQUENTIAL);
        if (stream->direct[file] < 0)
            stream->direct[file] = open_direct(source->files[file].fd);
    }
    if (r == 0)
        r = start(stream, err);
    if (r < 0) {
        ofr_source_stream_close(stream);
        return r;
    }
    *ret_stream = stream;
    return 0;
}

int ofr_source_stream_next(ofr_source_stream *stream, size_t size, const void **ret_data,
                           size_t *ret_size, ofr_error *err)
{
    int r = 0;
    pthread_mutex_lock(&stream->lock);
    piece *p = &stream->slots[stream->read % N_SLOTS];
    if (stream->read < stream->handed_out && p->ready && p->result == 0 && stream->at == p->size) {
        stream->at = 0;
        stream->read++;
        pthread_cond_broadcast(&stream->changed);
        p = &stream->slots[stream->read % N_SLOTS];
    }
    for (;;) {
        bool exists = stream->read < stream->handed_out;
        if (exists && p->ready)
            break;
        if (!exists && stream->span == stream->n_spans) {
            r = ofr_fail(err, OFR_EINTERNAL, "the source was read beyond its end");
            break;
        }
        pthread_cond_wait(&stream->changed, &stream->lock);
    }
    if (r == 0 && p->result < 0)
        r = ofr_fail(err, p->result, "%s", p->failure.text);
    pthread_mutex_unlock(&stream->lock);
    if (r < 0)
        return r;
    size_t left = p->size - stream->at;
    *ret_size = size < left ? size : left;
    *ret_data = p->data + stream->at;
    stream->at += *ret_size;
    return 0;
}

ofr_source_stream *ofr_source_stream_close(ofr_source_stream *stream)
{
    if (!stream)
        return NULL;
    pthread_mutex_lock(&stream->lock);
    stream->stop = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
    for (unsigned i = 0; i < stream->n_workers; i++)
        pthread_join(stream->workers[i].thread, NULL);
    for (size_t i = 0; i < N_SLOTS; i++)
        free(stream->slots[i].data);
    pthread_cond_destroy(&stream->changed);
    pthread_mutex_destroy(&stream->lock);
    for (size_t i = 0; i < stream->source->n_files && stream->direct; i++)
        if (stream->direct[i] >= 0)
            close(stream->direct[i]);
    free(stream->direct);
    free(stream->spans);
    free(stream);
    return NULL;
}
