// The sign code of a row, float32, bfloat16 or e4m3: bit j % 64 of word j / 64 says whether number j is above 0.
#pragma once
#include "numbers.h"

#include <algorithm>
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace signs {

#if defined(__AVX512F__)
inline __m512 load16(const float* x) { return _mm512_loadu_ps(x); }
inline __m512 load16(const uint16_t* x) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
#elif defined(__AVX2__)
inline __m256 load8(const float* x) { return _mm256_loadu_ps(x); }
inline __m256 load8(const uint16_t* x) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
#endif

// Bit i of the result: x[i] > 0, for the first `count` (at most 64) of x.
template <class T>
uint64_t sign_word(const T* x, int64_t count) {
    uint64_t word = 0;
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= count; i += 16)
        word |= uint64_t(_mm512_cmp_ps_mask(load16(x + i), _mm512_setzero_ps(), _CMP_GT_OQ)) << i;
#elif defined(__AVX2__)
    for (; i + 8 <= count; i += 8)
        word |= uint64_t(_mm256_movemask_ps(_mm256_cmp_ps(load8(x + i), _mm256_setzero_ps(), _CMP_GT_OQ))) << i;
#endif
    for (; i < count; ++i) word |= uint64_t(numbers::widen(x[i]) > 0) << i;
    return word;
}

// Of e4m3: all from 1, the smallest above 0, to 0x7e, the largest that is a number.
inline uint64_t sign_word(const uint8_t* x, int64_t count) {
    uint64_t word = 0;
    for (int64_t i = 0; i < count; ++i) word |= uint64_t(uint8_t(x[i] - 1) < 0x7e) << i;
    return word;
}

template <class T>
void pack_row(const T* row, int64_t dim, int64_t words, int64_t* code) {
    for (int64_t w = 0; w < words; ++w) code[w] = int64_t(sign_word(row + w * 64, std::min<int64_t>(64, dim - w * 64)));
}

}  // namespace signs
