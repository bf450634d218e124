/* A ring of pieces between the threads that fetch and the one that reads. */
#include "bake_model/source_stream.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { N_SLOTS = OFR_SOURCE_WINDOW_BYTES / OFR_SOURCE_PIECE_BYTES, LOCAL_WORKERS = 2 };

typedef struct piece {
    char *data; /* [PIECE_BYTES] */
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

static int fetch(const ofr_source_stream *stream, unsigned worker, const piece *p, ofr_error *err)
{
    const ofr_source_file *file = &stream->source->files[p->file];
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
        found->size = left < OFR_SOURCE_PIECE_BYTES ? (size_t)left : OFR_SOURCE_PIECE_BYTES;
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
    int r = stream->spans ? 0 : OFR_ENOMEM;
    if (r == 0)
        memcpy(stream->spans, spans, n_spans * sizeof *spans);
    for (size_t i = 0; i < N_SLOTS && r == 0; i++)
        if (!(stream->slots[i].data = malloc(OFR_SOURCE_PIECE_BYTES)))
            r = OFR_ENOMEM;
    if (r < 0)
        ofr_fail(err, r, "out of memory for a window of %d MiB", OFR_SOURCE_WINDOW_BYTES >> 20);
    for (size_t i = 0; i < n_spans && r == 0; i++)
        if (source->files[spans[i].file].fd >= 0)
            (void)posix_fadvise(source->files[spans[i].file].fd, (off_t)spans[i].begin, 0,
                                POSIX_FADV_SEQUENTIAL);
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
    free(stream->spans);
    free(stream);
    return NULL;
}
