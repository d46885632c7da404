/* The walk of one weight format through a panel of PANEL outputs; included once per format by the file that says what a word is.
 *
 * A word is what one lane multiplies at once: one float, two bfloat16, four int8. Before the include:
 *   WORD          a word of a weight as it lies in memory
 *   INPUT         a word of a row, 4 bytes
 *   SUMS          vec or ivec
 *   PART(from)    WIDTH words as a register
 *   DOT(sums, input, part)   sums + input, in all lanes, x part
 *   STRETCH       words whose sums are made apart
 *   ADD(total, sums, tile, row)   the total of a row and the sums of a stretch, as floats
 *
 * Memory sets the pace of the few rows of a decoding batch. Weights lie in the order in which they are read. A stretch of a panel that fits the
 * first cache level is used for all rows before the next one comes, and that one is fetched meanwhile. A row's sums are made in the same
 * order whoever else is in the batch: its result is bitwise the same for any number of rows.
 */
#include "linear.h"

struct tile {
    const INPUT *inputs;
    const WORD *weights;
    const char *ahead;
    vec *totals; /* [rows, VECTORS] so far */
    const char *amounts; /* what ADD knows of the first row and this stretch */
    long words, stride, step, amounts_stride;
};

/* `rows` rows x PANEL outputs over a stretch of words, sums in registers. `rows` is known to the compiler. */
static inline __attribute__((always_inline)) void tile(const struct tile *t, const int rows)
{
    SUMS sums[TILE_ROWS][VECTORS];
    const WORD *weights = t->weights;
    const INPUT *inputs = t->inputs;
    const char *ahead = t->ahead;
    const long stride = t->stride, step = t->step, words = t->words;
#pragma clang loop unroll(full)
    for (int row = 0; row < rows; row++)
#pragma clang loop unroll(full)
        for (int v = 0; v < VECTORS; v++)
            sums[row][v] = (SUMS){0};
    for (long word = 0; word < words; word++, weights += PANEL, ahead += step) {
        __typeof__(PART(weights)) part[VECTORS];
#pragma clang loop unroll(full)
        for (int v = 0; v < VECTORS; v++) {
            __builtin_prefetch(ahead + v * WIDTH * (long)sizeof(WORD), 0, 2);
            part[v] = PART(weights + v * WIDTH);
        }
#pragma clang loop unroll(full)
        for (int row = 0; row < rows; row++) {
            INPUT input = inputs[row * stride + word];
#pragma clang loop unroll(full)
            for (int v = 0; v < VECTORS; v++)
                sums[row][v] = DOT(sums[row][v], input, part[v]);
        }
    }
#pragma clang loop unroll(full)
    for (int row = 0; row < rows; row++)
#pragma clang loop unroll(full)
        for (int v = 0; v < VECTORS; v++)
            t->totals[row * VECTORS + v] = ADD(t->totals[row * VECTORS + v], sums[row][v], t, row);
}

#define TILE(ROWS)                                                                                                                         \
    static void tile_##ROWS(const struct tile *t) { tile(t, ROWS); }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
#if TILE_ROWS == 8
TILE(5)
TILE(6)
TILE(7)
TILE(8)
#endif
#undef TILE

static void (*const tiles[])(const struct tile *) = {
    0,
    tile_1,
    tile_2,
    tile_3,
    tile_4,
#if TILE_ROWS == 8
    tile_5,
    tile_6,
    tile_7,
    tile_8,
#endif
};

/* All rows over one stretch. One tile runs ahead of itself; several share the fetching of the next stretch. */
static void stretch(struct tile t, long rows)
{
    long count = (rows + TILE_ROWS - 1) / TILE_ROWS;
    t.step = (long)sizeof(WORD) * PANEL / count;
    t.ahead = (const char *)(count == 1 ? t.weights + AHEAD * PANEL : t.weights + t.words * PANEL);
    for (long row = 0; row < rows; row += TILE_ROWS) {
        tiles[least(TILE_ROWS, rows - row)](&t);
        t.ahead += t.step * t.words;
        t.inputs += TILE_ROWS * t.stride;
        t.amounts += TILE_ROWS * t.amounts_stride;
        t.totals += TILE_ROWS * VECTORS;
    }
}

/* All rows of a pass through the `words` words of a panel -> totals [rows, VECTORS]. `amounts`: of the first row and stretch, `size` bytes each. */
static void walk(const struct pass *pass, const void *panel, long words, vec *totals, const char *amounts, long size)
{
    memset(totals, 0, (size_t)(pass->rows * VECTORS) * sizeof(vec));
    struct tile t = {.inputs = (const INPUT *)pass->inputs,
        .weights = panel,
        .totals = totals,
        .amounts = amounts,
        .stride = pass->row_bytes / (long)sizeof(INPUT),
        .amounts_stride = pass->row_bytes};
    for (long word = 0; word < words; word += STRETCH) {
        t.words = least(STRETCH, words - word);
        stretch(t, pass->rows);
        t.inputs += STRETCH;
        t.weights += STRETCH * PANEL;
        t.amounts += size;
    }
}
