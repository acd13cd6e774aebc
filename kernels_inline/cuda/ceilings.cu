// What this GPU can do at most: the rates beside which the ladder's benchmark states those of the kernels. Both do
// nothing but the instruction in question, many independent ones a thread, without memory.
//
// INDEX OF VERSIONS
//   popcount_rate_1    8 chains of popcounts of 32 bits in each thread
//   binary_mma_rate_1  4 chains of binary tensor core products in each warp (compute capability 8.x and 9.0)
#include "launch.h"

constexpr int THREADS = 256, POPCOUNTS = 8, PRODUCTS = 4;

extern "C" __global__ void popcount_rate_1(int64_t rounds, uint32_t* sums) {
    uint32_t chains[POPCOUNTS];
    for (int i = 0; i < POPCOUNTS; ++i) chains[i] = uint32_t(global_thread()) * (2 * i + 1);
    for (int64_t round = 0; round < rounds; ++round)
#pragma unroll
        for (int i = 0; i < POPCOUNTS; ++i) chains[i] += uint32_t(__popc(chains[i]));
    uint32_t sum = 0;
    for (int i = 0; i < POPCOUNTS; ++i) sum += chains[i];
    sums[global_thread()] = sum;
}

extern "C" __global__ void binary_mma_rate_1(int64_t rounds, uint32_t* sums) {
    const uint32_t seed = uint32_t(global_thread());
    const uint32_t a[4] = {seed, seed * 3, seed * 5, seed * 7}, b[2] = {seed * 9, seed * 11};
    int32_t chains[PRODUCTS][4] = {};
    for (int64_t round = 0; round < rounds; ++round)
#pragma unroll
        for (int i = 0; i < PRODUCTS; ++i) binary_mma(chains[i], a, b);
    uint32_t sum = 0;
    for (int i = 0; i < PRODUCTS; ++i)
        for (int j = 0; j < 4; ++j) sum += uint32_t(chains[i][j]);
    sums[global_thread()] = sum;
}

// sums [blocks * 256]. 8 * 32 bits are counted by each thread in each round.
extern "C" int64_t popcount_rate(int64_t blocks, int64_t rounds, uint32_t* sums, void* stream) {
    LAUNCH(popcount_rate_1, unsigned(blocks), THREADS, 0, stream, rounds, sums);
    return launch_error();
}

// sums [blocks * 256]. 4 * 16 * 8 * 256 bits are compared by each warp in each round. 1: this GPU has no such product.
extern "C" int64_t binary_mma_rate(int64_t blocks, int64_t rounds, uint32_t* sums, void* stream) {
    if (!has_binary_mma()) return 1;
    LAUNCH(binary_mma_rate_1, unsigned(blocks), THREADS, 0, stream, rounds, sums);
    return launch_error();
}
