// Linear layers whose weights are 8 or 4 bits wide: inputs and outputs are TYPE 1 (bfloat16) or 2 (half), sums float32.
//
// A thread's sixteen weights of a segment of 64 inputs lie side by side, so that it reads them at once; the tensor core is told that they
// are the inputs which it expects there, and since the same is told of the inputs themselves, only the order of a sum is another.
// Weights of 8 bits are q - 128 times a scale per output; of 4 bits q times a scale, plus a lowest value, both per 32 inputs.
// The order in which a row's products are added does not depend on how many rows there are.
#include "floats.cuh"

#define SEGMENT 64
#define COLUMNS 16
#define TILES (COLUMNS / 8)
#define WARPS 8
#define THREADS (32 * WARPS)

#if TYPE == 1
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#define PAIR "cvt.rn.bf16x2.f32 %0, %1, %2;"
#else
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#define PAIR "cvt.rn.f16x2.f32 %0, %1, %2;"
#endif

__device__ __forceinline__ void multiply(float (&sums)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(MMA : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 pair(float low, float high) {
    u32 both;
    asm(PAIR : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// 2^23 + q as a float, less 2^23: quicker than a conversion.
__device__ __forceinline__ float whole(u32 q, float less) { return __uint_as_float(0x4b000000u | q) - less; }

// Sixteen weights of one output at inputs k .. k + 15, as eight pairs. `ins` is a multiple of SEGMENT here.
#if BITS == 8
__device__ __forceinline__ void weights(const unsigned char *packed, const u32 *, int ins, long long out, int k, u32 (&pairs)[8]) {
    const uint4 four = *(const uint4 *)(packed + out * ins + k);
    const u32 words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int word = 0; word < 4; word++) {
        float q[4];
#pragma unroll
        for (int i = 0; i < 4; i++) q[i] = whole((words[word] >> (8 * i)) & 0xffu, 8388736.0f);
        pairs[2 * word] = pair(q[0], q[1]), pairs[2 * word + 1] = pair(q[2], q[3]);
    }
}
#else
__device__ __forceinline__ void weights(const unsigned char *packed, const u32 *groups, int ins, long long out, int k, u32 (&pairs)[8]) {
    const uint2 two = *(const uint2 *)(packed + out * (ins / 2) + k / 2);
    const u32 words[2] = {two.x, two.y}, group = groups[out * (ins / 32) + k / 32];
    const float scale = __uint_as_float(group << 16), lowest = __uint_as_float(group & 0xffff0000u);
#pragma unroll
    for (int word = 0; word < 2; word++) {
        float w[8];
#pragma unroll
        for (int i = 0; i < 8; i++) w[i] = whole((words[word] >> (4 * i)) & 0xfu, 8388608.0f) * scale + lowest;
#pragma unroll
        for (int i = 0; i < 4; i++) pairs[4 * word + i] = pair(w[2 * i], w[2 * i + 1]);
    }
}
#endif

template <int MATRICES>
__device__ __forceinline__ void product(
    const T *inputs, const unsigned char *packed, const u32 *groups, const float *scales, const T *bias, T *output, int rows, int ins,
    int padded, int outs
) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, quad = lane / 4, t = lane % 4;
    const long long first = (long long)blockIdx.x * COLUMNS;
    float sums[MATRICES][TILES][4] = {};
    for (int segment = warp * SEGMENT; segment < padded; segment += WARPS * SEGMENT) {
        const int k = segment + 16 * t;
        u32 b[TILES][8];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) weights(packed, groups, padded, first + 8 * tile + quad, k, b[tile]);
#pragma unroll
        for (int matrix = 0; matrix < MATRICES; matrix++) {
            u32 a[2][8];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = 16 * matrix + 8 * half + quad;
#pragma unroll
                for (int eight = 0; eight < 2; eight++) {
                    uint4 four = make_uint4(0, 0, 0, 0);
                    if (row < rows && k + 8 * eight < ins) four = *(const uint4 *)(inputs + (long long)row * ins + k + 8 * eight);
                    a[half][4 * eight] = four.x, a[half][4 * eight + 1] = four.y;
                    a[half][4 * eight + 2] = four.z, a[half][4 * eight + 3] = four.w;
                }
            }
#pragma unroll
            for (int step = 0; step < 4; step++) {
                const u32 both[4] = {a[0][2 * step], a[1][2 * step], a[0][2 * step + 1], a[1][2 * step + 1]};
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) multiply(sums[matrix][tile], both, b[tile][2 * step], b[tile][2 * step + 1]);
            }
        }
    }

    __shared__ float all[WARPS][16][COLUMNS];
    for (int matrix = 0; matrix < MATRICES; matrix++) {
        __syncthreads();
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const int column = 8 * tile + 2 * t;
            all[warp][quad][column] = sums[matrix][tile][0], all[warp][quad][column + 1] = sums[matrix][tile][1];
            all[warp][quad + 8][column] = sums[matrix][tile][2], all[warp][quad + 8][column + 1] = sums[matrix][tile][3];
        }
        __syncthreads();
        for (int at = threadIdx.x; at < 16 * COLUMNS; at += THREADS) {
            const int row = 16 * matrix + at / COLUMNS;
            const long long out = first + at % COLUMNS;
            if (row >= rows || out >= outs) continue;
            float sum = 0.0f;
            for (int other = 0; other < WARPS; other++) sum += all[other][at / COLUMNS][at % COLUMNS];
            if (scales) sum *= scales[out];
            if (bias) sum += widened(bias[out]);
            output[(long long)row * outs + out] = narrowed(sum);
        }
    }
}

#define LINEAR(name, matrices)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS) name(                                                                             \
        const T *inputs, const unsigned char *packed, const u32 *groups, const float *scales, const T *bias, T *output, int rows, int ins,  \
        int padded, int outs                                                                                                                \
    ) {                                                                                                                                     \
        product<matrices>(inputs, packed, groups, scales, bias, output, rows, ins, padded, outs);                                           \
    }
// Of up to 16, 32 and 64 rows.
LINEAR(linear_16, 1)
LINEAR(linear_32, 2)
LINEAR(linear_64, 4)

// Weights first .. first + gridDim.y - 1 as [outs, ins] of TYPE, for a library's product of many rows.
extern "C" __global__ void unpack(
    const unsigned char *packed, const u32 *groups, const float *scales, T *output, int first, int ins, int padded
) {
    const int k = 16 * (blockIdx.x * blockDim.x + threadIdx.x);
    const long long out = first + (long long)blockIdx.y;
    if (k >= ins) return;
    u32 pairs[8];
    weights(packed, groups, padded, out, k, pairs);
    const float scale = scales ? scales[out] : 1.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const u16 weight = (u16)(pairs[i / 2] >> (16 * (i % 2)));
        if (k + i < ins) output[(long long)blockIdx.y * ins + k + i] = narrowed(widened(weight) * scale);
    }
}
