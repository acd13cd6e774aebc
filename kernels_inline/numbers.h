// Numbers and sums of them, as head.cpp, logits.h, rerank.cpp and rows.h take them.
//
// Plain loops that the compiler turns into vector instructions: the same file serves AVX-512, AVX2 and any other
// machine. Sums are kept in LANES separate parts and then added in a fixed order, and each row is one thread's
// work: the number of threads changes no bit of a result, and the vector width changes no order of additions (builds
// with and without fused multiply-add differ in the last bits).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace numbers {

constexpr int64_t LANES = 64;    // partial sums: four AVX-512 registers
constexpr int64_t AHEAD = 8;     // rows to prefetch ahead of the one at hand
constexpr float NORM_FLOOR = 1e-12f;
constexpr float LOWEST = -88.0f;  // exponential(LOWEST) is 0

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// bfloat16 is the upper half of a float32; a uint16_t holds it here, and a uint8_t float8_e4m3fn: a sign, 4 bits of
// exponent (bias 7), 3 of mantissa, no infinity, and NaN where these seven are all 1. Rows of a weight are in any of the
// three, logits and gradients in the first two; all arithmetic is in float32.
inline float widen(float x) { return x; }
inline float widen(uint16_t x) { return float_of(uint32_t(x) << 16); }
inline float widen(uint8_t x) {
    const uint32_t size = x & 0x7f, normal = (size << 20) + (120u << 23), small = bits_of(float(size) * 0x1p-9f);
    const uint32_t bits = size == 0x7f ? 0x7fc00000 : size < 8 ? small : normal;
    return float_of(bits | uint32_t(x & 0x80) << 24);
}

inline void narrow(float x, float* out) { *out = x; }
inline void narrow(float x, uint16_t* out) {
    const uint32_t bits = bits_of(x);
    const uint32_t even = bits + 0x7fff + ((bits >> 16) & 1);  // rounds to nearest, ties to even
    *out = uint16_t(x == x ? even >> 16 : 0x7fc0);             // a NaN stays one
}

// Memory of the gradient of rows: of their kind, or of those in 8 bits bfloat16.
inline float* gradient_of(const float*, void* memory) { return static_cast<float*>(memory); }
inline uint16_t* gradient_of(const uint16_t*, void* memory) { return static_cast<uint16_t*>(memory); }
inline uint16_t* gradient_of(const uint8_t*, void* memory) { return static_cast<uint16_t*>(memory); }

// f(numbers), where these are bfloat16 if `half`, else float32.
template <class F>
auto typed(const void* numbers, int64_t half, F f) {
    return half ? f(static_cast<const uint16_t*>(numbers)) : f(static_cast<const float*>(numbers));
}

// f(rows) of a weight, whose kind is 0 for float32, 1 for bfloat16, 2 for e4m3.
template <class F>
auto typed_rows(const void* rows, int64_t kind, F f) {
    return kind == 2 ? f(static_cast<const uint8_t*>(rows)) : typed(rows, kind, f);
}

// e^x for LOWEST <= x <= 0, with a relative error below 1.5e-7; 0 below -87.7, where e^x nears the smallest normal
// float. e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; the polynomial is the one of Cephes' expf.
inline float exponential(float x) {
    const float round = 12582912.0f;                            // 1.5 * 2^23: in x + round, the ulp is 1,
    const float shifted = x * 1.44269504f + round;              // so its lowest bits hold n
    const float n = shifted - round;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts, the first product exact
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * float_of((bits_of(shifted) << 23) + 0x3f800000);  // n + 127 in the exponent: 2^n, or 0 for n = -127
}

// The LANES parts by halves, in double: short chains of additions, which also vectorise.
inline double add_up(const float* part) {
    double sum[LANES];
    std::copy(part, part + LANES, sum);
    for (int64_t half = LANES / 2; half > 0; half /= 2)
        for (int64_t l = 0; l < half; l++) sum[l] += sum[l + half];
    return sum[0];
}

template <class X, class Y>
double dot(const X* x, const Y* y, int64_t d) {
    float part[LANES] = {};
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES)
        for (int64_t l = 0; l < LANES; l++) part[l] += widen(x[j + l]) * widen(y[j + l]);
    for (int64_t l = 0; j < d; j++, l++) part[l] += widen(x[j]) * widen(y[j]);
    return add_up(part);
}

// A row scaled to length 1, and what it was divided by: its length, at least NORM_FLOOR.
template <class W, class T>
void normalise_row(const W* row, int64_t d, T* unit, float* norm) {
    *norm = std::max(float(std::sqrt(dot(row, row, d))), NORM_FLOOR);
    for (int64_t j = 0; j < d; j++) narrow(widen(row[j]) / *norm, unit + j);
}

// The gradient g of a unit row u = w / |w| becomes the one of w: (g - (g.u) u) / |w|. At the floor, u = w / floor.
template <class W>
void normalise_row_backward(float* grad, const W* row, int64_t d, float norm) {
    const float along = norm > NORM_FLOOR ? float(dot(grad, row, d) / norm / norm) : 0.0f;  // (g.u) / |w|
    for (int64_t j = 0; j < d; j++) grad[j] = (grad[j] - along * widen(row[j])) / norm;
}

inline bool inside(const int64_t* ids, int64_t n, int64_t upper) {
    bool ok = true;
    for (int64_t i = 0; i < n; i++) ok &= ids[i] >= 0 && ids[i] < upper;
    return ok;
}

// Rows that are named by ids are not found by the hardware: they are asked for ahead, to be read (0) or written (1).
// always_inline: a function of nothing but prefetches looks free of effects, and g++ drops the calls that it does
// not inline early.
template <int written = 0, class T>
__attribute__((always_inline)) inline void prefetch(const T* row, int64_t d) {
    for (int64_t j = 0; j < d; j += 64 / sizeof(T)) __builtin_prefetch(row + j, written);  // one cache line each
}

}  // namespace numbers
