/* The ladder of static shapes: how many tokens T a graph takes, how many past rows S it sees.
 *
 * T is 1 (decode) or one of the chunks of the package; S is 0 or a power of two from 256 on, and
 * the model's context: a power of two at a time bounds what attention computes in vain by half. The
 * smallest S that covers the position is used. */
#ifndef OFR_GRAPH_LADDER_H
#define OFR_GRAPH_LADDER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    OFR_LADDER_MAX = 24,
    OFR_LADDER_CHUNK_MAX = 8192,
    OFR_LADDER_FIRST_PAST = 256,
    OFR_LADDER_DECODE_PAST = 1024
};

typedef struct ofr_ladder {
    uint32_t steps[OFR_LADDER_MAX]; /* ascending */
    uint32_t n;
} ofr_ladder;

#define OFR_LADDER_DEFAULT_CHUNKS "16,32,64,256,512,1024"

/* "64,256,1024": ascending, each 2 to 8192. T = 1 is added. Chunks beyond `context` are left out.
 */
int ofr_ladder_parse_chunks(const char *text, uint32_t context, ofr_ladder *ret_chunks,
                            ofr_error *err);
/* 0, 256, 512, ... and `context` itself. */
void ofr_ladder_pasts(uint32_t context, ofr_ladder *ret_pasts);
/* The smallest step that is at least `value`; OFR_EUNSUPPORTED if there is none. */
int ofr_ladder_cover(const ofr_ladder *ladder, uint32_t value, uint32_t *ret_step);

/* "block_64_256.xml"; layers of another kind than the first: "block_64_256_kind1.xml". */
void ofr_ladder_block_name(uint32_t kind, uint32_t tokens, uint32_t past, char *text, size_t size);

/* Covers `n` tokens with chunks of the ladder so that the sum of their costs is least; only the
 * last chunk may be longer than what is left. `cost`[i] belongs to chunks->steps[i]. ret_chunks
 * takes up to `room` chunk lengths, in order; OFR_ELIMIT if more are needed. n is at most 65,536.
 */
int ofr_ladder_chunks(const ofr_ladder *chunks, const double *cost, uint32_t n,
                      uint32_t *ret_chunks, uint32_t room, uint32_t *ret_count, ofr_error *err);

#endif
