/* What the weight formats of a linear layer share. */
#ifndef JITNEY_LINEAR_H
#define JITNEY_LINEAR_H
#include "kernels.h"

#define VECTORS 3
#define PANEL (VECTORS * WIDTH)
/* Words whose float32 sums are made apart and then added, which keeps long rows exact: the error grows with the stretch, not the row. Words of
 * 4 bytes of a panel fill 18 KB, which stay in the first level while one tile of rows after the other comes by. */
#define EXACT (1536 / WIDTH)
/* Rows that are computed together: their inputs and sums stay in the second level beside a panel. */
#define PASS_ROWS 64
/* Fewer numbers than this are prepared before a helper has woken up. */
#define PREPARED_ALONE 8192
/* How many words ahead of the one in use memory is asked for. */
#define AHEAD 32

/* One pass: [rows, ins] x panels, at most PASS_ROWS rows. `inputs` are prepared rows, `row_bytes` apart. */
struct pass {
    const char *inputs;
    const char *packed;
    const float *bias;
    float *output;
    long rows, outs, ins, row_bytes, panel_bytes;
};

/* One weight format. */
struct format {
    /* Bytes of one panel of `ins` inputs, and of one prepared row. */
    long (*panel_bytes)(long ins);
    long (*row_bytes)(long ins);
    /* weight [columns, ins], columns <= PANEL -> one panel, filled up with zeros */
    void (*pack)(const float *weight, long columns, long ins, void *panel);
    /* one row [ins] of inputs as the format multiplies it; null where that is as it is */
    void (*prepare)(const float *inputs, long ins, void *row);
    /* all rows of the pass through one panel, into its columns of the output */
    void (*multiply)(const struct pass *pass, long panel);
};

extern const struct format float32_format, widened_format, bfloat16_format, int8_format, int4_format;

static inline long lines(long bytes) { return (bytes + 63) / 64 * 64; }

/* sums [WIDTH] of vector `v` of a panel -> the output of one row, bias added; the last panel may be narrower. */
static inline void put(const struct pass *pass, long row, long panel, int v, vec sums)
{
    long first = panel * PANEL + v * WIDTH, columns = least(WIDTH, pass->outs - first);
    float *output = pass->output + row * pass->outs + first;
    if (columns >= WIDTH) {
        store(output, pass->bias ? sums + load(pass->bias + first) : sums);
        return;
    }
    for (long column = 0; column < columns; column++)
        output[column] = pass->bias ? sums[column] + pass->bias[first + column] : sums[column];
}

static inline void put_all(const struct pass *pass, long panel, const vec *totals)
{
    for (long row = 0; row < pass->rows; row++)
        for (int v = 0; v < VECTORS; v++)
            put(pass, row, panel, v, totals[row * VECTORS + v]);
}

#endif
