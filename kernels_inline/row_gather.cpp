// row_gather.cpp: rows scaled to length 1 as they will be once they are up to date, which they are not made here.
//
//   kernel            bytes moved (A rows of d float32)
//   row_sgd_gather    reads 8 A d, weight and momentum; writes 4 A d unit rows (2 A d in bfloat16) and 4 A norms
//   row_adamw_gather  reads 12 A d, weight, average and square; writes as much
// Catching up (rows.cpp) and then gathering (head.cpp) moves 24 A d and 32 A d. Of rows that do not lag, only the
// weight is read.
//
// The step that follows catches up again, from the same numbers. Entry points return what those of rows.cpp return.

#include "rows.h"
#include "rows_rounded.h"

#include <vector>

namespace row_gather {

template <class Optimizer, class Stored, class T>
static int gather(Optimizer optimizer, const Stored& stored, const rows::Ids& rows, const double* table, int64_t window,
                  T* unit, float* norms) {
    if (const int problem = rows::check(rows, stored.step, window)) return problem;
    const int64_t d = rows.d;
#pragma omp parallel firstprivate(optimizer) if (threads::pay(12 * rows.A * d))
    {
        std::vector<float> row(Optimizer::ARRAYS * d);
        for (int64_t i = 0; i < Optimizer::ARRAYS; i++) optimizer.arrays[i] = row.data() + i * d;
#pragma omp for schedule(static)
        for (int64_t a = 0; a < rows.A; a++) {
            const int64_t id = rows.ids[a], age = stored.step - rows.last[id];
            const int64_t next = rows.ids[std::min(a + numbers::AHEAD, rows.A - 1)];
            if (rows.last[next] < stored.step) stored.template prefetch<0>(next, d);
            else numbers::prefetch(stored.weight + next * d, d);
            if (age > 0) {
                stored.read(id, d, optimizer.arrays);
                optimizer.catch_up(0, d, table + age * Optimizer::COLUMNS);
                numbers::normalise_row(row.data(), d, unit + a * d, norms + a);
            } else {
                numbers::normalise_row(stored.weight + id * d, d, unit + a * d, norms + a);
            }
        }
    }
    return rows::NONE;
}

// A launcher's arguments, the weight and its buffers aside.
struct Call {
    int64_t kind;
    float* scales;
    rows::Ids rows;
    const double* table;
    int64_t window;
    const double* numbers;
    int64_t half;
    void* unit;
    float* norms;
};

// held: the weight, and its buffers
template <class Optimizer, int64_t n>
static int run(const Call& call, Optimizer optimizer, void* const (&held)[n]) {
    const int64_t step = int64_t(call.numbers[0]);
    return rows::with_stored(held, call.kind, call.scales, 0, step, [&](const auto& stored) {
        if (call.half)
            return gather(optimizer, stored, call.rows, call.table, call.window, static_cast<uint16_t*>(call.unit),
                          call.norms);
        return gather(optimizer, stored, call.rows, call.table, call.window, static_cast<float*>(call.unit), call.norms);
    });
}

}  // namespace row_gather

// --------------------------------------------------------------------------------------------- entry points
// As those of rows.cpp; numbers: of the last step that was done; unit [A, d], bfloat16 if half, else float32; norms [A].

extern "C" {

int64_t row_sgd_gather(void* weight, int64_t kind, void* momentum, float* scales, int64_t* last, int64_t N, int64_t d,
                       const int64_t* ids, int64_t A, const double* table, int64_t window, const double* numbers,
                       int64_t half, void* unit, float* norms) {
    const row_gather::Call call{kind, scales, {ids, A, N, d, last}, table, window, numbers, half, unit, norms};
    return momentum ? row_gather::run(call, rows::Sgd(numbers), {weight, momentum})
                    : row_gather::run(call, rows::PlainSgd(numbers), {weight});
}

int64_t row_adamw_gather(void* weight, int64_t kind, void* average, void* square, int64_t* last, int64_t N, int64_t d,
                         const int64_t* ids, int64_t A, const double* table, int64_t window, const double* numbers,
                         int64_t half, void* unit, float* norms) {
    const row_gather::Call call{kind, nullptr, {ids, A, N, d, last}, table, window, numbers, half, unit, norms};
    return row_gather::run(call, rows::AdamW(numbers), {weight, average, square});
}

}
