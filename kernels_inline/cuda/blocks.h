// What the threads of a warp or of a block work out together, for all .cu files. Blocks are one-dimensional, their
// size a multiple of 32, and all threads of the warp or block take part.
//
// `room` is shared memory of the caller's for 32 values, one for each warp. It may be used again at once: every
// function begins with a barrier. Sums are taken in a fixed order, so that a result is the same in every run.
#pragma once

constexpr unsigned ALL_LANES = 0xFFFFFFFF;
constexpr int WARP = 32;
constexpr int64_t NO_SUCH_VERSION = 100;  // what a launcher NAME_v returns for it

__device__ __forceinline__ int lane_id() { return int(threadIdx.x) % WARP; }
__device__ __forceinline__ int warp_id() { return int(threadIdx.x) / WARP; }
__device__ __forceinline__ int warp_count() { return int(blockDim.x) / WARP; }

// The number of this thread, or of its warp, in the whole grid.
__device__ __forceinline__ int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t global_warp() { return global_thread() / WARP; }

// Whether 16 bytes can be loaded at once from here.
__host__ __device__ __forceinline__ bool aligned16(const void* p) { return reinterpret_cast<uint64_t>(p) % 16 == 0; }

// The sum of the 32 lanes' values, in every lane: each step adds the partner's sum, at distance 16, 8, 4, 2, 1.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int apart = WARP / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(ALL_LANES, value, apart);
    return value;
}

// The largest of the lanes' values, in every lane.
template <class T>
__device__ __forceinline__ T warp_max(T value) {
    for (int apart = WARP / 2; apart > 0; apart /= 2) {
        const T other = __shfl_xor_sync(ALL_LANES, value, apart);
        value = value < other ? other : value;
    }
    return value;
}

// The sum of the values of this lane and those before it.
template <class T>
__device__ __forceinline__ T warp_scan(T value) {
    for (int apart = 1; apart < WARP; apart *= 2) {
        const T before = __shfl_up_sync(ALL_LANES, value, apart);
        if (lane_id() >= apart) value += before;
    }
    return value;
}

// The sum of all threads' values, in every thread.
template <class T>
__device__ __forceinline__ T block_sum(T value, T* room) {
    value = warp_sum(value);
    __syncthreads();
    if (lane_id() == 0) room[warp_id()] = value;
    __syncthreads();
    return warp_sum(lane_id() < warp_count() ? room[lane_id()] : T(0));
}

// The largest of all threads' values, in every thread.
template <class T>
__device__ __forceinline__ T block_max(T value, T* room) {
    value = warp_max(value);
    __syncthreads();
    if (lane_id() == 0) room[warp_id()] = value;
    __syncthreads();
    return warp_max(room[lane_id() < warp_count() ? lane_id() : 0]);
}

// The sum of the values of the threads before this one; *total: of all.
template <class T>
__device__ __forceinline__ T block_scan_exclusive(T value, T* room, T* total) {
    const T through = warp_scan(value);
    __syncthreads();
    if (lane_id() == WARP - 1) room[warp_id()] = through;
    __syncthreads();
    const T warps = warp_scan(lane_id() < warp_count() ? room[lane_id()] : T(0));
    *total = __shfl_sync(ALL_LANES, warps, WARP - 1);
    const T before = __shfl_sync(ALL_LANES, warps, warp_id() > 0 ? warp_id() - 1 : 0);
    return through - value + (warp_id() > 0 ? before : T(0));
}
