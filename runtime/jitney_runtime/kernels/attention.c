/* Attention of one new token per row over the blocks of its sequence, read where they lie: nothing is gathered or repeated.
 *
 * Softmax is computed online in chunks (Milakov and Gimelshein 2018, arXiv:1805.02867), so a row needs the same small memory at any length,
 * and nothing behind its last token is ever read.
 */
#include "attention.h"

struct rotary_job {
    struct view x;
    const float *cos, *sin;
    float *output;
    long tokens, heads, dim;
};

static void rotary_portion(const void *argument, long portion)
{
    const struct rotary_job *job = argument;
    const long dim = job->dim, half = dim / 2;
    for (long token = portion * PORTION; token < least((portion + 1) * PORTION, job->tokens); token++)
        for (long head = 0; head < job->heads; head++) {
            const float *from = job->x.data + token * job->x.token_stride + head * job->x.head_stride;
            const float *cos = job->cos + token * dim, *sin = job->sin + token * dim;
            float *restrict to = job->output + (token * job->heads + head) * dim;
            for (long d = 0; d < half; d++) {
                to[d] = from[d] * cos[d] - from[half + d] * sin[d];
                to[half + d] = from[half + d] * cos[half + d] + from[d] * sin[half + d];
            }
        }
}

/* output [tokens, heads, dim], contiguous, = x turned by its token's angles: cos and sin [tokens, dim], each half of `dim` the other's partner
 * (Su et al. 2021, arXiv:2104.09864, in the layout of GPT-NeoX and Llama). dim is even. */
EXPORT void jitney_rotary(const float *x, const float *cos, const float *sin, float *output, long token_stride, long head_stride, long tokens,
    long heads, long dim, unsigned threads)
{
    struct rotary_job job = {{x, token_stride, head_stride}, cos, sin, output, tokens, heads, dim};
    parallel_for(rotary_portion, &job, portions(tokens), threads);
}

struct attend_job {
    const struct layer *layer;
    const struct step *step;
    struct view query;
    float *output;
};

EXPORT long jitney_attention_supports(long group, long key_dim, long value_dim)
{
    return group <= MAX_GROUP && key_dim <= MAX_DIM && value_dim <= MAX_DIM && key_dim % WIDTH == 0 && value_dim % WIDTH == 0;
}

struct store_job {
    const struct layer *layer;
    const struct step *step;
    struct view keys, values;
};

/* `dim` numbers into place `place` of a cache. */
static inline void put_row(void *cache, long place, const float *from, long dim, long narrowed)
{
    if (!narrowed) {
        memcpy((float *)cache + place * dim, from, (size_t)dim * sizeof(float));
        return;
    }
    uint16_t *to = (uint16_t *)cache + place * dim;
    for (long d = 0; d < dim; d++)
        to[d] = narrow(from[d]);
}

static void store_portion(const void *argument, long portion)
{
    const struct store_job *job = argument;
    const struct layer *l = job->layer;
    const struct step *s = job->step;
    for (long token = portion * PORTION; token < least((portion + 1) * PORTION, s->tokens); token++)
        for (long head = 0; head < l->kv_heads; head++) {
            long place = s->slots[token] * l->kv_heads + head;
            put_row(l->keys, place, job->keys.data + token * job->keys.token_stride + head * job->keys.head_stride, l->key_dim, l->narrow);
            put_row(l->values, place, job->values.data + token * job->values.token_stride + head * job->values.head_stride, l->value_dim,
                l->narrow);
        }
}

/* keys [tokens, kv_heads, key_dim] and values, each with its strides, into the slots of the step's tokens. */
EXPORT void jitney_store(const struct layer *layer, const struct step *step, const float *key, const float *value, long key_token,
    long key_head, long value_token, long value_head, unsigned threads)
{
    struct store_job job = {layer, step, {key, key_token, key_head}, {value, value_token, value_head}};
    parallel_for(store_portion, &job, portions(step->tokens), threads);
}

/* What the functions below take as `narrowed` is known to the compiler: one copy of them for each kind of cache. */
#define PER_KIND static inline __attribute__((always_inline))

PER_KIND vec cached(const void *row, long d, const int narrowed)
{
    return narrowed ? widen((const uint16_t *)row + d) : load((const float *)row + d);
}

/* A query against WIDTH keys: lane i of the result is the product with key i. */
PER_KIND vec scores_of(const float *query, const void *const *keys, long dim, const int narrowed)
{
    vec sums[WIDTH] = {{0}};
    for (long d = 0; d < dim; d += WIDTH) {
        vec part = load(query + d);
        for (int i = 0; i < WIDTH; i++)
            sums[i] += part * cached(keys[i], d, narrowed);
    }
    return sum_each(sums);
}

/* total [dim] = total x keep + sum over the chunk of weight x value, four registers of `dim` at a time so that their additions overlap. */
PER_KIND void add_values(
    float *total, float keep, const float *weights, const void *const *values, long count, long dim, const int narrowed)
{
    long d = 0;
    for (; d + 4 * WIDTH <= dim; d += 4 * WIDTH) {
        vec part[4];
        for (int v = 0; v < 4; v++)
            part[v] = load(total + d + v * WIDTH) * keep;
        for (long i = 0; i < count; i++)
            for (int v = 0; v < 4; v++)
                part[v] += weights[i] * cached(values[i], d + v * WIDTH, narrowed);
        for (int v = 0; v < 4; v++)
            store(total + d + v * WIDTH, part[v]);
    }
    for (; d < dim; d += WIDTH) {
        vec part = load(total + d) * keep;
        for (long i = 0; i < count; i++)
            part += weights[i] * cached(values[i], d, narrowed);
        store(total + d, part);
    }
}

/* One head over one chunk: brings its running maximum, sum of weights and total up to date. */
PER_KIND void attend_chunk(const float *query, const struct chunk *chunk, const struct layer *l, float *highest, float *weight, float *total,
    const int narrowed)
{
    const long count = chunk->count;
    float scores[CHUNK];
    float top = *highest;
    for (long i = 0; i < count; i += WIDTH)
        store(scores + i, scores_of(query, chunk->keys + i, l->key_dim, narrowed) * l->scale);
    for (long i = 0; i < count; i++)
        top = scores[i] > top ? scores[i] : top;
    for (long i = count; i % WIDTH; i++)
        scores[i] = LOWEST;
    vec sums = {0};
    for (long i = 0; i < count; i += WIDTH) {
        vec part = exponential(load(scores + i) - top);
        store(scores + i, part);
        sums += part;
    }
    float keep[WIDTH];
    store(keep, exponential(fill(*highest - top)));
    *weight = *weight * keep[0] + sum(sums);
    *highest = top;
    add_values(total, keep[0], scores, chunk->values, count, l->value_dim, narrowed);
}

PER_KIND void attend_one(const struct attend_job *job, long row, long kv_head, const int narrowed)
{
    const struct layer *l = job->layer;
    const struct step *s = job->step;
    const int64_t *table = s->tables + row * s->width;
    const long group = l->heads / l->kv_heads, length = s->lengths[row], place = s->index ? s->index[row] : row;
    const float *query = job->query.data + place * job->query.token_stride + kv_head * group * job->query.head_stride;
    float totals[MAX_GROUP * MAX_DIM], highest[MAX_GROUP], weight[MAX_GROUP] = {0};
    memset(totals, 0, (size_t)(group * l->value_dim) * sizeof(float));
    for (long head = 0; head < group; head++)
        highest[head] = LOWEST;
    struct chunk chunks[2];
    long at = l->window && length > l->window ? length - l->window : 0;
    find(&chunks[0], l, table, kv_head, at, length);
    for (int turn = 0; chunks[turn].count; turn = !turn) {
        /* While this one is computed the next is on its way. */
        at += chunks[turn].count;
        find(&chunks[!turn], l, table, kv_head, at, length);
        for (long head = 0; head < group; head++)
            attend_chunk(query + head * job->query.head_stride, &chunks[turn], l, highest + head, weight + head, totals + head * l->value_dim,
                narrowed);
    }
    for (long head = 0; head < group; head++) {
        float *output = job->output + (place * l->heads + kv_head * group + head) * l->value_dim;
        for (long d = 0; d < l->value_dim; d++)
            output[d] = totals[head * l->value_dim + d] / weight[head];
    }
}

static void attend_wide(const struct attend_job *job, long row, long kv_head) { attend_one(job, row, kv_head, 0); }
static void attend_narrow(const struct attend_job *job, long row, long kv_head) { attend_one(job, row, kv_head, 1); }

static void attend_item(const void *argument, long item)
{
    const struct attend_job *job = argument;
    (job->layer->narrow ? attend_narrow : attend_wide)(job, item / job->layer->kv_heads, item % job->layer->kv_heads);
}

/* query [tokens, heads, key_dim] -> output [tokens, heads, value_dim], contiguous, of which the step's rows are written. */
EXPORT void jitney_attend(
    const struct layer *layer, const struct step *step, const float *query, float *output, long query_token, long query_head, unsigned threads)
{
    struct attend_job job = {layer, step, {query, query_token, query_head}, output};
    parallel_for(attend_item, &job, step->rows * layer->kv_heads, threads);
}
