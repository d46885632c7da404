/* Numbers as int8, and the instructions that multiply them, for each instruction set. */
#ifndef JITNEY_INT8_H
#define JITNEY_INT8_H
#include "kernels.h"
#include <immintrin.h>

#if WIDTH == 16
typedef __m512i bytes;
static inline bytes load_bytes(const void *from) { return _mm512_loadu_si512(from); }
static inline bytes repeat(int32_t word) { return _mm512_set1_epi32(word); }
static inline ivec madd_16(bytes a, bytes b) { return (ivec)_mm512_madd_epi16(a, b); }
static inline bytes madd_8(bytes unsigned_ones, bytes signed_ones) { return _mm512_maddubs_epi16(unsigned_ones, signed_ones); }
static inline bytes add_16(bytes a, bytes b) { return _mm512_add_epi16(a, b); }
static inline bytes ones_16(void) { return _mm512_set1_epi16(1); }
static inline bytes widen_8(const void *from) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(from)); }
#else
typedef __m256i bytes;
static inline bytes load_bytes(const void *from) { return _mm256_loadu_si256(from); }
static inline bytes repeat(int32_t word) { return _mm256_set1_epi32(word); }
static inline ivec madd_16(bytes a, bytes b) { return (ivec)_mm256_madd_epi16(a, b); }
static inline bytes madd_8(bytes unsigned_ones, bytes signed_ones) { return _mm256_maddubs_epi16(unsigned_ones, signed_ones); }
static inline bytes add_16(bytes a, bytes b) { return _mm256_add_epi16(a, b); }
static inline bytes ones_16(void) { return _mm256_set1_epi16(1); }
static inline bytes widen_8(const void *from) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(from)); }
#endif

/* The largest amount among `count` numbers; NaN where one of them is no number. */
static inline float largest(const float *values, long count)
{
    vec tops = {0}, spoiled = {0};
    float rest = 0;
    long i = 0;
    for (; i + WIDTH <= count; i += WIDTH) {
        vec part = load(values + i);
        spoiled += part * 0.0f;
        part = choose(part < 0.0f, -part, part);
        tops = choose(part > tops, part, tops);
    }
    float top = 0;
    for (int lane = 0; lane < WIDTH; lane++)
        top = tops[lane] > top ? tops[lane] : top;
    for (; i < count; i++) {
        float value = values[i] < 0 ? -values[i] : values[i];
        rest += value * 0.0f;
        top = value > top ? value : top;
    }
    return top + sum(spoiled) + rest;
}

/* Adding 1.5 x 2^23 rounds to a whole number and leaves it in the low bits; values are at most 2^22 in amount. */
static inline ivec rounded_each(vec values) { return (ivec)(values + 12582912.0f) - 0x4B400000; }
static inline int32_t rounded(float value)
{
    float shifted = value + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return bits - 0x4B400000;
}

#endif
