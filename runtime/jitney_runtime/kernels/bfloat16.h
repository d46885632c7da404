/* bfloat16: the upper half of a float32. */
#ifndef JITNEY_BFLOAT16_H
#define JITNEY_BFLOAT16_H
#include "kernels.h"

typedef uint16_t half_words __attribute__((vector_size(WIDTH * 2), aligned(2)));

static inline vec widen(const uint16_t *from) { return (vec)(__builtin_convertvector(*(const half_words *)from, ivec) << 16); }

/* To the nearest, ties to even; NaN stays one. */
static inline uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* The same of `dim` numbers, which fill whole registers. */
static inline void narrow_all(uint16_t *to, const float *from, long dim)
{
    for (long d = 0; d < dim; d += WIDTH) {
        const vec value = load(from + d);
        const ivec bits = (ivec)value;
        const ivec rounded = (ivec)choose(value == value, (vec)(bits + 0x7FFF + (bits >> 16 & 1)), (vec)(bits | 0x400000));
        *(half_words *)(to + d) = __builtin_convertvector(rounded >> 16, half_words);
    }
}

#endif
