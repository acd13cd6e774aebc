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
// cache (rows.h; in bfloat16: rows_bf16.h).
//
// Every entry point returns 0, or why it did nothing: 1 an id is outside 0..N-1, 2 the ids do not ascend (a row
// named twice would be two threads' work), 3 a row's age is not in the table.

#include "rows.h"
#include "rows_bf16.h"

namespace rows {

// Step number `step` on all rows: catch up to step - 1, move, set `last`, write the code unless codes is null.
template <class Optimizer>
static int step_rows(const Optimizer& optimizer, const Ids& rows, const double* table, int64_t window, int64_t step,
                     int64_t* codes) {
    if (const int problem = check(rows, step - 1, window)) return problem;
    const int64_t d = rows.d, words = (d + 63) / 64;
#pragma omp parallel for schedule(static) if (threads::pay(20 * rows.A * d))
    for (int64_t a = 0; a < rows.A; a++) {
        prefetch(optimizer.arrays, rows.ids[std::min(a + numbers::AHEAD, rows.A - 1)] * d, d);
        const int64_t id = rows.ids[a], age = step - 1 - rows.last[id];
        if (age > 0) optimizer.catch_up(id * d, d, table + age * Optimizer::COLUMNS);
        optimizer.move(id * d, d, a);
        rows.last[id] = step;
        if (codes) signs::pack_row(optimizer.arrays[0] + id * d, d, words, codes + a * words);
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
// codes [A, ceil(d / 64)] or null; momentum null: there is none (mu 0); with _bf16, uint16_t stands for bfloat16

extern "C" {

int64_t row_sgd(float* weight, float* momentum, int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
            const float* grad, const double* table, int64_t window, int64_t step, double lr, double mu, double decay,
            int64_t nesterov, int64_t* codes) {
    const rows::Ids named{ids, A, N, d, last};
    const rows::PlainSgd plain{{weight}, grad, float(lr), float(decay)};
    if (!momentum) return rows::step_rows(plain, named, table, window, step, codes);
    const rows::Sgd sgd{{weight, momentum}, grad, float(lr), float(mu), float(decay), nesterov != 0};
    return rows::step_rows(sgd, named, table, window, step, codes);
}

int64_t row_sgd_catch_up(float* weight, float* momentum, int64_t* last, int64_t N, int64_t d, const int64_t* ids,
                     int64_t A, const double* table, int64_t window, int64_t step) {
    const rows::Ids named{ids, A, N, d, last};
    if (!momentum) return rows::catch_up_rows(rows::PlainSgd{{weight}, nullptr, 0, 0}, named, table, window, step);
    const rows::Sgd sgd{{weight, momentum}, nullptr, 0.0f, 0.0f, 0.0f, false};
    return rows::catch_up_rows(sgd, named, table, window, step);
}

int64_t row_adamw(float* weight, float* average, float* square, int64_t* last, int64_t N, int64_t d, const int64_t* ids,
              int64_t A, const float* grad, const double* table, int64_t window, int64_t step, double lr,
              double beta1, double beta2, double eps, double weight_decay, int64_t* codes) {
    const auto adamw = rows::adamw_of(weight, average, square, grad, step, lr, beta1, beta2, eps, weight_decay);
    return rows::step_rows(adamw, {ids, A, N, d, last}, table, window, step, codes);
}

int64_t row_adamw_catch_up(float* weight, float* average, float* square, int64_t* last, int64_t N, int64_t d,
                       const int64_t* ids, int64_t A, const double* table, int64_t window, int64_t step, double eps) {
    const rows::AdamW adamw{{weight, average, square}, nullptr, eps, 1, 0, 0, 0, 0, 0, 0};
    return rows::catch_up_rows(adamw, {ids, A, N, d, last}, table, window, step);
}

int64_t row_sgd_bf16(uint16_t* weight, uint16_t* momentum, int64_t* last, int64_t N, int64_t d, const int64_t* ids,
                     int64_t A, const uint16_t* grad, const double* table, int64_t window, int64_t step, double lr,
                     double mu, double decay, int64_t nesterov, int64_t seed, int64_t* codes) {
    const rows::Ids named{ids, A, N, d, last};
    const rows::PlainSgd plain{{}, nullptr, float(lr), float(decay)};
    if (!momentum) return rows::update_halves(plain, {{weight}, seed, step}, named, grad, table, window, codes);
    const rows::Sgd sgd{{}, nullptr, float(lr), float(mu), float(decay), nesterov != 0};
    return rows::update_halves(sgd, {{weight, momentum}, seed, step}, named, grad, table, window, codes);
}

int64_t row_sgd_catch_up_bf16(uint16_t* weight, uint16_t* momentum, int64_t* last, int64_t N, int64_t d,
                              const int64_t* ids, int64_t A, const double* table, int64_t window, int64_t step,
                              int64_t seed) {
    const rows::Ids named{ids, A, N, d, last};
    const rows::PlainSgd plain{{}, nullptr, 0, 0};
    if (!momentum) return rows::update_halves(plain, {{weight}, seed, step}, named, nullptr, table, window);
    const rows::Sgd sgd{{}, nullptr, 0.0f, 0.0f, 0.0f, false};
    return rows::update_halves(sgd, {{weight, momentum}, seed, step}, named, nullptr, table, window);
}

int64_t row_adamw_bf16(uint16_t* weight, uint16_t* average, uint16_t* square, int64_t* last, int64_t N, int64_t d,
                       const int64_t* ids, int64_t A, const uint16_t* grad, const double* table, int64_t window,
                       int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay,
                       int64_t seed, int64_t* codes) {
    const auto adamw = rows::adamw_of(nullptr, nullptr, nullptr, nullptr, step, lr, beta1, beta2, eps, weight_decay);
    return rows::update_halves(adamw, {{weight, average, square}, seed, step}, {ids, A, N, d, last}, grad, table, window,
                               codes);
}

int64_t row_adamw_catch_up_bf16(uint16_t* weight, uint16_t* average, uint16_t* square, int64_t* last, int64_t N,
                                int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                int64_t step, double eps, int64_t seed) {
    const rows::AdamW adamw{{}, nullptr, eps, 1, 0, 0, 0, 0, 0, 0};
    return rows::update_halves(adamw, {{weight, average, square}, seed, step}, {ids, A, N, d, last}, nullptr, table, window);
}

}
