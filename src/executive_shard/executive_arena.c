/* The executive's segments: how large they are, making them, and cleaning them after a fault. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/shm.h"
#include "executive_shard/executive_internal.h"
#include "executive_shard/kv_cache.h"
#include "graph/ladder.h"

enum {
    SLOTS_MAX = OFR_SESSION_SEGMENTS_MAX,
    SLOTS_WANTED = 4,
    CHUNK_MIN = 512,
    CHUNK_LONGEST = 1024,
    ZEROS = 1 << 20,
};

/* What slots beyond SLOTS_WANTED may make of the arena: GPUs pin or mirror their layers' strips of
 * all slots, used or not. */
static const uint64_t ARENA_ENOUGH = UINT64_C(4) << 30;

/* Bytes that KV may take: a quarter of the memory that is free. */
static int kv_budget(uint64_t *ret_budget, ofr_error *err)
{
    uint64_t budget = ofr_memory_available() / 4;
    uint64_t shm_free = 0;
    uint64_t shm_total = 0;
    int r = ofr_shm_space(&shm_free, &shm_total, err);
    if (r < 0)
        return r;
    *ret_budget = shm_free * 3 / 4 < budget ? shm_free * 3 / 4 : budget;
    return 0;
}

static uint32_t choose_slots(uint64_t budget, uint64_t slot_bytes)
{
    uint64_t room = budget / slot_bytes;
    uint64_t enough = ARENA_ENOUGH / slot_bytes;
    if (enough < SLOTS_WANTED)
        enough = SLOTS_WANTED;
    if (room > enough)
        room = enough;
    return room < 1 ? 1 : room > SLOTS_MAX ? SLOTS_MAX : (uint32_t)room;
}

/* Where neither is given: the model's context if memory allows it, cut to
 * OFR_EXECUTIVE_CONTEXT_ENOUGH where that makes room for SLOTS_WANTED; then as many slots as fit,
 * beyond SLOTS_WANTED only up to ARENA_ENOUGH. Pages of a slot that is never used are never
 * committed. */
static int choose_sizes(ofr_executive *x, const ofr_model_params *params, ofr_error *err)
{
    const ofr_executive_options *options = x->options;
    uint32_t context = options->context ? options->context : params->context_length;
    uint32_t wanted = options->n_slots ? options->n_slots : 1;
    uint64_t budget = 0;
    int r = kv_budget(&budget, err);
    if (r < 0)
        return r;
    for (;;) {
        r = ofr_kv_layout_init(&x->kv_layout, params, wanted, context, x->chunk_max, err);
        if (r < 0)
            return r;
        uint64_t room = budget / x->kv_layout.slot_bytes;
        bool enough = room >= wanted && (options->n_slots || room >= SLOTS_WANTED ||
                                         context <= OFR_EXECUTIVE_CONTEXT_ENOUGH);
        if (options->context || enough || context <= 512) {
            if (!options->n_slots)
                wanted = choose_slots(budget, x->kv_layout.slot_bytes);
            break;
        }
        context /= 2;
    }
    if (!options->context && context < params->context_length)
        ofr_log(OFR_LOG_LEVEL_WARNING,
                "context %u instead of the model's %u: memory for KV is limited to %" PRIu64
                " MiB; --context N asks for more",
                context, params->context_length, budget >> 20);
    return ofr_kv_layout_init(&x->kv_layout, params, wanted, context, x->chunk_max, err);
}

/* The longest chunk that the package has static graphs for, within bounds. */
static uint32_t choose_chunk(const ofr_package *package)
{
    char name[64];
    for (uint32_t t = CHUNK_LONGEST; t > CHUNK_MIN; t--) {
        ofr_ladder_block_name(0, t, 0, name, sizeof name);
        if (ofr_package_has_file(package, name))
            return t;
    }
    return CHUNK_MIN;
}

int ofr_executive_choose_layout(ofr_executive *x, const ofr_package *package, ofr_error *err)
{
    const ofr_model_params *params = ofr_package_params(package);
    x->chunk_max = choose_chunk(package);
    int r = choose_sizes(x, params, err);
    if (r == 0)
        r = ofr_session_layout_init(&x->layout, 1, x->kv_layout.n_slots, params->vocab_size,
                                    x->chunk_max, x->kv_layout.context, err);
    if (r == 0)
        r = ofr_slot_ledger_layout(x->kv_layout.n_slots, x->kv_layout.context, params->vocab_size,
                                   &x->ledger, err);
    return r;
}

int ofr_executive_make_arenas(ofr_executive *x, ofr_error *err)
{
    int r = 0;
    if (x->kv_fd < 0)
        r = ofr_shm_create(x->kv_layout.total_bytes, &x->kv_fd, err);
    if (r == 0 && x->hidden_fd < 0)
        r = ofr_shm_create(ofr_hidden_total_bytes(x->chunk_max, x->d_model), &x->hidden_fd, err);
    if (r == 0 && x->ledger_fd < 0)
        r = ofr_slot_ledger_create(&x->ledger, &x->ledger_fd, err);
    return r;
}

void ofr_executive_drop_arenas(ofr_executive *x)
{
    ofr_executive_close(&x->kv_fd);
    ofr_executive_close(&x->hidden_fd);
    ofr_executive_close(&x->ledger_fd);
}

/* Pages that devices have imported are pinned: they are written, never punched out. */
static int zero_pages(int fd, ofr_error *err)
{
    char *zeros = calloc(1, ZEROS);
    if (!zeros)
        return ofr_fail(err, OFR_ENOMEM, "no memory to clean a segment");
    int r = 0;
    off_t begin = lseek(fd, 0, SEEK_DATA);
    while (begin >= 0 && r == 0) {
        off_t end = lseek(fd, begin, SEEK_HOLE);
        while (begin < end && r == 0) {
            size_t size = end - begin < ZEROS ? (size_t)(end - begin) : ZEROS;
            ssize_t n = pwrite(fd, zeros, size, begin);
            if (n > 0)
                begin += n;
            else if (n == 0 || errno != EINTR)
                r = ofr_fail_errno(err, errno, "cannot clean a segment");
        }
        if (r == 0)
            begin = lseek(fd, begin, SEEK_DATA);
    }
    free(zeros);
    return r;
}

int ofr_executive_clean_arena(ofr_executive *x, ofr_error *err)
{
    ofr_executive_close(&x->ledger_fd);
    int r = zero_pages(x->kv_fd, err);
    if (r == 0)
        r = zero_pages(x->hidden_fd, err);
    if (r == 0)
        r = ofr_executive_make_arenas(x, err); /* an empty ledger */
    x->arena_dirty = r < 0;
    return r;
}

/* A cache that cannot be used costs time, not the session. */
void ofr_executive_keep_kv(const ofr_executive *x, bool load)
{
    ofr_kv_cache cache = {.directory = x->options->cache_directory,
                          .fingerprint = x->fingerprint,
                          .max_bytes = x->options->cache_bytes,
                          .layout = &x->kv_layout,
                          .ledger = &x->ledger,
                          .kv_fd = x->kv_fd,
                          .ledger_fd = x->ledger_fd};
    ofr_error why = {0};
    uint64_t tokens = 0;
    if (!cache.directory || x->kv_fd < 0 || x->ledger_fd < 0 || x->arena_dirty)
        return;
    int r =
        load ? ofr_kv_cache_load(&cache, &tokens, &why) : ofr_kv_cache_save(&cache, &tokens, &why);
    if (r < 0)
        ofr_log(OFR_LOG_LEVEL_WARNING, "KV cache: %s", why.text);
    else
        ofr_log(OFR_LOG_LEVEL_INFO, "KV cache: %s %" PRIu64 " tokens", load ? "read" : "wrote",
                tokens);
}
