// Kernels with a fault each, which the emulator has to find: see test_emulator.py.

// Without the barrier a thread may read before the other one has written.
extern "C" __global__ void no_barrier_1(const int* x, int* out) {
    __shared__ int parts[64];
    parts[threadIdx.x] = x[threadIdx.x];
    // a __syncthreads() is missing
    out[threadIdx.x] = parts[63 - threadIdx.x];
}

// The lanes of a warp run apart too: a __syncwarp is missing.
extern "C" __global__ void no_warp_barrier_1(const int* x, int* out) {
    __shared__ int parts[32];
    parts[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = parts[31 - threadIdx.x];
}

// A thread reads what the one before it writes, or the one after it: right under one order of the threads.
extern "C" __global__ void before_1(const int* x, int* out) {
    __shared__ int parts[64];
    parts[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = parts[threadIdx.x == 0 ? 0 : threadIdx.x - 1];
}
extern "C" __global__ void after_1(const int* x, int* out) {
    __shared__ int parts[64];
    parts[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = parts[threadIdx.x == 63 ? 63 : threadIdx.x + 1];
}

template <int size>
__global__ void outside_static_1(int i, int* out) {
    __shared__ int before[size], values[size], after[size];
    before[threadIdx.x] = values[threadIdx.x] = after[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = values[i] + before[threadIdx.x] + after[threadIdx.x];  // i is size: one too far
}

extern "C" __global__ void outside_dynamic_1(int i, int* out) {
    DYNAMIC_SHARED(int, values);
    values[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = values[i];
}

extern "C" __global__ void divergent_1() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}

extern "C" __global__ void barrier_and_warp_1() {
    if (threadIdx.x == 5) __syncthreads();
    __syncwarp();
    if (threadIdx.x != 5) __syncthreads();
}

extern "C" __global__ void not_in_mask_1(int* out) { out[threadIdx.x] = __shfl_sync(0xFFFF, 1, 0); }
extern "C" __global__ void inactive_1(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xFFFF, 1, int(threadIdx.x) + 3);
}
extern "C" __global__ void ended_1(int* out) {
    if (threadIdx.x == 9) return;
    out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
}
extern "C" __global__ void unwritten_1(int* out) {
    __shared__ int fixed[32];
    DYNAMIC_SHARED(int, dynamic);
    if (blockIdx.x == 0 && threadIdx.x < 16) fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = fixed[threadIdx.x];
    out[blockIdx.x * 64 + 32 + threadIdx.x] = dynamic[threadIdx.x];
}

extern "C" int64_t no_barrier(const int* x, int* out, void* stream) {
    LAUNCH(no_barrier_1, 1, 64, 0, stream, x, out);
    return launch_error();
}
extern "C" int64_t no_warp_barrier(const int* x, int* out, void* stream) {
    LAUNCH(no_warp_barrier_1, 1, 32, 0, stream, x, out);
    return launch_error();
}
extern "C" int64_t before(const int* x, int* out, void* stream) {
    LAUNCH(before_1, 1, 64, 0, stream, x, out);
    return launch_error();
}
extern "C" int64_t after(const int* x, int* out, void* stream) {
    LAUNCH(after_1, 1, 64, 0, stream, x, out);
    return launch_error();
}
extern "C" int64_t outside_static(int64_t i, int* out, void* stream) {
    LAUNCH(outside_static_1<64>, 1, 64, 0, stream, int(i), out);
    return launch_error();
}
extern "C" int64_t outside_dynamic(int64_t i, int* out, void* stream) {
    LAUNCH(outside_dynamic_1, 1, 64, 256, stream, int(i), out);
    return launch_error();
}
extern "C" int64_t divergent(void* stream) {
    LAUNCH(divergent_1, 2, 64, 0, stream);
    return launch_error();
}
extern "C" int64_t barrier_and_warp(void* stream) {
    LAUNCH(barrier_and_warp_1, 1, 64, 0, stream);
    return launch_error();
}
extern "C" int64_t not_in_mask(int* out, void* stream) {
    LAUNCH(not_in_mask_1, 1, 32, 0, stream, out);
    return launch_error();
}
extern "C" int64_t inactive(int* out, void* stream) {
    LAUNCH(inactive_1, 1, 32, 0, stream, out);
    return launch_error();
}
extern "C" int64_t ended(int* out, void* stream) {
    LAUNCH(ended_1, 1, 32, 0, stream, out);
    return launch_error();
}
extern "C" int64_t unwritten(int* out, void* stream) {
    LAUNCH(unwritten_1, 2, 32, 128, stream, out);
    return launch_error();
}
extern "C" int64_t too_many_threads(int* out, void* stream) {
    LAUNCH(inactive_1, 1, 1025, 0, stream, out);
    LAUNCH(ended_1, 1, 32, 0, stream, out);  // not run
    return launch_error();
}
extern "C" int64_t no_blocks(int* out, void* stream) {
    LAUNCH(inactive_1, 0, 32, 0, stream, out);
    return launch_error();
}
