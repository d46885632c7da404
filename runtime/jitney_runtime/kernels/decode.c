/* Attention of one new token per row over the blocks of its sequence, read where they lie: nothing is gathered or repeated.
 *
 * Softmax is computed online in chunks (Milakov and Gimelshein 2018, arXiv:1805.02867), so a row needs the same small memory at any length,
 * and nothing behind its last token is ever read. The heads that share keys are computed together, so that each number is loaded and widened
 * once for up to HEADS of them.
 */
#include "attention.h"

#define HEADS 4
/* Keys, and pairs of registers of a value, that are multiplied at once: with HEADS heads their sums fill half of the registers there are. */
#if WIDTH == 16
#define KEYS 4
#define PAIRS 2
#else
#define KEYS 2
#define PAIRS 1
#endif
/* Numbers of a row that are read at once: two registers. */
#define PAIR (2 * WIDTH)
/* The lanes of two registers in turns. */
#if WIDTH == 16
#define TURNS_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define TURNS_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#else
#define TURNS_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define TURNS_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#endif

struct attend_job {
    const struct layer *layer;
    const struct step *step;
    struct view query;
    float *output;
};

/* What the heads that share keys have seen so far. */
struct heads {
    float query[MAX_GROUP][MAX_DIM], total[MAX_GROUP][MAX_DIM];
    float highest[MAX_GROUP], weight[MAX_GROUP];
};

EXPORT long jitney_attention_supports(long group, long key_dim, long value_dim)
{
    return group <= MAX_GROUP && key_dim <= MAX_DIM && value_dim <= MAX_DIM && key_dim % WIDTH == 0 && value_dim % WIDTH == 0;
}

/* from [dim] x factor, in the order in which `pair` reads a row. */
PER_KIND void deal(float *to, const float *from, long dim, float factor, const int narrowed)
{
    long d = 0;
    for (; d + PAIR <= dim; d += PAIR) {
        const vec first = load(from + d) * factor, second = load(from + d + WIDTH) * factor;
        store(to + d, narrowed ? __builtin_shufflevector(first, second, EVEN) : first);
        store(to + d + WIDTH, narrowed ? __builtin_shufflevector(first, second, ODD) : second);
    }
    for (; d < dim; d += WIDTH)
        store(to + d, load(from + d) * factor);
}

/* And back. */
PER_KIND void collect(float *to, const float *from, long dim, float factor, const int narrowed)
{
    long d = 0;
    for (; d + PAIR <= dim; d += PAIR) {
        const vec first = load(from + d) * factor, second = load(from + d + WIDTH) * factor;
        store(to + d, narrowed ? __builtin_shufflevector(first, second, TURNS_LOW) : first);
        store(to + d + WIDTH, narrowed ? __builtin_shufflevector(first, second, TURNS_HIGH) : second);
    }
    for (; d < dim; d += WIDTH)
        store(to + d, load(from + d) * factor);
}

/* PAIR numbers of a cached row as two registers: of a narrow one, the even numbers and the odd ones. */
PER_KIND void pair(const void *row, long d, vec *to, const int narrowed)
{
    if (narrowed) {
        const ivec both = *(const ivec *)((const uint16_t *)row + d);
        to[0] = (vec)(both << 16);
        to[1] = (vec)(both & (int32_t)0xFFFF0000);
    } else {
        to[0] = load((const float *)row + d);
        to[1] = load((const float *)row + d + WIDTH);
    }
}

PER_KIND vec cached(const void *row, long d, const int narrowed)
{
    return narrowed ? widen((const uint16_t *)row + d) : load((const float *)row + d);
}

/* `heads` queries against WIDTH keys -> scores[head][at..] */
PER_KIND void score(float (*query)[MAX_DIM], const void *const *keys, const void *const *next, long dim, float (*scores)[CHUNK], long at,
    const int heads, const int narrowed)
{
    vec sums[HEADS][WIDTH];
    for (int first = 0; first < WIDTH; first += KEYS) {
        vec part[HEADS][KEYS] = {{{0}}}, key[2];
        long d = 0;
        /* While these are computed those of the next chunk are on their way, a few at a time. */
        for (int k = 0; next && k < KEYS; k++)
            ask_for(next[first + k], dim * (narrowed ? 2 : 4));
        for (; d + PAIR <= dim; d += PAIR)
            for (int k = 0; k < KEYS; k++) {
                pair(keys[first + k], d, key, narrowed);
                for (int head = 0; head < heads; head++)
                    part[head][k] += load(query[head] + d) * key[0] + load(query[head] + d + WIDTH) * key[1];
            }
        for (; d < dim; d += WIDTH)
            for (int k = 0; k < KEYS; k++) {
                key[0] = cached(keys[first + k], d, narrowed);
                for (int head = 0; head < heads; head++)
                    part[head][k] += load(query[head] + d) * key[0];
            }
        for (int head = 0; head < heads; head++)
            for (int k = 0; k < KEYS; k++)
                sums[head][first + k] = part[head][k];
    }
    for (int head = 0; head < heads; head++)
        store(scores[head] + at, sum_each(sums[head]));
}

/* `registers` registers of each total, from `d` on: total x keep + sum over the chunk of weight x value. */
PER_KIND void add(float (*total)[MAX_DIM], const float *keep, float (*weights)[CHUNK], const void *const *values, const void *const *next,
    long count, long dim, long d, const int registers, const int heads, const int narrowed)
{
    vec sums[HEADS][2 * PAIRS], value[2 * PAIRS];
    for (int head = 0; head < heads; head++)
        for (int r = 0; r < registers; r++)
            sums[head][r] = load(total[head] + d + r * WIDTH) * keep[head];
    for (long i = 0; i < count; i++) {
        if (next && d == 0)
            ask_for(next[i], dim * (narrowed ? 2 : 4));
        if (registers == 1)
            value[0] = cached(values[i], d, narrowed);
        for (int r = 0; r + 1 < registers; r += 2)
            pair(values[i], d + r * WIDTH, value + r, narrowed);
        for (int head = 0; head < heads; head++)
            for (int r = 0; r < registers; r++)
                sums[head][r] += weights[head][i] * value[r];
    }
    for (int head = 0; head < heads; head++)
        for (int r = 0; r < registers; r++)
            store(total[head] + d + r * WIDTH, sums[head][r]);
}

/* scores -> weights of one head; its maximum and its sum of weights are brought up to date. Returns what is left of its total so far. */
static inline float weigh(float *scores, long count, float *highest, float *weight)
{
    float top = *highest;
    for (long i = 0; i < count; i++)
        top = scores[i] > top ? scores[i] : top;
    for (long i = count; i % WIDTH; i++)
        scores[i] = LOWEST;
    vec sums = {0};
    for (long i = 0; i < count; i += WIDTH) {
        vec part = exponential_below(load(scores + i) - top);
        store(scores + i, part);
        sums += part;
    }
    const vec keep = exponential_below(fill(*highest - top));
    *weight = *weight * keep[0] + sum(sums);
    *highest = top;
    return keep[0];
}

/* `heads` heads, from `head` on, over one chunk. */
PER_KIND void attend_chunk(struct heads *h, long head, const struct chunk *chunk, const struct chunk *after, const struct layer *l,
    const int heads, const int narrowed)
{
    float scores[HEADS][CHUNK], keep[HEADS];
    /* Once is enough. */
    const void *const *keys = head ? 0 : after->keys, *const *values = head ? 0 : after->values;
    for (long i = 0; i < chunk->count; i += WIDTH)
        score(h->query + head, chunk->keys + i, keys ? keys + i : 0, l->key_dim, scores, i, heads, narrowed);
    for (int one = 0; one < heads; one++)
        keep[one] = weigh(scores[one], chunk->count, h->highest + head + one, h->weight + head + one);
    long d = 0;
    for (; d + PAIRS * PAIR <= l->value_dim; d += PAIRS * PAIR)
        add(h->total + head, keep, scores, chunk->values, values, chunk->count, l->value_dim, d, 2 * PAIRS, heads, narrowed);
    for (; d + PAIR <= l->value_dim; d += PAIR)
        add(h->total + head, keep, scores, chunk->values, values, chunk->count, l->value_dim, d, 2, heads, narrowed);
    for (; d < l->value_dim; d += WIDTH)
        add(h->total + head, keep, scores, chunk->values, values, chunk->count, l->value_dim, d, 1, heads, narrowed);
}

PER_KIND void attend_heads(
    struct heads *h, long group, const struct chunk *chunk, const struct chunk *after, const struct layer *l, const int narrowed)
{
    for (long head = 0; head < group; head += HEADS)
        switch (least(HEADS, group - head)) {
        case 1:
            attend_chunk(h, head, chunk, after, l, 1, narrowed);
            break;
        case 2:
            attend_chunk(h, head, chunk, after, l, 2, narrowed);
            break;
        case 3:
            attend_chunk(h, head, chunk, after, l, 3, narrowed);
            break;
        default:
            attend_chunk(h, head, chunk, after, l, HEADS, narrowed);
        }
}

PER_KIND void attend_one(const struct attend_job *job, long row, long kv_head, const int narrowed)
{
    const struct layer *l = job->layer;
    const struct step *s = job->step;
    const int64_t *table = s->tables + row * s->width;
    const long group = l->heads / l->kv_heads, length = s->lengths[row], place = s->index ? s->index[row] : row;
    const float *query = job->query.data + place * job->query.token_stride + kv_head * group * job->query.head_stride;
    struct heads h;
    for (long head = 0; head < group; head++) {
        h.highest[head] = LOWEST;
        h.weight[head] = 0;
        memset(h.total[head], 0, (size_t)l->value_dim * sizeof(float));
        deal(h.query[head], query + head * job->query.head_stride, l->key_dim, l->scale, narrowed);
    }
    struct chunk chunks[2] = {0};
    long at = l->window && length > l->window ? length - l->window : 0;
    find(&chunks[0], l, table, kv_head, at, length);
    for (int turn = 0; chunks[turn].count; turn = !turn) {
        /* While this one is computed the next is on its way. */
        at += chunks[turn].count;
        find(&chunks[!turn], l, table, kv_head, at, length);
        attend_heads(&h, group, &chunks[turn], &chunks[!turn], l, narrowed);
    }
    for (long head = 0; head < group; head++) {
        float *output = job->output + (place * l->heads + kv_head * group + head) * l->value_dim;
        collect(output, h.total[head], l->value_dim, 1 / h.weight[head], narrowed);
    }
}

static void attend_wide(const struct attend_job *job, long row, long kv_head) { attend_one(job, row, kv_head, 0); }
static void attend_narrow(const struct attend_job *job, long row, long kv_head) { attend_one(job, row, kv_head, 1); }

static void attend_item(const void *argument, long item)
{
    const struct attend_job *job = argument;
    (job->layer->narrow ? attend_narrow : attend_wide)(job, item / job->layer->kv_heads, item % job->layer->kv_heads);
}

/* query [tokens, heads, key_dim] -> output [tokens, heads, value_dim], contiguous: of the step's rows, and of its prompts. */
EXPORT void jitney_attend(
    const struct layer *layer, const struct step *step, const float *query, float *output, long query_token, long query_head, unsigned threads)
{
    struct attend_job job = {layer, step, {query, query_token, query_head}, output};
    parallel_for(attend_item, &job, step->rows * layer->kv_heads, threads);
    for (const struct prompt *prompt = step->prompts; prompt < step->prompts + step->prompt_count; prompt++)
        attend_prompt(layer, prompt, job.query, output, threads);
}
