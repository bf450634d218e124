/* The bytes of a source's files in order, fetched ahead by several threads within a window.
 *
 * The files' spans are cut into pieces; workers fetch pieces as they get free, in any order of
 * arrival, and the reader gets them in the order of the spans. At most OFR_SOURCE_WINDOW_BYTES are
 * held. Opening, reading and closing belong to one thread at a time. */
#ifndef OFR_BAKE_MODEL_SOURCE_STREAM_H
#define OFR_BAKE_MODEL_SOURCE_STREAM_H

#include "bake_model/source.h"

enum {
    OFR_SOURCE_WINDOW_BYTES = 64 << 20,
    OFR_SOURCE_PIECE_BYTES = 4 << 20,
    OFR_SOURCE_MAX_WORKERS = 16,
};

/* Bytes [begin, end) of a file. */
typedef struct ofr_source_span {
    uint32_t file;
    uint64_t begin, end;
} ofr_source_span;

typedef struct ofr_source_stream ofr_source_stream;

/* Starts fetching. `source` is borrowed, `spans` is copied. */
int ofr_source_stream_open(const ofr_source *source, const ofr_source_span *spans, size_t n_spans,
                           ofr_source_stream **ret_stream, ofr_error *err);
/* Up to `size` next bytes, at least one, never beyond the end of a span; *ret_data stays valid
 * until the next call. Waits for them. OFR_EINTERNAL at the end of all spans. */
int ofr_source_stream_next(ofr_source_stream *stream, size_t size, const void **ret_data,
                           size_t *ret_size, ofr_error *err);
/* Stops fetching. Accepts NULL; returns NULL. */
ofr_source_stream *ofr_source_stream_close(ofr_source_stream *stream);

#endif
