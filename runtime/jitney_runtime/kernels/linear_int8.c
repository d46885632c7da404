/* Weights as int8 with a scale per output, inputs with one per GROUP of a row: a few large numbers spoil their own group only.
 *
 * Where the CPU multiplies bytes (VNNI) four make a word, and the weights are shifted by 128, because one side has no sign; what that adds to a
 * sum is 128 x the sum of the inputs. Elsewhere two make a word, widened to 16 bits, which is exact as well.
 */
#include "int8.h"

#define GROUP 64

/* Of one group of a row. */
struct amounts {
    float scale;
    int32_t shifted; /* what the weights' shift adds to a sum */
};

#define INPUT int32_t
#define SUMS ivec
#if defined(__AVX512VNNI__)
#define EACH 4
#define SHIFT 128
#define WORD uint32_t
#define PART(from) load_bytes(from)
#define DOT(sums, input, part) ((ivec)_mm512_dpbusd_epi32((__m512i)(sums), part, repeat(input)))
typedef int8_t input_type;
typedef int8_t inputs_type __attribute__((vector_size(WIDTH), aligned(1)));
#else
#define EACH 2
#define SHIFT 0
#define WORD uint16_t
#define PART(from) widen_8(from)
#define DOT(sums, input, part) ((sums) + madd_16(repeat(input), part))
typedef int16_t input_type;
typedef int16_t inputs_type __attribute__((vector_size(WIDTH * 2), aligned(2)));
#endif
#define STRETCH (GROUP / EACH)
#define AMOUNTS(tile, row) ((const struct amounts *)((tile)->amounts + (row) * (tile)->amounts_stride))
#define ADD(total, sums, tile, row)                                                                                                        \
    ((total) + __builtin_convertvector((sums) - AMOUNTS(tile, row)->shifted, vec) * AMOUNTS(tile, row)->scale)
#include "product.h"

static long groups(long ins) { return (ins + GROUP - 1) / GROUP; }
static long words(long ins) { return (ins + EACH - 1) / EACH; }
/* The words, and the scales of the outputs. */
static long words_bytes(long ins) { return lines(words(ins) * PANEL * (long)sizeof(WORD)); }
static long panel_bytes(long ins) { return lines(words_bytes(ins) + PANEL * (long)sizeof(float)); }
/* The words, and the amounts of the groups. */
static long amounts_at(long ins) { return words(ins) * (long)sizeof(INPUT); }
static long row_bytes(long ins) { return lines(amounts_at(ins) + groups(ins) * (long)sizeof(struct amounts)); }

static void pack(const float *weight, long columns, long ins, void *panel)
{
    uint8_t *packed = panel;
    float *scales = (void *)((char *)panel + words_bytes(ins));
    for (long column = 0; column < PANEL; column++) {
        const float *from = weight + column * ins;
        float top = column < columns ? largest(from, ins) : 0, factor = top > 0 ? 127 / top : 0;
        for (long in = 0; in < words(ins) * EACH; in++)
            packed[(in / EACH * PANEL + column) * EACH + in % EACH] =
                (uint8_t)((column < columns && in < ins ? rounded(from[in] * factor) : 0) + SHIFT);
        scales[column] = top / 127;
    }
}

/* `count` inputs of one group -> words, the last filled up with zeros. */
static struct amounts prepare_group(const float *inputs, long count, input_type *to)
{
    float top = largest(inputs, count), factor = top > 0 ? 127 / top : 0;
    ivec totals = {0};
    int32_t total = 0;
    long in = 0;
    for (; in + WIDTH <= count; in += WIDTH) {
        ivec part = rounded_each(load(inputs + in) * factor);
        totals += part;
        *(inputs_type *)(to + in) = __builtin_convertvector(part, inputs_type);
    }
    for (int lane = 0; lane < WIDTH; lane++)
        total += totals[lane];
    for (; in < words(count) * EACH; in++) {
        int32_t value = in < count ? rounded(inputs[in] * factor) : 0;
        total += value;
        to[in] = (input_type)value;
    }
    return (struct amounts){top / 127, total * SHIFT};
}

static void prepare(const float *inputs, long ins, void *row)
{
    struct amounts *amounts = (void *)((char *)row + amounts_at(ins));
    for (long group = 0; group < groups(ins); group++)
        amounts[group] = prepare_group(inputs + group * GROUP, least(GROUP, ins - group * GROUP), (input_type *)row + group * GROUP);
}

static void multiply(const struct pass *pass, long panel)
{
    const char *packed = pass->packed + panel * pass->panel_bytes;
    const float *scales = (const float *)(packed + words_bytes(pass->ins));
    vec totals[PASS_ROWS * VECTORS];
    walk(pass, packed, words(pass->ins), totals, pass->inputs + amounts_at(pass->ins), sizeof(struct amounts));
    for (long row = 0; row < pass->rows; row++)
        for (int v = 0; v < VECTORS; v++)
            put(pass, row, panel, v, totals[row * VECTORS + v] * load(scales + v * WIDTH));
}

const struct format int8_format = {panel_bytes, row_bytes, pack, prepare, multiply};
