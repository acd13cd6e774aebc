// Numbers in memory, float32, bfloat16 (as uint16_t) or, of a weight, float8_e4m3fn (as uint8_t), one or four at a
// time; arithmetic is in float32. What kernels that read rows (encode, head, rerank, rows) or logits (logits.h) share.
#pragma once

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(uint16_t x) { return float_of_bf16(x); }
// A sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, and NaN where these seven are all 1.
__device__ __forceinline__ float widen(uint8_t x) {
    const unsigned size = x & 0x7F;
    const float small = float(size) * 0x1p-9f, normal = __uint_as_float((size << 20) + (120u << 23));
    const float value = size == 0x7F ? __uint_as_float(0x7FC00000) : size < 8 ? small : normal;
    return x & 0x80 ? -value : value;
}
__device__ __forceinline__ void narrow(float x, float* out) { *out = x; }
__device__ __forceinline__ void narrow(float x, uint16_t* out) { *out = bf16_of_float(x); }

__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 load4(const uint16_t* p) {
    const ushort4 x = *reinterpret_cast<const ushort4*>(p);
    return make_float4(widen(x.x), widen(x.y), widen(x.z), widen(x.w));
}
__device__ __forceinline__ float4 load4(const uint8_t* p) {
    const unsigned x = *reinterpret_cast<const unsigned*>(p);
    return make_float4(widen(uint8_t(x)), widen(uint8_t(x >> 8)), widen(uint8_t(x >> 16)), widen(uint8_t(x >> 24)));
}
__device__ __forceinline__ void store4(float4 x, float* p) { *reinterpret_cast<float4*>(p) = x; }
__device__ __forceinline__ void store4(float4 x, uint16_t* p) {
    *reinterpret_cast<ushort4*>(p) =
        make_ushort4(bf16_of_float(x.x), bf16_of_float(x.y), bf16_of_float(x.z), bf16_of_float(x.w));
}
__device__ __forceinline__ float dot4(float4 x, float4 y) { return (x.x * y.x + x.y * y.y) + (x.z * y.z + x.w * y.w); }

__device__ __forceinline__ float4 add4(float4 x, float4 y) {
    return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
}

// Memory of the gradient of rows: of their kind, or of those in 8 bits bfloat16. On the host.
inline float* gradient_of(const float*, void* memory) { return static_cast<float*>(memory); }
inline uint16_t* gradient_of(const uint16_t*, void* memory) { return static_cast<uint16_t*>(memory); }
inline uint16_t* gradient_of(const uint8_t*, void* memory) { return static_cast<uint16_t*>(memory); }

// f(numbers), where these are bfloat16 if `half`, else float32. On the host.
template <class F>
auto typed(const void* numbers, int64_t half, F f) {
    return half ? f(static_cast<const uint16_t*>(numbers)) : f(static_cast<const float*>(numbers));
}

// f(rows) of a weight, whose kind is 0 for float32, 1 for bfloat16, 2 for e4m3.
template <class F>
auto typed_rows(const void* rows, int64_t kind, F f) {
    return kind == 2 ? f(static_cast<const uint8_t*>(rows)) : typed(rows, kind, f);
}
