// Keys and values in blocks: what a step stores, and rows of one token each over everything that its sequence holds up to it.
//
// The build's constants: TYPE, KEY_DIM, VALUE_DIM, GROUP (query heads that share a head of keys), BLOCK_SIZE (tokens in a block).
// A long sequence is cut into as many parts as the grid is deep, and how it is cut depends on its own length alone: nobody's answer
// depends on a neighbour.
#include "floats.cuh"

#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CEILED(a, b) (((a) + (b) - 1) / (b))
// Heads that one thread block computes: 8 x 8 queries and as many sums fill its registers.
#define CHUNKS CEILED(GROUP, 8)
#define HEADS CEILED(GROUP, CHUNKS)
#define WIDEST CEILED(MAX(KEY_DIM, VALUE_DIM), EIGHT)
// Lanes that share one token, a power of two, eight numbers each.
#define LANES (WIDEST <= 1 ? 1 : WIDEST <= 2 ? 2 : WIDEST <= 4 ? 4 : WIDEST <= 8 ? 8 : WIDEST <= 16 ? 16 : 32)
#define THREADS 128
#define STREAMS (THREADS / LANES)
// Tokens of a stream whose loads are on their way at once.
#define AHEAD 2
// No part is shorter, but the last.
#define SHORTEST 128
#define SUMS (VALUE_DIM + 2)
// Minus infinity, and what anything is that is added to it.
#define NOTHING __int_as_float(0xff800000)

extern "C" __global__ void store(
    const T *keys, const T *values, T *to_keys, T *to_values, const long long *slots, long long key_token_stride, long long key_head_stride,
    long long value_token_stride, long long value_head_stride, int kv_heads
) {
    const long long token = blockIdx.x, slot = slots[token];
    for (int at = threadIdx.x; at < kv_heads * KEY_DIM; at += blockDim.x)
        to_keys[slot * kv_heads * KEY_DIM + at] = keys[token * key_token_stride + (at / KEY_DIM) * key_head_stride + at % KEY_DIM];
    for (int at = threadIdx.x; at < kv_heads * VALUE_DIM; at += blockDim.x)
        to_values[slot * kv_heads * VALUE_DIM + at] =
            values[token * value_token_stride + (at / VALUE_DIM) * value_head_stride + at % VALUE_DIM];
}

// Grid: rows, kv_heads x CHUNKS, parts. `index` may be null: row r is token r then; so may `owners`, and row r has table r of `tables`
// [sequences, *width].
// `sums` [rows, kv_heads x CHUNKS, parts, HEADS, SUMS] and `arrived` [rows, kv_heads x CHUNKS], which is 0 before and after.
extern "C" __global__ void __launch_bounds__(THREADS) attend(
    const T *query, T *output, const T *keys, const T *values, const long long *index, const long long *owners, const long long *tables,
    const long long *lengths, const long long *width, float *sums, u32 *arrived, long long query_token_stride, long long query_head_stride, int kv_heads, int window,
    float scale
) {
    const int row = blockIdx.x, kv_head = blockIdx.y / CHUNKS, first_head = blockIdx.y % CHUNKS * HEADS, part = blockIdx.z;
    const int length = (int)lengths[row], begin = window > 0 && length > window ? length - window : 0, span = length - begin;
    int share = CEILED(span, (int)gridDim.z);
    share = CEILED(share, SHORTEST) * SHORTEST;
    const int parts = CEILED(span, share);
    if (part >= parts) return;
    const int from = begin + part * share, to = from + share < length ? from + share : length;
    const int lane = threadIdx.x % LANES, stream = threadIdx.x / LANES, element = lane * EIGHT;
    const long long token = index ? index[row] : row;
    const long long *table = tables + (owners ? owners[row] : row) * *width;
    const bool has_key = element < KEY_DIM, has_value = element < VALUE_DIM;

    float asked[HEADS][EIGHT], sum[HEADS][EIGHT], highest[HEADS], total[HEADS];
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        highest[head] = NOTHING, total[head] = 0.0f;
#pragma unroll
        for (int i = 0; i < EIGHT; i++) asked[head][i] = sum[head][i] = 0.0f;
        if (has_key && first_head + head < GROUP) {
            const T *place = query + token * query_token_stride + (kv_head * GROUP + first_head + head) * query_head_stride + element;
#pragma unroll
            // Powers of two instead of e.
            for (int i = 0; i < EIGHT; i++) asked[head][i] = widened(place[i]) * scale * 1.4426950408889634f;
        }
    }

    for (int at = from + stream; at - stream < to; at += STREAMS * AHEAD) {
        Eight key[AHEAD], value[AHEAD];
#pragma unroll
        for (int ahead = 0; ahead < AHEAD; ahead++) {
            const int seen = at + ahead * STREAMS;
            if (seen < to) {
                const long long slot = table[seen / BLOCK_SIZE] * BLOCK_SIZE + seen % BLOCK_SIZE;
                if (has_key) key[ahead].load(keys + (slot * kv_heads + kv_head) * KEY_DIM + element);
                if (has_value) value[ahead].load(values + (slot * kv_heads + kv_head) * VALUE_DIM + element);
            }
        }
#pragma unroll
        for (int ahead = 0; ahead < AHEAD; ahead++) {
            const bool seen = at + ahead * STREAMS < to;
            float k[EIGHT], v[EIGHT];
            key[ahead].widen(k), value[ahead].widen(v);
#pragma unroll
            for (int head = 0; head < HEADS; head++) {
                float score = 0.0f;
                if (has_key && seen) {
#pragma unroll
                    for (int i = 0; i < EIGHT; i++) score += asked[head][i] * k[i];
                }
#pragma unroll
                for (int step = LANES / 2; step; step /= 2) score += __shfl_xor_sync(0xffffffffu, score, step);
                if (seen) {
                    const float higher = fmaxf(highest[head], score), weight = exp2f(score - higher), fade = exp2f(highest[head] - higher);
                    highest[head] = higher;
                    total[head] = total[head] * fade + weight;
                    if (has_value) {
#pragma unroll
                        for (int i = 0; i < EIGHT; i++) sum[head][i] = sum[head][i] * fade + weight * v[i];
                    }
                }
            }
        }
    }

    // The streams of this block become one.
    __shared__ float all[STREAMS][HEADS][SUMS];
#pragma unroll
    for (int head = 0; head < HEADS; head++) {
        if (has_value) {
#pragma unroll
            for (int i = 0; i < EIGHT; i++) all[stream][head][element + i] = sum[head][i];
        }
        if (lane == 0) all[stream][head][VALUE_DIM] = highest[head], all[stream][head][VALUE_DIM + 1] = total[head];
    }
    __syncthreads();
    const long long mine = (long long)row * gridDim.y + blockIdx.y;
    T *answer = output + (token * kv_heads * GROUP + kv_head * GROUP + first_head) * VALUE_DIM;
    for (int at = threadIdx.x; at < HEADS * VALUE_DIM; at += THREADS) {
        const int head = at / VALUE_DIM, i = at % VALUE_DIM;
        float high = NOTHING, below = 0.0f, above = 0.0f;
        for (int other = 0; other < STREAMS; other++) high = fmaxf(high, all[other][head][VALUE_DIM]);
        for (int other = 0; other < STREAMS; other++) {
            const float fade = exp2f(all[other][head][VALUE_DIM] - high);
            above += fade * all[other][head][i], below += fade * all[other][head][VALUE_DIM + 1];
        }
        if (parts == 1) {
            if (first_head + head < GROUP) answer[at] = narrowed(above / below);
        } else {
            float *place = sums + ((mine * gridDim.z + part) * HEADS + head) * SUMS;
            place[i] = above;
            if (i == 0) place[VALUE_DIM] = high, place[VALUE_DIM + 1] = below;
        }
    }
    if (parts == 1) return;

    // Whoever comes last adds up the parts, in their order.
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(arrived + mine, 1u) == parts - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    if (threadIdx.x == 0) arrived[mine] = 0;
    for (int at = threadIdx.x; at < HEADS * VALUE_DIM; at += THREADS) {
        const int head = at / VALUE_DIM, i = at % VALUE_DIM;
        const volatile float *place = sums + (mine * gridDim.z * HEADS + head) * SUMS;
        float high = NOTHING, below = 0.0f, above = 0.0f;
        for (int other = 0; other < parts; other++) high = fmaxf(high, place[other * HEADS * SUMS + VALUE_DIM]);
        for (int other = 0; other < parts; other++) {
            const float fade = exp2f(place[other * HEADS * SUMS + VALUE_DIM] - high);
            above += fade * place[other * HEADS * SUMS + i], below += fade * place[other * HEADS * SUMS + VALUE_DIM + 1];
        }
        if (first_head + head < GROUP) answer[at] = narrowed(above / below);
    }
}
