/* Weights as 4 bits with a scale and a least value per 32 of an output's inputs, inputs as int8 with a scale per 32.
 *
 * A byte holds the weight of one input below and that of the fourth after it above, so that one mask and one shift make two words of four.
 * The weights are 0..15 and thus the side without a sign.
 */
#include "bfloat16.h"
#include "int8.h"
#include "linear.h"

#define GROUP 32
/* Words of four inputs in a group, and registers of packed weights, which hold two words each. */
#define WORDS (GROUP / 4)
#define HALVES (WORDS / 2)

/* One group of WIDTH outputs. */
struct weights {
    uint32_t words[HALVES][WIDTH];
    uint16_t scale[WIDTH], least[WIDTH]; /* bfloat16 */
};

/* Of one group of a row. */
struct amounts {
    float scale, total; /* total: of the inputs */
};

static long groups(long ins) { return (ins + GROUP - 1) / GROUP; }
static long panel_bytes(long ins) { return groups(ins) * VECTORS * (long)sizeof(struct weights); }
static long row_bytes(long ins) { return lines(groups(ins) * (GROUP + (long)sizeof(struct amounts))); }

static float wide(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* `count` weights of one group and output. The scale is rounded before it is used, so that rounding it costs nothing more. */
static void pack_group(const float *from, long count, struct weights *to, int lane)
{
    float low = 0, high = 0;
    for (long in = 0; in < count; in++) {
        low = in == 0 || from[in] < low ? from[in] : low;
        high = in == 0 || from[in] > high ? from[in] : high;
    }
    to->least[lane] = narrow(low);
    low = wide(to->least[lane]);
    to->scale[lane] = narrow((high - low) / 15);
    float scale = wide(to->scale[lane]);
    for (long in = 0; in < GROUP; in++) {
        int32_t value = in < count && scale > 0 ? rounded((from[in] - low) / scale) : 0;
        uint32_t bits = (uint32_t)(value < 0 ? 0 : value > 15 ? 15 : value);
        to->words[in / 8][lane] |= bits << (in % 4 * 8 + in % 8 / 4 * 4);
    }
}

static void pack(const float *weight, long columns, long ins, void *panel)
{
    struct weights *to = panel;
    memset(to, 0, (size_t)panel_bytes(ins));
    for (long group = 0; group < groups(ins); group++)
        for (long column = 0; column < columns; column++)
            pack_group(weight + column * ins + group * GROUP, least(GROUP, ins - group * GROUP), to + group * VECTORS + column / WIDTH,
                (int)(column % WIDTH));
}

typedef int8_t narrow_bytes __attribute__((vector_size(WIDTH), aligned(1)));

static void prepare(const float *inputs, long ins, void *row)
{
    int8_t *to = row;
    struct amounts *amounts = (void *)(to + groups(ins) * GROUP);
    for (long group = 0; group < groups(ins); group++, inputs += GROUP, to += GROUP) {
        long count = least(GROUP, ins - group * GROUP);
        float top = largest(inputs, count), factor = top > 0 ? 127 / top : 0;
        int32_t total = 0;
        long in = 0;
        ivec totals = {0};
        for (; in + WIDTH <= count; in += WIDTH) {
            ivec part = rounded_each(load(inputs + in) * factor);
            totals += part;
            *(narrow_bytes *)(to + in) = __builtin_convertvector(part, narrow_bytes);
        }
        for (int lane = 0; lane < WIDTH; lane++)
            total += totals[lane];
        for (; in < GROUP; in++) {
            int32_t value = in < count ? rounded(inputs[in] * factor) : 0;
            total += value;
            to[in] = (int8_t)value;
        }
        amounts[group] = (struct amounts){top / 127, top / 127 * (float)total};
    }
}

/* weights x one row's inputs of the group */
static inline ivec dot(const bytes *weights, const int32_t *inputs)
{
#if defined(__AVX512VNNI__)
    __m512i one = _mm512_setzero_si512(), other = _mm512_setzero_si512();
    for (int word = 0; word < WORDS; word += 2) {
        one = _mm512_dpbusd_epi32(one, weights[word], repeat(inputs[word]));
        other = _mm512_dpbusd_epi32(other, weights[word + 1], repeat(inputs[word + 1]));
    }
    return (ivec)one + (ivec)other;
#else
    /* Eight pairs of at most 2 x 15 x 127 stay below 2^15. */
    bytes sums = madd_8(weights[0], repeat(inputs[0]));
    for (int word = 1; word < WORDS; word++)
        sums = add_16(sums, madd_8(weights[word], repeat(inputs[word])));
    return madd_16(sums, ones_16());
#endif
}

static void multiply(const struct pass *pass, long panel)
{
    const struct weights *from = (const void *)(pass->packed + panel * pass->panel_bytes);
    const long count = groups(pass->ins);
    vec sums[PASS_ROWS * VECTORS];
    memset(sums, 0, (size_t)(pass->rows * VECTORS) * sizeof(vec));
    for (long group = 0; group < count; group++)
        for (int v = 0; v < VECTORS; v++, from++) {
            bytes weights[WORDS];
            for (int half = 0; half < HALVES; half++) {
                ivec words = *(const ivec *)from->words[half];
                weights[2 * half] = (bytes)(words & 0x0F0F0F0F);
                weights[2 * half + 1] = (bytes)((words >> 4) & 0x0F0F0F0F);
                __builtin_prefetch((const char *)from->words[half] + AHEAD * 64, 0, 2);
            }
            vec scale = widen(from->scale), low = widen(from->least);
            for (long row = 0; row < pass->rows; row++) {
                const char *inputs = pass->inputs + row * pass->row_bytes;
                const struct amounts *amounts = (const struct amounts *)(inputs + count * GROUP) + group;
                vec whole = __builtin_convertvector(dot(weights, (const int32_t *)(inputs + group * GROUP)), vec);
                sums[row * VECTORS + v] += whole * (scale * amounts->scale) + low * amounts->total;
            }
        }
    for (long row = 0; row < pass->rows; row++)
        for (int v = 0; v < VECTORS; v++)
            put(pass, row, panel, v, sums[row * VECTORS + v]);
}

const struct format int4_format = {panel_bytes, row_bytes, pack, prepare, multiply};
