/* Products of bfloat16 in attention of a prompt, two to a word: twice those of a float32 instruction. Included by prompt.c. */
#if defined(__AVX512BF16__)
#include <immintrin.h>

static inline int in_pairs(const struct layer *l) { return l->narrow != 0; }

static inline vec multiply(vec sums, __m512i one, uint32_t other)
{
    return (vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)one, (__m512bh)_mm512_set1_epi32((int32_t)other));
}

static inline __m512i in_turns(__m256i even, __m256i odd)
{
    return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

/* scores [count, LANES] = keys x queries; filled up to whole steps by the last key's. */
PER_KIND void score_pairs(const struct queries *q, const void *const *keys, const struct chunk *next, long count, long dim,
    float (*scores)[LANES], const int registers)
{
    for (long key = 0; key < count; key += AT_ONCE) {
        const uint32_t *rows[AT_ONCE];
        vec sums[AT_ONCE][REGISTERS] = {{{0}}};
        for (int i = 0; i < AT_ONCE; i++)
            rows[i] = keys[least(key + i, count - 1)];
        ask_for_rows(next->keys, key, least(key + AT_ONCE, next->count), dim * 2);
        for (long d = 0; d < dim / 2; d++) {
            __m512i query[REGISTERS];
            for (int r = 0; r < registers; r++)
                query[r] = _mm512_loadu_si512(q->query_pairs[d] + r * WIDTH);
            for (int i = 0; i < AT_ONCE; i++)
                for (int r = 0; r < registers; r++)
                    sums[i][r] = multiply(sums[i][r], query[r], rows[i][d]);
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < registers; r++)
                store(scores[key + i] + r * WIDTH, sums[i][r]);
    }
}

/* total = total x keep + values x weights, which are lost */
PER_KIND void add_pairs(struct seen *seen, const void *const *values, const struct chunk *next, float (*weights)[LANES], long count,
    long dim, const vec *keep, const int registers)
{
    uint32_t room[CHUNK / 2][MAX_DIM];
    for (long key = 0; key < count; key += 2) {
        const uint16_t *even = values[key], *odd = values[least(key + 1, count - 1)];
        ask_for_rows(next->values, key, least(key + 2, next->count), dim * 2);
        for (long d = 0; d < dim; d += WIDTH)
            _mm512_storeu_si512(room[key / 2] + d, in_turns(_mm256_loadu_si256((const void *)(even + d)), _mm256_loadu_si256((const void *)(odd + d))));
        for (int r = 0; r < registers; r++) {
            const vec first = load(weights[key] + r * WIDTH), second = key + 1 < count ? load(weights[key + 1] + r * WIDTH) : fill(0);
            const __m512i both = in_turns((__m256i)_mm512_cvtneps_pbh((__m512)first), (__m256i)_mm512_cvtneps_pbh((__m512)second));
            /* In the place of what has been read. */
            _mm512_storeu_si512(weights[key / 2] + r * WIDTH, both);
        }
    }
    for (long d = 0; d < dim; d += AT_ONCE) {
        vec sums[AT_ONCE][REGISTERS];
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < registers; r++)
                sums[i][r] = load(seen->total[d + i] + r * WIDTH) * keep[r];
        for (long key = 0; key < (count + 1) / 2; key++) {
            __m512i weight[REGISTERS];
            for (int r = 0; r < registers; r++)
                weight[r] = _mm512_loadu_si512(weights[key] + r * WIDTH);
            for (int i = 0; i < AT_ONCE; i++)
                for (int r = 0; r < registers; r++)
                    sums[i][r] = multiply(sums[i][r], weight[r], room[key][d + i]);
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < registers; r++)
                store(seen->total[d + i] + r * WIDTH, sums[i][r]);
    }
}
#else
static inline int in_pairs(const struct layer *l)
{
    (void)l;
    return 0;
}

PER_KIND void score_pairs(const struct queries *q, const void *const *keys, const struct chunk *next, long count, long dim,
    float (*scores)[LANES], const int registers)
{
    (void)q, (void)keys, (void)next, (void)count, (void)dim, (void)scores, (void)registers;
}

PER_KIND void add_pairs(struct seen *seen, const void *const *values, const struct chunk *next, float (*weights)[LANES], long count,
    long dim, const vec *keep, const int registers)
{
    (void)seen, (void)values, (void)next, (void)weights, (void)count, (void)dim, (void)keep, (void)registers;
}
#endif
