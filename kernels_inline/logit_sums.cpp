// What a softmax that is split over several processes needs of the A columns of one of them: two numbers a sample, and
// once all processes have added theirs up, the gradient. Neither function knows the objective.
//
//   kernel        bytes moved (R samples, float32; half of it in bfloat16)
//   logit_sums    reads 4 R A cosines once
//   logit_slopes  reads 4 R A cosines and writes 4 R A gradients
//
// In both the offsets of a set, 4 A bytes, are read with each of its rows, from the cache, and the L cosines of a row
// with what stands for classes left out are treated as the A. Per-sample quantities are in double. Both return 0, or 1
// if a target is out of range; then nothing has been written.
#include "logits.h"
#include "threads.h"

#include <cmath>
#include <cstdint>
#include <limits>

namespace sums {

using namespace logits;

constexpr float BELOW_ALL = std::numeric_limits<float>::lowest();  // not -inf, so that -inf - BELOW_ALL is not a NaN

// The logit of the sample's own class, 0 where it is not here.
template <class T>
static double own_logit(const Part<T>& part, double scale) {
    if (part.target < 0) return 0.0;
    const double shift = part.shift ? part.shift[part.target] : 0.0f;
    return scale * (widen(part.cosine[part.target]) + shift);
}

// log sum e^logit over all columns but the target's.
template <class T>
static double log_sum(const Part<T>& active, const Part<T>& far, double scale) {
    Others others{BELOW_ALL, 0.0};
    accumulate(active, scale, others);
    accumulate(far, scale, others);
    return std::log(others.sum) + scale * others.top;
}

struct Slopes {
    float top, factor;  // factor e^{s (z_k - top)} of every column but the target's
    float own;

    // top is others / scale, in float; factor has what the rounding of it took away. Where there are no others, nothing
    // reaches top, and all exponentials are 0.
    Slopes(double scale, double others, double d_own, double d_others)
        : top(float(others / scale)), factor(float(scale * d_others * std::exp(scale * top - others))),
          own(float(scale * d_own)) {
        if (others == -INFINITY) top = -BELOW_ALL, factor = 0.0f;
    }
};

template <class T>
static void write_slopes(const Part<T>& active, const Part<T>& far, double scale, const Slopes& slopes) {
    write_gradient(active, float(scale), slopes.top, slopes.factor);
    write_gradient(far, float(scale), slopes.top, slopes.factor);
    if (active.target >= 0) narrow(slopes.own, active.cosine + active.target);
}

template <class T>
static void logit_sums(const Columns<T>& active, const Columns<T>& far, int64_t R, const int64_t* targets,
                       double scale, float* own, float* others) {
#pragma omp parallel for schedule(dynamic) if (threads::pay(4 * R * (active.n + far.n)))
    for (int64_t i = 0; i < R; i++) {
        own[i] = float(own_logit(active.of(i, targets[i]), scale));
        others[i] = float(log_sum(active.of(i, targets[i]), far.of(i, -1), scale));
    }
}

template <class T>
static void logit_slopes(const Columns<T>& active, const Columns<T>& far, int64_t R, const int64_t* targets,
                         double scale, const float* others, const float* d_own, const float* d_others) {
#pragma omp parallel for schedule(dynamic) if (threads::pay(8 * R * (active.n + far.n)))
    for (int64_t i = 0; i < R; i++)
        write_slopes(active.of(i, targets[i]), far.of(i, -1), scale, {scale, others[i], d_own[i], d_others[i]});
}

}  // namespace sums

extern "C" {

// cosine [R, A] (bfloat16 if `half`), targets [R] (-1: the own class is not among these), offset [G, A] or null, of
// R / G rows each; far [R, L] and far_offset [G, L], L may be 0 -> own [R], the target's logit or 0; others [R], log sum
// e^logit over all other columns, -inf if there are none
int64_t logit_sums(const void* cosine, int64_t half, int64_t R, int64_t A, const int64_t* targets, const float* offset,
                   int64_t G, const void* far, int64_t L, const float* far_offset, double scale, float* own,
                   float* others) {
    if (!logits::are_targets(targets, R, A)) return 1;
    const auto run = [&](auto number) {
        using T = const decltype(number);
        sums::logit_sums<T>({static_cast<T*>(cosine), A, offset, R, G, scale},
                            {static_cast<T*>(far), L, far_offset, R, G, scale}, R, targets, scale, own, others);
    };
    if (half) run(uint16_t{});
    else run(float{});
    return 0;
}

// The same; others, d_own, d_others [R] -> cosines become scale * d_own in the target's column, and in all others scale
// * d_others * e^(logit - others)
int64_t logit_slopes(void* cosine, int64_t half, int64_t R, int64_t A, const int64_t* targets, const float* offset,
                     int64_t G, void* far, int64_t L, const float* far_offset, double scale, const float* others,
                     const float* d_own, const float* d_others) {
    if (!logits::are_targets(targets, R, A)) return 1;
    const auto run = [&](auto number) {
        using T = decltype(number);
        sums::logit_slopes<T>({static_cast<T*>(cosine), A, offset, R, G, scale},
                              {static_cast<T*>(far), L, far_offset, R, G, scale}, R, targets, scale, others, d_own,
                              d_others);
    };
    if (half) run(uint16_t{});
    else run(float{});
    return 0;
}

}
