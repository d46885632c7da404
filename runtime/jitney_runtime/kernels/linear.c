/* output [rows, outs] = inputs [rows, ins] x weight^T + bias: inputs, bias and output float32, the weight packed in one of the formats. */
#include "linear.h"

/* In the order of Format in cpu_kernels.py; null where this build has none. */
static const struct format *const formats[] = {
    &float32_format,
    &widened_format,
#if defined(__AVX512BF16__)
    &bfloat16_format,
#else
    0,
#endif
    &int8_format,
    &int4_format,
};

EXPORT long jitney_has_format(long format) { return formats[format] != 0; }

static long panels(long outs) { return (outs + PANEL - 1) / PANEL; }

/* Bytes of a packed weight, and of what a row of inputs is turned into (0: nothing). */
EXPORT long jitney_packed_bytes(long outs, long ins, long format) { return panels(outs) * formats[format]->panel_bytes(ins); }
EXPORT long jitney_row_bytes(long ins, long format) { return formats[format]->prepare ? formats[format]->row_bytes(ins) : 0; }

struct pack_job {
    const struct format *format;
    const float *weight;
    char *packed;
    long outs, ins;
};

static void pack_panel(const void *argument, long panel)
{
    const struct pack_job *job = argument;
    const float *weight = job->weight + panel * PANEL * job->ins;
    job->format->pack(weight, least(PANEL, job->outs - panel * PANEL), job->ins, job->packed + panel * job->format->panel_bytes(job->ins));
}

/* weight [outs, ins] -> packed, jitney_packed_bytes of them, aligned to 64. */
EXPORT void jitney_pack(const float *weight, void *packed, long outs, long ins, long format, unsigned threads)
{
    struct pack_job job = {formats[format], weight, packed, outs, ins};
    parallel_for(pack_panel, &job, panels(outs), threads);
}

struct prepare_job {
    const struct format *format;
    const float *inputs;
    char *prepared;
    long rows, ins, row_bytes;
};

static void prepare_row(const void *argument, long row)
{
    const struct prepare_job *job = argument;
    job->format->prepare(job->inputs + row * job->ins, job->ins, job->prepared + row * job->row_bytes);
}

/* `all` is all rows as one pass; `together` of them, whole tiles, are a real one. */
struct multiply_job {
    const struct format *format;
    struct pass all;
    long passes, together;
};

/* A panel stays in the second level for all passes that are computed with it one after the other. */
static void multiply_panel(const void *argument, long item)
{
    const struct multiply_job *job = argument;
    const long first = item % job->passes * job->together;
    struct pass pass = job->all;
    pass.rows = least(job->together, pass.rows - first);
    pass.inputs += first * pass.row_bytes;
    pass.output += first * pass.outs;
    job->format->multiply(&pass, item / job->passes);
}

/* All contiguous; bias [outs] or null; scratch [rows, jitney_row_bytes] or null where that is 0. */
EXPORT void jitney_linear(const float *inputs, const void *packed, const float *bias, float *output, void *scratch, long rows, long outs,
    long ins, long format, unsigned threads)
{
    /* A chunk of a prompt that is not its last has no scores. */
    if (!rows)
        return;
    const struct format *f = formats[format];
    const char *prepared = f->prepare ? scratch : (const char *)inputs;
    long row_bytes = f->row_bytes(ins);
    if (f->prepare) {
        struct prepare_job job = {f, inputs, scratch, rows, ins, row_bytes};
        parallel_for(prepare_row, &job, rows, rows * ins < PREPARED_ALONE ? 1 : threads);
    }
    /* As few passes as there can be, of whole tiles and about the same length: a short one costs as much memory as a long one. */
    const long most = (rows + PASS_ROWS - 1) / PASS_ROWS, tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const long together = (tiles + most - 1) / most * TILE_ROWS, passes = (rows + together - 1) / together;
    struct multiply_job job = {f, {prepared, packed, bias, output, rows, outs, ins, row_bytes, f->panel_bytes(ins)}, passes, together};
    parallel_for(multiply_panel, &job, panels(outs) * passes, threads);
}
