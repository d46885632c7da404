/* Attention of a chunk of a prompt over all that its sequence holds, read from its blocks; its own keys and values are there already.
 *
 * The lanes of a register are queries, of several tokens and of the heads that share keys, so that a key or a value is one number for all of
 * them, nothing is transposed but the queries, and the softmax of each query runs in a lane of its own. What a token gets does not depend on
 * how the prompt is cut into chunks of two and more: those of keys begin at the same places, and what a query may not see adds nothing.
 */
#include "attention.h"

/* Registers of queries, and numbers of a key or value, that are multiplied at once: their sums fill most of the registers there are. */
#if WIDTH == 16
#define REGISTERS 3
#define AT_ONCE 8
#else
#define REGISTERS 2
#define AT_ONCE 4
#endif
#define LANES (REGISTERS * WIDTH)

struct prompt_job {
    const struct layer *layer;
    const int64_t *table;
    struct view query;
    float *output;
    long first, count, start; /* places among the step's tokens, and the position of the first in its sequence */
    long tokens;              /* of one item */
};

/* The queries of one item, number by number, and what they have seen so far. */
struct queries {
    float query[MAX_DIM][LANES], total[MAX_DIM][LANES];
    vec highest[REGISTERS], weight[REGISTERS];
    ivec position[REGISTERS];
};

static void gather(struct queries *q, const struct prompt_job *job, long token, long tokens, long kv_head)
{
    const struct layer *l = job->layer;
    const long group = l->heads / l->kv_heads;
    memset(q->total, 0, (size_t)l->value_dim * sizeof(q->total[0]));
    for (int lane = 0; lane < LANES; lane++) {
        /* Lanes behind the last query repeat it: their results are numbers, and nobody takes them. */
        long row = least(lane, tokens * group - 1);
        const float *from = job->query.data + (job->first + token + row / group) * job->query.token_stride
            + (kv_head * group + row % group) * job->query.head_stride;
        for (long d = 0; d < l->key_dim; d++)
            q->query[d][lane] = from[d] * l->scale;
        q->position[lane / WIDTH][lane % WIDTH] = (int32_t)(job->start + token + row / group);
    }
    for (int r = 0; r < REGISTERS; r++) {
        q->highest[r] = fill(LOWEST);
        q->weight[r] = fill(0);
    }
}

/* The chunk's numbers as float32, `count` filled up to whole steps by repeating the last: rows of `dim`, in `room` where they are not that yet. */
static void as_floats(const float **rows, const void *const *from, long count, long dim, long narrowed, float *room)
{
    long full = (count + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
    for (long i = 0; i < full; i++) {
        const void *row = from[least(i, count - 1)];
        rows[i] = row;
        if (!narrowed)
            continue;
        if (i < count)
            for (long d = 0; d < dim; d += WIDTH)
                store(room + i * dim + d, widen((const uint16_t *)row + d));
        rows[i] = room + least(i, count - 1) * dim;
    }
}

/* scores [count, LANES] = keys x queries */
static void score(const struct queries *q, const float *const *keys, long count, long dim, float (*scores)[LANES])
{
    for (long key = 0; key < count; key += AT_ONCE) {
        vec sums[AT_ONCE][REGISTERS] = {{{0}}};
        for (long d = 0; d < dim; d++) {
            vec query[REGISTERS];
            for (int r = 0; r < REGISTERS; r++)
                query[r] = load(q->query[d] + r * WIDTH);
            for (int i = 0; i < AT_ONCE; i++)
                for (int r = 0; r < REGISTERS; r++)
                    sums[i][r] += keys[key + i][d] * query[r];
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < REGISTERS; r++)
                store(scores[key + i] + r * WIDTH, sums[i][r]);
    }
}

/* scores -> weights; keep: what is left of the sums and totals so far. `at`: position of the first key. */
static void weigh(struct queries *q, float (*scores)[LANES], long count, long at, long window, vec *keep)
{
    for (int r = 0; r < REGISTERS; r++) {
        const ivec position = q->position[r];
        vec top = q->highest[r], sums = {0};
        for (long key = 0; key < count; key++) {
            ivec behind = position - (int32_t)(at + key);
            vec part = load(scores[key] + r * WIDTH);
            part = choose((behind >= 0) & (window ? behind < (int32_t)window : behind >= 0), part, fill(LOWEST));
            store(scores[key] + r * WIDTH, part);
            top = choose(part > top, part, top);
        }
        for (long key = 0; key < count; key++) {
            vec part = load(scores[key] + r * WIDTH);
            part = choose(part > LOWEST, exponential(part - top), fill(0));
            store(scores[key] + r * WIDTH, part);
            sums += part;
        }
        keep[r] = exponential(q->highest[r] - top);
        q->weight[r] = q->weight[r] * keep[r] + sums;
        q->highest[r] = top;
    }
}

/* total = total x keep + values x weights */
static void add(struct queries *q, const float *const *values, float (*weights)[LANES], long count, long dim, const vec *keep)
{
    for (long d = 0; d < dim; d += AT_ONCE) {
        vec sums[AT_ONCE][REGISTERS];
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < REGISTERS; r++)
                sums[i][r] = load(q->total[d + i] + r * WIDTH) * keep[r];
        for (long key = 0; key < count; key++) {
            vec weight[REGISTERS];
            for (int r = 0; r < REGISTERS; r++)
                weight[r] = load(weights[key] + r * WIDTH);
            for (int i = 0; i < AT_ONCE; i++)
                for (int r = 0; r < REGISTERS; r++)
                    sums[i][r] += values[key][d + i] * weight[r];
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < REGISTERS; r++)
                store(q->total[d + i] + r * WIDTH, sums[i][r]);
    }
}

static void put_out(const struct queries *q, const struct prompt_job *job, long token, long tokens, long kv_head)
{
    const struct layer *l = job->layer;
    const long group = l->heads / l->kv_heads;
    for (long row = 0; row < tokens * group; row++) {
        float *output = job->output + ((job->first + token + row / group) * l->heads + kv_head * group + row % group) * l->value_dim;
        float weight = q->weight[row / WIDTH][row % WIDTH];
        for (long d = 0; d < l->value_dim; d++)
            output[d] = q->total[d][row] / weight;
    }
}

static void prompt_item(const void *argument, long item)
{
    const struct prompt_job *job = argument;
    const struct layer *l = job->layer;
    const long kv_head = item % l->kv_heads, token = item / l->kv_heads * job->tokens, tokens = least(job->tokens, job->count - token);
    const long begin = job->start + token, end = begin + tokens;
    struct queries q;
    gather(&q, job, token, tokens, kv_head);
    struct chunk chunk;
    float scores[CHUNK][LANES], room[CHUNK * MAX_DIM];
    const float *rows[CHUNK];
    /* Chunks begin at the same places for every cut of the prompt. */
    for (long at = l->window && begin + 1 > l->window ? (begin + 1 - l->window) / CHUNK * CHUNK : 0; at < end; at += CHUNK) {
        find(&chunk, l, job->table, kv_head, at, least(end, at + CHUNK));
        vec keep[REGISTERS];
        as_floats(rows, chunk.keys, chunk.count, l->key_dim, l->narrow, room);
        score(&q, rows, chunk.count, l->key_dim, scores);
        weigh(&q, scores, chunk.count, at, l->window, keep);
        as_floats(rows, chunk.values, chunk.count, l->value_dim, l->narrow, room);
        add(&q, rows, scores, chunk.count, l->value_dim, keep);
    }
    put_out(&q, job, token, tokens, kv_head);
}

/* query [tokens, heads, key_dim] -> output [tokens, heads, value_dim], contiguous, of which tokens first..first + count are written: a chunk
 * that begins at position `start` of the sequence whose blocks `table` names. */
EXPORT void jitney_attend_prompt(const struct layer *layer, const int64_t *table, const float *query, float *output, long query_token,
    long query_head, long first, long count, long start, unsigned threads)
{
    struct prompt_job job = {layer, table, {query, query_token, query_head}, output, first, count, start, LANES * layer->kv_heads / layer->heads};
    parallel_for(prompt_item, &job, (count + job.tokens - 1) / job.tokens * layer->kv_heads, threads);
}
