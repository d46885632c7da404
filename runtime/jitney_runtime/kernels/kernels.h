/* What all kernels share: vectors of this build's width and helping threads.
 *
 * Compiled once per instruction set (runtime/build_kernels.py); the loader takes the widest that the CPU has. No libm, no OpenMP headers:
 * the same source builds with any clang or gcc that knows vector extensions.
 */
#ifndef JITNEY_KERNELS_H
#define JITNEY_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Floats in a vector register, and the rows of a tile of a product (product.h). */
#if defined(__AVX512F__)
#define WIDTH 16
#define TILE_ROWS 8
#else
#define WIDTH 8
#define TILE_ROWS 4
#endif

#define EXPORT __attribute__((visibility("default")))
/* What such a function takes as a const int is known to the compiler where it is called: one copy of it for each. */
#define PER_KIND static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(WIDTH * 4), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(WIDTH * 4), aligned(4)));

static inline vec load(const float *from) { return *(const vec *)from; }
static inline void store(float *to, vec value) { *(vec *)to = value; }
static inline vec fill(float value) { return (vec){0} + value; }

#define EVEN_8 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_8 1, 3, 5, 7, 9, 11, 13, 15
#if WIDTH == 16
#define EVEN EVEN_8, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD ODD_8, 17, 19, 21, 23, 25, 27, 29, 31
#else
#define EVEN EVEN_8
#define ODD ODD_8
#endif

/* Neighbouring lanes of (a, b) added: the first half of the result is of a, the second of b. */
static inline vec fold(vec a, vec b) { return __builtin_shufflevector(a, b, EVEN) + __builtin_shufflevector(a, b, ODD); }

/* Lane i of the result is the sum of values[i]; the values are lost. */
static inline vec sum_each(vec *values)
{
    for (int count = WIDTH; count > 1; count /= 2)
        for (int i = 0; i < count / 2; i++)
            values[i] = fold(values[2 * i], values[2 * i + 1]);
    return values[0];
}

static inline float sum(vec value)
{
    for (int count = WIDTH; count > 1; count /= 2)
        value = fold(value, value);
    return value[0];
}

static inline vec choose(ivec where, vec one, vec other) { return (vec)(((ivec)one & where) | ((ivec)other & ~where)); }

/* e^x to 2 units in the last place for x between -87 and 0, as weights of a softmax are; at -87 for anything smaller. */
static inline vec exponential_below(vec x)
{
    x = choose(x < -87.0f, fill(-87.0f), x);
    /* Adding 1.5 x 2^23 rounds to an integer and leaves it in the low bits. */
    vec shifted = x * 1.44269504f + 12582912.0f;
    vec whole = shifted - 12582912.0f;
    vec rest = x - whole * 0.693145752f - whole * 1.42860677e-6f;
    vec power = fill(1.0f / 720);
    power = power * rest + 1.0f / 120;
    power = power * rest + 1.0f / 24;
    power = power * rest + 1.0f / 6;
    power = power * rest + 0.5f;
    power = power * rest + 1.0f;
    power = power * rest + 1.0f;
    return (vec)((ivec)power + (((ivec)shifted - 0x4B400000) << 23));
}

/* The same for x up to 88, and at 88 for anything greater. */
static inline vec exponential(vec x) { return exponential_below(choose(x > 88.0f, fill(88.0f), x)); }

/* item(job, i) for all i below `items`, on the calling thread and on at most `threads` - 1 helpers; returns when all are done. */
void parallel_for(void (*item)(const void *, long), const void *job, long items, unsigned threads);

/* Element-wise work is shared in portions of so many rows: fewer are done before a helper has woken up. */
#define PORTION 16
static inline long portions(long rows) { return (rows + PORTION - 1) / PORTION; }
static inline long least(long a, long b) { return a < b ? a : b; }

/* One layer: its cache, of float32 or, where `narrow`, of bfloat16, and its shape. In a block the places of one head lie side by side,
 * [kv_heads, block_size, dim]: whoever reads a sequence reads it head by head. From one block to the next it is `block_bytes`. */
struct layer {
    void *keys, *values;
    long heads, kv_heads, key_dim, value_dim, block_size, block_bytes;
    long narrow;
    long window; /* tokens a row looks back at, itself included; 0 for all */
    float scale;
};

/* A chunk of a prompt: `count` tokens of the step from `first` on, the first of which is number `start` of the sequence whose blocks `table`
 * names. */
struct prompt {
    const int64_t *table;
    long first, count, start;
};

/* One step, the same for all layers. */
struct step {
    const int64_t *slots;   /* [tokens] where each token is stored */
    const int64_t *index;   /* [rows] places of the rows among the tokens, or null when every token is such a row */
    const int64_t *tables;  /* [rows, width] blocks */
    const int64_t *lengths; /* [rows] tokens, the new one included */
    long tokens, rows, width;
    const struct prompt *prompts;
    long prompt_count;
};

/* The kernels. Pointers first, then numbers, then floats, then the threads to use: replay.c and library.py count on it. */
EXPORT void jitney_linear(const float *inputs, const void *packed, const float *bias, float *output, void *scratch, long rows, long outs,
    long ins, long format, unsigned threads);
EXPORT void jitney_rms_norm(const float *inputs, const float *weight, float *output, long tokens, long heads, long token_stride,
    long head_stride, long dim, float epsilon, float offset, unsigned threads);
EXPORT void jitney_silu_mul(const float *gate_up, float *output, long rows, long dim, unsigned threads);
EXPORT void jitney_rotary(const float *x, const float *cos, const float *sin, float *output, long token_stride, long head_stride, long tokens,
    long heads, long dim, unsigned threads);
EXPORT void jitney_store(const struct layer *layer, const struct step *step, const float *key, const float *value, long key_token,
    long key_head, long value_token, long value_head, unsigned threads);
EXPORT void jitney_attend(
    const struct layer *layer, const struct step *step, const float *query, float *output, long query_token, long query_head, unsigned threads);
EXPORT void jitney_add(const float *a, const float *b, float *output, long count, unsigned threads);

#endif
