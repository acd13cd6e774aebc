// Codes as the operands of binary tensor cores: 32 classes a warp in registers, queries by eights in shared memory.
//
// Counted are the bits that a query and a class share, since GPUs from sm_90 on know AND only:
// popcount(a xor b) = popcount(a) + popcount(b) - 2 popcount(a and b). portable.h says which words of A (classes) and B
// (queries) a lane holds. Any order of the words does, if it is the same for both: word w = 4 step + lane % 4 of 64
// bits is here the pair (word t, word t + 4) of 32 bits that mma wants. steps: ceil(words / 4).
#pragma once

// A warp's 32 classes. A lane holds words of those with the numbers row(i), i = 0..3, and ones[i] of their bits.
template <int steps>
struct Classes {
    uint32_t a[2][steps][4];  // two fragments of 16 classes
    int ones[4];

    __device__ static int row(int i) { return 8 * i + lane_id() / 4; }

    // code_of(number of a class): its words, or null where there is none.
    template <class CodeOf>
    __device__ void load(int words, CodeOf code_of) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            ones[i] = 0;
            const uint64_t* code = code_of(row(i));
#pragma unroll
            for (int step = 0; step < steps; ++step) {
                const int w = 4 * step + lane_id() % 4;
                const uint64_t word = code && w < words ? code[w] : 0;
                a[i / 2][step][i % 2] = uint32_t(word);
                a[i / 2][step][i % 2 + 2] = uint32_t(word >> 32);
                ones[i] += __popcll(word);
            }
        }
    }

    // The four lanes of a row have seen different words of it: afterwards each has the number of all its bits.
    __device__ void add_ones() {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            for (int apart = 1; apart < 4; apart *= 2) ones[i] += __shfl_xor_sync(ALL_LANES, ones[i], apart);
    }
};

// Queries [count, planes, words]: for each 8 of them, plane and step the words of the 32 lanes, in the order in which
// they are read; 0 in place of a query that is not there. By all threads of a block.
template <int planes, int steps>
__device__ void load_fragments(const uint64_t* queries, int count, int words, uint64_t* fragments) {
    for (int i = int(threadIdx.x); i < blocks_for(count, 8) * planes * steps * WARP; i += int(blockDim.x)) {
        const int lane = i % WARP, step = i / WARP % steps, p = i / (WARP * steps) % planes;
        const int q = i / (WARP * steps * planes) * 8 + lane / 4, w = 4 * step + lane % 4;
        fragments[i] = q < count && w < words ? queries[(q * planes + p) * words + w] : 0;
    }
}

// Bits shared with the queries 8 eight .. 8 eight + 7, plane p counted 2^p times: of class row(i) and the queries
// 2 (lane % 4) and the next in shared_bits[i / 2][i % 2 * 2] and the next.
template <int planes, int steps>
__device__ __forceinline__ void share_bits(const Classes<steps>& classes, const uint64_t* fragments, int eight,
                                           int32_t (&shared_bits)[2][4]) {
#pragma unroll
    for (int p = planes - 1; p >= 0; --p) {
        if (p < planes - 1)
            for (int i = 0; i < 8; ++i) shared_bits[i / 4][i % 4] *= 2;
#pragma unroll
        for (int step = 0; step < steps; ++step) {
            const uint64_t word = fragments[((eight * planes + p) * steps + step) * WARP + lane_id()];
            const uint32_t b[2] = {uint32_t(word), uint32_t(word >> 32)};
            binary_mma(shared_bits[0], classes.a[0][step], b);
            binary_mma(shared_bits[1], classes.a[1][step], b);
        }
    }
}
