// What kernels use that is the same on the GPU and on the CPU. emulator.h (g++), launch.h (nvcc) and NVRTC include it.
#pragma once
#ifdef __CUDACC_RTC__  // no header is at hand there
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define INFINITY __int_as_float(0x7f800000)
#else
#include <cmath>
#include <cstdint>
#endif

// bfloat16 is the upper half of a float, and is kept as its bits.
__host__ __device__ __forceinline__ float float_of_bf16(uint16_t bits) {
    union { uint32_t bits; float value; } both = {uint32_t(bits) << 16};
    return both.value;
}

// To the nearest, ties to the even one; a NaN stays a NaN.
__host__ __device__ __forceinline__ uint16_t bf16_of_float(float value) {
    union { float value; uint32_t bits; } both = {value};
    if ((both.bits & 0x7FFFFFFF) > 0x7F800000) return uint16_t(both.bits >> 16 | 0x40);
    return uint16_t((both.bits + 0x7FFF + (both.bits >> 16 & 1)) >> 16);
}

// The number of blocks of `each` that cover `count`.
__host__ __device__ __forceinline__ int64_t blocks_for(int64_t count, int64_t each) {
    return (count + each - 1) / each;
}

// sums += A and B on the binary tensor cores: sums[i][j] += popcount(a_i & b_j) for 16 rows a and 8 columns b of 256
// bits, by the 32 lanes of a warp together (mma.sync m16n8k256, sm_80 and later). With g = lane / 4 and t = lane % 4
// a lane holds, where word w of a row is its bits 32 w to 32 w + 31 (PTX ISA, "Matrix fragments for mma.m16n8k256"):
//     a = {word t of row g, word t of row g + 8, word t + 4 of row g, word t + 4 of row g + 8}
//     b = {word t of column g, word t + 4 of column g}
//     sums = {[g][2 t], [g][2 t + 1], [g + 8][2 t], [g + 8][2 t + 1]}
__device__ __forceinline__ void binary_mma(int32_t (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if !defined(__CUDACC__)
    emulator::binary_mma(sums, a, b, emulator::Place::current());
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap();  // older GPUs have no such instruction: launch another version there
#endif
}
