// rows.cpp: one optimizer step on the A rows that have a gradient, and on those only.
//
//   kernel            bytes moved (A rows of d float32)
//   row_sgd           reads 4 A d each of weight, momentum, gradient; writes 4 A d each of weight, momentum: 20 A d
//   row_adamw         reads four and writes three arrays of 4 A d: 28 A d
//   row_sgd_catch_up  16 d for each row that lags: two arrays, read and written
//   row_adamw_catch_up  24 d for each row that lags: three arrays, read and written
// To this come 16 to 24 bytes a row for its id and its last step, and d / 8 bytes for its sign code if asked for. A
// gradient may be in bfloat16, 2 A d less, and may be that of rows scaled to length 1: then it goes through the
// backward pass of that on the way, and no pass of its own (12 A d) is needed.
//
// A row goes through the steps it missed, its step with the gradient and its sign code while it lies in the L1
// cache (rows.h; with less memory: rows_rounded.h).
//
// Every entry point returns 0, or why it did nothing: 1 an id is outside 0..N-1, 2 the ids do not ascend (a row
// named twice would be two threads' work), 3 a row's age is not in the table.

#include "rows.h"
#include "rows_rounded.h"

#include <vector>

namespace rows {

// Step number `step` on all rows: catch up to step - 1, move, set `last`, write the code unless codes is null.
template <class Optimizer>
static int step_rows(const Optimizer& optimizer, const Ids& rows, const Gradient& grad, const double* table,
                     int64_t window, int64_t step, int64_t* codes) {
    if (const int problem = check(rows, step - 1, window)) return problem;
    const int64_t d = rows.d, words = (d + 63) / 64;
#pragma omp parallel if (threads::pay(20 * rows.A * d))
    {
        std::vector<float> spare(d);
#pragma omp for schedule(static)
        for (int64_t a = 0; a < rows.A; a++) {
            prefetch(optimizer.arrays, rows.ids[std::min(a + numbers::AHEAD, rows.A - 1)] * d, d);
            const int64_t id = rows.ids[a], age = step - 1 - rows.last[id];
            if (age > 0) optimizer.catch_up(id * d, d, table + age * Optimizer::COLUMNS);
            optimizer.move(id * d, d, grad.of(a, optimizer.arrays[0] + id * d, d, spare.data()));
            rows.last[id] = step;
            if (codes) signs::pack_row(optimizer.arrays[0] + id * d, d, words, codes + a * words);
        }
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

// A launcher's arguments: arrays of this kind (numbers.h), a step by a gradient, or without one (null) a catch-up.
struct Call {
    int64_t kind;
    float* scales;
    Ids rows;
    const Gradient* grad;
    const double* table;
    int64_t window;
    const double* numbers;
    int64_t seed;
    int64_t* codes;
};

// held: the weight, and its buffers
template <class Optimizer, int64_t n>
static int run(const Call& call, Optimizer optimizer, void* const (&held)[n]) {
    const int64_t step = int64_t(call.numbers[0]);
    if (call.kind == 0 && !call.scales) {  // at their places
        for (int64_t i = 0; i < n; i++) optimizer.arrays[i] = static_cast<float*>(held[i]);
        return call.grad ? step_rows(optimizer, call.rows, *call.grad, call.table, call.window, step, call.codes)
                         : catch_up_rows(optimizer, call.rows, call.table, call.window, step);
    }
    return with_stored(held, call.kind, call.scales, call.seed, step, [&](const auto& stored) {
        return update_rounded(optimizer, stored, call.rows, call.grad, call.table, call.window, call.codes);
    });
}

static int sgd(const Call& call, void* weight, void* momentum) {
    return momentum ? run(call, Sgd(call.numbers), {weight, momentum}) : run(call, PlainSgd(call.numbers), {weight});
}

}  // namespace rows

// --------------------------------------------------------------------------------------------- entry points
// weight [N, d] of this kind (numbers.h); momentum, average, square [N, d], float32 beside float32, else bfloat16;
// momentum null: there is none (mu 0); scales [N]: those of the rows of a momentum in int8, or null; last [N]; ids [A];
// grad [A, d], bfloat16 if half, else float32; norms: rows.h; table [window + 1, 4 or 5]; codes [A, ceil(d / 64)] or
// null; seed: of the rounding.
// numbers: of SGD step, lr, mu, decay, nesterov; of AdamW step, eps, 1 - lr * decay, lr / (1 - beta1^t),
// 1 / sqrt(1 - beta2^t), beta1, 1 - beta1, beta2, 1 - beta2.

extern "C" {

int64_t row_sgd(void* weight, int64_t kind, void* momentum, float* scales, int64_t* last, int64_t N, int64_t d,
                const int64_t* ids, int64_t A, const void* grad, int64_t half, const float* norms, const double* table,
                int64_t window, const double* numbers, int64_t seed, int64_t* codes) {
    const rows::Gradient gradient{grad, half, norms};
    return rows::sgd({kind, scales, {ids, A, N, d, last}, &gradient, table, window, numbers, seed, codes}, weight,
                     momentum);
}

int64_t row_sgd_catch_up(void* weight, int64_t kind, void* momentum, float* scales, int64_t* last, int64_t N, int64_t d,
                         const int64_t* ids, int64_t A, const double* table, int64_t window, const double* numbers,
                         int64_t seed) {
    return rows::sgd({kind, scales, {ids, A, N, d, last}, nullptr, table, window, numbers, seed, nullptr}, weight,
                     momentum);
}

int64_t row_adamw(void* weight, int64_t kind, void* average, void* square, int64_t* last, int64_t N, int64_t d,
                  const int64_t* ids, int64_t A, const void* grad, int64_t half, const float* norms,
                  const double* table, int64_t window, const double* numbers, int64_t seed, int64_t* codes) {
    const rows::Gradient gradient{grad, half, norms};
    return rows::run({kind, nullptr, {ids, A, N, d, last}, &gradient, table, window, numbers, seed, codes},
                     rows::AdamW(numbers), {weight, average, square});
}

int64_t row_adamw_catch_up(void* weight, int64_t kind, void* average, void* square, int64_t* last, int64_t N, int64_t d,
                           const int64_t* ids, int64_t A, const double* table, int64_t window, const double* numbers,
                           int64_t seed) {
    return rows::run({kind, nullptr, {ids, A, N, d, last}, nullptr, table, window, numbers, seed, nullptr},
                     rows::AdamW(numbers), {weight, average, square});
}

}
