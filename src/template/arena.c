/* Arena: blocks from malloc, a bump pointer in the newest one. */
#include "template/arena.h"

#include <stdint.h>
#include <stdlib.h>

struct jinja_arena_block {
    jinja_arena_block *next;
    char *free; /* next byte to hand out */
    char *end;
    char pad[8]; /* keeps the data 16-byte aligned */
};

enum { BLOCK_BYTES = 64 * 1024, ALIGNMENT = 16 };

void jinja_arena_init(jinja_arena *arena, size_t limit)
{
    arena->blocks = NULL;
    arena->used = 0;
    arena->limit = limit;
}

void jinja_arena_done(jinja_arena *arena)
{
    for (jinja_arena_block *block = arena->blocks; block;) {
        jinja_arena_block *next = block->next;
        free(block);
        block = next;
    }
    arena->blocks = NULL;
    arena->used = 0;
}

static char *align_up(char *pointer)
{
    uintptr_t misaligned = (uintptr_t)pointer % ALIGNMENT;
    return misaligned ? pointer + (ALIGNMENT - misaligned) : pointer;
}

void *jinja_arena_alloc(jinja_arena *arena, size_t size, bool *ret_limit)
{
    *ret_limit = true;
    if (size > arena->limit) {
        return NULL;
    }
    if (size == 0) {
        size = 1;
    }
    jinja_arena_block *block = arena->blocks;
    if (block) {
        char *start = align_up(block->free);
        if (start <= block->end && size <= (size_t)(block->end - start)) {
            block->free = start + size;
            return start;
        }
    }
    /* A large request gets twice its size, so that what is appended to it finds room. */
    size_t bytes = size < BLOCK_BYTES / 4 ? BLOCK_BYTES : sizeof *block + size * 2;
    if (bytes > arena->limit - arena->used) {
        bytes = sizeof *block + size;
        if (bytes > arena->limit - arena->used) {
            return NULL;
        }
    }
    block = malloc(bytes);
    if (!block) {
        *ret_limit = false;
        return NULL;
    }
    arena->used += bytes;
    block->next = arena->blocks;
    block->end = (char *)block + bytes;
    char *start = (char *)(block + 1);
    block->free = start + size;
    arena->blocks = block;
    return start;
}

bool jinja_arena_extend(jinja_arena *arena, const char *end, size_t extra)
{
    jinja_arena_block *block = arena->blocks;
    if (!block || end != block->free || extra > (size_t)(block->end - block->free)) {
        return false;
    }
    block->free += extra;
    return true;
}
