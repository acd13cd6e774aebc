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
#include "logits.h"
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace softmax {

using namespace logits;

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
    Others others{float(psi.cosine), 0.0};
    accumulate(active, o.scale, others);
    accumulate(far, o.scale, others);
    const double sum = std::exp(o.scale * (psi.cosine - others.top)) + others.sum;
    double loss = std::log(sum) + o.scale * (others.top - psi.cosine);
    double pull = psi.slope * others.sum / sum;  // (1 - p_y) psi', without the cancellation of 1 - p_y
    if (o.kind == DSOFTMAX) {
        const double rest = o.scale * (o.margin - z);
        loss += std::max(rest, 0.0) + std::log1p(std::exp(-std::abs(rest)));  // log(1 + e^rest)
        pull = 1.0 / (1.0 + std::exp(-rest));
    }
    const float factor = float(o.share * o.scale / sum);
    write_gradient(active, float(o.scale), others.top, factor);
    write_gradient(far, float(o.scale), others.top, factor);
    narrow(float(-o.share * o.scale * pull), own);
    return float(loss);
}

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
    if (!logits::are_targets(targets, R, A)) return 1;
    const softmax::Objective objective{kind, scale, margin, share};
    const auto run = [&](auto number) {
        using T = decltype(number);
        softmax::margin_softmax<T>({static_cast<T*>(cosine), A, offset, R, G, scale},
                                   {static_cast<T*>(far), L, far_offset, R, G, scale}, R, targets, objective, losses);
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
