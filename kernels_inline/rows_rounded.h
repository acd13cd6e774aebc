// The steps of rows.h for weights and buffers that take less memory than float32.
//
//   weight             buffers                         bytes of a step (A rows of d numbers; the gradient is bfloat16)
//   bfloat16           bfloat16                        sgd 10 A d, adamw 14 A d
//   e4m3 (8 bits)      bfloat16                        sgd 8 A d, adamw 12 A d
//   any of the three   of SGD: int8 times a scale      2 A d less than in bfloat16
//                      of each row
//
// A row is widened, goes through the same steps in float32, and is rounded at random on its way back, up with the
// probability that makes it right on average (rows_rounded.py says why, and by which random bits).
#pragma once
#include "rows.h"

#include <type_traits>
#include <vector>

namespace rows {

// The finalizer of SplitMix64 (Steele, Lea and Flood 2014; constants of Vigna's splitmix64.c).
static uint64_t mixed(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static void round_at_random(float x, uint32_t, float* out) { *out = x; }

// Adding 16 random bits to the half of a float that bfloat16 has no room for carries into it with the probability that
// half is of a whole.
static void round_at_random(float x, uint32_t random, uint16_t* out) {
    const uint32_t bits = numbers::bits_of(x);
    *out = uint16_t(x == x ? (bits + random) >> 16 : bits >> 16 | 0x40);
}

// The same for e4m3: of a float 20 bits are left out, of which the random bits decide by the upper 16; below 2^-6 its
// numbers are 2^-9 apart. What is larger than its largest, 448, becomes that.
static void round_at_random(float x, uint32_t random, uint8_t* out) {
    const uint32_t bits = numbers::bits_of(x), size = bits & 0x7fffffff;
    const float small = std::min(numbers::float_of(size), 0x1p-6f);
    const uint32_t below = (uint32_t(small * 0x1p25f) + random) >> 16;
    const uint32_t above = std::min((size + (random << 4)) >> 20, (120u << 3) + 0x7e) - (120u << 3);
    const uint32_t code = size < (121u << 23) ? below : above;
    *out = uint8_t((x == x ? code : 0x7f) | bits >> 24 & 0x80);
}

static float largest(const float* row, int64_t d) {
    float most = 0;
    for (int64_t j = 0; j < d; j++) {
        const float size = std::fabs(row[j]);
        most = most != most || size <= most ? most : size;  // a NaN stays
    }
    return most;
}

// Numbers from -127 to 127, times the scale of their row.
static void round_at_random(float x, float scale, uint32_t random, int8_t* out) {
    const float steps = x / scale;
    const bool is_number = std::fabs(steps) <= 128;  // not where all are 0, or one is no number
    const int32_t floor = int32_t(std::floor((is_number ? steps : 0.0f) * 65536));
    *out = int8_t(std::min(127, std::max(-127, (floor + int32_t(random)) >> 16)));
}

// Weight and buffers [N, d] as they are stored, in float32 too; the scale of each row's buffers [N] where they are
// int8; and what their random bits are a hash of.
template <class Weight, class Buffer, int64_t n>
struct Rounded {
    static constexpr bool scaled = sizeof(Buffer) == 1;
    Weight* weight;
    Buffer* buffers[n];  // the last is none
    float* scales;
    int64_t seed, step;

    template <int written>
    void prefetch(int64_t id, int64_t d) const {
        numbers::prefetch<written>(weight + id * d, d);
        for (int64_t i = 0; i < n - 1; i++) numbers::prefetch<written>(buffers[i] + id * d, d);
    }

    void read(int64_t id, int64_t d, float* const (&row)[n]) const {
        for (int64_t j = 0; j < d; j++) row[0][j] = numbers::widen(weight[id * d + j]);
        for (int64_t i = 1; i < n; i++) widen_buffer(buffers[i - 1] + id * d, id, d, row[i]);
    }

    // Number j of each array takes 16 bits of output j of SplitMix64, whose state is of the row.
    void write(int64_t id, int64_t d, float* const (&row)[n]) const {
        const uint64_t state = mixed(mixed(mixed(uint64_t(seed)) ^ uint64_t(step)) ^ uint64_t(id));
        const auto random = [&](int64_t i, int64_t j) {
            return uint32_t(mixed(state + uint64_t(j + 1) * 0x9E3779B97F4A7C15u) >> 16 * i & 0xFFFF);
        };
        for (int64_t j = 0; j < d; j++) round_at_random(row[0][j], random(0, j), weight + id * d + j);
        for (int64_t i = 1; i < n; i++) {
            if (scaled) scales[id] = largest(row[i], d) / 127;
            for (int64_t j = 0; j < d; j++) round_buffer(row[i][j], id, random(i, j), buffers[i - 1] + id * d + j);
        }
    }

   private:
    template <class T>
    void widen_buffer(const T* from, int64_t, int64_t d, float* row) const {
        for (int64_t j = 0; j < d; j++) row[j] = numbers::widen(from[j]);
    }
    void widen_buffer(const int8_t* from, int64_t id, int64_t d, float* row) const {
        for (int64_t j = 0; j < d; j++) row[j] = float(from[j]) * scales[id];
    }
    template <class T>
    void round_buffer(float x, int64_t, uint32_t random, T* out) const {
        round_at_random(x, random, out);
    }
    void round_buffer(float x, int64_t id, uint32_t random, int8_t* out) const {
        round_at_random(x, scales[id], random, out);
    }
};

// As step_rows by a gradient, or without one (null) as catch_up_rows. What the optimizer points to is not looked at.
template <class Optimizer, class Weight, class Buffer>
static int update_rounded(Optimizer optimizer, const Rounded<Weight, Buffer, Optimizer::ARRAYS>& stored, const Ids& rows,
                          const Gradient* grad, const double* table, int64_t window, int64_t* codes) {
    const int64_t step = stored.step, before = step - (grad != nullptr), d = rows.d, words = (d + 63) / 64;
    if (const int problem = check(rows, before, window)) return problem;
#pragma omp parallel firstprivate(optimizer) if (threads::pay(12 * rows.A * d))
    {
        std::vector<float> row((Optimizer::ARRAYS + 1) * d);  // and its gradient
        for (int64_t i = 0; i < Optimizer::ARRAYS; i++) optimizer.arrays[i] = row.data() + i * d;
        float* spare = row.data() + Optimizer::ARRAYS * d;
#pragma omp for schedule(static)
        for (int64_t a = 0; a < rows.A; a++) {
            stored.template prefetch<1>(rows.ids[std::min(a + numbers::AHEAD, rows.A - 1)], d);
            const int64_t id = rows.ids[a], age = before - rows.last[id];
            if (!grad && age == 0) continue;
            stored.read(id, d, optimizer.arrays);
            if (age > 0) optimizer.catch_up(0, d, table + age * Optimizer::COLUMNS);
            if (grad) optimizer.move(0, d, grad->of(a, optimizer.arrays[0], d, spare));
            stored.write(id, d, optimizer.arrays);
            rows.last[id] = step;
            if (codes) signs::pack_row(stored.weight + id * d, d, words, codes + a * words);  // of what was rounded
        }
    }
    return NONE;
}

// f(stored), of weight and buffers `held`, in what they are stored in: float32 throughout, or as the head of this file
// says. kind: of the weight (numbers.h).
template <int64_t n, class F>
static int with_stored(void* const (&held)[n], int64_t kind, float* scales, int64_t seed, int64_t step, F f) {
    return numbers::typed_rows(held[0], kind, [&](auto* rows) {
        using Weight = std::remove_const_t<std::remove_pointer_t<decltype(rows)>>;
        const auto of = [&](auto* kept) {
            using Buffer = std::remove_pointer_t<decltype(kept)>;
            Rounded<Weight, Buffer, n> stored{const_cast<Weight*>(rows), {}, scales, seed, step};
            for (int64_t i = 1; i < n; i++) stored.buffers[i - 1] = static_cast<Buffer*>(held[i]);
            return f(stored);
        };
        if (scales) return of(static_cast<int8_t*>(nullptr));
        return of(numbers::gradient_of(rows, nullptr));
    });
}

}  // namespace rows
