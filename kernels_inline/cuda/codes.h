// Distances between sign codes, ranks in histograms and the sort of a few thousand keys: what the search kernels
// (scan.cu, flat.cu, flat_threshold.cu, rerank.cu) share.
//
// A code is W words of 64 sign bits. A query is one or more bit planes of W words each, and
//
//     distance(query, code) = sum over planes p of 2^p * popcount(plane_p xor code)
//
// which with one plane is the Hamming distance. A popcount takes as long as four logic instructions (16 against 64
// lanes a clock on compute capability 7.x to 9.0), so `compress` trades the one for the other: carry-save adders turn
// seven words into three that are counted once, twice and four times. For 8 words: 4 popcounts instead of 8, and 8
// logic instructions more, which makes both about equally scarce (Harley-Seal; Hacker's Delight, 5-1).
#pragma once

// a + b + c, bit by bit: `ones` once and `twos` twice. Two instructions a 32-bit half.
__device__ __forceinline__ void add_bits(uint64_t a, uint64_t b, uint64_t c, uint64_t& ones, uint64_t& twos) {
    const uint64_t either = a ^ b;
    twos = (a & b) | (either & c);
    ones = either ^ c;
}

// Bits set in word(0), ..., word(count - 1).
template <bool compress, class Word>
__device__ __forceinline__ int bits_set(int count, Word word) {
    int sum = 0;
    const int sevens = compress ? count / 7 : 0;
#pragma unroll
    for (int seven = 0; seven < sevens; ++seven) {
        const int i = 7 * seven;
        uint64_t a, b, ones, twos_a, twos_b, twos_c, twos, fours;
        add_bits(word(i), word(i + 1), word(i + 2), a, twos_a);
        add_bits(word(i + 3), word(i + 4), word(i + 5), b, twos_b);
        add_bits(a, b, word(i + 6), ones, twos_c);
        add_bits(twos_a, twos_b, twos_c, twos, fours);
        sum += __popcll(ones) + 2 * __popcll(twos) + 4 * __popcll(fours);
    }
#pragma unroll
    for (int i = 7 * sevens; i < count; ++i) sum += __popcll(word(i));
    return sum;
}

// query [planes, words]; code(w) is word w of the code.
template <int planes, bool compress, class Code>
__device__ __forceinline__ int distance_to(const uint64_t* query, int words, Code code) {
    int sum = 0;
#pragma unroll
    for (int p = planes - 1; p >= 0; --p)
        sum = 2 * sum + bits_set<compress>(words, [&](int w) { return code(w) ^ query[p * words + w]; });
    return sum;
}

// Where the rank-th smallest (from 1) of the values counted in a histogram lies: its bin, and how many lie in the bins
// below it and in it. The last bin where there are fewer than `rank`.
struct Rank {
    int bin, below, inside;
};

// By one warp; every lane gets the result.
__device__ inline Rank find_rank(const int32_t* histogram, int bins, int64_t rank) {
    Rank found = {bins - 1, 0, 0};
    for (int first = 0; first < bins; first += WARP) {
        const int bin = first + lane_id(), here = bin < bins ? histogram[bin] : 0;
        const int through = found.below + warp_scan(here);
        const unsigned reached = __ballot_sync(ALL_LANES, bin < bins && (through >= rank || bin == bins - 1));
        const int lane = reached ? __ffs(int(reached)) - 1 : WARP - 1;
        found.inside = __shfl_sync(ALL_LANES, here, lane);
        found.below = __shfl_sync(ALL_LANES, through, lane);
        if (reached) {
            found.bin = first + lane;
            found.below -= found.inside;
            break;
        }
    }
    return found;
}

// The smallest power of two that is at least n.
__host__ __device__ __forceinline__ int64_t power_of_two(int64_t n) {
    int64_t power = 1;
    while (power < n) power *= 2;
    return power;
}

// Sorts n keys ascending, n a power of two, in shared or global memory, by one block (Batcher's bitonic network:
// log2(n) (log2(n) + 1) / 2 rounds with a barrier each). The caller's writes are waited for; so are the sort's.
__device__ inline void sort_keys(uint64_t* keys, int n) {
    __syncthreads();
    for (int size = 2; size <= n; size *= 2)
        for (int apart = size / 2; apart > 0; apart /= 2) {
            for (int i = int(threadIdx.x); i < n / 2; i += int(blockDim.x)) {
                const int low = 2 * i - (i & (apart - 1)), high = low + apart;
                const bool upwards = (low & size) == 0;
                const uint64_t a = keys[low], b = keys[high];
                if ((a > b) == upwards) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
            __syncthreads();
        }
}
