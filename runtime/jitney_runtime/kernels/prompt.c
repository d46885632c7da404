/* Attention of a chunk of a prompt over all that its sequence holds, read from its blocks; its own keys and values are there already.
 *
 * The lanes of a register are queries, of several tokens and of the heads that share keys, so that a key or a value is one number for all of
 * them, nothing is transposed but the queries, and the softmax of each query runs in a lane of its own. What a token gets does not depend on
 * how the prompt is cut into chunks of two and more: those of keys begin at the same places, and what a query may not see adds nothing.
 *
 * Keys are weighed in spans, each from scratch, and joined in order: where there are fewer queries than threads could share, they share spans.
 *
 * Where the cache is bfloat16 and the CPU multiplies such pairs (prompt_bfloat16.h), queries and weights are rounded to it as well.
 */
#include "attention.h"
#include <stdlib.h>

/* Registers of queries, and numbers of a key or value, that are multiplied at once: their sums fill most of the registers there are. */
#if WIDTH == 16
#define REGISTERS 3
#define AT_ONCE 8
#else
#define REGISTERS 2
#define AT_ONCE 4
#endif
#define LANES (REGISTERS * WIDTH)
/* Keys of a span: enough that what is begun and joined for each is nothing beside them. */
#define SPAN 1024
/* Fewer items than this for each thread are cut into their spans: the last one is what all others wait for. */
#define ENOUGH 8
/* Parts at most, which are all items' spans: they need memory that nobody else counts, 12 MB at most. */
#define MOST_PARTS 256

/* The queries of one item, number by number. */
struct queries {
    union {
        float query[MAX_DIM][LANES];
        uint32_t query_pairs[MAX_DIM / 2][LANES]; /* of bfloat16 */
    };
    ivec position[REGISTERS];
};

/* What they have seen of some keys. */
struct seen {
    float total[MAX_DIM][LANES];
    vec highest[REGISTERS], weight[REGISTERS];
};

/* An item is the queries of `tokens` tokens and of the heads that share keys, over all spans: number `first` and the `spans` - 1 behind it. */
struct prompt_job {
    const struct layer *layer;
    const struct prompt *prompt;
    struct view query;
    float *output;
    long tokens, first, spans;
    struct seen *parts; /* [items, spans] */
};

/* What an item is of the prompt: `tokens` of its tokens from number `token` on, and a head of keys. */
struct share {
    long token, tokens, kv_head;
};

static struct share share_of(const struct prompt_job *job, long item)
{
    const long token = item / job->layer->kv_heads * job->tokens;
    return (struct share){token, least(job->tokens, job->prompt->count - token), item % job->layer->kv_heads};
}

#include "prompt_bfloat16.h"

static void gather(struct queries *q, const struct prompt_job *job, struct share share)
{
    const struct layer *l = job->layer;
    const long group = l->heads / l->kv_heads;
    for (int lane = 0; lane < LANES; lane++) {
        /* Lanes behind the last query repeat it: their results are numbers, and nobody takes them. */
        long row = least(lane, share.tokens * group - 1);
        const float *from = job->query.data + (job->prompt->first + share.token + row / group) * job->query.token_stride
            + (share.kv_head * group + row % group) * job->query.head_stride;
        if (in_pairs(l))
            for (long d = 0; d < l->key_dim; d += 2)
                q->query_pairs[d / 2][lane] = narrow(from[d] * l->scale) | (uint32_t)narrow(from[d + 1] * l->scale) << 16;
        else
            for (long d = 0; d < l->key_dim; d++)
                q->query[d][lane] = from[d] * l->scale;
        q->position[lane / WIDTH][lane % WIDTH] = (int32_t)(job->prompt->start + share.token + row / group);
    }
}

static void see_nothing(struct seen *seen, long dim)
{
    memset(seen->total, 0, (size_t)dim * sizeof(seen->total[0]));
    for (int r = 0; r < REGISTERS; r++) {
        seen->highest[r] = fill(LOWEST);
        seen->weight[r] = fill(0);
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
PER_KIND void score(const struct queries *q, const float *const *keys, long count, long dim, float (*scores)[LANES], const int registers)
{
    for (long key = 0; key < count; key += AT_ONCE) {
        vec sums[AT_ONCE][REGISTERS] = {{{0}}};
        for (long d = 0; d < dim; d++) {
            vec query[REGISTERS];
            for (int r = 0; r < registers; r++)
                query[r] = load(q->query[d] + r * WIDTH);
            for (int i = 0; i < AT_ONCE; i++)
                for (int r = 0; r < registers; r++)
                    sums[i][r] += keys[key + i][d] * query[r];
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < registers; r++)
                store(scores[key + i] + r * WIDTH, sums[i][r]);
    }
}

/* The scores of keys that a query may not see: at LOWEST. `at`: position of the first key. */
PER_KIND void hide(const struct queries *q, float (*scores)[LANES], long count, long at, long window, const int registers)
{
    for (int r = 0; r < registers; r++)
        for (long key = 0; key < count; key++) {
            ivec behind = q->position[r] - (int32_t)(at + key);
            vec part = load(scores[key] + r * WIDTH);
            store(scores[key] + r * WIDTH, choose((behind >= 0) & (window ? behind < (int32_t)window : behind >= 0), part, fill(LOWEST)));
        }
}

/* scores -> weights; keep: what is left of the sums and totals so far. */
PER_KIND void weigh(struct seen *seen, float (*scores)[LANES], long count, vec *keep, const int registers)
{
    for (int r = 0; r < registers; r++) {
        vec top = seen->highest[r], sums = {0};
        for (long key = 0; key < count; key++) {
            vec part = load(scores[key] + r * WIDTH);
            top = choose(part > top, part, top);
        }
        /* A query that has seen no key yet has nothing but hidden ones here, which add nothing. */
        const vec base = choose(top > LOWEST, top, fill(0));
        for (long key = 0; key < count; key++) {
            vec part = load(scores[key] + r * WIDTH);
            part = choose(part > LOWEST, exponential_below(part - base), fill(0));
            store(scores[key] + r * WIDTH, part);
            sums += part;
        }
        keep[r] = exponential_below(seen->highest[r] - top);
        seen->weight[r] = seen->weight[r] * keep[r] + sums;
        seen->highest[r] = top;
    }
}

/* total = total x keep + values x weights */
PER_KIND void add(struct seen *seen, const float *const *values, float (*weights)[LANES], long count, long dim, const vec *keep,
    const int registers)
{
    for (long d = 0; d < dim; d += AT_ONCE) {
        vec sums[AT_ONCE][REGISTERS];
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < registers; r++)
                sums[i][r] = load(seen->total[d + i] + r * WIDTH) * keep[r];
        for (long key = 0; key < count; key++) {
            vec weight[REGISTERS];
            for (int r = 0; r < registers; r++)
                weight[r] = load(weights[key] + r * WIDTH);
            for (int i = 0; i < AT_ONCE; i++)
                for (int r = 0; r < registers; r++)
                    sums[i][r] += values[key][d + i] * weight[r];
        }
        for (int i = 0; i < AT_ONCE; i++)
            for (int r = 0; r < registers; r++)
                store(seen->total[d + i] + r * WIDTH, sums[i][r]);
    }
}

/* seen = what was seen of its keys and of the other's. Who has seen none of the other's stays as it was, to the bit. One copy for all who call
 * it: two could be rounded in two ways. */
static __attribute__((noinline)) void join(struct seen *seen, const struct seen *other, long dim)
{
    for (int r = 0; r < REGISTERS; r++) {
        const vec top = choose(other->highest[r] > seen->highest[r], other->highest[r], seen->highest[r]);
        const vec mine = exponential_below(seen->highest[r] - top), theirs = exponential_below(other->highest[r] - top);
        for (long d = 0; d < dim; d++)
            store(seen->total[d] + r * WIDTH, load(seen->total[d] + r * WIDTH) * mine + load(other->total[d] + r * WIDTH) * theirs);
        seen->weight[r] = seen->weight[r] * mine + other->weight[r] * theirs;
        seen->highest[r] = top;
    }
}

static void put_out(const struct seen *seen, const struct prompt_job *job, struct share share)
{
    const struct layer *l = job->layer;
    const long group = l->heads / l->kv_heads;
    for (long row = 0; row < share.tokens * group; row++) {
        const long token = job->prompt->first + share.token + row / group, head = share.kv_head * group + row % group;
        float *output = job->output + (token * l->heads + head) * l->value_dim;
        float weight = seen->weight[row / WIDTH][row % WIDTH];
        for (long d = 0; d < l->value_dim; d++)
            output[d] = seen->total[d][row] / weight;
    }
}

static void ask_for_chunk(const struct layer *l, const struct chunk *chunk)
{
    ask_for_rows(chunk->keys, 0, chunk->count, l->key_dim * width_of(l));
    ask_for_rows(chunk->values, 0, chunk->count, l->value_dim * width_of(l));
}

/* One span, from scratch. Its chunks begin at the same places for every cut of the prompt. */
PER_KIND void see_kind(struct seen *seen, const struct queries *q, const struct prompt_job *job, struct share share, long span,
    const int registers)
{
    const struct layer *l = job->layer;
    const int64_t *table = job->prompt->table;
    const long begin = job->prompt->start + share.token, end = least(begin + share.tokens, (span + 1) * SPAN);
    const long hidden = l->window && begin + 1 > l->window ? (begin + 1 - l->window) / CHUNK * CHUNK : 0;
    long at = hidden > span * SPAN ? hidden : span * SPAN;
    struct chunk chunks[2] = {0};
    float scores[CHUNK][LANES], room[CHUNK * MAX_DIM];
    const float *rows[CHUNK];
    see_nothing(seen, l->value_dim);
    find(&chunks[0], l, table, share.kv_head, at, end);
    ask_for_chunk(l, &chunks[0]);
    for (int turn = 0; chunks[turn].count; turn = !turn) {
        const struct chunk *chunk = &chunks[turn], *next = &chunks[!turn];
        /* While this one is computed the next is on its way. */
        find(&chunks[!turn], l, table, share.kv_head, at + chunk->count, end);
        vec keep[REGISTERS];
        if (in_pairs(l)) {
            score_pairs(q, chunk->keys, next, chunk->count, l->key_dim, scores, registers);
        } else {
            ask_for_chunk(l, next);
            as_floats(rows, chunk->keys, chunk->count, l->key_dim, l->narrow, room);
            score(q, rows, chunk->count, l->key_dim, scores, registers);
        }
        if (at + chunk->count > begin + 1 || (l->window && at + l->window < begin + share.tokens))
            hide(q, scores, chunk->count, at, l->window, registers);
        weigh(seen, scores, chunk->count, keep, registers);
        if (in_pairs(l)) {
            add_pairs(seen, chunk->values, next, scores, chunk->count, l->value_dim, keep, registers);
        } else {
            as_floats(rows, chunk->values, chunk->count, l->value_dim, l->narrow, room);
            add(seen, rows, scores, chunk->count, l->value_dim, keep, registers);
        }
        at += chunk->count;
    }
}

/* Registers that hold no query are left out. */
static void see(struct seen *seen, const struct queries *q, const struct prompt_job *job, struct share share, long span)
{
    const long count = share.tokens * (job->layer->heads / job->layer->kv_heads);
    if (count <= WIDTH)
        see_kind(seen, q, job, share, span, 1);
    else if (count <= 2 * WIDTH)
        see_kind(seen, q, job, share, span, 2);
    else
        see_kind(seen, q, job, share, span, REGISTERS);
}

static void whole_item(const void *argument, long item)
{
    const struct prompt_job *job = argument;
    const struct share share = share_of(job, item);
    struct queries q;
    struct seen all, one;
    gather(&q, job, share);
    see(&all, &q, job, share, job->first);
    /* Behind its last token there is nothing to see. */
    for (long span = job->first + 1; span * SPAN < job->prompt->start + share.token + share.tokens; span++) {
        see(&one, &q, job, share, span);
        join(&all, &one, job->layer->value_dim);
    }
    put_out(&all, job, share);
}

static void part_item(const void *argument, long part)
{
    const struct prompt_job *job = argument;
    const struct share share = share_of(job, part / job->spans);
    struct queries q;
    gather(&q, job, share);
    see(job->parts + part, &q, job, share, job->first + part % job->spans);
}

static void join_item(const void *argument, long item)
{
    const struct prompt_job *job = argument;
    struct seen *all = job->parts + item * job->spans;
    for (long span = 1; span < job->spans; span++)
        join(all, all + span, job->layer->value_dim);
    put_out(all, job, share_of(job, item));
}

/* Kept by the thread that calls, for its next prompt; null where there is no memory. */
static struct seen *room_for(long parts)
{
    static _Thread_local struct seen *room;
    static _Thread_local long most;
    if (parts > most) {
        free(room);
        room = aligned_alloc(64, (size_t)parts * sizeof *room);
        most = room ? parts : 0;
    }
    return room;
}

void attend_prompt(const struct layer *layer, const struct prompt *prompt, struct view query, float *output, unsigned threads)
{
    struct prompt_job job = {layer, prompt, query, output, LANES * layer->kv_heads / layer->heads, 0, 0, 0};
    const long items = (prompt->count + job.tokens - 1) / job.tokens * layer->kv_heads;
    job.first = layer->window && prompt->start + 1 > layer->window ? (prompt->start + 1 - layer->window) / SPAN : 0;
    job.spans = (prompt->start + prompt->count + SPAN - 1) / SPAN - job.first;
    if (job.spans > 1 && threads > 1 && items < ENOUGH * threads && items * job.spans <= MOST_PARTS
        && (job.parts = room_for(items * job.spans))) {
        parallel_for(part_item, &job, items * job.spans, threads);
        parallel_for(join_item, &job, items, threads);
    } else {
        parallel_for(whole_item, &job, items, threads);
    }
}
