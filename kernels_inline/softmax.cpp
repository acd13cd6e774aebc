// Margin, softmax and cross entropy over the A active classes, the cosines turned into their gradient.
//
//   kernel          bytes moved (b samples, float32)
//   margin_softmax  reads 4 b A cosines twice and writes 4 b A gradients (half of it in bfloat16). One row is handled
//                   at a time: while it fits the L2 cache (A up to 200,000 or so) the second reading is from there,
//                   and memory sees each element once in each direction. The offsets of a set, 4 A bytes, are read
//                   with each of its rows, from the cache.
//   exponential     e^x as margin_softmax takes it, for the tests
//
// Per-sample quantities are in double. margin_softmax returns 0, or 1 if a target is out of range; then nothing has
// been written.
#include "numbers.h"
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace softmax {

using namespace numbers;

constexpr int64_t BLOCK = 1024;  // columns handled together: 4 KB, which stay in the L1 cache

enum Kind { CROSS_ENTROPY, COSFACE, ARCFACE, DSOFTMAX };

struct Objective {
    int64_t kind;
    double scale, margin, share;
};

struct Target {
    double cosine, slope;  // psi(z_y), which stands in the target's place, and psi'(z_y)
};

static Target arcface(double z, double margin) {
    const double square = 1.0 - z * z;
    const double sine = std::sqrt(std::max(square, 1e-12));
    const double turned = z * std::cos(margin) - sine * std::sin(margin);
    const double slope = std::cos(margin) + (square < 1e-12 ? 0.0 : z / sine) * std::sin(margin);
    const bool beyond = z < std::cos(3.14159265358979323846 - margin);
    return beyond ? Target{-2.0 - turned, -slope} : Target{turned, slope};
}

static Target apply_margin(double z, const Objective& objective) {
    switch (objective.kind) {
        case COSFACE: return {z - objective.margin, 1.0};
        case ARCFACE: return arcface(z, objective.margin);
        case DSOFTMAX: return {0.0, 0.0};  // e^0 is the 1 of log(1 + sum over the others)
        default: return {z, 1.0};
    }
}

template <class T>
struct Row {
    T* cosine;           // [A], to become its gradient
    const float* shift;  // [A], what is added to a logit over the scale, or null
    int64_t A, target;
};

// Copies columns first..first+n-1 and pads to a multiple of LANES. -inf stands in the padding and in place of the
// target, which is accounted for apart: its exponential is 0. Returns the padded length.
template <class T>
static int64_t load(const Row<T>& row, int64_t first, int64_t n, float* z) {
    const int64_t padded = (n + LANES - 1) / LANES * LANES, target = row.target;
    const T* cosine = row.cosine + first;
    if (row.shift)
        for (int64_t c = 0; c < n; c++) z[c] = widen(cosine[c]) + row.shift[first + c];
    else
        for (int64_t c = 0; c < n; c++) z[c] = widen(cosine[c]);
    std::fill(z + n, z + padded, -INFINITY);
    if (target >= first && target < first + n) z[target - first] = -INFINITY;
    return padded;
}

static float largest(const float* z, int64_t n, float top) {
    float part[LANES];
    std::fill(part, part + LANES, top);
    for (int64_t c = 0; c < n; c += LANES)
        for (int64_t l = 0; l < LANES; l++) part[l] = part[l] < z[c + l] ? z[c + l] : part[l];
    return *std::max_element(part, part + LANES);
}

// z becomes scale * (z - top), not below LOWEST. A loop of its own: joined with the exponential, g++ would make the
// limit a branch and not vectorise for AVX2. A NaN stays one.
static void relative(float* z, int64_t n, float scale, float top) {
    for (int64_t c = 0; c < n; c++) {
        const float x = scale * (z[c] - top);
        z[c] = x < LOWEST ? LOWEST : x;
    }
}

static double sum_of_exponentials(const float* x, int64_t n) {
    float part[LANES] = {};
    for (int64_t c = 0; c < n; c += LANES)
        for (int64_t l = 0; l < LANES; l++) part[l] += exponential(x[c + l]);
    return add_up(part);
}

struct Softmax {
    float top;            // largest cosine, the modified target included
    double first, others; // e^{s (psi - top)} and the sum of e^{s (z_k - top)} over k != y
};

// One pass: a block's exponentials are taken relative to the largest cosine so far; when a larger one turns up,
// the sum is scaled to it.
template <class T>
static Softmax accumulate(const Row<T>& row, double psi, double scale) {
    alignas(64) float z[BLOCK];
    float top = float(psi);
    double others = 0.0;
    for (int64_t first = 0; first < row.A; first += BLOCK) {
        const int64_t n = load(row, first, std::min(BLOCK, row.A - first), z);
        const float higher = largest(z, n, top);
        if (higher > top) others *= std::exp(scale * (double(top) - double(higher)));
        top = higher;
        relative(z, n, float(scale), top);
        others += sum_of_exponentials(z, n);
    }
    return {top, std::exp(scale * (psi - top)), others};
}

// The gradient of every class but the target: factor e^{s (z_k - top)}. The target's is written after it.
template <class T>
static void write_gradient(const Row<T>& row, float scale, float top, float factor) {
    alignas(64) float x[BLOCK];
    for (int64_t first = 0; first < row.A; first += BLOCK) {
        const int64_t n = std::min(BLOCK, row.A - first);
        relative(x, load(row, first, n, x), scale, top);
        for (int64_t c = 0; c < n; c++) narrow(factor * exponential(x[c]), row.cosine + first + c);
    }
}

// One sample: the row holds its A cosines, and then share * d loss / d cosine. Returns the loss.
template <class T>
static float sample(const Row<T>& row, const Objective& o) {
    if (row.target < 0) {  // no sample
        for (int64_t c = 0; c < row.A; c++) narrow(0.0f, row.cosine + c);
        return 0.0f;
    }
    const double z = widen(row.cosine[row.target]);
    Target psi = apply_margin(z, o);
    if (row.shift && o.kind != DSOFTMAX) psi.cosine += row.shift[row.target];  // there the 1 stands for no class
    const Softmax soft = accumulate(row, psi.cosine, o.scale);
    const double sum = soft.first + soft.others;
    double loss = std::log(sum) + o.scale * (soft.top - psi.cosine);
    double pull = psi.slope * soft.others / sum;  // (1 - p_y) psi', without the cancellation of 1 - p_y
    if (o.kind == DSOFTMAX) {
        const double far = o.scale * (o.margin - z);
        loss += std::max(far, 0.0) + std::log1p(std::exp(-std::abs(far)));  // log(1 + e^far)
        pull = 1.0 / (1.0 + std::exp(-far));
    }
    write_gradient(row, float(o.scale), soft.top, float(o.share * o.scale / sum));
    narrow(float(-o.share * o.scale * pull), row.cosine + row.target);
    return float(loss);
}

template <class T>
static void margin_softmax(T* cosine, int64_t R, int64_t A, const int64_t* targets, const float* offset, int64_t G,
                           const Objective& objective, float* losses) {
    std::vector<float> shift(offset ? G * A : 0);
    for (size_t i = 0; i < shift.size(); i++) shift[i] = float(offset[i] / objective.scale);
#pragma omp parallel for schedule(dynamic) if (threads::pay(8 * R * A))
    for (int64_t i = 0; i < R; i++) {
        const float* of_set = offset ? shift.data() + i / (R / G) * A : nullptr;
        losses[i] = sample(Row<T>{cosine + i * A, of_set, A, targets[i]}, objective);
    }
}

}  // namespace softmax

extern "C" {

// cosine [R, A] (bfloat16 if `half`), targets [R] (-1: no sample in this row), offset [G, A] or null, of R / G rows
// each -> losses [R]; cosine becomes share * d loss / d cosine
int64_t margin_softmax(void* cosine, int64_t half, int64_t R, int64_t A, const int64_t* targets, const float* offset,
                       int64_t G, int64_t kind, double scale, double margin, double share, float* losses) {
    for (int64_t i = 0; i < R; i++)
        if (targets[i] < -1 || targets[i] >= A) return 1;
    const softmax::Objective objective{kind, scale, margin, share};
    const auto run = [&](auto* typed) {
        softmax::margin_softmax(typed, R, A, targets, offset, G, objective, losses);
    };
    if (half) run(static_cast<uint16_t*>(cosine));
    else run(static_cast<float*>(cosine));
    return 0;
}

// x [n], between -88 and 0 -> y [n], e^x
int64_t exponential(const float* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i++) y[i] = softmax::exponential(x[i]);
    return 0;
}

}
