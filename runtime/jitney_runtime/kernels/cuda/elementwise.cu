// What lies between the products of a decoder: norms, gates, rotary embeddings. Numbers are TYPE, arithmetic is float32.
#include "floats.cuh"

#define THREADS 128

// inputs / their root mean square x (weight [dim] + offset), one block for each of [tokens, heads], any strides but the last.
extern "C" __global__ void __launch_bounds__(THREADS) rms_norm(
    const T *inputs, const T *weight, T *output, long long token_stride, long long head_stride, int heads, int dim, float epsilon, float offset
) {
    const long long at = blockIdx.x;
    const T *mine = inputs + at / heads * token_stride + at % heads * head_stride;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < dim; i += THREADS) {
        const float value = widened(mine[i]);
        sum += value * value;
    }
    __shared__ float warps[THREADS / 32];
#pragma unroll
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < THREADS / 32; warp++) sum += warps[warp];
    const float factor = rsqrtf(sum / dim + epsilon);
    for (int i = threadIdx.x; i < dim; i += THREADS) output[at * dim + i] = narrowed(widened(mine[i]) * factor * (widened(weight[i]) + offset));
}

// silu(gate) x up, which lie side by side [rows, 2 x dim].
extern "C" __global__ void __launch_bounds__(THREADS) silu_mul(const T *gate_up, T *output, int dim) {
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= dim) return;
    const long long row = blockIdx.y;
    const float gate = widened(gate_up[row * 2 * dim + i]), up = widened(gate_up[row * 2 * dim + dim + i]);
    output[row * dim + i] = narrowed(gate / (1.0f + __expf(-gate)) * up);
}

// states [heads, tokens, dim], any strides but the last, turned by cos and sin [tokens, dim] -> [tokens, heads, dim]. A block for each token.
extern "C" __global__ void __launch_bounds__(THREADS) rotary(
    const T *states, const T *cos, const T *sin, T *output, long long token_stride, long long head_stride, int heads, int dim
) {
    const long long token = blockIdx.x;
    for (int at = threadIdx.x; at < heads * dim; at += THREADS) {
        const int head = at / dim, i = at % dim, half = dim / 2;
        const T *mine = states + token * token_stride + head * head_stride;
        const float other = i < half ? -widened(mine[i + half]) : widened(mine[i - half]);
        output[token * heads * dim + at] = narrowed(widened(mine[i]) * widened(cos[token * dim + i]) + other * widened(sin[token * dim + i]));
    }
}
