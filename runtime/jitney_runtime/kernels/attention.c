/* What attention needs done before it: queries and keys turned by their positions, keys and values put into their blocks. */
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

struct store_job {
    const struct layer *layer;
    const struct step *step;
    struct view keys, values;
};

/* `dim` numbers into a row of a cache. */
static inline void put_row(void *row, const float *from, long dim, long narrowed)
{
    if (narrowed)
        narrow_all(row, from, dim);
    else
        memcpy(row, from, (size_t)dim * sizeof(float));
}

static void store_portion(const void *argument, long portion)
{
    const struct store_job *job = argument;
    const struct layer *l = job->layer;
    const struct step *s = job->step;
    for (long token = portion * PORTION; token < least((portion + 1) * PORTION, s->tokens); token++) {
        const long block = s->slots[token] / l->block_size, in = s->slots[token] % l->block_size;
        for (long head = 0; head < l->kv_heads; head++) {
            const float *key = job->keys.data + token * job->keys.token_stride + head * job->keys.head_stride;
            const float *value = job->values.data + token * job->values.token_stride + head * job->values.head_stride;
            put_row((char *)l->keys + offset_of(l, block, head, in, l->key_dim * width_of(l)), key, l->key_dim, l->narrow);
            put_row((char *)l->values + offset_of(l, block, head, in, l->value_dim * width_of(l)), value, l->value_dim, l->narrow);
        }
    }
}

/* keys [tokens, kv_heads, key_dim] and values, each with its strides, into the slots of the step's tokens. */
EXPORT void jitney_store(const struct layer *layer, const struct step *step, const float *key, const float *value, long key_token,
    long key_head, long value_token, long value_head, unsigned threads)
{
    struct store_job job = {layer, step, {key, key_token, key_head}, {value, value_token, value_head}};
    parallel_for(store_portion, &job, portions(step->tokens), threads);
}
