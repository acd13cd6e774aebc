// The steps of an optimizer on one row of float32, and what rows that take less memory (rows_rounded.h) share with it.
//
// The steps that a row missed have a closed form, one entry of `table` for each number of them (its age); the table is
// kept by the caller, annsoftmax_ref/optim.py, where the formulas are derived.
#pragma once
#include "numbers.h"
#include "signs.h"
#include "threads.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>

namespace rows {

enum Problem { NONE, OUTSIDE, NOT_ASCENDING, NO_AGE };

struct Ids {
    const int64_t* ids;  // [A], ascending and distinct
    int64_t A, N, d;
    int64_t* last;       // [N]: the step that each row is up to date with
};

// May all of these rows be brought up to date with `step` by a table of ages 0..window? Nothing is written.
static int check(const Ids& rows, int64_t step, int64_t window) {
    int problem = NONE;
#pragma omp parallel for schedule(static) reduction(max : problem) if (threads::pay(24 * rows.A))
    for (int64_t a = 0; a < rows.A; a++) {
        const int64_t id = rows.ids[a];
        int found = NONE;
        if (id < 0 || id >= rows.N) found = OUTSIDE;
        else if (a > 0 && rows.ids[a - 1] >= id) found = NOT_ASCENDING;
        else if (step < rows.last[id] || step - rows.last[id] > window) found = NO_AGE;
        problem = std::max(problem, found);
    }
    return problem;
}

// The gradient of rows [A, d], in float32 or, if `half`, in bfloat16. norms null, or [A]: it is that of rows scaled to
// length 1, which were divided by these.
struct Gradient {
    const void* values;
    int64_t half;
    const float* norms;

    // Of row a, which is w [d] now: where it lies, or what has been made of it in spare [d].
    const float* of(int64_t a, const float* w, int64_t d, float* spare) const {
        if (!half && !norms) return static_cast<const float*>(values) + a * d;
        numbers::typed(values, half, [&](const auto* grad) {
            for (int64_t j = 0; j < d; j++) spare[j] = numbers::widen(grad[a * d + j]);
        });
        if (norms) numbers::normalise_row_backward(spare, w, d, norms[a]);
        return spare;
    }
};

// Of every optimizer: `arrays` are the weight and its buffers, [N, d] each; `numbers` what a step is made of, the step's
// own number first.

// ------------------------------------------------------------------------------------------- SGD with momentum

struct Sgd {
    static constexpr int64_t ARRAYS = 2, COLUMNS = 4;  // of the table: ww, wv, vw, vv
    float* arrays[ARRAYS];  // weight, momentum
    float lr, mu, decay;
    bool nesterov;

    explicit Sgd(const double* numbers)
        : lr(float(numbers[1])), mu(float(numbers[2])), decay(float(numbers[3])), nesterov(numbers[4] != 0) {}

    // The steps missed are linear in (w, v): their product is one 2 x 2 matrix for all elements.
    void catch_up(int64_t offset, int64_t d, const double* entry) const {
        float *__restrict w = arrays[0] + offset, *__restrict v = arrays[1] + offset;
        const float ww = float(entry[0]), wv = float(entry[1]), vw = float(entry[2]), vv = float(entry[3]);
        for (int64_t j = 0; j < d; j++) {
            const float moved = ww * w[j] + wv * v[j];
            v[j] = vw * w[j] + vv * v[j];
            w[j] = moved;
        }
    }

    void move(int64_t offset, int64_t d, const float* __restrict gradient) const {
        float *__restrict w = arrays[0] + offset, *__restrict v = arrays[1] + offset;
        for (int64_t j = 0; j < d; j++) {
            const float g = gradient[j] + decay * w[j];
            v[j] = mu * v[j] + g;
            w[j] -= lr * (nesterov ? g + mu * v[j] : v[j]);
        }
    }
};

// The same without momentum, which keeps no buffer: steps missed are weight decay alone.
struct PlainSgd {
    static constexpr int64_t ARRAYS = 1, COLUMNS = Sgd::COLUMNS;
    float* arrays[ARRAYS];  // weight
    float lr, decay;

    explicit PlainSgd(const double* numbers) : lr(float(numbers[1])), decay(float(numbers[3])) {}

    void catch_up(int64_t offset, int64_t d, const double* entry) const {
        float* __restrict w = arrays[0] + offset;
        const float ww = float(entry[0]);
        for (int64_t j = 0; j < d; j++) w[j] *= ww;
    }

    void move(int64_t offset, int64_t d, const float* __restrict gradient) const {
        float* __restrict w = arrays[0] + offset;
        for (int64_t j = 0; j < d; j++) w[j] -= lr * (gradient[j] + decay * w[j]);
    }
};

// ------------------------------------------------------------------------------------------- AdamW

struct AdamW {
    static constexpr int64_t ARRAYS = 3, COLUMNS = 5;  // of the table: R, the factors of m and v, S1, S2
    float* arrays[ARRAYS];                 // weight, average, square
    double eps;
    float decay, rate, lift;               // 1 - lr * weight_decay, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
    float beta1, rest1, beta2, rest2;      // rest = 1 - beta: not in float, where 1 - 0.999 loses five digits

    explicit AdamW(const double* numbers)
        : eps(numbers[1]), decay(float(numbers[2])), rate(float(numbers[3])), lift(float(numbers[4])),
          beta1(float(numbers[5])), rest1(float(numbers[6])), beta2(float(numbers[7])), rest2(float(numbers[8])) {}

    // w = R w - m S1^2 / (S1 sqrt(v) + S2 eps), divided through by S1. Without any gradient yet, 0 / tiny = 0.
    void catch_up(int64_t offset, int64_t d, const double* entry) const {
        float *__restrict w = arrays[0] + offset;
        float *__restrict m = arrays[1] + offset, *__restrict v = arrays[2] + offset;
        const float shrink = float(entry[0]), keep_m = float(entry[1]), keep_v = float(entry[2]);
        const float drift = float(entry[3]), floor = float(entry[3] > 0 ? entry[4] / entry[3] * eps : 0.0);
        for (int64_t j = 0; j < d; j++) {
            w[j] = shrink * w[j] - drift * m[j] / std::max(std::sqrt(v[j]) + floor, FLT_MIN);
            m[j] *= keep_m;
            v[j] *= keep_v;
        }
    }

    void move(int64_t offset, int64_t d, const float* __restrict gradient) const {
        float *__restrict w = arrays[0] + offset;
        float *__restrict m = arrays[1] + offset, *__restrict v = arrays[2] + offset;
        const float tiny = float(eps);
        for (int64_t j = 0; j < d; j++) {
            const float g = gradient[j];
            m[j] = beta1 * m[j] + rest1 * g;
            v[j] = beta2 * v[j] + rest2 * (g * g);
            w[j] = decay * w[j] - rate * m[j] / (std::sqrt(v[j]) * lift + tiny);
        }
    }
};

template <class Stored, int64_t n>
__attribute__((always_inline)) inline void prefetch(Stored* const (&arrays)[n], int64_t offset, int64_t d) {
    for (Stored* array : arrays) numbers::prefetch<1>(array + offset, d);
}

}  // namespace rows
