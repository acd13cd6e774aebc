// What a .cu file needs under nvcc, in place of emulator.h: LAUNCH, scratch memory and the error that a launcher
// returns. With NVRTC only the part that device code uses is seen.
//
// A launcher is a host function that ends with `return launch_error();`. When a launch or an allocation has failed,
// the launches after it are left out, so that no kernel runs on memory that is not there.
#pragma once
#include "portable.h"
#include "blocks.h"
#include "codes.h"
#include "loads.h"

// Dynamic shared memory: `DYNAMIC_SHARED(float, tile);` makes `float* tile`, of as many bytes as LAUNCH was given.
#define DYNAMIC_SHARED(T, name)                                    \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared)

#ifndef __CUDACC_RTC__
#include <cuda_runtime_api.h>

// LAUNCH(kernel, grid, block, bytes of dynamic shared memory, stream, arguments...); a kernel that is a template with
// several arguments is put in parentheses: LAUNCH((scan<4, 2>), ...).
#define LAUNCH(kernel, grid, block, shared, stream, ...)                                                          \
    do {                                                                                                          \
        const size_t shared_bytes_ = (shared);                                                                    \
        if (cudaPeekAtLastError() == cudaSuccess && shared_bytes_ > 48 * 1024)                                    \
            cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, \
                                 int(shared_bytes_));                                                             \
        if (cudaPeekAtLastError() == cudaSuccess)                                                                 \
            kernel<<<grid, block, shared_bytes_, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);               \
    } while (0)

// 0, or minus the number of the first CUDA error since the last call.
inline int64_t launch_error() { return -int64_t(cudaGetLastError()); }

// Whether the GPU at hand has the instruction of binary_mma (portable.h): compute capability 8.x and 9.0.
inline bool has_binary_mma() {
    int device = 0, major = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major == 8 || major == 9;
}

// Memory for as long as a launcher needs it, in the order of the stream: no synchronisation.
template <class T>
T* scratch(int64_t count, void* stream) {
    void* memory = nullptr;
    cudaMallocAsync(&memory, size_t(count) * sizeof(T), static_cast<cudaStream_t>(stream));
    return static_cast<T*>(memory);
}

inline void release(void* memory, void* stream) {
    if (memory != nullptr) cudaFreeAsync(memory, static_cast<cudaStream_t>(stream));
}

// Every one of `bytes` bytes becomes `value`.
inline void fill_bytes(void* memory, int value, int64_t bytes, void* stream) {
    if (cudaPeekAtLastError() == cudaSuccess)
        cudaMemsetAsync(memory, value, size_t(bytes), static_cast<cudaStream_t>(stream));
}
#endif
