/* Element-wise work between the products, one pass where torch's operators need six. float32. */
#include "kernels.h"

struct norm_job {
    const float *inputs, *weight;
    float *output;
    long tokens, heads, token_stride, head_stride, dim;
    float epsilon, offset;
};

static void norm_row(const struct norm_job *job, const float *inputs, float *output)
{
    const long dim = job->dim;
    vec squares = {0};
    long d = 0;
    for (; d + WIDTH <= dim; d += WIDTH)
        squares += load(inputs + d) * load(inputs + d);
    float total = sum(squares);
    for (; d < dim; d++)
        total += inputs[d] * inputs[d];
    float factor = 1.0f / __builtin_sqrtf(total / (float)dim + job->epsilon);
    for (d = 0; d < dim; d++)
        output[d] = inputs[d] * factor * (job->weight[d] + job->offset);
}

static void norm_portion(const void *argument, long portion)
{
    const struct norm_job *job = argument;
    for (long token = portion * PORTION; token < least((portion + 1) * PORTION, job->tokens); token++)
        for (long head = 0; head < job->heads; head++)
            norm_row(job, job->inputs + token * job->token_stride + head * job->head_stride, job->output + (token * job->heads + head) * job->dim);
}

/* Root mean square norm (Zhang and Sennrich 2019, arXiv:1910.07467): output [tokens, heads, dim], contiguous, = x / rms(x) x (weight + offset). */
EXPORT void jitney_rms_norm(const float *inputs, const float *weight, float *output, long tokens, long heads, long token_stride,
    long head_stride, long dim, float epsilon, float offset, unsigned threads)
{
    struct norm_job job = {inputs, weight, output, tokens, heads, token_stride, head_stride, dim, epsilon, offset};
    parallel_for(norm_portion, &job, portions(tokens), threads);
}

struct add_job {
    const float *a, *b;
    float *output;
    long count;
};

/* Numbers that are added before a helper has woken up. */
#define ADDED 16384

static void add_portion(const void *argument, long portion)
{
    const struct add_job *job = argument;
    for (long i = portion * ADDED; i < least((portion + 1) * ADDED, job->count); i++)
        job->output[i] = job->a[i] + job->b[i];
}

/* output [count] = a + b */
EXPORT void jitney_add(const float *a, const float *b, float *output, long count, unsigned threads)
{
    struct add_job job = {a, b, output, count};
    parallel_for(add_portion, &job, (count + ADDED - 1) / ADDED, threads);
}

struct silu_job {
    const float *gate_up;
    float *output;
    long rows, dim;
};

static void silu_portion(const void *argument, long portion)
{
    const struct silu_job *job = argument;
    const long dim = job->dim;
    for (long row = portion * PORTION; row < least((portion + 1) * PORTION, job->rows); row++) {
        const float *gates = job->gate_up + row * 2 * dim;
        for (long d = 0; d < dim; d += WIDTH) {
            vec gate = load(gates + d);
            store(job->output + row * dim + d, gate / (exponential(-gate) + 1.0f) * load(gates + dim + d));
        }
    }
}

/* output [rows, dim] = silu(gate) x up, which lie side by side in gate_up [rows, 2 x dim]; dim is a multiple of WIDTH. */
EXPORT void jitney_silu_mul(const float *gate_up, float *output, long rows, long dim, unsigned threads)
{
    struct silu_job job = {gate_up, output, rows, dim};
    parallel_for(silu_portion, &job, portions(rows), threads);
}

struct argmax_job {
    const float *scores;
    int64_t *places;
    long count;
};

static void argmax_row(const void *argument, long row)
{
    const struct argmax_job *job = argument;
    const float *scores = job->scores + row * job->count;
    vec tops = fill(-__builtin_inff());
    long at = 0;
    for (; at + WIDTH <= job->count; at += WIDTH) {
        vec part = load(scores + at);
        tops = choose(part > tops, part, tops);
    }
    float top = tops[0];
    for (int lane = 1; lane < WIDTH; lane++)
        top = tops[lane] > top ? tops[lane] : top;
    for (; at < job->count; at++)
        top = scores[at] > top ? scores[at] : top;
    job->places[row] = 0;
    for (at = 0; at < job->count; at++)
        if (scores[at] == top) {
            job->places[row] = at;
            break;
        }
}

/* The place of the highest of `count` scores in each row, the first of equals; 0 where all are NaN. */
EXPORT void jitney_argmax(const float *scores, int64_t *places, long rows, long count, unsigned threads)
{
    struct argmax_job job = {scores, places, count};
    parallel_for(argmax_row, &job, rows, threads);
}
