// Margin, softmax and cross entropy over the A active classes, the cosines turned into their gradient.
//
//   kernel          bytes moved (b samples, float32)
//   margin_softmax  reads 4 b A cosines twice and writes 4 b A gradients (half of it in bfloat16). One row is handled
//                   at a time: while it fits the L2 cache (A up to 200,000 or so) the second reading is from there,
//                   and memory sees each element once in each direction. The offsets of a set, 4 A bytes, are read
//                   with each of its rows, from the cache. The L cosines of a row with what stands for classes left
//                   out are treated as the A.
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

// Some of a row's columns.
template <class T>
struct Part {
    T* cosine;           // [n], to become its gradient
    const float* shift;  // [n], what is added to a logit over the scale, or null
    int64_t n, target;   // -1: the target is not here
};

// Copies columns first..first+n-1 and pads to a multiple of LANES. -inf stands in the padding and in place of the
// target, which is accounted for apart: its exponential is 0. Returns the padded length.
template <class T>
static int64_t load(const Part<T>& part, int64_t first, int64_t n, float* z) {
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
    float top;      // largest cosine, the modified target included
    double others;  // the sum of e^{s (z_k - top)} over k != y
};

// One pass: a block's exponentials are taken relative to the largest cosine so far; when a larger one turns up,
// the sum is scaled to it.
template <class T>
static void accumulate(const Part<T>& part, double scale, Softmax& soft) {
    alignas(64) float z[BLOCK];
    for (int64_t first = 0; first < part.n; first += BLOCK) {
        const int64_t n = load(part, first, std::min(BLOCK, part.n - first), z);
        const float higher = largest(z, n, soft.top);
        if (higher > soft.top) soft.others *= std::exp(scale * (double(soft.top) - double(higher)));
        soft.top = higher;
        relative(z, n, float(scale), soft.top);
        soft.others += sum_of_exponentials(z, n);
    }
}

// The gradient of every class but the target: factor e^{s (z_k - top)}. The target's is written after it.
template <class T>
static void write_gradient(const Part<T>& part, float scale, float top, float factor) {
    alignas(64) float x[BLOCK];
    for (int64_t first = 0; first < part.n; first += BLOCK) {
        const int64_t n = std::min(BLOCK, part.n - first);
        relative(x, load(part, first, n, x), scale, top);
        for (int64_t c = 0; c < n; c++) narrow(factor * exponential(x[c]), part.cosine + first + c);
    }
}

template <class T>
static void clear(const Part<T>& part) {
    for (int64_t c = 0; c < part.n; c++) narrow(0.0f, part.cosine + c);
}

// One sample, with the cosines of its active classes and of what stands for the others; they become share * d loss /
// d cosine. Returns the loss.
template <class T>
static float sample(const Part<T>& active, const Part<T>& far, const Objective& o) {
    if (active.target < 0) {  // no sample
        clear(active);
        clear(far);
        return 0.0f;
    }
    T* const own = active.cosine + active.target;
    const double z = widen(*own);
    Target psi = apply_margin(z, o);
    if (active.shift && o.kind != DSOFTMAX) psi.cosine += active.shift[active.target];  // there 1 stands for no class
    Softmax soft{float(psi.cosine), 0.0};
    accumulate(active, o.scale, soft);
    accumulate(far, o.scale, soft);
    const double sum = std::exp(o.scale * (psi.cosine - soft.top)) + soft.others;
    double loss = std::log(sum) + o.scale * (soft.top - psi.cosine);
    double pull = psi.slope * soft.others / sum;  // (1 - p_y) psi', without the cancellation of 1 - p_y
    if (o.kind == DSOFTMAX) {
        const double rest = o.scale * (o.margin - z);
        loss += std::max(rest, 0.0) + std::log1p(std::exp(-std::abs(rest)));  // log(1 + e^rest)
        pull = 1.0 / (1.0 + std::exp(-rest));
    }
    const float factor = float(o.share * o.scale / sum);
    write_gradient(active, float(o.scale), soft.top, factor);
    write_gradient(far, float(o.scale), soft.top, factor);
    narrow(float(-o.share * o.scale * pull), own);
    return float(loss);
}

// The columns of all rows: cosine [R, n], offset [G, n] or null.
template <class T>
struct Columns {
    T* cosine;
    int64_t n, rows;           // rows: of a set
    std::vector<float> shift;  // offset / scale

    Columns(void* all, int64_t n, const float* offset, int64_t R, int64_t G, double scale)
        : cosine(static_cast<T*>(all)), n(n), rows(R / G), shift(offset ? G * n : 0) {
        for (size_t i = 0; i < shift.size(); i++) shift[i] = float(offset[i] / scale);
    }
    Part<T> of(int64_t row, int64_t target) const {
        return {cosine + row * n, shift.empty() ? nullptr : shift.data() + row / rows * n, n, target};
    }
};

template <class T>
static void margin_softmax(const Columns<T>& active, const Columns<T>& far, int64_t R, const int64_t* targets,
                           const Objective& objective, float* losses) {
#pragma omp parallel for schedule(dynamic) if (threads::pay(8 * R * (active.n + far.n)))
    for (int64_t i = 0; i < R; i++) losses[i] = sample(active.of(i, targets[i]), far.of(i, -1), objective);
}

}  // namespace softmax

extern "C" {

// cosine [R, A] (bfloat16 if `half`), targets [R] (-1: no sample in this row), offset [G, A] or null, of R / G rows
// each; far [R, L] and far_offset [G, L], L may be 0 -> losses [R]; the cosines become share * d loss / d cosine
int64_t margin_softmax(void* cosine, int64_t half, int64_t R, int64_t A, const int64_t* targets, const float* offset,
                       int64_t G, void* far, int64_t L, const float* far_offset, int64_t kind, double scale,
                       double margin, double share, float* losses) {
    for (int64_t i = 0; i < R; i++)
        if (targets[i] < -1 || targets[i] >= A) return 1;
    const softmax::Objective objective{kind, scale, margin, share};
    const auto run = [&](auto number) {
        using T = decltype(number);
        softmax::margin_softmax<T>({cosine, A, offset, R, G, scale}, {far, L, far_offset, R, G, scale}, R, targets,
                                   objective, losses);
    };
    if (half) run(uint16_t{});
    else run(float{});
    return 0;
}

// x [n], between -88 and 0 -> y [n], e^x
int64_t exponential(const float* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i++) y[i] = softmax::exponential(x[i]);
    return 0;
}

}
