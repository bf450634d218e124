/* Chunk lengths and past lengths of static graphs, and covering a prompt with them. */
#include "graph/ladder.h"

#include <stdio.h>
#include <stdlib.h>

enum { CHUNK_MIN = 2, CHUNK_MAX = OFR_LADDER_CHUNK_MAX, COVER_MAX = 65536 };

int ofr_ladder_parse_chunks(const char *text, uint32_t context, ofr_ladder *ret_chunks,
                            ofr_error *err)
{
    ofr_ladder made = {.steps = {1}, .n = 1};
    const char *at = text;
    for (;;) {
        char *end;
        unsigned long value = at[0] >= '0' && at[0] <= '9' ? strtoul(at, &end, 10) : 0;
        if (value < CHUNK_MIN || value > CHUNK_MAX || value <= made.steps[made.n - 1] ||
            (*end && *end != ','))
            return ofr_fail(err, OFR_EINVAL,
                            "chunks '%s': write ascending lengths from %d to %d, as in 64,256,1024",
                            text, CHUNK_MIN, CHUNK_MAX);
        if (made.n == OFR_LADDER_MAX)
            return ofr_fail(err, OFR_EINVAL, "chunks '%s': more than %d lengths", text,
                            OFR_LADDER_MAX - 1);
        if (value <= context)
            made.steps[made.n++] = (uint32_t)value;
        if (!*end)
            break;
        at = end + 1;
    }
    *ret_chunks = made;
    return 0;
}

void ofr_ladder_pasts(uint32_t context, ofr_ladder *ret_pasts)
{
    ofr_ladder made = {.steps = {0}, .n = 1};
    for (uint64_t past = OFR_LADDER_FIRST_PAST; past < context && made.n < OFR_LADDER_MAX - 1;
         past *= 2)
        made.steps[made.n++] = (uint32_t)past;
    made.steps[made.n++] = context;
    *ret_pasts = made;
}

int ofr_ladder_cover(const ofr_ladder *ladder, uint32_t value, uint32_t *ret_step)
{
    for (uint32_t i = 0; i < ladder->n; i++) {
        if (ladder->steps[i] >= value) {
            *ret_step = ladder->steps[i];
            return 0;
        }
    }
    return OFR_EUNSUPPORTED;
}

void ofr_ladder_block_name(uint32_t kind, uint32_t tokens, uint32_t past, char *text, size_t size)
{
    if (kind == 0)
        snprintf(text, size, "block_%u_%u.xml", tokens, past);
    else
        snprintf(text, size, "block_%u_%u_kind%u.xml", tokens, past, kind);
}

int ofr_ladder_chunks(const ofr_ladder *chunks, const double *cost, uint32_t n,
                      uint32_t *ret_chunks, uint32_t room, uint32_t *ret_count, ofr_error *err)
{
    if (n == 0 || n > COVER_MAX || chunks->n == 0)
        return ofr_fail(err, OFR_EINVAL, "no chunks cover %u tokens", n);
    struct {
        double cost;
        uint32_t step;
    } *best = calloc((size_t)n + 1, sizeof *best);
    if (!best)
        return ofr_fail(err, OFR_ENOMEM, "no memory to cover %u tokens", n);
    for (uint32_t left = 1; left <= n; left++) {
        for (uint32_t i = 0; i < chunks->n; i++) {
            uint32_t step = chunks->steps[i];
            double total = cost[i] + (step < left ? best[left - step].cost : 0);
            /* On a tie the longer chunk: fewer calls. */
            if (i == 0 || total <= best[left].cost) {
                best[left].cost = total;
                best[left].step = step;
            }
        }
    }
    int r = 0;
    uint32_t count = 0;
    for (uint32_t left = n; left > 0 && r == 0;) {
        uint32_t step = best[left].step;
        if (count == room)
            r = ofr_fail(err, OFR_ELIMIT, "%u tokens need more than %u chunks", n, room);
        else
            ret_chunks[count++] = step;
        left -= step < left ? step : left;
    }
    free(best);
    if (r == 0)
        *ret_count = count;
    return r;
}
