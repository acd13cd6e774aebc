// Numbers in memory, float32 or bfloat16 (as uint16_t), one or four at a time; arithmetic is in float32. What the
// kernels that read rows of a weight (encode.cu, head.cu, rerank.cu) or logits (softmax.cu) share.
#pragma once

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(uint16_t x) { return float_of_bf16(x); }
__device__ __forceinline__ void narrow(float x, float* out) { *out = x; }
__device__ __forceinline__ void narrow(float x, uint16_t* out) { *out = bf16_of_float(x); }

__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 load4(const uint16_t* p) {
    const ushort4 x = *reinterpret_cast<const ushort4*>(p);
    return make_float4(widen(x.x), widen(x.y), widen(x.z), widen(x.w));
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

// Memory to write to as numbers of the kind of others.
template <class T>
T* same_kind(const T*, void* memory) {
    return static_cast<T*>(memory);
}

// f(numbers), where these are bfloat16 if `half`, else float32. On the host.
template <class F>
auto typed(const void* numbers, int64_t half, F f) {
    return half ? f(static_cast<const uint16_t*>(numbers)) : f(static_cast<const float*>(numbers));
}
