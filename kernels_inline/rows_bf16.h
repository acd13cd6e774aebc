// The steps of rows.h for weights and buffers in bfloat16, which take half the memory.
//
//   kernel                   bytes moved (A rows of d numbers)
//   row_sgd_bf16             reads 2 A d each of weight, momentum, gradient; writes 2 A d each of two: 10 A d
//   row_adamw_bf16           14 A d
//   row_sgd_catch_up_bf16    8 d for each row that lags
//   row_adamw_catch_up_bf16  12 d for each row that lags
//
// A row is widened, goes through the same steps in float32, and is rounded at random on its way back, up with the
// probability that makes it right on average (rows_bf16.py says why, and by which random bits).
#pragma once
#include "rows.h"

#include <vector>

namespace rows {

// The finalizer of SplitMix64 (Steele, Lea and Flood 2014; constants of Vigna's splitmix64.c).
static uint64_t mixed(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

// Adding 16 random bits to the half of a float that bfloat16 has no room for carries into the other one with the
// probability that half is of a whole.
static uint16_t round_at_random(float x, uint64_t random) {
    const uint32_t bits = numbers::bits_of(x);
    return uint16_t(x == x ? (bits + uint32_t(random & 0xFFFF)) >> 16 : bits >> 16 | 0x40);
}

// Weight and buffers [N, d] of such rows, and what their random bits are a hash of.
template <int64_t n>
struct Halves {
    uint16_t* arrays[n];
    int64_t seed, step;

    void read(int64_t offset, int64_t d, float* const (&row)[n]) const {
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < d; j++) row[i][j] = numbers::widen(arrays[i][offset + j]);
    }

    // Number j of each array takes 16 bits of output j of SplitMix64, whose state is of the row.
    void write(int64_t id, int64_t d, float* const (&row)[n]) const {
        const uint64_t state = mixed(mixed(mixed(uint64_t(seed)) ^ uint64_t(step)) ^ uint64_t(id));
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < d; j++)
                arrays[i][id * d + j] =
                    round_at_random(row[i][j], mixed(state + uint64_t(j + 1) * 0x9E3779B97F4A7C15u) >> 16 * i);
    }
};

// As step_rows by grad [A, d], or as catch_up_rows where it is null. What the optimizer itself points to is not looked at.
template <class Optimizer>
static int update_halves(Optimizer optimizer, const Halves<Optimizer::ARRAYS>& halves, const Ids& rows,
                         const uint16_t* grad, const double* table, int64_t window, int64_t* codes = nullptr) {
    const bool moves = grad != nullptr;
    const int64_t step = halves.step, before = step - moves, d = rows.d, words = (d + 63) / 64;
    if (const int problem = check(rows, before, window)) return problem;
#pragma omp parallel firstprivate(optimizer) if (threads::pay(12 * rows.A * d))
    {
        std::vector<float> row((Optimizer::ARRAYS + 1) * d);  // and its gradient, widened
        for (int64_t i = 0; i < Optimizer::ARRAYS; i++) optimizer.arrays[i] = row.data() + i * d;
        float* gradient = row.data() + Optimizer::ARRAYS * d;
        optimizer.grad = gradient;
#pragma omp for schedule(static)
        for (int64_t a = 0; a < rows.A; a++) {
            prefetch(halves.arrays, rows.ids[std::min(a + numbers::AHEAD, rows.A - 1)] * d, d);
            const int64_t id = rows.ids[a], age = before - rows.last[id];
            if (!moves && age == 0) continue;
            halves.read(id * d, d, optimizer.arrays);
            if (age > 0) optimizer.catch_up(0, d, table + age * Optimizer::COLUMNS);
            if (moves) {
                for (int64_t j = 0; j < d; j++) gradient[j] = numbers::widen(grad[a * d + j]);
                optimizer.move(0, d, 0);
            }
            halves.write(id, d, optimizer.arrays);
            rows.last[id] = step;
            if (codes) signs::pack_row(halves.arrays[0] + id * d, d, words, codes + a * words);  // of what was rounded
        }
    }
    return NONE;
}

}  // namespace rows
