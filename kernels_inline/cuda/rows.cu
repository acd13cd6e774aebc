// rows.cu: one optimizer step on the A rows that have a gradient, and on those only, on the GPU. The C++ twin is
// rows.cpp; the formulas are derived in annsoftmax_ref/optim.py. Launchers have the twin's names and arguments.
//
//   launcher            bytes moved (A rows of d float32; with _bf16 weight and buffers are half as wide)
//   row_sgd             reads 4 A d each of weight, momentum, gradient; writes 4 A d each of weight, momentum: 20 A d
//   row_adamw           reads four and writes three arrays of 4 A d: 28 A d
//   row_sgd_catch_up    16 d for each row that lags: two arrays, read and written
//   row_adamw_catch_up  24 d for each row that lags: three arrays, read and written
//   ..._bf16            sgd 10 A d, adamw 14 A d; catch-up 8 d and 12 d
// To this come 16 to 24 bytes a row for its id and its last step, and d / 8 bytes for its sign code if asked for.
//
// INDEX OF VERSIONS (all launchers share the three kernels)
//   step_rows_1   a thread a row: neighbouring threads read addresses that lie a whole row apart
//   step_rows_2   a warp a row: 32 neighbouring numbers are one load, and one ballot makes their 32 bits of the code
//   step_rows_3   a warp a row, 4 numbers a lane by one load; 8 lanes put their 4 bits of the code together
//
// In all of them a row is read once: it goes through the steps it missed, its step with the gradient and its sign code
// in registers. Every operation is rounded by itself, so the versions, the emulator and plain torch
// (kernels_inline/rows_bf16.py) agree bit for bit.
//
// Weights and buffers in bf16 are rounded at random, up with the probability that makes the result right on average:
// an update a thousand times smaller than the spacing of bf16 numbers would be lost for good by rounding to the
// nearest. The random bits are a hash of (seed, step, row, number of the column): no state, the same in any order.
//
// Over 300 lines, since a ladder is read from top to bottom in one file, and eight launchers share its three kernels.
//
// Not looked at (an answer to the host would need a synchronisation): ids in range and ascending, ages in the table.
#include "launch.h"

constexpr int THREADS = 256;
constexpr float SMALLEST = 1.17549435e-38f;  // FLT_MIN

// A float whose operations are each rounded: nvcc makes a * b + c of plain floats one operation.
struct Real {
    float value;
    __host__ __device__ Real(float value = 0) : value(value) {}
};
__device__ Real operator+(Real a, Real b) { return __fadd_rn(a.value, b.value); }
__device__ Real operator-(Real a, Real b) { return __fsub_rn(a.value, b.value); }
__device__ Real operator*(Real a, Real b) { return __fmul_rn(a.value, b.value); }
__device__ Real operator/(Real a, Real b) { return __fdiv_rn(a.value, b.value); }
__device__ Real root(Real a) { return __fsqrt_rn(a.value); }
__device__ Real larger(Real a, Real b) { return a.value < b.value ? b : a; }

// ---- The optimizers, for one number of a row ------------------------------------------------------------------------

struct Sgd {
    static constexpr int BUFFERS = 1, COLUMNS = 4;  // of the table: ww, wv, vw, vv
    Real lr, mu, decay;
    bool nesterov;

    struct Missed {
        Real ww, wv, vw, vv;
    };
    __device__ Missed missed(const double* entry) const {
        return {float(entry[0]), float(entry[1]), float(entry[2]), float(entry[3])};
    }
    __device__ void catch_up(const Missed& by, Real& w, Real (&buffers)[1]) const {
        Real& v = buffers[0];
        const Real moved = by.ww * w + by.wv * v;
        v = by.vw * w + by.vv * v;
        w = moved;
    }
    __device__ void move(Real gradient, Real& w, Real (&buffers)[1]) const {
        Real& v = buffers[0];
        const Real g = gradient + decay * w;
        v = mu * v + g;
        w = w - lr * (nesterov ? g + mu * v : v);
    }
};

struct AdamW {
    static constexpr int BUFFERS = 2, COLUMNS = 5;  // of the table: R, the factors of m and v, S1, S2
    double eps;
    Real decay, rate, lift;  // 1 - lr * weight_decay, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
    Real beta1, rest1, beta2, rest2;

    struct Missed {
        Real shrink, keep_m, keep_v, drift, floor;
    };
    // w = R w - m S1^2 / (S1 sqrt(v) + S2 eps), divided through by S1. Without any gradient yet, 0 / tiny = 0.
    __device__ Missed missed(const double* entry) const {
        const double floor = entry[3] > 0 ? entry[4] / entry[3] * eps : 0.0;
        return {float(entry[0]), float(entry[1]), float(entry[2]), float(entry[3]), float(floor)};
    }
    __device__ void catch_up(const Missed& by, Real& w, Real (&buffers)[2]) const {
        Real &m = buffers[0], &v = buffers[1];
        w = by.shrink * w - by.drift * m / larger(root(v) + by.floor, SMALLEST);
        m = by.keep_m * m;
        v = by.keep_v * v;
    }
    __device__ void move(Real g, Real& w, Real (&buffers)[2]) const {
        Real &m = buffers[0], &v = buffers[1];
        m = beta1 * m + rest1 * g;
        v = beta2 * v + rest2 * (g * g);
        w = decay * w - rate * m / (root(v) * lift + float(eps));
    }
};

// ---- Numbers in memory: float, or bf16 as uint16_t ------------------------------------------------------------------

// The finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014; constants
// of Vigna's splitmix64.c).
__device__ uint64_t mixed(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

// 64 random bits for column j of a row: output j of SplitMix64 from a state that seed, step and id are mixed into.
// The weight takes the lowest 16 of them, its buffers the next ones.
__device__ uint64_t row_state(int64_t seed, int64_t step, int64_t id) {
    return mixed(mixed(mixed(uint64_t(seed)) ^ uint64_t(step)) ^ uint64_t(id));
}
__device__ uint64_t random_bits(uint64_t state, int64_t j) { return mixed(state + (j + 1) * 0x9E3779B97F4A7C15u); }

__device__ Real loaded(float number) { return number; }
__device__ Real loaded(uint16_t number) { return float_of_bf16(number); }
__device__ void store(float& number, Real value, uint64_t) { number = value.value; }

// Of the 32 bits of a float bf16 keeps the upper half. Adding 16 random bits carries into it with the probability
// lower half / 65536.
__device__ void store(uint16_t& number, Real value, uint64_t random) {
    const unsigned bits = __float_as_uint(value.value);
    const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    number = uint16_t(nan ? bits >> 16 | 0x40 : (bits + unsigned(random & 0xFFFF)) >> 16);
}

template <class Stored> struct Four;
template <> struct Four<float> { using type = float4; };
template <> struct Four<uint16_t> { using type = ushort4; };

// ---- The rows -------------------------------------------------------------------------------------------------------

// Stored: float or uint16_t. moves: there is a step with a gradient after those that were missed.
template <class Optimizer, class Stored, bool moves>
struct Work {
    Optimizer optimizer;
    Stored* weight;                      // [N, d]
    Stored* buffers[Optimizer::BUFFERS]; // [N, d]; null: there is none, of SGD without momentum
    int64_t* last;                       // [N]: the step that each row is up to date with
    int64_t d;
    const int64_t* ids;                  // [A]
    int64_t A;
    const Stored* grad;                  // [A, d]
    const double* table;                 // by age
    int64_t step, seed;
    int64_t* codes;                      // [A, words], or null

    __host__ __device__ int64_t words() const { return (d + 63) / 64; }
    bool fours() const {
        bool all = d % 4 == 0 && aligned16(weight) && (!moves || aligned16(grad));
        for (const Stored* buffer : buffers) all = all && aligned16(buffer);
        return all;
    }
};

// What is the same for all numbers of a row.
template <class Optimizer>
struct Row {
    int64_t a, id, age;  // age: how many steps it missed
    typename Optimizer::Missed missed;
    uint64_t state;
};

template <class Optimizer, class Stored, bool moves>
__device__ Row<Optimizer> row_of(const Work<Optimizer, Stored, moves>& work, int64_t a) {
    Row<Optimizer> row;
    row.a = a;
    row.id = work.ids[a];
    row.age = work.step - moves - work.last[row.id];
    if (row.age > 0) row.missed = work.optimizer.missed(work.table + row.age * Optimizer::COLUMNS);
    if (sizeof(Stored) == 2) row.state = row_state(work.seed, work.step, row.id);
    return row;
}

// One number: from and to the places of its weight and buffers, which may be registers. Is the stored weight above 0?
template <class Optimizer, class Stored, bool moves>
__device__ bool update(const Work<Optimizer, Stored, moves>& work, const Row<Optimizer>& row, int64_t j, float gradient,
                       Stored& weight, Stored* (&buffers)[Optimizer::BUFFERS]) {
    Real w = loaded(weight), b[Optimizer::BUFFERS];
    for (int i = 0; i < Optimizer::BUFFERS; ++i) b[i] = buffers[i] ? loaded(*buffers[i]) : Real(0);
    if (row.age > 0) work.optimizer.catch_up(row.missed, w, b);
    if (moves) work.optimizer.move(gradient, w, b);
    const uint64_t random = sizeof(Stored) == 2 ? random_bits(row.state, j) : 0;
    store(weight, w, random);
    for (int i = 0; i < Optimizer::BUFFERS; ++i)
        if (buffers[i]) store(*buffers[i], b[i], random >> 16 * (i + 1));
    return loaded(weight).value > 0;
}

// The same in memory, for column j.
template <class Optimizer, class Stored, bool moves>
__device__ bool update_in_memory(const Work<Optimizer, Stored, moves>& work, const Row<Optimizer>& row, int64_t j) {
    const int64_t place = row.id * work.d + j;
    Stored* buffers[Optimizer::BUFFERS];
    for (int i = 0; i < Optimizer::BUFFERS; ++i) buffers[i] = work.buffers[i] ? work.buffers[i] + place : nullptr;
    const float gradient = moves ? loaded(work.grad[row.a * work.d + j]).value : 0.0f;
    return update(work, row, j, gradient, work.weight[place], buffers);
}

template <class Optimizer, class Stored, bool moves>
__global__ void step_rows_1(Work<Optimizer, Stored, moves> work) {
    const int64_t a = global_thread();
    if (a >= work.A) return;
    const Row<Optimizer> row = row_of(work, a);
    if (!moves && row.age <= 0) return;
    uint64_t word = 0;
    for (int64_t j = 0; j < work.d; ++j) {
        word |= uint64_t(update_in_memory(work, row, j)) << j % 64;
        if (j % 64 < 63 && j < work.d - 1) continue;
        if (work.codes) work.codes[a * work.words() + j / 64] = int64_t(word);
        word = 0;
    }
    work.last[row.id] = work.step;
}

template <class Optimizer, class Stored, bool moves>
__global__ void step_rows_2(Work<Optimizer, Stored, moves> work) {
    const int64_t a = global_warp();
    if (a >= work.A) return;
    const Row<Optimizer> row = row_of(work, a);
    if (!moves && row.age <= 0) return;
    uint32_t* code = work.codes ? reinterpret_cast<uint32_t*>(work.codes + a * work.words()) : nullptr;
    for (int64_t piece = 0; piece < 2 * work.words(); ++piece) {
        const int64_t j = piece * WARP + lane_id();
        const bool above = j < work.d && update_in_memory(work, row, j);
        const unsigned bits = __ballot_sync(ALL_LANES, above);
        if (code && lane_id() == 0) code[piece] = bits;
    }
    __syncwarp();  // every lane has read `last`
    if (lane_id() == 0) work.last[row.id] = work.step;
}

template <class Optimizer, class Stored, bool moves>
__global__ void step_rows_3(Work<Optimizer, Stored, moves> work) {
    using Vector = typename Four<Stored>::type;
    const int64_t a = global_warp();
    if (a >= work.A) return;
    const Row<Optimizer> row = row_of(work, a);
    if (!moves && row.age <= 0) return;
    uint32_t* code = work.codes ? reinterpret_cast<uint32_t*>(work.codes + a * work.words()) : nullptr;
    for (int64_t first = 0; first < work.d; first += 4 * WARP) {
        const int64_t j = first + 4 * lane_id(), place = row.id * work.d + j;
        unsigned bits = 0;
        if (j < work.d) {
            const float4 g = moves ? load4(work.grad + a * work.d + j) : make_float4(0, 0, 0, 0);
            Vector w = *reinterpret_cast<const Vector*>(work.weight + place), b[Optimizer::BUFFERS];
            for (int i = 0; i < Optimizer::BUFFERS; ++i)
                b[i] = work.buffers[i] ? *reinterpret_cast<const Vector*>(work.buffers[i] + place) : Vector{};
            Stored *x[Optimizer::BUFFERS], *y[Optimizer::BUFFERS], *z[Optimizer::BUFFERS], *t[Optimizer::BUFFERS];
            for (int i = 0; i < Optimizer::BUFFERS; ++i) x[i] = &b[i].x, y[i] = &b[i].y, z[i] = &b[i].z, t[i] = &b[i].w;
            bits = update(work, row, j, g.x, w.x, x) | update(work, row, j + 1, g.y, w.y, y) << 1 |
                   update(work, row, j + 2, g.z, w.z, z) << 2 | update(work, row, j + 3, g.w, w.w, t) << 3;
            *reinterpret_cast<Vector*>(work.weight + place) = w;
            for (int i = 0; i < Optimizer::BUFFERS; ++i)
                if (work.buffers[i]) *reinterpret_cast<Vector*>(work.buffers[i] + place) = b[i];
        }
        if (!code) continue;
        bits <<= lane_id() % 8 * 4;
        for (int apart = 1; apart < 8; apart *= 2) bits |= __shfl_xor_sync(ALL_LANES, bits, apart);
        const int64_t piece = first / 32 + lane_id() / 8;
        if (lane_id() % 8 == 0 && piece < 2 * work.words()) code[piece] = bits;
    }
    __syncwarp();  // every lane has read `last`
    if (lane_id() == 0) work.last[row.id] = work.step;
}

template <class Optimizer, class Stored, bool moves>
int64_t step_rows(int64_t version, const Work<Optimizer, Stored, moves>& work, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (work.A == 0) return launch_error();
    const int64_t blocks = blocks_for(work.A, version == 1 ? THREADS : THREADS / WARP);
    if (version == 1) LAUNCH((step_rows_1<Optimizer, Stored, moves>), blocks, THREADS, 0, stream, work);
    else if (version == 2 || !work.fours())
        LAUNCH((step_rows_2<Optimizer, Stored, moves>), blocks, THREADS, 0, stream, work);
    else LAUNCH((step_rows_3<Optimizer, Stored, moves>), blocks, THREADS, 0, stream, work);
    return launch_error();
}

// ---- Launchers ------------------------------------------------------------------------------------------------------
// weight, momentum (null: mu is 0), average, square [N, d]; last [N]; ids [A]; grad [A, d]; table [window + 1, 4 or 5];
// codes [A, ceil(d / 64)] or null; bf16 as uint16_t, the seed of its rounding before codes or at the end.

AdamW adamw_of(int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay) {
    const double rate = lr / (1.0 - pow(beta1, double(step))), lift = 1.0 / sqrt(1.0 - pow(beta2, double(step)));
    return {eps, float(1.0 - lr * weight_decay), float(rate), float(lift), float(beta1), float(1.0 - beta1),
            float(beta2), float(1.0 - beta2)};
}

extern "C" int64_t row_sgd_v(int64_t version, float* weight, float* momentum, int64_t* last, int64_t N, int64_t d,
                             const int64_t* ids, int64_t A, const float* grad, const double* table, int64_t window,
                             int64_t step, double lr, double mu, double decay, int64_t nesterov, int64_t* codes,
                             void* stream) {
    const Work<Sgd, float, true> work =
        {Sgd{float(lr), float(mu), float(decay), nesterov != 0}, weight, {momentum}, last, d, ids, A, grad, table, step,
         0, codes};
    return step_rows(version, work, stream);
}

extern "C" int64_t row_sgd(float* weight, float* momentum, int64_t* last, int64_t N, int64_t d, const int64_t* ids,
                           int64_t A, const float* grad, const double* table, int64_t window, int64_t step, double lr,
                           double mu, double decay, int64_t nesterov, int64_t* codes, void* stream) {
    return row_sgd_v(3, weight, momentum, last, N, d, ids, A, grad, table, window, step, lr, mu, decay, nesterov,
                     codes, stream);
}

extern "C" int64_t row_sgd_catch_up_v(int64_t version, float* weight, float* momentum, int64_t* last, int64_t N,
                                      int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                      int64_t step, void* stream) {
    const Work<Sgd, float, false> work =
        {Sgd{0, 0, 0, false}, weight, {momentum}, last, d, ids, A, nullptr, table, step, 0, nullptr};
    return step_rows(version, work, stream);
}

extern "C" int64_t row_sgd_catch_up(float* weight, float* momentum, int64_t* last, int64_t N, int64_t d,
                                    const int64_t* ids, int64_t A, const double* table, int64_t window, int64_t step,
                                    void* stream) {
    return row_sgd_catch_up_v(3, weight, momentum, last, N, d, ids, A, table, window, step, stream);
}

extern "C" int64_t row_adamw_v(int64_t version, float* weight, float* average, float* square, int64_t* last, int64_t N,
                               int64_t d, const int64_t* ids, int64_t A, const float* grad, const double* table,
                               int64_t window, int64_t step, double lr, double beta1, double beta2, double eps,
                               double weight_decay, int64_t* codes, void* stream) {
    const Work<AdamW, float, true> work =
        {adamw_of(step, lr, beta1, beta2, eps, weight_decay), weight, {average, square}, last, d, ids, A, grad, table,
         step, 0, codes};
    return step_rows(version, work, stream);
}

extern "C" int64_t row_adamw(float* weight, float* average, float* square, int64_t* last, int64_t N, int64_t d,
                             const int64_t* ids, int64_t A, const float* grad, const double* table, int64_t window,
                             int64_t step, double lr, double beta1, double beta2, double eps, double weight_decay,
                             int64_t* codes, void* stream) {
    return row_adamw_v(3, weight, average, square, last, N, d, ids, A, grad, table, window, step, lr, beta1, beta2,
                       eps, weight_decay, codes, stream);
}

extern "C" int64_t row_adamw_catch_up_v(int64_t version, float* weight, float* average, float* square, int64_t* last,
                                        int64_t N, int64_t d, const int64_t* ids, int64_t A, const double* table,
                                        int64_t window, int64_t step, double eps, void* stream) {
    const Work<AdamW, float, false> work =
        {AdamW{eps, 1, 0, 0, 0, 0, 0, 0}, weight, {average, square}, last, d, ids, A, nullptr, table, step, 0, nullptr};
    return step_rows(version, work, stream);
}

extern "C" int64_t row_adamw_catch_up(float* weight, float* average, float* square, int64_t* last, int64_t N,
                                      int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                      int64_t step, double eps, void* stream) {
    return row_adamw_catch_up_v(3, weight, average, square, last, N, d, ids, A, table, window, step, eps, stream);
}

extern "C" int64_t row_sgd_bf16_v(int64_t version, uint16_t* weight, uint16_t* momentum, int64_t* last, int64_t N,
                                  int64_t d, const int64_t* ids, int64_t A, const uint16_t* grad, const double* table,
                                  int64_t window, int64_t step, double lr, double mu, double decay, int64_t nesterov,
                                  int64_t seed, int64_t* codes, void* stream) {
    const Work<Sgd, uint16_t, true> work =
        {Sgd{float(lr), float(mu), float(decay), nesterov != 0}, weight, {momentum}, last, d, ids, A, grad, table, step,
         seed, codes};
    return step_rows(version, work, stream);
}

extern "C" int64_t row_sgd_bf16(uint16_t* weight, uint16_t* momentum, int64_t* last, int64_t N, int64_t d,
                                const int64_t* ids, int64_t A, const uint16_t* grad, const double* table, int64_t window,
                                int64_t step, double lr, double mu, double decay, int64_t nesterov, int64_t seed,
                                int64_t* codes, void* stream) {
    return row_sgd_bf16_v(3, weight, momentum, last, N, d, ids, A, grad, table, window, step, lr, mu, decay,
                          nesterov, seed, codes, stream);
}

extern "C" int64_t row_sgd_catch_up_bf16_v(int64_t version, uint16_t* weight, uint16_t* momentum, int64_t* last,
                                           int64_t N, int64_t d, const int64_t* ids, int64_t A, const double* table,
                                           int64_t window, int64_t step, int64_t seed, void* stream) {
    const Work<Sgd, uint16_t, false> work =
        {Sgd{0, 0, 0, false}, weight, {momentum}, last, d, ids, A, nullptr, table, step, seed, nullptr};
    return step_rows(version, work, stream);
}

extern "C" int64_t row_sgd_catch_up_bf16(uint16_t* weight, uint16_t* momentum, int64_t* last, int64_t N, int64_t d,
                                         const int64_t* ids, int64_t A, const double* table, int64_t window,
                                         int64_t step, int64_t seed, void* stream) {
    return row_sgd_catch_up_bf16_v(3, weight, momentum, last, N, d, ids, A, table, window, step, seed, stream);
}

extern "C" int64_t row_adamw_bf16_v(int64_t version, uint16_t* weight, uint16_t* average, uint16_t* square,
                                    int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                    const uint16_t* grad, const double* table, int64_t window, int64_t step, double lr,
                                    double beta1, double beta2, double eps, double weight_decay, int64_t seed,
                                    int64_t* codes, void* stream) {
    const Work<AdamW, uint16_t, true> work =
        {adamw_of(step, lr, beta1, beta2, eps, weight_decay), weight, {average, square}, last, d, ids, A, grad, table,
         step, seed, codes};
    return step_rows(version, work, stream);
}

extern "C" int64_t row_adamw_bf16(uint16_t* weight, uint16_t* average, uint16_t* square, int64_t* last, int64_t N,
                                  int64_t d, const int64_t* ids, int64_t A, const uint16_t* grad, const double* table,
                                  int64_t window, int64_t step, double lr, double beta1, double beta2, double eps,
                                  double weight_decay, int64_t seed, int64_t* codes, void* stream) {
    return row_adamw_bf16_v(3, weight, average, square, last, N, d, ids, A, grad, table, window, step, lr, beta1,
                            beta2, eps, weight_decay, seed, codes, stream);
}

extern "C" int64_t row_adamw_catch_up_bf16_v(int64_t version, uint16_t* weight, uint16_t* average, uint16_t* square,
                                             int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                             const double* table, int64_t window, int64_t step, double eps,
                                             int64_t seed, void* stream) {
    const Work<AdamW, uint16_t, false> work =
        {AdamW{eps, 1, 0, 0, 0, 0, 0, 0}, weight, {average, square}, last, d, ids, A, nullptr, table, step, seed,
         nullptr};
    return step_rows(version, work, stream);
}

extern "C" int64_t row_adamw_catch_up_bf16(uint16_t* weight, uint16_t* average, uint16_t* square, int64_t* last,
                                           int64_t N, int64_t d, const int64_t* ids, int64_t A, const double* table,
                                           int64_t window, int64_t step, double eps, int64_t seed, void* stream) {
    return row_adamw_catch_up_bf16_v(3, weight, average, square, last, N, d, ids, A, table, window, step, eps, seed,
                                     stream);
}
