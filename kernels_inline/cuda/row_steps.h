// What rows.cu and row_gather.cu do to a number of a row: the steps of an optimizer, and how numbers lie in memory.
//
// An optimizer is made of `numbers` in the device's memory, the step's own number first: of SGD step, lr, mu, decay,
// nesterov; of AdamW step, eps, 1 - lr * decay, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), beta1, 1 - beta1, beta2,
// 1 - beta2.
#pragma once

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

    __device__ explicit Sgd(const double* numbers)
        : lr(float(numbers[1])), mu(float(numbers[2])), decay(float(numbers[3])), nesterov(numbers[4] != 0) {}

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

    __device__ explicit AdamW(const double* numbers)
        : eps(numbers[1]), decay(float(numbers[2])), rate(float(numbers[3])), lift(float(numbers[4])),
          beta1(float(numbers[5])), rest1(float(numbers[6])), beta2(float(numbers[7])), rest2(float(numbers[8])) {}

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

// ---- Numbers in memory: float, bf16 as uint16_t, e4m3 as uint8_t, or int8_t times a scale --------------------------

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

// Of a weight or a buffer; scale: of the row's numbers in int8.
template <class Stored> __device__ Real loaded(Stored number, float) { return widen(number); }
__device__ Real loaded(int8_t number, float scale) { return Real(float(number)) * scale; }

__device__ void store(float& number, Real value, float, unsigned) { number = value.value; }

// Of the 32 bits of a float bf16 keeps the upper half. Adding 16 random bits carries into it with the probability
// lower half / 65536.
__device__ void store(uint16_t& number, Real value, float, unsigned random) {
    const unsigned bits = __float_as_uint(value.value);
    const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    number = uint16_t(nan ? bits >> 16 | 0x40 : (bits + random) >> 16);
}

// The same for e4m3: of a float 20 bits are left out, of which the random bits decide by the upper 16; below 2^-6 its
// numbers are 2^-9 apart. What is larger than its largest, 448, becomes that.
__device__ void store(uint8_t& number, Real value, float, unsigned random) {
    const unsigned bits = __float_as_uint(value.value), size = bits & 0x7FFFFFFF;
    const unsigned below = (unsigned(fminf(__uint_as_float(size), 0x1p-6f) * 0x1p25f) + random) >> 16;
    const unsigned above = min((size + (random << 4)) >> 20, (120u << 3) + 0x7E) - (120u << 3);
    const unsigned code = size > 0x7F800000 ? 0x7F : size < (121u << 23) ? below : above;
    number = uint8_t(code | bits >> 24 & 0x80);
}

// Numbers from -127 to 127, times the scale of their row.
__device__ void store(int8_t& number, Real value, float scale, unsigned random) {
    const float steps = __fdiv_rn(value.value, scale);
    const bool is_number = fabsf(steps) <= 128;  // not where all are 0, or one is no number
    const int whole = int(floorf((is_number ? steps : 0.0f) * 65536)) + int(random);
    number = int8_t(min(127, max(-127, whole >> 16)));
}

// The larger one in absolute value; a NaN stays.
__device__ float larger_size(float a, float b) {
    b = fabsf(b);
    return a != a || b <= a ? a : b;
}

template <class Stored> struct Four;
template <> struct Four<float> { using type = float4; };
template <> struct Four<uint16_t> { using type = ushort4; };
template <> struct Four<uint8_t> { using type = uchar4; };
template <> struct Four<int8_t> { using type = char4; };

// ---- The rows -------------------------------------------------------------------------------------------------------

// A rows of a weight and its buffers, which lie in W and B.
template <class Optimizer, class W, class B>
struct Rows {
    static constexpr bool scaled = sizeof(B) == 1, rounded = sizeof(W) < 4 || scaled;
    W* weight;                        // [N, d]
    B* buffers[Optimizer::BUFFERS];   // [N, d]; null: there is none, of SGD without momentum
    float* scales;                    // [N], of buffers in int8
    int64_t* last;                    // [N]: the step that each row is up to date with
    int64_t d;
    const int64_t* ids;               // [A]
    int64_t A;
    const double* table;              // by age
    const double* numbers;            // what the step is made of

    bool fours() const {
        bool all = d % 4 == 0 && aligned16(weight);
        for (const B* buffer : buffers) all = all && aligned16(buffer);
        return all;
    }
};

// What is the same for all numbers of a row that is caught up.
template <class Optimizer>
struct Lagging {
    Optimizer optimizer;
    int64_t step, id, age;  // age: how many steps it missed before `step`, or up to it
    typename Optimizer::Missed missed;
    float scale;            // of its buffers in int8

    // Number j of the row, and of its buffers, up to date.
    template <class W, class B>
    __device__ Real read(const Rows<Optimizer, W, B>& rows, int64_t j, Real (&buffers)[Optimizer::BUFFERS]) const {
        const int64_t place = id * rows.d + j;
        for (int i = 0; i < Optimizer::BUFFERS; ++i)
            buffers[i] = rows.buffers[i] ? loaded(rows.buffers[i][place], scale) : Real(0);
        Real w = loaded(rows.weight[place], 0);
        if (age > 0) optimizer.catch_up(missed, w, buffers);
        return w;
    }
};

// Row a; ahead: 1 if the step is still to be done.
template <class Optimizer, class W, class B>
__device__ Lagging<Optimizer> lagging_row(const Rows<Optimizer, W, B>& rows, int64_t a, int ahead) {
    Lagging<Optimizer> row{Optimizer(rows.numbers), int64_t(rows.numbers[0]), rows.ids[a]};
    row.age = row.step - ahead - rows.last[row.id];
    if (row.age > 0) row.missed = row.optimizer.missed(rows.table + row.age * Optimizer::COLUMNS);
    if (rows.scaled) row.scale = rows.scales[row.id];
    return row;
}

// f(weight, buffer) with pointers of the kinds that they lie in; kind: of the weight (loads.h). Buffers are float
// beside float, else bf16, or int8 if there are scales; the pointer that stands for them points nowhere. On the host.
template <class Optimizer, class F>
int64_t stored(void* weight, int64_t kind, const float* scales, F f) {
    float *rows4 = static_cast<float*>(weight), *buffer4 = nullptr;
    uint16_t *rows2 = static_cast<uint16_t*>(weight), *buffer2 = nullptr;
    uint8_t* rows1 = static_cast<uint8_t*>(weight);
    int8_t* buffer1 = nullptr;
    if constexpr (Optimizer::BUFFERS == 1)
        if (scales) return kind == 0 ? f(rows4, buffer1) : kind == 1 ? f(rows2, buffer1) : f(rows1, buffer1);
    return kind == 0 ? f(rows4, buffer4) : kind == 1 ? f(rows2, buffer2) : f(rows1, buffer2);
}
