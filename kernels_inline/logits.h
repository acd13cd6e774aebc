// A row of logits, scale * cosine + offset, as softmax.cpp and logit_sums.cpp go through it: the sum of exponentials
// in one pass, the gradient in another, and the target's column apart.
#pragma once
#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace logits {

using namespace numbers;

constexpr int64_t BLOCK = 1024;  // columns handled together: 4 KB, which stay in the L1 cache

// Some of a row's columns.
template <class T>
struct Part {
    T* cosine;           // [n]
    const float* shift;  // [n], what is added to a logit over the scale, or null
    int64_t n, target;   // -1: the target is not here
};

// Copies columns first..first+n-1 and pads to a multiple of LANES. -inf stands in the padding and in place of the
// target, which is accounted for apart: its exponential is 0. Returns the padded length.
template <class T>
int64_t load(const Part<T>& part, int64_t first, int64_t n, float* z) {
    const int64_t padded = (n + LANES - 1) / LANES * LANES, target = part.target;
    const T* cosine = part.cosine + first;
    if (part.shift)
        for (int64_t c = 0; c < n; c++) z[c] = widen(cosine[c]) + part.shift[first + c];
    else
        for (int64_t c = 0; c < n; c++) z[c] = widen(cosine[c]);
    std::fill(z + n, z + padded, -INFINITY);
    if (target >= first && target < first + n) z[target - first] = -INFINITY;
    return padded;
}

inline float largest(const float* z, int64_t n, float top) {
    float part[LANES];
    std::fill(part, part + LANES, top);
    for (int64_t c = 0; c < n; c += LANES)
        for (int64_t l = 0; l < LANES; l++) part[l] = part[l] < z[c + l] ? z[c + l] : part[l];
    return *std::max_element(part, part + LANES);
}

// z becomes scale * (z - top), not below LOWEST. A loop of its own: joined with the exponential, g++ would make the
// limit a branch and not vectorise for AVX2. A NaN stays one.
inline void relative(float* z, int64_t n, float scale, float top) {
    for (int64_t c = 0; c < n; c++) {
        const float x = scale * (z[c] - top);
        z[c] = x < LOWEST ? LOWEST : x;
    }
}

inline double sum_of_exponentials(const float* x, int64_t n) {
    float part[LANES] = {};
    for (int64_t c = 0; c < n; c += LANES)
        for (int64_t l = 0; l < LANES; l++) part[l] += exponential(x[c + l]);
    return add_up(part);
}

struct Others {
    float top;   // the largest cosine so far, or what stood here before and is larger
    double sum;  // of e^{s (z_k - top)} over k != y
};

// One pass: a block's exponentials are taken relative to the largest cosine so far; when a larger one turns up,
// the sum is scaled to it.
template <class T>
void accumulate(const Part<T>& part, double scale, Others& others) {
    alignas(64) float z[BLOCK];
    for (int64_t first = 0; first < part.n; first += BLOCK) {
        const int64_t n = load(part, first, std::min(BLOCK, part.n - first), z);
        const float higher = largest(z, n, others.top);
        if (higher > others.top) others.sum *= std::exp(scale * (double(others.top) - double(higher)));
        others.top = higher;
        relative(z, n, float(scale), others.top);
        others.sum += sum_of_exponentials(z, n);
    }
}

// The gradient of every class but the target: factor e^{s (z_k - top)}. The target's is written after it.
template <class T>
void write_gradient(const Part<T>& part, float scale, float top, float factor) {
    alignas(64) float x[BLOCK];
    for (int64_t first = 0; first < part.n; first += BLOCK) {
        const int64_t n = std::min(BLOCK, part.n - first);
        relative(x, load(part, first, n, x), scale, top);
        for (int64_t c = 0; c < n; c++) narrow(factor * exponential(x[c]), part.cosine + first + c);
    }
}

// The columns of all rows: cosine [R, n], offset [G, n] or null.
template <class T>
struct Columns {
    T* cosine;
    int64_t n, rows;           // rows: of a set
    std::vector<float> shift;  // offset / scale

    Columns(T* cosine, int64_t n, const float* offset, int64_t R, int64_t G, double scale)
        : cosine(cosine), n(n), rows(R / G), shift(offset ? G * n : 0) {
        for (size_t i = 0; i < shift.size(); i++) shift[i] = float(offset[i] / scale);
    }
    Part<T> of(int64_t row, int64_t target) const {
        return {cosine + row * n, shift.empty() ? nullptr : shift.data() + row / rows * n, n, target};
    }
};

// Whether all are -1 or below A.
inline bool are_targets(const int64_t* targets, int64_t R, int64_t A) {
    return std::all_of(targets, targets + R, [&](int64_t target) { return target >= -1 && target < A; });
}

}  // namespace logits
