/* Weights as float32. */
#define WORD float
#define INPUT float
#define SUMS vec
#define PART(from) load(from)
#define DOT(sums, input, part) ((sums) + (input) * (part))
#define STRETCH EXACT
#define ADD(total, sums, tile, row) ((total) + (sums))
#include "product.h"

static long panel_bytes(long ins) { return ins * PANEL * (long)sizeof(float); }
static long row_bytes(long ins) { return ins * (long)sizeof(float); }

static void pack(const float *weight, long columns, long ins, void *panel)
{
    float *packed = panel;
    for (long in = 0; in < ins; in++)
        for (long column = 0; column < PANEL; column++)
            packed[in * PANEL + column] = column < columns ? weight[column * ins + in] : 0;
}

static void multiply(const struct pass *pass, long panel)
{
    vec totals[PASS_ROWS * VECTORS];
    walk(pass, pass->packed + panel * pass->panel_bytes, pass->ins, totals, 0, 0);
    put_all(pass, panel, totals);
}

const struct format float32_format = {panel_bytes, row_bytes, pack, 0, multiply};
