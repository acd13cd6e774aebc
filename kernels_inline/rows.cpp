// rows.cpp: one optimizer step on the A rows that have a gradient, and on those only.
//
//   kernel            bytes moved (A rows of d float32)
//   row_sgd           reads 4 A d each of weight, momentum, gradient; writes 4 A d each of weight, momentum: 20 A d
//   row_adamw         reads four and writes three arrays of 4 A d: 28 A d
//   row_sgd_catch_up  16 d for each row that lags: two arrays, read and written
//   row_adamw_catch_up  24 d for each row that lags: three arrays, read and written
// To this come 16 to 24 bytes a row for its id and its last step, and d / 8 bytes for its sign code if asked for.
//
// A row goes through the steps it missed, its step with the gradient and its sign code while it lies in the L1
// cache. The steps it missed have a closed form, one entry of `table` for each number of them (its age); the
// table is kept by the caller, annsoftmax_ref/optim.py, where the formulas are derived.
//
// Every entry point returns 0, or why it did nothing: 1 an id is outside 0..N-1, 2 the ids do not ascend (a row
// named twice would be two threads' work), 3 a row's age is not in the table.

#include "numbers.h"
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

// bit j % 64 of code[j / 64] = row[j] > 0
static void sign_code(const float* row, int64_t d, int64_t* code) {
    for (int64_t first = 0; first < d; first += 64) {
        const int64_t n = std::min<int64_t>(64, d - first);
        uint64_t word = 0;
        for (int64_t j = 0; j < n; j++) word |= uint64_t(row[first + j] > 0.0f) << j;
        code[first / 64] = int64_t(word);
    }
}

// ------------------------------------------------------------------------------------------- SGD with momentum

struct Sgd {
    static constexpr int64_t COLUMNS = 4;  // of the table: ww, wv, vw, vv
    float *weight, *momentum;
    const float* grad;
    float lr, mu, decay;
    bool nesterov;

    __attribute__((always_inline)) void prefetch(int64_t offset, int64_t d) const {
        numbers::prefetch<1>(weight + offset, d);
        numbers::prefetch<1>(momentum + offset, d);
    }

    // The steps missed are linear in (w, v): their product is one 2 x 2 matrix for all elements.
    void catch_up(int64_t offset, int64_t d, const double* entry) const {
        float *__restrict w = weight + offset, *__restrict v = momentum + offset;
        const float ww = float(entry[0]), wv = float(entry[1]), vw = float(entry[2]), vv = float(entry[3]);
        for (int64_t j = 0; j < d; j++) {
            const float moved = ww * w[j] + wv * v[j];
            v[j] = vw * w[j] + vv * v[j];
            w[j] = moved;
        }
    }

    void move(int64_t offset, int64_t d, int64_t a) const {
        float *__restrict w = weight + offset, *__restrict v = momentum + offset;
        const float* __restrict gradient = grad + a * d;
        for (int64_t j = 0; j < d; j++) {
            const float g = gradient[j] + decay * w[j];
            v[j] = mu * v[j] + g;
            w[j] -= lr * (nesterov ? g + mu * v[j] : v[j]);
        }
    }
};

// ------------------------------------------------------------------------------------------- AdamW

struct AdamW {
    static constexpr int64_t COLUMNS = 5;  // of the table: R, the factors of m and v, S1, S2
    float *weight, *average, *square;
    const float* grad;
    double eps;
    float decay, rate, lift;               // 1 - lr * weight_decay, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
    float beta1, rest1, beta2, rest2;      // rest = 1 - beta: not in float, where 1 - 0.999 loses five digits

    __attribute__((always_inline)) void prefetch(int64_t offset, int64_t d) const {
        numbers::prefetch<1>(weight + offset, d);
        numbers::prefetch<1>(average + offset, d);
        numbers::prefetch<1>(square + offset, d);
    }

    // w = R w - m S1^2 / (S1 sqrt(v) + S2 eps), divided through by S1. Without any gradient yet, 0 / tiny = 0.
    void catch_up(int64_t offset, int64_t d, const double* entry) const {
        float *__restrict w = weight + offset, *__restrict m = average + offset, *__restrict v = square + offset;
        const float shrink = float(entry[0]), keep_m = float(entry[1]), keep_v = float(entry[2]);
        const float drift = float(entry[3]), floor = float(entry[3] > 0 ? entry[4] / entry[3] * eps : 0.0);
        for (int64_t j = 0; j < d; j++) {
            w[j] = shrink * w[j] - drift * m[j] / std::max(std::sqrt(v[j]) + floor, FLT_MIN);
            m[j] *= keep_m;
            v[j] *= keep_v;
        }
    }

    void move(int64_t offset, int64_t d, int64_t a) const {
        float *__restrict w = weight + offset, *__restrict m = average + offset, *__restrict v = square + offset;
        const float* __restrict gradient = grad + a * d;
        const float tiny = float(eps);
        for (int64_t j = 0; j < d; j++) {
            const float g = gradient[j];
            m[j] = beta1 * m[j] + rest1 * g;
            v[j] = beta2 * v[j] + rest2 * (g * g);
            w[j] = decay * w[j] - rate * m[j] / (std::sqrt(v[j]) * lift + tiny);
        }
    }
};

// ------------------------------------------------------------------------------------------- both

// Step number `step` on all rows: catch up to step - 1, move, set `last`, write the code unless codes is null.
template <class Optimizer>
static int step_rows(const Optimizer& optimizer, const Ids& rows, const double* table, int64_t window, int64_t step,
                     int64_t* codes) {
    if (const int problem = check(rows, step - 1, window)) return problem;
    const int64_t d = rows.d, words = (d + 63) / 64;
#pragma omp parallel for schedule(static) if (threads::pay(20 * rows.A * d))
    for (int64_t a = 0; a < rows.A; a++) {
        optimizer.prefetch(rows.ids[std::min(a + numbers::AHEAD, rows.A - 1)] * d, d);
        const int64_t id = rows.ids[a], age = step - 1 - rows.last[id];
        if (age > 0) optimizer.catch_up(id * d, d, table + age * Optimizer::COLUMNS);
        optimizer.move(id * d, d, a);
        rows.last[id] = step;
        if (codes) sign_code(optimizer.weight + id * d, d, codes + a * words);
    }
    return NONE;
}

// Bring these rows up to date with `step`; those that are already stay as they are.
template <class Optimizer>
static int catch_up_rows(const Optimizer& optimizer, const Ids& rows, const double* table, int64_t window,
                         int64_t step) {
    if (const int problem = check(rows, step, window)) return problem;
#pragma omp parallel for schedule(static) if (threads::pay(16 * rows.A * rows.d))
    for (int64_t a = 0; a < rows.A; a++) {
        const int64_t id = rows.ids[a], age = step - rows.last[id];
        if (age == 0) continue;
        optimizer.catch_up(id * rows.d, rows.d, table + age * Optimizer::COLUMNS);
        rows.last[id] = step;
    }
    return NONE;
}

}  // namespace rows

// --------------------------------------------------------------------------------------------- entry points
// weight, momentum, average, square [N, d]; last [N]; ids [A]; grad [A, d]; table [window + 1, 4 or 5];
// codes [A, ceil(d / 64)] or null

extern "C" {

int64_t row_sgd(float* weight, float* momentum, int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
            const float* grad, const double* table, int64_t window, int64_t step, double lr, double mu, double decay,
            int64_t nesterov, int64_t* codes) {
    const rows::Sgd sgd{weight, momentum, grad, float(lr), float(mu), float(decay), nesterov != 0};
    return rows::step_rows(sgd, {ids, A, N, d, last}, table, window, step, codes);
}

int64_t row_sgd_catch_up(float* weight, float* momentum, int64_t* last, int64_t N, int64_t d, const int64_t* ids,
                     int64_t A, const double* table, int64_t window, int64_t step) {
    const rows::Sgd sgd{weight, momentum, nullptr, 0.0f, 0.0f, 0.0f, false};
    return rows::catch_up_rows(sgd, {ids, A, N, d, last}, table, window, step);
}

int64_t row_adamw(float* weight, float* average, float* square, int64_t* last, int64_t N, int64_t d, const int64_t* ids,
              int64_t A, const float* grad, const double* table, int64_t window, int64_t step, double lr,
              double beta1, double beta2, double eps, double weight_decay, int64_t* codes) {
    const double rate = lr / (1.0 - std::pow(beta1, double(step)));
    const double lift = 1.0 / std::sqrt(1.0 - std::pow(beta2, double(step)));
    const rows::AdamW adamw{weight, average, square, grad, eps,
                            float(1.0 - lr * weight_decay), float(rate), float(lift),
                            float(beta1), float(1.0 - beta1), float(beta2), float(1.0 - beta2)};
    return rows::step_rows(adamw, {ids, A, N, d, last}, table, window, step, codes);
}

int64_t row_adamw_catch_up(float* weight, float* average, float* square, int64_t* last, int64_t N, int64_t d,
                       const int64_t* ids, int64_t A, const double* table, int64_t window, int64_t step, double eps) {
    const rows::AdamW adamw{weight, average, square, nullptr, eps, 1, 0, 0, 0, 0, 0, 0};
    return rows::catch_up_rows(adamw, {ids, A, N, d, last}, table, window, step);
}

}
