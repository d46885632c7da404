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

static inline long width_of(const struct layer *l) { return l->narrow ? (long)sizeof(uint16_t) : (long)sizeof(float); }

/* Keys and values of one head at consecutive places. keys[count..] repeat a real one up to a full vector. */
struct chunk {
    const void *keys[CHUNK], *values[CHUNK];
    long count;
};

static inline void ask_for(const char *row, long bytes)
{
    for (long byte = 0; byte < bytes; byte += 64)
        __builtin_prefetch(row + byte);
}

/* The chunk that begins at place `at` of a row of `length` tokens; memory is asked for it, because blocks lie anywhere. */
static inline void find(struct chunk *chunk, const struct layer *l, const int64_t *table, long kv_head, long at, long length)
{
    const long width = width_of(l);
    chunk->count = 0;
    for (; chunk->count < CHUNK && at < length; chunk->count++, at++) {
        long place = (table[at / l->block_size] * l->block_size + at % l->block_size) * l->kv_heads + kv_head;
        const char *key = (const char *)l->keys + place * l->key_dim * width, *value = (const char *)l->values + place * l->value_dim * width;
        chunk->keys[chunk->count] = key;
        chunk->values[chunk->count] = value;
        ask_for(key, l->key_dim * width);
        ask_for(value, l->value_dim * width);
    }
    for (long more = chunk->count; more % WIDTH; more++)
        chunk->keys[more] = chunk->keys[chunk->count - 1];
}

#endif
