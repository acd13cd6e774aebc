// head.cpp: the softmax head over its A active classes, in as few passes over memory as the work allows.
//
//   kernel              bytes moved (d dimensions, b samples, float32)
//   gather_normalise    reads 4 A d weights; writes 4 A d unit rows (2 A d in bfloat16) and 4 A norms
//   normalise_backward  reads 4 A d weights and 4 A d gradients (2 A d in bfloat16); writes 4 A d gradients
//   margin_softmax      reads 4 b A cosines twice and writes 4 b A gradients (half of it in bfloat16). One row is
//                       handled at a time: while it fits the L2 cache (A up to 200,000 or so) the second reading
//                       is from there, and memory sees each element once in each direction.
//   exponential         e^x as margin_softmax takes it, for the tests
//
// Plain loops that the compiler turns into vector instructions: the same file serves AVX-512, AVX2 and any other
// machine. Sums are kept in LANES separate parts and then added in a fixed order, and each row is one thread's
// work: the number of threads changes no bit of a result, and the vector width changes no order of additions (builds
// with and without fused multiply-add differ in the last bits).
//
// Every entry point returns 0, or 1 if an id (or a target) is out of range; then nothing has been written.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace head {

constexpr int64_t LANES = 64;    // partial sums: four AVX-512 registers
constexpr int64_t BLOCK = 1024;  // columns handled together: 4 KB, which stay in the L1 cache
constexpr int64_t AHEAD = 8;     // rows to prefetch ahead, as rows named by ids are not found by the hardware
constexpr float NORM_FLOOR = 1e-12f;
constexpr float LOWEST = -88.0f;  // exponential(LOWEST) is 0

// ------------------------------------------------------------------------------------------- numbers

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// bfloat16 is the upper half of a float32; a uint16_t holds it here.
static inline float widen(float x) { return x; }
static inline float widen(uint16_t x) { return float_of(uint32_t(x) << 16); }

static inline void narrow(float x, float* out) { *out = x; }
static inline void narrow(float x, uint16_t* out) {
    const uint32_t bits = bits_of(x);
    const uint32_t even = bits + 0x7fff + ((bits >> 16) & 1);  // rounds to nearest, ties to even
    *out = uint16_t(x == x ? even >> 16 : 0x7fc0);             // a NaN stays one
}

// e^x for LOWEST <= x <= 0, with a relative error below 1.5e-7; 0 below -87.7, where e^x nears the smallest normal
// float. e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; the polynomial is the one of Cephes' expf.
static inline float exponential(float x) {
    const float round = 12582912.0f;                            // 1.5 * 2^23: in x + round, the ulp is 1,
    const float shifted = x * 1.44269504f + round;              // so its lowest bits hold n
    const float n = shifted - round;
    const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts, the first product exact
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * float_of((bits_of(shifted) << 23) + 0x3f800000);  // n + 127 in the exponent: 2^n, or 0 for n = -127
}

// The LANES parts by halves, in double: short chains of additions, which also vectorise.
static double add_up(const float* part) {
    double sum[LANES];
    std::copy(part, part + LANES, sum);
    for (int64_t half = LANES / 2; half > 0; half /= 2)
        for (int64_t l = 0; l < half; l++) sum[l] += sum[l + half];
    return sum[0];
}

static double dot(const float* x, const float* y, int64_t d) {
    float part[LANES] = {};
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES)
        for (int64_t l = 0; l < LANES; l++) part[l] += x[j + l] * y[j + l];
    for (int64_t l = 0; j < d; j++, l++) part[l] += x[j] * y[j];
    return add_up(part);
}

static bool inside(const int64_t* ids, int64_t n, int64_t upper) {
    bool ok = true;
    for (int64_t i = 0; i < n; i++) ok &= ids[i] >= 0 && ids[i] < upper;
    return ok;
}

// always_inline: a function of nothing but prefetches looks free of effects, and g++ drops the calls that it does
// not inline early.
__attribute__((always_inline)) static inline void prefetch(const float* row, int64_t d) {
    for (int64_t j = 0; j < d; j += 16) __builtin_prefetch(row + j);  // 16 floats: one cache line
}

// ------------------------------------------------------------------------------------------- rows of length 1

template <class T>
static void normalise_row(const float* row, int64_t d, T* unit, float* norm) {
    *norm = std::max(float(std::sqrt(dot(row, row, d))), NORM_FLOOR);
    for (int64_t j = 0; j < d; j++) narrow(row[j] / *norm, unit + j);
}

template <class T>
static void gather_normalise(const float* weight, int64_t d, const int64_t* ids, int64_t A, T* unit, float* norms) {
#pragma omp parallel for schedule(static)
    for (int64_t a = 0; a < A; a++) {
        prefetch(weight + ids[std::min(a + AHEAD, A - 1)] * d, d);
        normalise_row(weight + ids[a] * d, d, unit + a * d, norms + a);
    }
}

// The gradient g of a unit row u = w / |w| becomes the one of w: (g - (g.u) u) / |w|. At the floor, u = w / floor.
static void normalise_row_backward(float* grad, const float* row, int64_t d, float norm) {
    const float along = norm > NORM_FLOOR ? float(dot(grad, row, d) / norm / norm) : 0.0f;  // (g.u) / |w|
    for (int64_t j = 0; j < d; j++) grad[j] = (grad[j] - along * row[j]) / norm;
}

// ------------------------------------------------------------------------------------------- margin and softmax

enum Kind { CROSS_ENTROPY, COSFACE, ARCFACE, DSOFTMAX };

struct Objective {
    int64_t kind;
    double scale, margin, weight;
};

struct Target {
    double cosine, slope;  // psi(z_y), which stands in the target's place, and psi'(z_y)
};

static Target arcface(double z, double margin) {
    const double square = 1.0 - z * z;
    const double sine = std::sqrt(std::max(square, 1e-12));
    const double turned = z * std::cos(margin) - sine * std::sin(margin);
    const double slope = std::cos(margin) + (square < 1e-12 ? 0.0 : z / sine) * std::sin(margin);
    const bool beyond = z < std::cos(3.14159265358979323846 - margin);
    return beyond ? Target{-2.0 - turned, -slope} : Target{turned, slope};
}

static Target apply_margin(double z, const Objective& objective) {
    switch (objective.kind) {
        case COSFACE: return {z - objective.margin, 1.0};
        case ARCFACE: return arcface(z, objective.margin);
        case DSOFTMAX: return {0.0, 0.0};  // e^0 is the 1 of log(1 + sum over the others)
        default: return {z, 1.0};
    }
}

// Copies columns first..first+n-1 and pads to a multiple of LANES. -inf stands in the padding and in place of the
// target, which is accounted for apart: its exponential is 0. Returns the padded length.
template <class T>
static int64_t load(const T* row, int64_t first, int64_t n, int64_t target, float* z) {
    const int64_t padded = (n + LANES - 1) / LANES * LANES;
    for (int64_t c = 0; c < n; c++) z[c] = widen(row[first + c]);
    std::fill(z + n, z + padded, -INFINITY);
    if (target >= first && target < first + n) z[target - first] = -INFINITY;
    return padded;
}

static float largest(const float* z, int64_t n, float top) {
    float part[LANES];
    std::fill(part, part + LANES, top);
    for (int64_t c = 0; c < n; c += LANES)
        for (int64_t l = 0; l < LANES; l++) part[l] = part[l] < z[c + l] ? z[c + l] : part[l];
    return *std::max_element(part, part + LANES);
}

// z becomes scale * (z - top), not below LOWEST. A loop of its own: joined with the exponential, g++ would make the
// limit a branch and not vectorise for AVX2. A NaN stays one.
static void relative(float* z, int64_t n, float scale, float top) {
    for (int64_t c = 0; c < n; c++) {
        const float x = scale * (z[c] - top);
        z[c] = x < LOWEST ? LOWEST : x;
    }
}

static double sum_of_exponentials(const float* x, int64_t n) {
    float part[LANES] = {};
    for (int64_t c = 0; c < n; c += LANES)
        for (int64_t l = 0; l < LANES; l++) part[l] += exponential(x[c + l]);
    return add_up(part);
}

struct Softmax {
    float top;            // largest cosine, the modified target included
    double first, others; // e^{s (psi - top)} and the sum of e^{s (z_k - top)} over k != y
};

// One pass: a block's exponentials are taken relative to the largest cosine so far; when a larger one turns up,
// the sum is scaled to it.
template <class T>
static Softmax accumulate(const T* row, int64_t A, int64_t target, double psi, double scale) {
    alignas(64) float z[BLOCK];
    float top = float(psi);
    double others = 0.0;
    for (int64_t first = 0; first < A; first += BLOCK) {
        const int64_t n = load(row, first, std::min(BLOCK, A - first), target, z);
        const float higher = largest(z, n, top);
        if (higher > top) others *= std::exp(scale * (double(top) - double(higher)));
        top = higher;
        relative(z, n, float(scale), top);
        others += sum_of_exponentials(z, n);
    }
    return {top, std::exp(scale * (psi - top)), others};
}

// The gradient of every class but the target: factor e^{s (z_k - top)}. The target's is written after it.
template <class T>
static void write_gradient(T* row, int64_t A, int64_t target, float scale, float top, float factor) {
    alignas(64) float x[BLOCK];
    for (int64_t first = 0; first < A; first += BLOCK) {
        const int64_t n = std::min(BLOCK, A - first);
        relative(x, load(row, first, n, target, x), scale, top);
        for (int64_t c = 0; c < n; c++) narrow(factor * exponential(x[c]), row + first + c);
    }
}

// One sample: `row` holds its A cosines, and then weight * d loss / d cosine. Returns the loss.
template <class T>
static float sample(T* row, int64_t A, int64_t target, const Objective& o) {
    const double z = widen(row[target]);
    const Target psi = apply_margin(z, o);
    const Softmax soft = accumulate(row, A, target, psi.cosine, o.scale);
    const double sum = soft.first + soft.others;
    double loss = std::log(sum) + o.scale * (soft.top - psi.cosine);
    double pull = psi.slope * soft.others / sum;  // (1 - p_y) psi', without the cancellation of 1 - p_y
    if (o.kind == DSOFTMAX) {
        const double far = o.scale * (o.margin - z);
        loss += std::max(far, 0.0) + std::log1p(std::exp(-std::abs(far)));  // log(1 + e^far)
        pull = 1.0 / (1.0 + std::exp(-far));
    }
    write_gradient(row, A, target, float(o.scale), soft.top, float(o.weight * o.scale / sum));
    narrow(float(-o.weight * o.scale * pull), row + target);
    return float(loss);
}

template <class T>
static void margin_softmax(T* cosine, int64_t b, int64_t A, const int64_t* targets, const Objective& objective,
                           float* losses) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < b; i++) losses[i] = sample(cosine + i * A, A, targets[i], objective);
}

}  // namespace head

// --------------------------------------------------------------------------------------------- entry points

extern "C" {

// weight [N, d], ids [A] -> unit [A, d] (bfloat16 if `half`), norms [A], at least 1e-12
int64_t gather_normalise(const float* weight, int64_t N, int64_t d, const int64_t* ids, int64_t A, int64_t half, void* unit,
                     float* norms) {
    if (!head::inside(ids, A, N)) return 1;
    if (half) head::gather_normalise(weight, d, ids, A, static_cast<uint16_t*>(unit), norms);
    else head::gather_normalise(weight, d, ids, A, static_cast<float*>(unit), norms);
    return 0;
}

// grad [A, d], with respect to the unit rows of weight[ids] -> in place, with respect to the rows themselves.
// Where `slope` [A, d] (bfloat16) is not null, it holds the former and grad receives the latter.
int64_t normalise_backward(float* grad, const uint16_t* slope, const float* weight, int64_t N, int64_t d, const int64_t* ids,
                       int64_t A, const float* norms) {
    if (!head::inside(ids, A, N)) return 1;
#pragma omp parallel for schedule(static)
    for (int64_t a = 0; a < A; a++) {
        head::prefetch(weight + ids[std::min(a + head::AHEAD, A - 1)] * d, d);
        if (slope)
            for (int64_t j = 0; j < d; j++) grad[a * d + j] = head::widen(slope[a * d + j]);
        head::normalise_row_backward(grad + a * d, weight + ids[a] * d, d, norms[a]);
    }
    return 0;
}

// cosine [b, A] (bfloat16 if `half`), targets [b] -> losses [b]; cosine becomes weight * d loss / d cosine
int64_t margin_softmax(void* cosine, int64_t half, int64_t b, int64_t A, const int64_t* targets, int64_t kind, double scale,
                   double margin, double weight, float* losses) {
    if (!head::inside(targets, b, A)) return 1;
    const head::Objective objective{kind, scale, margin, weight};
    if (half) head::margin_softmax(static_cast<uint16_t*>(cosine), b, A, targets, objective, losses);
    else head::margin_softmax(static_cast<float*>(cosine), b, A, targets, objective, losses);
    return 0;
}

// x [n], between -88 and 0 -> y [n], e^x
int64_t exponential(const float* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i++) y[i] = head::exponential(x[i]);
    return 0;
}

}
