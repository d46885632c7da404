/* Weights and inputs as bfloat16, two to a word, sums in float32: twice the products of a float32 instruction. */
#include "kernels.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>

#define WORD uint32_t
#define INPUT int32_t
#define SUMS vec
#define PART(from) _mm512_loadu_si512(from)
#define DOT(sums, input, part) ((vec)_mm512_dpbf16_ps((__m512)(sums), (__m512bh)_mm512_set1_epi32(input), (__m512bh)(part)))
#define STRETCH EXACT
#define ADD(total, sums, tile, row) ((total) + (sums))
#include "bfloat16.h"
#include "product.h"

static long words(long ins) { return (ins + 1) / 2; }
static long panel_bytes(long ins) { return words(ins) * PANEL * (long)sizeof(uint32_t); }
static long row_bytes(long ins) { return lines(words(ins) * (long)sizeof(int32_t)); }

static void pack(const float *weight, long columns, long ins, void *panel)
{
    uint16_t *packed = panel;
    for (long word = 0; word < words(ins); word++)
        for (long column = 0; column < PANEL; column++)
            for (long in = 2 * word; in < 2 * word + 2; in++)
                *packed++ = column < columns && in < ins ? narrow(weight[column * ins + in]) : 0;
}

static void prepare(const float *inputs, long ins, void *row)
{
    uint16_t *to = row;
    long in = 0;
    for (; in + WIDTH <= ins; in += WIDTH) {
        __m256bh part = _mm512_cvtneps_pbh(_mm512_loadu_ps(inputs + in));
        memcpy(to + in, &part, sizeof part);
    }
    for (; in < ins; in++)
        to[in] = narrow(inputs[in]);
    if (ins % 2)
        to[ins] = 0;
}

static void multiply(const struct pass *pass, long panel)
{
    vec totals[PASS_ROWS * VECTORS];
    walk(pass, pass->packed + panel * pass->panel_bytes, words(pass->ins), totals, 0, 0);
    put_all(pass, panel, totals);
}

const struct format bfloat16_format = {panel_bytes, row_bytes, pack, prepare, multiply};
#endif
