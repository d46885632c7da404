/* output [rows, outs] = inputs [rows, ins] x weight^T + bias in float32, for the few rows of a decoding batch.
 *
 * A step reads every weight once and does little with it, so memory sets the pace. Weights lie in panels of PANEL outputs in the order in
 * which they are read. A stretch of a panel that fits the first cache level is used for all rows before the next one comes, and that one is
 * fetched meanwhile. A row's sums are made in the same order whoever else is in the batch: its result is bitwise the same for any number of
 * rows.
 */
#include "kernels.h"

#define VECTORS 3
#define PANEL (VECTORS * WIDTH)
/* Inputs of one stretch. Its sums are made apart and then added, which keeps long rows exact: the error grows with the stretch, not the row. */
#define STRETCH 192
/* Rows that are computed together: their inputs and sums stay in the second level beside a panel. */
#define PASS_ROWS 128
/* How many inputs ahead of the one in use memory is asked for. */
#define AHEAD 32

EXPORT long jitney_panel(void) { return PANEL; }

struct pack_job {
    const float *weight;
    float *packed;
    long outs, ins;
};

static void pack_panel(const void *argument, long panel)
{
    const struct pack_job *job = argument;
    for (long in = 0; in < job->ins; in++)
        for (long column = 0; column < PANEL; column++) {
            long out = panel * PANEL + column;
            job->packed[(panel * job->ins + in) * PANEL + column] = out < job->outs ? job->weight[out * job->ins + in] : 0;
        }
}

/* weight [outs, ins] -> packed [panels, ins, PANEL], the last panel filled up with zeros. */
EXPORT void jitney_pack(const float *weight, float *packed, long outs, long ins, unsigned threads)
{
    struct pack_job job = {weight, packed, outs, ins};
    parallel_for(pack_panel, &job, (outs + PANEL - 1) / PANEL, threads);
}

struct tile {
    const float *inputs, *weights, *ahead;
    float *sums; /* [rows, PANEL] so far */
    long ins, stride, step;
};

/* One tile: ROWS rows x PANEL outputs over a stretch of inputs, sums in registers. */
#define TILE(ROWS)                                                                                                                         \
    static void tile_##ROWS(const struct tile *t)                                                                                          \
    {                                                                                                                                      \
        vec sums[ROWS][VECTORS];                                                                                                           \
        const float *weights = t->weights, *ahead = t->ahead, *inputs = t->inputs;                                                         \
        const long stride = t->stride, step = t->step, ins = t->ins;                                                                       \
        for (int row = 0; row < ROWS; row++)                                                                                               \
            for (int v = 0; v < VECTORS; v++)                                                                                              \
                sums[row][v] = (vec){0};                                                                                                   \
        for (long in = 0; in < ins; in++, weights += PANEL, ahead += step) {                                                               \
            vec part[VECTORS];                                                                                                             \
            for (int v = 0; v < VECTORS; v++) {                                                                                            \
                __builtin_prefetch(ahead + v * WIDTH, 0, 2);                                                                               \
                part[v] = load(weights + v * WIDTH);                                                                                       \
            }                                                                                                                              \
            for (int row = 0; row < ROWS; row++) {                                                                                         \
                float value = inputs[row * stride + in];                                                                                   \
                for (int v = 0; v < VECTORS; v++)                                                                                          \
                    sums[row][v] += value * part[v];                                                                                       \
            }                                                                                                                              \
        }                                                                                                                                  \
        for (int row = 0; row < ROWS; row++)                                                                                               \
            for (int v = 0; v < VECTORS; v++)                                                                                              \
                store(t->sums + row * PANEL + v * WIDTH, load(t->sums + row * PANEL + v * WIDTH) + sums[row][v]);                          \
    }

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

struct linear_job {
    const float *inputs, *packed, *bias;
    float *output;
    long rows, outs, ins;
};

/* `rows` rows of inputs over one stretch of a panel. One tile runs ahead of itself; several share the fetching of the next stretch. */
static void stretch(const float *inputs, long stride, const float *weights, long ins, float *sums, long rows)
{
    long count = (rows + TILE_ROWS - 1) / TILE_ROWS;
    struct tile t = {.weights = weights, .ins = ins, .stride = stride, .step = PANEL / count};
    t.ahead = count == 1 ? weights + AHEAD * PANEL : weights + ins * PANEL;
    for (long row = 0; row < rows; row += TILE_ROWS, t.ahead += t.step * ins) {
        t.inputs = inputs + row * stride;
        t.sums = sums + row * PANEL;
        tiles[least(TILE_ROWS, rows - row)](&t);
    }
}

static void put(const struct linear_job *job, long panel, const float *sums)
{
    long columns = least(PANEL, job->outs - panel * PANEL);
    const float *bias = job->bias ? job->bias + panel * PANEL : 0;
    for (long row = 0; row < job->rows; row++, sums += PANEL) {
        float *output = job->output + row * job->outs + panel * PANEL;
        for (long column = 0; column < columns; column++)
            output[column] = bias ? sums[column] + bias[column] : sums[column];
    }
}

/* All rows of a pass through one panel. */
static void linear_panel(const void *argument, long panel)
{
    const struct linear_job *job = argument;
    float sums[PASS_ROWS * PANEL] __attribute__((aligned(64)));
    memset(sums, 0, (size_t)(job->rows * PANEL) * sizeof(float));
    for (long in = 0; in < job->ins; in += STRETCH)
        stretch(job->inputs + in, job->ins, job->packed + (panel * job->ins + in) * PANEL, least(STRETCH, job->ins - in), sums, job->rows);
    put(job, panel, sums);
}

/* All contiguous; bias [outs] or null. */
EXPORT void jitney_linear(
    const float *inputs, const float *packed, const float *bias, float *output, long rows, long outs, long ins, unsigned threads)
{
    for (long first = 0; first < rows; first += PASS_ROWS) {
        struct linear_job job = {inputs + first * ins, packed, bias, output + first * outs, least(PASS_ROWS, rows - first), outs, ins};
        parallel_for(linear_panel, &job, (outs + PANEL - 1) / PANEL, threads);
    }
}
