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
// To this come 16 to 24 bytes a row for its id and its last step, and d / 8 bytes for its sign code if asked for.
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

constexpr int THREADS = 256;

// ---- The rows -------------------------------------------------------------------------------------------------------

// W, B: what weight and buffers are stored in. moves: there is a step with a gradient after those that were missed.
template <class Optimizer, class W, class B, bool moves>
struct Work {
    static constexpr bool scaled = sizeof(B) == 1, rounded = sizeof(W) < 4 || scaled;
    using G = typename Gradient<W>::type;
    W* weight;                        // [N, d]
    B* buffers[Optimizer::BUFFERS];   // [N, d]; null: there is none, of SGD without momentum
    float* scales;                    // [N], of buffers in int8
    int64_t* last;                    // [N]: the step that each row is up to date with
    int64_t d;
    const int64_t* ids;               // [A]
    int64_t A;
    const G* grad;                    // [A, d]
    const double* table;              // by age
    const double* numbers;            // what the step is made of
    int64_t seed;
    int64_t* codes;                   // [A, words], or null

    __host__ __device__ int64_t words() const { return (d + 63) / 64; }
    bool fours() const {
        bool all = d % 4 == 0 && aligned16(weight) && (!moves || aligned16(grad));
        for (const B* buffer : buffers) all = all && aligned16(buffer);
        return all;
    }
};

// What is the same for all numbers of a row.
template <class Optimizer>
struct Row {
    Optimizer optimizer;
    int64_t step, a, id, age;  // age: how many steps it missed
    typename Optimizer::Missed missed;
    uint64_t state;
    float scale, fresh;        // of its buffers in int8, as they are and as they will be

    // A number through the steps missed and the step by a gradient.
    template <bool moves>
    __device__ void take(float gradient, Real& w, Real (&buffers)[Optimizer::BUFFERS]) const {
        if (age > 0) optimizer.catch_up(missed, w, buffers);
        if (moves) optimizer.move(gradient, w, buffers);
    }
};

template <class Optimizer, class W, class B, bool moves>
__device__ Row<Optimizer> row_of(const Work<Optimizer, W, B, moves>& work, int64_t a) {
    Row<Optimizer> row{Optimizer(work.numbers), int64_t(work.numbers[0]), a, work.ids[a]};
    row.age = row.step - moves - work.last[row.id];
    if (row.age > 0) row.missed = row.optimizer.missed(work.table + row.age * Optimizer::COLUMNS);
    if (work.rounded) row.state = row_state(work.seed, row.step, row.id);
    if (work.scaled) row.scale = work.scales[row.id];
    return row;
}

// Of the numbers first, first + stride, ... of a row, the largest that its buffer will hold.
template <class Optimizer, class W, class B, bool moves>
__device__ float largest_to_come(const Work<Optimizer, W, B, moves>& work, const Row<Optimizer>& row, int first,
                                 int stride) {
    float largest = 0;
    for (int64_t j = first; j < work.d; j += stride) {
        const int64_t place = row.id * work.d + j;
        Real w = loaded(work.weight[place], 0), buffers[Optimizer::BUFFERS];
        for (int i = 0; i < Optimizer::BUFFERS; ++i) buffers[i] = loaded(work.buffers[i][place], row.scale);
        row.template take<moves>(moves ? widen(work.grad[row.a * work.d + j]) : 0.0f, w, buffers);
        largest = larger_size(largest, buffers[0].value);
    }
    return largest;
}

// The same of all numbers of a row that a warp works on.
template <class Optimizer, class W, class B, bool moves>
__device__ float warp_largest(const Work<Optimizer, W, B, moves>& work, const Row<Optimizer>& row) {
    float largest = largest_to_come(work, row, lane_id(), WARP);
    for (int apart = 1; apart < WARP; apart *= 2)
        largest = larger_size(largest, __shfl_xor_sync(ALL_LANES, largest, apart));
    return largest;
}

// One number: from and to the places of its weight and buffers, which may be registers. Is the stored weight above 0?
template <class Optimizer, class W, class B, bool moves>
__device__ bool update(const Work<Optimizer, W, B, moves>& work, const Row<Optimizer>& row, int64_t j, float gradient,
                       W& weight, B* (&buffers)[Optimizer::BUFFERS]) {
    Real w = loaded(weight, 0), b[Optimizer::BUFFERS];
    for (int i = 0; i < Optimizer::BUFFERS; ++i) b[i] = buffers[i] ? loaded(*buffers[i], row.scale) : Real(0);
    row.template take<moves>(gradient, w, b);
    const uint64_t random = work.rounded ? random_bits(row.state, j) : 0;
    store(weight, w, 0, unsigned(random & 0xFFFF));
    for (int i = 0; i < Optimizer::BUFFERS; ++i)
        if (buffers[i]) store(*buffers[i], b[i], row.fresh, unsigned(random >> 16 * (i + 1) & 0xFFFF));
    return loaded(weight, 0).value > 0;
}

// The same in memory, for column j.
template <class Optimizer, class W, class B, bool moves>
__device__ bool update_in_memory(const Work<Optimizer, W, B, moves>& work, const Row<Optimizer>& row, int64_t j) {
    const int64_t place = row.id * work.d + j;
    B* buffers[Optimizer::BUFFERS];
    for (int i = 0; i < Optimizer::BUFFERS; ++i) buffers[i] = work.buffers[i] ? work.buffers[i] + place : nullptr;
    const float gradient = moves ? widen(work.grad[row.a * work.d + j]) : 0.0f;
    return update(work, row, j, gradient, work.weight[place], buffers);
}

// The row is done: by one thread, after all that read `last`.
template <class Optimizer, class W, class B, bool moves>
__device__ void finish(const Work<Optimizer, W, B, moves>& work, const Row<Optimizer>& row) {
    work.last[row.id] = row.step;
    if (work.scaled) work.scales[row.id] = row.fresh;
}

template <class Optimizer, class W, class B, bool moves>
__global__ void step_rows_1(Work<Optimizer, W, B, moves> work) {
    const int64_t a = global_thread();
    if (a >= work.A) return;
    Row<Optimizer> row = row_of(work, a);
    if (!moves && row.age <= 0) return;
    if (work.scaled) row.fresh = __fdiv_rn(largest_to_come(work, row, 0, 1), 127);
    uint64_t word = 0;
    for (int64_t j = 0; j < work.d; ++j) {
        word |= uint64_t(update_in_memory(work, row, j)) << j % 64;
        if (j % 64 < 63 && j < work.d - 1) continue;
        if (work.codes) work.codes[a * work.words() + j / 64] = int64_t(word);
        word = 0;
    }
    finish(work, row);
}

template <class Optimizer, class W, class B, bool moves>
__global__ void step_rows_2(Work<Optimizer, W, B, moves> work) {
    const int64_t a = global_warp();
    if (a >= work.A) return;
    Row<Optimizer> row = row_of(work, a);
    if (!moves && row.age <= 0) return;
    if (work.scaled) row.fresh = __fdiv_rn(warp_largest(work, row), 127);
    uint32_t* code = work.codes ? reinterpret_cast<uint32_t*>(work.codes + a * work.words()) : nullptr;
    for (int64_t piece = 0; piece < 2 * work.words(); ++piece) {
        const int64_t j = piece * WARP + lane_id();
        const bool above = j < work.d && update_in_memory(work, row, j);
        const unsigned bits = __ballot_sync(ALL_LANES, above);
        if (code && lane_id() == 0) code[piece] = bits;
    }
    __syncwarp();
    if (lane_id() == 0) finish(work, row);
}

template <class Optimizer, class W, class B, bool moves>
__global__ void step_rows_3(Work<Optimizer, W, B, moves> work) {
    using Weights = typename Four<W>::type;
    using Buffers = typename Four<B>::type;
    const int64_t a = global_warp();
    if (a >= work.A) return;
    Row<Optimizer> row = row_of(work, a);
    if (!moves && row.age <= 0) return;
    if (work.scaled) row.fresh = __fdiv_rn(warp_largest(work, row), 127);
    uint32_t* code = work.codes ? reinterpret_cast<uint32_t*>(work.codes + a * work.words()) : nullptr;
    for (int64_t first = 0; first < work.d; first += 4 * WARP) {
        const int64_t j = first + 4 * lane_id(), place = row.id * work.d + j;
        unsigned bits = 0;
        if (j < work.d) {
            const float4 g = moves ? load4(work.grad + a * work.d + j) : make_float4(0, 0, 0, 0);
            Weights w = *reinterpret_cast<const Weights*>(work.weight + place);
            Buffers b[Optimizer::BUFFERS] = {};
            B *x[Optimizer::BUFFERS], *y[Optimizer::BUFFERS], *z[Optimizer::BUFFERS], *t[Optimizer::BUFFERS];
            for (int i = 0; i < Optimizer::BUFFERS; ++i) {
                if (work.buffers[i]) b[i] = *reinterpret_cast<const Buffers*>(work.buffers[i] + place);
                x[i] = &b[i].x, y[i] = &b[i].y, z[i] = &b[i].z, t[i] = &b[i].w;
            }
            bits = update(work, row, j, g.x, w.x, x) | update(work, row, j + 1, g.y, w.y, y) << 1 |
                   update(work, row, j + 2, g.z, w.z, z) << 2 | update(work, row, j + 3, g.w, w.w, t) << 3;
            *reinterpret_cast<Weights*>(work.weight + place) = w;
            for (int i = 0; i < Optimizer::BUFFERS; ++i)
                if (work.buffers[i]) *reinterpret_cast<Buffers*>(work.buffers[i] + place) = b[i];
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

template <class Optimizer, class W, class B, bool moves>
int64_t step_rows(int64_t version, const Work<Optimizer, W, B, moves>& work, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (work.A == 0) return launch_error();
    const int64_t blocks = blocks_for(work.A, version == 1 ? THREADS : THREADS / WARP);
    if (version == 1) LAUNCH((step_rows_1<Optimizer, W, B, moves>), blocks, THREADS, 0, stream, work);
    else if (version == 2 || !work.fours())
        LAUNCH((step_rows_2<Optimizer, W, B, moves>), blocks, THREADS, 0, stream, work);
    else LAUNCH((step_rows_3<Optimizer, W, B, moves>), blocks, THREADS, 0, stream, work);
    return launch_error();
}

// ---- Launchers ------------------------------------------------------------------------------------------------------
// weight [N, d] of this kind (loads.h); momentum (null: mu is 0), average, square [N, d], float32 beside float32, else
// bfloat16; scales [N]: those of the rows of a momentum in int8, or null; last [N]; ids [A]; grad [A, d], float32 or
// bfloat16; table [window + 1, 4 or 5]; numbers: row_steps.h; codes [A, ceil(d / 64)] or null; seed: of the rounding.

struct Call {
    int64_t version, kind;
    float* scales;
    int64_t* last;
    int64_t d;
    const int64_t* ids;
    int64_t A;
    const void* grad;
    const double *table, *numbers;
    int64_t seed;
    int64_t* codes;
    void* stream;
};

template <class Optimizer, bool moves, class B, class W, int n>
int64_t step_stored(const Call& call, W* weight, void* const (&held)[n]) {
    using Stored = Work<Optimizer, W, B, moves>;
    Stored work = {weight, {}, call.scales, call.last, call.d, call.ids, call.A,
                   static_cast<const typename Stored::G*>(call.grad), call.table, call.numbers, call.seed, call.codes};
    for (int i = 0; i < n; ++i) work.buffers[i] = static_cast<B*>(held[i]);
    return step_rows(call.version, work, call.stream);
}

// held: the buffers
template <class Optimizer, bool moves, int n>
int64_t step_any(const Call& call, void* weight, void* const (&held)[n]) {
    if constexpr (n == 1) {
        if (call.scales && call.kind == 0)
            return step_stored<Optimizer, moves, int8_t>(call, static_cast<float*>(weight), held);
        if (call.scales && call.kind == 1)
            return step_stored<Optimizer, moves, int8_t>(call, static_cast<uint16_t*>(weight), held);
        if (call.scales) return step_stored<Optimizer, moves, int8_t>(call, static_cast<uint8_t*>(weight), held);
    }
    if (call.kind == 0) return step_stored<Optimizer, moves, float>(call, static_cast<float*>(weight), held);
    if (call.kind == 1) return step_stored<Optimizer, moves, uint16_t>(call, static_cast<uint16_t*>(weight), held);
    return step_stored<Optimizer, moves, uint16_t>(call, static_cast<uint8_t*>(weight), held);
}

extern "C" int64_t row_sgd_v(int64_t version, void* weight, int64_t kind, void* momentum, float* scales, int64_t* last,
                             int64_t N, int64_t d, const int64_t* ids, int64_t A, const void* grad, const double* table,
                             int64_t window, const double* numbers, int64_t seed, int64_t* codes, void* stream) {
    const Call call = {version, kind, scales, last, d, ids, A, grad, table, numbers, seed, codes, stream};
    return step_any<Sgd, true>(call, weight, {momentum});
}

extern "C" int64_t row_sgd(void* weight, int64_t kind, void* momentum, float* scales, int64_t* last, int64_t N,
                           int64_t d, const int64_t* ids, int64_t A, const void* grad, const double* table,
                           int64_t window, const double* numbers, int64_t seed, int64_t* codes, void* stream) {
    return row_sgd_v(3, weight, kind, momentum, scales, last, N, d, ids, A, grad, table, window, numbers, seed, codes,
                     stream);
}

extern "C" int64_t row_sgd_catch_up_v(int64_t version, void* weight, int64_t kind, void* momentum, float* scales,
                                      int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                      const double* table, int64_t window, const double* numbers, int64_t seed,
                                      void* stream) {
    const Call call = {version, kind, scales, last, d, ids, A, nullptr, table, numbers, seed, nullptr, stream};
    return step_any<Sgd, false>(call, weight, {momentum});
}

extern "C" int64_t row_sgd_catch_up(void* weight, int64_t kind, void* momentum, float* scales, int64_t* last, int64_t N,
                                    int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                    const double* numbers, int64_t seed, void* stream) {
    return row_sgd_catch_up_v(3, weight, kind, momentum, scales, last, N, d, ids, A, table, window, numbers, seed,
                              stream);
}

extern "C" int64_t row_adamw_v(int64_t version, void* weight, int64_t kind, void* average, void* square, int64_t* last,
                               int64_t N, int64_t d, const int64_t* ids, int64_t A, const void* grad,
                               const double* table, int64_t window, const double* numbers, int64_t seed, int64_t* codes,
                               void* stream) {
    const Call call = {version, kind, nullptr, last, d, ids, A, grad, table, numbers, seed, codes, stream};
    return step_any<AdamW, true>(call, weight, {average, square});
}

extern "C" int64_t row_adamw(void* weight, int64_t kind, void* average, void* square, int64_t* last, int64_t N,
                             int64_t d, const int64_t* ids, int64_t A, const void* grad, const double* table,
                             int64_t window, const double* numbers, int64_t seed, int64_t* codes, void* stream) {
    return row_adamw_v(3, weight, kind, average, square, last, N, d, ids, A, grad, table, window, numbers, seed, codes,
                       stream);
}

extern "C" int64_t row_adamw_catch_up_v(int64_t version, void* weight, int64_t kind, void* average, void* square,
                                        int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                        const double* table, int64_t window, const double* numbers, int64_t seed,
                                        void* stream) {
    const Call call = {version, kind, nullptr, last, d, ids, A, nullptr, table, numbers, seed, nullptr, stream};
    return step_any<AdamW, false>(call, weight, {average, square});
}

extern "C" int64_t row_adamw_catch_up(void* weight, int64_t kind, void* average, void* square, int64_t* last, int64_t N,
                                      int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                      const double* numbers, int64_t seed, void* stream) {
    return row_adamw_catch_up_v(3, weight, kind, average, square, last, N, d, ids, A, table, window, numbers, seed,
                                stream);
}
