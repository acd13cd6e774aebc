// Sound kernels for test_emulator.py, and what faulty.cu is compared with.

// out += the sum of x. Warps by shuffles, blocks by shared memory, the grid by an atomic.
extern "C" __global__ void block_sum_1(const int* x, int64_t n, int* out) {
    __shared__ int parts[32];
    int sum = 0;
    for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(~0u, sum, by);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0;
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
        if (threadIdx.x == 0) atomicAdd(out, sum);
    }
}

// out[i] = x[0] + ... + x[i] within a block of threads, by doubling; dynamic shared memory.
extern "C" __global__ void scan_1(const int* x, int* out) {
    DYNAMIC_SHARED(int, sums);
    const unsigned i = threadIdx.x;
    sums[i] = x[i];
    __syncthreads();
    for (unsigned by = 1; by < blockDim.x; by *= 2) {
        const int before = i >= by ? sums[i - by] : 0;
        __syncthreads();
        sums[i] += before;
        __syncthreads();
    }
    out[i] = sums[i];
}

// out = the positive ones of 32 lanes per warp, in order; count[warp] = how many. Threads beyond n end at once.
extern "C" __global__ void compact_1(const int* x, int n, int* out, int* count) {
    const int i = int(threadIdx.x), lane = i % 32, warp = i / 32;
    if (i >= n) return;
    const unsigned mask = __ballot_sync(~0u, x[i] > 0);
    if (mask >> lane & 1) out[warp * 32 + __popc(mask & ((1u << lane) - 1))] = x[i];
    __syncwarp();
    if (lane == 0) count[warp] = __popc(mask);
    __syncthreads();  // those that have ended are not waited for
    const int all = __syncthreads_count(x[i] > 0);
    if (i == 0) count[2] = all;
}

// out[thread of the grid] = what it knows about itself, for grids and blocks of three dimensions.
extern "C" __global__ void who_1(unsigned* out) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned lanes = __ballot_sync(~0u, threadIdx.x == 0);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread * 10 + __popc(lanes);
}

// Every shuffle and vote; 16 results a lane.
extern "C" __global__ void lanes_1(const int* x, int* out) {
    const int lane = int(threadIdx.x);
    int* mine = out + 16 * lane;
    mine[0] = __shfl_sync(~0u, x[lane], 37);       // 37 modulo 32
    mine[1] = __shfl_sync(~0u, x[lane], 3, 8);     // lane 3 of each group of 8
    mine[2] = __shfl_up_sync(~0u, x[lane], 2, 16);
    mine[3] = __shfl_down_sync(~0u, x[lane], 5, 8);
    mine[4] = __shfl_xor_sync(~0u, x[lane], 9);
    mine[5] = int(__ballot_sync(~0u, x[lane] > 0));
    mine[6] = __any_sync(~0u, lane == 7) + 2 * __any_sync(~0u, 0);
    mine[7] = __all_sync(~0u, lane < 32) + 2 * __all_sync(~0u, lane < 31);
    mine[8] = int(__match_any_sync(~0u, x[lane] % 3));
    mine[9] = lane < 12 ? int(__ballot_sync(0xFFF, lane % 2)) : -1;
    mine[10] = __syncthreads_or(lane == 4) + 2 * __syncthreads_and(lane < 32) + 4 * __syncthreads_and(lane == 3);
    mine[11] = int(__shfl_sync(~0u, double(x[lane]) + 0.5, 1) * 2);
    mine[12] = mine[13] = mine[14] = mine[15] = 0;
}

// One binary_mma over n words of 256 bits; a[16][8 n], b[8][8 n], out[16][8]. Word order: see portable.h.
extern "C" __global__ void binary_matmul_1(const uint32_t* a, const uint32_t* b, int n, int* out) {
    const int row = int(threadIdx.x) / 4, word = int(threadIdx.x) % 4, width = 8 * n;
    int32_t sums[4] = {0, 0, 0, 0};
    for (int k = 0; k < n; ++k) {
        const uint32_t* left = a + row * width + 8 * k + word;
        const uint32_t* right = b + row * width + 8 * k + word;
        binary_mma(sums, {left[0], left[8 * width], left[4], left[8 * width + 4]}, {right[0], right[4]});
    }
    for (int i = 0; i < 4; ++i) out[(row + i / 2 * 8) * 8 + word * 2 + i % 2] = sums[i];
}

// c = a b for square matrices of n x n, n a multiple of 16: each thread reads a row and a column,
extern "C" __global__ void matmul_1(const float* a, const float* b, float* c, int n) {
    const int row = int(blockIdx.y * 16 + threadIdx.y), column = int(blockIdx.x * 16 + threadIdx.x);
    float sum = 0;
    for (int k = 0; k < n; ++k) sum += a[row * n + k] * b[k * n + column];
    c[row * n + column] = sum;
}

// or each block reads tiles into shared memory, so that an element is read n / 16 times instead of n times.
extern "C" __global__ void matmul_2(const float* a, const float* b, float* c, int n) {
    __shared__ float left[16][16], right[16][16];
    const int x = int(threadIdx.x), y = int(threadIdx.y);
    const int row = int(blockIdx.y) * 16 + y, column = int(blockIdx.x) * 16 + x;
    float sum = 0;
    for (int k = 0; k < n; k += 16) {
        left[y][x] = a[row * n + k + x];
        right[y][x] = b[(k + y) * n + column];
        __syncthreads();
        for (int i = 0; i < 16; ++i) sum += left[y][i] * right[i][x];
        __syncthreads();
    }
    c[row * n + column] = sum;
}

// Lane i reads word i * stride of shared memory: `stride` lanes share a bank when it is a power of two.
extern "C" __global__ void stride_1(int stride, int* out) {
    __shared__ int words[32 * 33];
    for (int i = int(threadIdx.x); i < 32 * 33; i += 32) words[i] = i;
    __syncwarp();
    out[threadIdx.x * 8] = words[int(threadIdx.x) * stride];
}

extern "C" __global__ void bf16_1(const float* x, uint16_t* bits, float* back) {
    bits[threadIdx.x] = bf16_of_float(x[threadIdx.x]);
    back[threadIdx.x] = float_of_bf16(bits[threadIdx.x]);
}

extern "C" __global__ void atomics_1(int* i, unsigned long long* wide, float* x) {
    const int me = int(threadIdx.x);
    atomicAdd(i, me);
    atomicMax(i + 1, me);
    atomicMin(i + 2, me);
    atomicOr(i + 3, 1 << me % 32);
    if (atomicCAS(i + 4, -1, me) == -1) atomicExch(i + 5, me);
    atomicAdd(wide, 1ull << 40);
    atomicAdd(x, 0.5f);
}

extern "C" int64_t block_sum(const int* x, int64_t n, int* out, int64_t blocks, int64_t threads, void* stream) {
    fill_bytes(out, 0, 4, stream);
    LAUNCH(block_sum_1, unsigned(blocks), unsigned(threads), 0, stream, x, n, out);
    return launch_error();
}
extern "C" int64_t scan(const int* x, int64_t n, int* out, void* stream) {
    LAUNCH(scan_1, 1, unsigned(n), size_t(n) * 4, stream, x, out);
    return launch_error();
}
extern "C" int64_t compact(const int* x, int64_t n, int* out, int* count, void* stream) {
    LAUNCH(compact_1, 1, 64, 0, stream, x, int(n), out, count);
    return launch_error();
}
extern "C" int64_t who(unsigned* out, void* stream) {
    LAUNCH(who_1, dim3(2, 3, 2), dim3(4, 4, 4), 0, stream, out);
    return launch_error();
}
extern "C" int64_t lanes(const int* x, int* out, void* stream) {
    LAUNCH(lanes_1, 1, 32, 0, stream, x, out);
    return launch_error();
}
extern "C" int64_t binary_matmul(const uint32_t* a, const uint32_t* b, int64_t n, int* out, void* stream) {
    LAUNCH(binary_matmul_1, 1, 32, 0, stream, a, b, int(n), out);
    return launch_error();
}
extern "C" int64_t matmul(int64_t version, const float* a, const float* b, float* c, int64_t n, void* stream) {
    const dim3 grid(unsigned(n / 16), unsigned(n / 16)), block(16, 16);
    if (version == 1) LAUNCH(matmul_1, grid, block, 0, stream, a, b, c, int(n));
    if (version == 2) LAUNCH(matmul_2, grid, block, 0, stream, a, b, c, int(n));
    return launch_error();
}
extern "C" int64_t stride(int64_t by, int* out, void* stream) {
    LAUNCH(stride_1, 1, 32, 0, stream, int(by), out);
    return launch_error();
}
extern "C" int64_t bf16(const float* x, int64_t n, uint16_t* bits, float* back, void* stream) {
    LAUNCH(bf16_1, 1, unsigned(n), 0, stream, x, bits, back);
    return launch_error();
}
extern "C" int64_t atomics(int* i, unsigned long long* wide, float* x, void* stream) {
    LAUNCH(atomics_1, 2, 96, 0, stream, i, wide, x);
    return launch_error();
}
// Scratch memory starts with what nobody wrote.
extern "C" int64_t fresh_scratch(int* out, void* stream) {
    int* memory = scratch<int>(33, stream);
    LAUNCH(scan_1, 1, 32, 128, stream, memory, out);
    release(memory, stream);
    return launch_error();
}
