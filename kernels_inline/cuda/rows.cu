// rows.cu: one optimizer step on the A rows that have a gradient, and on those only, on the GPU. The C++ twin is
// rows.cpp; the formulas are derived in annsoftmax_ref/optim.py. Launchers have the twin's names and arguments.
//
//   launcher            bytes moved (A rows of d float32)
//   row_sgd             reads 4 A d each of weight, momentum, gradient; writes 4 A d each of weight, momentum: 20 A d
//   row_adamw           reads four and writes three arrays of 4 A d: 28 A d
//   row_sgd_catch_up    16 d for each row that lags: two arrays, read and written
//   row_adamw_catch_up  24 d for each row that lags: three arrays, read and written
//   weight and buffers in bfloat16         sgd 10 A d, adamw 14 A d; catch-up 8 d and 12 d
//   weight in e4m3, buffers in bfloat16    sgd 8 A d, adamw 12 A d; catch-up 6 d and 10 d
//   momentum in int8                       2 A d less, though a row is read twice, the second time from the cache
//   gradient in bfloat16 beside float32    2 A d less
// To this come 16 to 24 bytes a row for its id and its last step, and d / 8 bytes for its sign code if asked for. A
// gradient of rows scaled to length 1 (norms) goes through the backward pass of that on the way: a row is read twice,
// the second time from the cache, where a pass of its own would move 12 A d.
//
// INDEX OF VERSIONS (all launchers share the three kernels)
//   step_rows_1   a thread a row: neighbouring threads read addresses that lie a whole row apart
//   step_rows_2   a warp a row: 32 neighbouring numbers are one load, and one ballot makes their 32 bits of the code
//   step_rows_3   a warp a row, 4 numbers a lane by one load; 8 lanes put their 4 bits of the code together
//
// In all of them a row is read once: it goes through the steps it missed, its step with the gradient and its sign code
// in registers. Every operation is rounded by itself, so the versions, the emulator and plain torch
// (kernels_inline/rows_rounded.py) agree bit for bit.
//
// Weights and buffers in less than float32 are rounded at random, up with the probability that makes the result right on average:
// an update a thousand times smaller than the spacing of bf16 numbers would be lost for good by rounding to the
// nearest. The random bits are a hash of (seed, step, row, number of the column): no state, the same in any order.
//
// Not looked at (an answer to the host would need a synchronisation): ids in range and ascending, ages in the table.
#include "launch.h"
#include "row_steps.h"
#include "unit_rows.h"

constexpr int THREADS = 256;

// ---- The rows -------------------------------------------------------------------------------------------------------

// moves: there is a step with a gradient, stored as G, after those that were missed.
template <class Optimizer, class W, class B, class G, bool moves>
struct Work {
    Rows<Optimizer, W, B> rows;
    const G* grad;                    // [A, d]
    const float* norms;               // [A]: grad is that of rows scaled to length 1, divided by these; or null
    int64_t seed;
    int64_t* codes;                   // [A, words], or null

    __host__ __device__ int64_t words() const { return (rows.d + 63) / 64; }
    bool fours() const { return rows.fours() && (!moves || aligned16(grad)); }
};

// What is the same for all numbers of row a.
template <class Optimizer>
struct Row {
    Lagging<Optimizer> lagging;
    int64_t a;
    uint64_t state;            // of its random bits
    float norm, share;         // of a gradient of unit rows: what is left of it is (g - share w) / norm
    float fresh;               // the scale that its buffers in int8 will have

    // A number, up to date, through the step by a gradient.
    __device__ void move(Real gradient, bool of_units, Real& w, Real (&buffers)[Optimizer::BUFFERS]) const {
        if (of_units) gradient = (gradient - Real(share) * w) / Real(norm);
        lagging.optimizer.move(gradient, w, buffers);
    }
};

template <class Optimizer, class W, class B, class G, bool moves>
__device__ Row<Optimizer> row_of(const Work<Optimizer, W, B, G, moves>& work, int64_t a) {
    Row<Optimizer> row{lagging_row(work.rows, a, moves), a};
    if (work.rows.rounded) row.state = row_state(work.seed, row.lagging.step, row.lagging.id);
    if (moves && work.norms) row.norm = work.norms[a];
    return row;
}

// Two looks at a row before it is written: at its numbers first, first + stride, ... What they read is in the cache when
// it is read again.

// The sum of w g, in double, so that the order of it does not show.
template <class Optimizer, class W, class B, class G, bool moves>
__device__ double dot_to_come(const Work<Optimizer, W, B, G, moves>& work, const Row<Optimizer>& row, int first,
                              int stride) {
    double dot = 0;
    for (int64_t j = first; j < work.rows.d; j += stride) {
        Real buffers[Optimizer::BUFFERS];
        dot += double(row.lagging.read(work.rows, j, buffers).value) * widen(work.grad[row.a * work.rows.d + j]);
    }
    return dot;
}

// The largest number that the buffer will hold.
template <class Optimizer, class W, class B, class G, bool moves>
__device__ float largest_to_come(const Work<Optimizer, W, B, G, moves>& work, const Row<Optimizer>& row, int first,
                                 int stride) {
    float largest = 0;
    for (int64_t j = first; j < work.rows.d; j += stride) {
        Real buffers[Optimizer::BUFFERS], w = row.lagging.read(work.rows, j, buffers);
        if (moves) row.move(widen(work.grad[row.a * work.rows.d + j]), work.norms, w, buffers);
        largest = larger_size(largest, buffers[0].value);
    }
    return largest;
}

// Both looks, by one thread, or by all lanes of a warp.
template <class Optimizer, class W, class B, class G, bool moves>
__device__ void look_ahead(const Work<Optimizer, W, B, G, moves>& work, Row<Optimizer>& row, bool by_warp) {
    const int first = by_warp ? lane_id() : 0, stride = by_warp ? WARP : 1;
    if (moves && work.norms) {
        const double dot = dot_to_come(work, row, first, stride);
        row.share = along(by_warp ? warp_sum(dot) : dot, row.norm);
    }
    if (!work.rows.scaled) return;
    float largest = largest_to_come(work, row, first, stride);
    for (int apart = 1; by_warp && apart < WARP; apart *= 2)
        largest = larger_size(largest, __shfl_xor_sync(ALL_LANES, largest, apart));
    row.fresh = __fdiv_rn(largest, 127);
}

// One number: from and to the places of its weight and buffers, which may be registers. Is the stored weight above 0?
template <class Optimizer, class W, class B, class G, bool moves>
__device__ bool update(const Work<Optimizer, W, B, G, moves>& work, const Row<Optimizer>& row, int64_t j,
                       float gradient, W& weight, B* (&buffers)[Optimizer::BUFFERS]) {
    const Lagging<Optimizer>& lagging = row.lagging;
    Real w = loaded(weight, 0), b[Optimizer::BUFFERS];
    for (int i = 0; i < Optimizer::BUFFERS; ++i) b[i] = buffers[i] ? loaded(*buffers[i], lagging.scale) : Real(0);
    if (lagging.age > 0) lagging.optimizer.catch_up(lagging.missed, w, b);
    if (moves) row.move(gradient, work.norms, w, b);
    const uint64_t random = work.rows.rounded ? random_bits(row.state, j) : 0;
    store(weight, w, 0, unsigned(random & 0xFFFF));
    for (int i = 0; i < Optimizer::BUFFERS; ++i)
        if (buffers[i]) store(*buffers[i], b[i], row.fresh, unsigned(random >> 16 * (i + 1) & 0xFFFF));
    return loaded(weight, 0).value > 0;
}

// The same in memory, for column j.
template <class Optimizer, class W, class B, class G, bool moves>
__device__ bool update_in_memory(const Work<Optimizer, W, B, G, moves>& work, const Row<Optimizer>& row, int64_t j) {
    const Rows<Optimizer, W, B>& rows = work.rows;
    const int64_t place = row.lagging.id * rows.d + j;
    B* buffers[Optimizer::BUFFERS];
    for (int i = 0; i < Optimizer::BUFFERS; ++i) buffers[i] = rows.buffers[i] ? rows.buffers[i] + place : nullptr;
    const float gradient = moves ? widen(work.grad[row.a * rows.d + j]) : 0.0f;
    return update(work, row, j, gradient, rows.weight[place], buffers);
}

// The row is done: by one thread, after all that read `last`.
template <class Optimizer, class W, class B, class G, bool moves>
__device__ void finish(const Work<Optimizer, W, B, G, moves>& work, const Row<Optimizer>& row) {
    work.rows.last[row.lagging.id] = row.lagging.step;
    if (work.rows.scaled) work.rows.scales[row.lagging.id] = row.fresh;
}

template <class Optimizer, class W, class B, class G, bool moves>
__global__ void step_rows_1(Work<Optimizer, W, B, G, moves> work) {
    const int64_t a = global_thread();
    if (a >= work.rows.A) return;
    Row<Optimizer> row = row_of(work, a);
    if (!moves && row.lagging.age <= 0) return;
    look_ahead(work, row, false);
    uint64_t word = 0;
    for (int64_t j = 0; j < work.rows.d; ++j) {
        word |= uint64_t(update_in_memory(work, row, j)) << j % 64;
        if (j % 64 < 63 && j < work.rows.d - 1) continue;
        if (work.codes) work.codes[a * work.words() + j / 64] = int64_t(word);
        word = 0;
    }
    finish(work, row);
}

template <class Optimizer, class W, class B, class G, bool moves>
__global__ void step_rows_2(Work<Optimizer, W, B, G, moves> work) {
    const int64_t a = global_warp();
    if (a >= work.rows.A) return;
    Row<Optimizer> row = row_of(work, a);
    if (!moves && row.lagging.age <= 0) return;
    look_ahead(work, row, true);
    uint32_t* code = work.codes ? reinterpret_cast<uint32_t*>(work.codes + a * work.words()) : nullptr;
    for (int64_t piece = 0; piece < 2 * work.words(); ++piece) {
        const int64_t j = piece * WARP + lane_id();
        const bool above = j < work.rows.d && update_in_memory(work, row, j);
        const unsigned bits = __ballot_sync(ALL_LANES, above);
        if (code && lane_id() == 0) code[piece] = bits;
    }
    __syncwarp();
    if (lane_id() == 0) finish(work, row);
}

template <class Optimizer, class W, class B, class G, bool moves>
__global__ void step_rows_3(Work<Optimizer, W, B, G, moves> work) {
    using Weights = typename Four<W>::type;
    using Buffers = typename Four<B>::type;
    const int64_t a = global_warp();
    if (a >= work.rows.A) return;
    Row<Optimizer> row = row_of(work, a);
    if (!moves && row.lagging.age <= 0) return;
    look_ahead(work, row, true);
    uint32_t* code = work.codes ? reinterpret_cast<uint32_t*>(work.codes + a * work.words()) : nullptr;
    for (int64_t first = 0; first < work.rows.d; first += 4 * WARP) {
        const int64_t j = first + 4 * lane_id(), place = row.lagging.id * work.rows.d + j;
        unsigned bits = 0;
        if (j < work.rows.d) {
            const float4 g = moves ? load4(work.grad + a * work.rows.d + j) : make_float4(0, 0, 0, 0);
            Weights w = *reinterpret_cast<const Weights*>(work.rows.weight + place);
            Buffers b[Optimizer::BUFFERS] = {};
            B *x[Optimizer::BUFFERS], *y[Optimizer::BUFFERS], *z[Optimizer::BUFFERS], *t[Optimizer::BUFFERS];
            for (int i = 0; i < Optimizer::BUFFERS; ++i) {
                if (work.rows.buffers[i]) b[i] = *reinterpret_cast<const Buffers*>(work.rows.buffers[i] + place);
                x[i] = &b[i].x, y[i] = &b[i].y, z[i] = &b[i].z, t[i] = &b[i].w;
            }
            bits = update(work, row, j, g.x, w.x, x) | update(work, row, j + 1, g.y, w.y, y) << 1 |
                   update(work, row, j + 2, g.z, w.z, z) << 2 | update(work, row, j + 3, g.w, w.w, t) << 3;
            *reinterpret_cast<Weights*>(work.rows.weight + place) = w;
            for (int i = 0; i < Optimizer::BUFFERS; ++i)
                if (work.rows.buffers[i]) *reinterpret_cast<Buffers*>(work.rows.buffers[i] + place) = b[i];
        }
        if (!code) continue;
        bits <<= lane_id() % 8 * 4;
        for (int apart = 1; apart < 8; apart *= 2) bits |= __shfl_xor_sync(ALL_LANES, bits, apart);
        const int64_t piece = first / 32 + lane_id() / 8;
        if (lane_id() % 8 == 0 && piece < 2 * work.words()) code[piece] = bits;
    }
    __syncwarp();
    if (lane_id() == 0) finish(work, row);
}

template <class Optimizer, class W, class B, class G, bool moves>
int64_t step_rows(int64_t version, const Work<Optimizer, W, B, G, moves>& work, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (work.rows.A == 0) return launch_error();
    const int64_t blocks = blocks_for(work.rows.A, version == 1 ? THREADS : THREADS / WARP);
    if (version == 1) LAUNCH((step_rows_1<Optimizer, W, B, G, moves>), blocks, THREADS, 0, stream, work);
    else if (version == 2 || !work.fours())
        LAUNCH((step_rows_2<Optimizer, W, B, G, moves>), blocks, THREADS, 0, stream, work);
    else LAUNCH((step_rows_3<Optimizer, W, B, G, moves>), blocks, THREADS, 0, stream, work);
    return launch_error();
}

// ---- Launchers ------------------------------------------------------------------------------------------------------
// weight [N, d] of this kind (loads.h); momentum (null: mu is 0), average, square [N, d], float32 beside float32, else
// bfloat16; scales [N]: those of the rows of a momentum in int8, or null; last [N]; ids [A]; grad [A, d], bfloat16 if
// half, else float32; norms: Work; table [window + 1, 4 or 5]; numbers: row_steps.h; codes [A, ceil(d / 64)] or null;
// seed: of the rounding.

struct Call {
    int64_t version, kind;
    float* scales;
    int64_t* last;
    int64_t d;
    const int64_t* ids;
    int64_t A;
    const void* grad;
    int64_t half;
    const float* norms;
    const double *table, *numbers;
    int64_t seed;
    int64_t* codes;
    void* stream;
};

template <class Optimizer, bool moves, class W, class B, class G, int n>
int64_t step_stored(const Call& call, W* weight, B*, const G* grad, void* const (&held)[n]) {
    Work<Optimizer, W, B, G, moves> work = {
        {weight, {}, call.scales, call.last, call.d, call.ids, call.A, call.table, call.numbers},
        grad, call.norms, call.seed, call.codes};
    for (int i = 0; i < n; ++i) work.rows.buffers[i] = static_cast<B*>(held[i]);
    return step_rows(call.version, work, call.stream);
}

// held: the buffers
template <class Optimizer, bool moves, int n>
int64_t step_any(const Call& call, void* weight, void* const (&held)[n]) {
    return stored<Optimizer>(weight, call.kind, call.scales, [&](auto* rows, auto* buffer) {
        void* grad = const_cast<void*>(call.grad);
        if constexpr (moves && sizeof(*rows) == 4)
            if (call.half)
                return step_stored<Optimizer, moves>(call, rows, buffer, static_cast<uint16_t*>(grad), held);
        return step_stored<Optimizer, moves>(call, rows, buffer, gradient_of(rows, grad), held);
    });
}

extern "C" int64_t row_sgd_v(int64_t version, void* weight, int64_t kind, void* momentum, float* scales, int64_t* last,
                             int64_t N, int64_t d, const int64_t* ids, int64_t A, const void* grad, int64_t half,
                             const float* norms, const double* table, int64_t window, const double* numbers,
                             int64_t seed, int64_t* codes, void* stream) {
    const Call call = {version, kind, scales, last, d, ids, A, grad, half, norms, table, numbers, seed, codes,
                       stream};
    return step_any<Sgd, true>(call, weight, {momentum});
}

extern "C" int64_t row_sgd(void* weight, int64_t kind, void* momentum, float* scales, int64_t* last, int64_t N,
                           int64_t d, const int64_t* ids, int64_t A, const void* grad, int64_t half, const float* norms,
                           const double* table, int64_t window, const double* numbers, int64_t seed, int64_t* codes,
                           void* stream) {
    return row_sgd_v(3, weight, kind, momentum, scales, last, N, d, ids, A, grad, half, norms, table, window, numbers,
                     seed, codes, stream);
}

extern "C" int64_t row_sgd_catch_up_v(int64_t version, void* weight, int64_t kind, void* momentum, float* scales,
                                      int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                      const double* table, int64_t window, const double* numbers, int64_t seed,
                                      void* stream) {
    const Call call = {version, kind, scales, last, d, ids, A, nullptr, 0, nullptr, table, numbers, seed,
                       nullptr, stream};
    return step_any<Sgd, false>(call, weight, {momentum});
}

extern "C" int64_t row_sgd_catch_up(void* weight, int64_t kind, void* momentum, float* scales, int64_t* last, int64_t N,
                                    int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                    const double* numbers, int64_t seed, void* stream) {
    return row_sgd_catch_up_v(3, weight, kind, momentum, scales, last, N, d, ids, A, table, window, numbers, seed,
                              stream);
}

extern "C" int64_t row_adamw_v(int64_t version, void* weight, int64_t kind, void* average, void* square, int64_t* last,
                               int64_t N, int64_t d, const int64_t* ids, int64_t A, const void* grad, int64_t half,
                               const float* norms, const double* table, int64_t window, const double* numbers,
                               int64_t seed, int64_t* codes, void* stream) {
    const Call call = {version, kind, nullptr, last, d, ids, A, grad, half, norms, table, numbers, seed, codes,
                       stream};
    return step_any<AdamW, true>(call, weight, {average, square});
}

extern "C" int64_t row_adamw(void* weight, int64_t kind, void* average, void* square, int64_t* last, int64_t N,
                             int64_t d, const int64_t* ids, int64_t A, const void* grad, int64_t half,
                             const float* norms, const double* table, int64_t window, const double* numbers,
                             int64_t seed, int64_t* codes, void* stream) {
    return row_adamw_v(3, weight, kind, average, square, last, N, d, ids, A, grad, half, norms, table, window, numbers,
                       seed, codes, stream);
}

extern "C" int64_t row_adamw_catch_up_v(int64_t version, void* weight, int64_t kind, void* average, void* square,
                                        int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                        const double* table, int64_t window, const double* numbers, int64_t seed,
                                        void* stream) {
    const Call call = {version, kind, nullptr, last, d, ids, A, nullptr, 0, nullptr, table, numbers, seed,
                       nullptr, stream};
    return step_any<AdamW, false>(call, weight, {average, square});
}

extern "C" int64_t row_adamw_catch_up(void* weight, int64_t kind, void* average, void* square, int64_t* last, int64_t N,
                                      int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                      const double* numbers, int64_t seed, void* stream) {
    return row_adamw_catch_up_v(3, weight, kind, average, square, last, N, d, ids, A, table, window, numbers, seed,
                                stream);
}
