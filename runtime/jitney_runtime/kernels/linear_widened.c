/* Weights as bfloat16, widened to float32 in registers: half the memory, and the same float32 sums where the weights are bfloat16 anyway. */
#define WORD uint16_t
#define INPUT float
#define SUMS vec
#define PART(from) widen(from)
#define DOT(sums, input, part) ((sums) + (input) * (part))
#define STRETCH (2 * EXACT)
#define ADD(total, sums, tile, row) ((total) + (sums))
#include "bfloat16.h"
#include "product.h"

static long panel_bytes(long ins) { return ins * PANEL * (long)sizeof(uint16_t); }
static long row_bytes(long ins) { return ins * (long)sizeof(float); }

static void pack(const float *weight, long columns, long ins, void *panel)
{
    uint16_t *packed = panel;
    for (long in = 0; in < ins; in++)
        for (long column = 0; column < PANEL; column++)
            packed[in * PANEL + column] = column < columns ? narrow(weight[column * ins + in]) : 0;
}

static void multiply(const struct pass *pass, long panel)
{
    vec totals[PASS_ROWS * VECTORS];
    walk(pass, pass->packed + panel * pass->panel_bytes, pass->ins, totals, 0, 0);
    put_all(pass, panel, totals);
}

const struct format widened_format = {panel_bytes, row_bytes, pack, 0, multiply};
