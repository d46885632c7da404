/* What attention of one token and attention of a prompt share: where keys and values lie. */
#ifndef JITNEY_ATTENTION_H
#define JITNEY_ATTENTION_H
#include "bfloat16.h"
#include "kernels.h"

#define CHUNK 64
/* Below any score, and finite: a difference of two of them is a number. */
#define LOWEST -1e30f
#define MAX_GROUP 16
#define MAX_DIM 256

/* A [tokens, heads, dim] tensor whose last axis is contiguous; strides in floats. */
struct view {
    const float *data;
    long token_stride, head_stride;
};

/* Attention of a chunk of a prompt (prompt.c) -> its tokens of the output [tokens, heads, value_dim]. */
void attend_prompt(const struct layer *layer, const struct prompt *prompt, struct view query, float *output, unsigned threads);

static inline long width_of(const struct layer *l) { return l->narrow ? (long)sizeof(uint16_t) : (long)sizeof(float); }

/* Where in a cache, whose rows are `row_bytes`, that of this head and of this place in this block is, in bytes. */
static inline long offset_of(const struct layer *l, int64_t block, long kv_head, long in, long row_bytes)
{
    return block * l->block_bytes + (kv_head * l->block_size + in) * row_bytes;
}

/* Keys and values of one head at consecutive places. keys[count..] repeat a real one up to a full vector. */
struct chunk {
    const void *keys[CHUNK], *values[CHUNK];
    long count;
};

/* Blocks lie anywhere: memory is asked for what comes next, into the second level; into the first took half as long again (measured). */
static inline void ask_for(const void *row, long bytes)
{
    for (long byte = 0; byte < bytes; byte += 64)
        __builtin_prefetch((const char *)row + byte, 0, 2);
}

/* Rows `first` to `last` - 1 of those that come next. */
static inline void ask_for_rows(const void *const *rows, long first, long last, long bytes)
{
    for (long i = first; i < last; i++)
        ask_for(rows[i], bytes);
}

/* The chunk that begins at place `at` of a row of `length` tokens. */
static inline void find(struct chunk *chunk, const struct layer *l, const int64_t *table, long kv_head, long at, long length)
{
    const long key_bytes = l->key_dim * width_of(l), value_bytes = l->value_dim * width_of(l);
    const long end = least(at + CHUNK, length);
    chunk->count = 0;
    for (long block = at / l->block_size, in = at % l->block_size; at < end; block++, in = 0) {
        const long count = least(l->block_size - in, end - at);
        const char *key = (const char *)l->keys + offset_of(l, table[block], kv_head, in, key_bytes);
        const char *value = (const char *)l->values + offset_of(l, table[block], kv_head, in, value_bytes);
        for (long i = 0; i < count; i++, key += key_bytes, value += value_bytes) {
            chunk->keys[chunk->count + i] = key;
            chunk->values[chunk->count + i] = value;
        }
        chunk->count += count;
        at += count;
    }
    for (long more = chunk->count; more % WIDTH; more++)
        chunk->keys[more] = chunk->keys[chunk->count - 1];
}

#endif
