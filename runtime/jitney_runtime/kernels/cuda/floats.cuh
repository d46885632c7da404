// The floating type of a build, TYPE 0 float, 1 bfloat16, 2 half, without CUDA's headers: a runtime image holds none of them.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;

#if TYPE == 0
typedef float T;
#else
typedef u16 T;
#endif

#define EIGHT 8

__device__ __forceinline__ float widened(T value) {
#if TYPE == 0
    return value;
#elif TYPE == 1
    return __uint_as_float((u32)value << 16);
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
    return wide;
#endif
}

__device__ __forceinline__ T narrowed(float value) {
#if TYPE == 0
    return value;
#elif TYPE == 1
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#else
    u16 narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
    return narrow;
#endif
}

// Eight neighbours, from a place that is aligned to 16 bytes.
struct Eight {
#if TYPE == 0
    float4 low, high;
    __device__ __forceinline__ void load(const T *from) {
        low = ((const float4 *)from)[0];
        high = ((const float4 *)from)[1];
    }
    __device__ __forceinline__ void widen(float (&to)[EIGHT]) const {
        to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
        to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
    }
#else
    uint4 words;
    __device__ __forceinline__ void load(const T *from) { words = *(const uint4 *)from; }
    __device__ __forceinline__ void widen(float (&to)[EIGHT]) const {
        const u32 pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            to[2 * pair] = widened((u16)(pairs[pair] & 0xffffu));
            to[2 * pair + 1] = widened((u16)(pairs[pair] >> 16));
        }
    }
#endif
};
