/* Arena: everything one compiled template, or one rendering, allocates; freed at once.
 * Bounded by a limit in bytes, so that no template can exhaust the process. */
#ifndef OFR_TEMPLATE_ARENA_H
#define OFR_TEMPLATE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct jinja_arena_block jinja_arena_block;

typedef struct jinja_arena {
    jinja_arena_block *blocks; /* newest first; allocation happens in the newest */
    size_t used;               /* bytes taken from the system */
    size_t limit;              /* `used` never exceeds this */
} jinja_arena;

void jinja_arena_init(jinja_arena *arena, size_t limit);
void jinja_arena_done(jinja_arena *arena);

/* 16-byte aligned memory, or NULL when the limit or the system's memory is exhausted
 * (*ret_limit tells which: true for the limit). */
void *jinja_arena_alloc(jinja_arena *arena, size_t size, bool *ret_limit);

/* Grows the allocation that ends at `end` by `extra` bytes in place; false where it is not the
 * newest one or the block has no room. What makes chains of string concatenations linear. */
bool jinja_arena_extend(jinja_arena *arena, const char *end, size_t extra);

#endif
