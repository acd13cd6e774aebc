// Distances between sign codes, for scan.cpp.
//
// A code is W words of sign bits. The codes of a list lie word-major: first word 0 of all its slots, then word 1,
// so that one vector instruction works on neighbouring slots. A query is one or more bit planes, and
//
//     distance(query, code) = sum over planes p of 2^p * popcount(plane_p xor code).
//
// One plane is the Hamming distance; four are a query rounded to 16 levels (see scan_ops.py).
//
// Cost per (query, code) pair and plane: W times (load and xor, popcount, add) and one comparison, for 8 pairs at a
// time with AVX-512 VPOPCNTDQ, for 4 with AVX2 (which has no popcount: 8 instructions), else one by one. A capacity
// that is a multiple of 8 keeps the loads within cache lines, which makes the whole search a quarter faster.
#pragma once
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace scan {

constexpr int64_t GROUP = 8;                 // codes compared at once, a bit of a byte each

inline int64_t popcount(uint64_t x) {
#if defined(__POPCNT__) || !defined(__x86_64__)
    return __builtin_popcountll(x);
#else  // without the instruction the builtin is a call; these shifts and masks vectorise
    x -= (x >> 1) & 0x5555555555555555;
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333);
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F;
    x += x >> 8;
    x += x >> 16;
    return (x + (x >> 32)) & 0x7F;
#endif
}

// Distances of `count` neighbouring codes: codes[w * stride + i] is word w of code i, query[p * words + w] of plane p.
template <int planes, int count>
inline void distances(const int64_t* codes, int64_t stride, const int64_t* query, int64_t words, int64_t* out) {
    for (int i = 0; i < count; ++i) out[i] = 0;
    for (int p = 0; p < planes; ++p)
        for (int64_t w = 0; w < words; ++w)
            for (int i = 0; i < count; ++i)
                out[i] += popcount(uint64_t(codes[w * stride + i] ^ query[p * words + w])) << p;
}

// Bit i of masks[g]: whether code i of the g-th GROUP of neighbouring codes has a distance of at most `limit`.
// fixed_words: the number of words where it is known when compiling, else 0.
#if defined(__AVX512F__) && defined(__AVX512VPOPCNTDQ__)
template <int planes, int fixed_words>
void near_masks(const int64_t* codes, int64_t stride, int64_t groups, const int64_t* query, int64_t any_words,
                int64_t limit, uint8_t* masks) {
    const int64_t words = fixed_words ? fixed_words : any_words;
    const __m512i most = _mm512_set1_epi64(limit);
    for (int64_t g = 0; g < groups; ++g) {
        __m512i sum = _mm512_setzero_si512();
        for (int p = planes - 1; p >= 0; --p) {                   // Horner: twice the planes above, plus this one
            if (p < planes - 1) sum = _mm512_slli_epi64(sum, 1);
            for (int64_t w = 0; w < words; ++w) {
                const __m512i code = _mm512_loadu_si512(codes + w * stride + g * GROUP);
                const __m512i word = _mm512_set1_epi64(query[p * words + w]);
                sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(code, word)));
            }
        }
        masks[g] = uint8_t(_mm512_cmple_epi64_mask(sum, most));
    }
}
#elif defined(__AVX2__)
// Bits in each 64-bit lane: a table of 16 counts looked up for both halves of every byte (Mula et al. 2016).
inline __m256i popcount4(__m256i x) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, low)),
                                          _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi64(x, 4), low)));
    return _mm256_sad_epu8(bytes, _mm256_setzero_si256());
}

template <int planes, int fixed_words>
void near_masks(const int64_t* codes, int64_t stride, int64_t groups, const int64_t* query, int64_t any_words,
                int64_t limit, uint8_t* masks) {
    const int64_t words = fixed_words ? fixed_words : any_words;
    const __m256i beyond = _mm256_set1_epi64x(limit + 1);
    for (int64_t half = 0; half < 2 * groups; ++half) {
        __m256i sum = _mm256_setzero_si256();
        for (int p = planes - 1; p >= 0; --p) {
            if (p < planes - 1) sum = _mm256_slli_epi64(sum, 1);
            for (int64_t w = 0; w < words; ++w) {
                const __m256i code = _mm256_loadu_si256((const __m256i*)(codes + w * stride + half * 4));
                const __m256i word = _mm256_set1_epi64x(query[p * words + w]);
                sum = _mm256_add_epi64(sum, popcount4(_mm256_xor_si256(code, word)));
            }
        }
        const int four = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(beyond, sum)));
        masks[half / 2] = uint8_t(half % 2 ? masks[half / 2] | four << 4 : four);
    }
}
#else
template <int planes, int fixed_words>
void near_masks(const int64_t* codes, int64_t stride, int64_t groups, const int64_t* query, int64_t any_words,
                int64_t limit, uint8_t* masks) {
    for (int64_t g = 0; g < groups; ++g) {
        int64_t found[GROUP];
        distances<planes, GROUP>(codes + g * GROUP, stride, query, fixed_words ? fixed_words : any_words, found);
        int mask = 0;
        for (int i = 0; i < GROUP; ++i) mask |= int(found[i] <= limit) << i;
        masks[g] = uint8_t(mask);
    }
}
#endif

}  // namespace scan
