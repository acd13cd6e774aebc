// Margin and softmax cross entropy over the A active classes, forward and backward in place. The C++ twin is
// softmax.cpp, whose name and arguments the launcher has.
//
//   function        bytes moved (b samples, A cosines each; "half": bfloat16)
//   margin_softmax  reads 4 b A cosines twice and writes 4 b A gradients (half: 2 b A each). The second reading is from
//                   the L2 cache as far as the rows that are at work fit it, and so are the 4 A bytes of offsets. The L
//                   cosines of a row with what stands for classes left out are treated as the A
//
// INDEX OF VERSIONS
//   margin_softmax_1  a thread a row, in three passes: the largest, the sum of exponentials, the gradient
//   margin_softmax_2  a block a row, in two: a thread's sum is scaled down when a larger cosine turns up
//   margin_softmax_3  a block a row in two passes, 16 bytes at a time
//
// The target is kept out of the sums and handled apart, in double: with p_y near 1, both the loss and 1 - p_y are small
// differences of large numbers otherwise. Sums are taken in a fixed order. A target of -1 says that there is no sample;
// no other target is looked at.
#include "launch.h"

#include <type_traits>

constexpr int THREADS = 512;                // 4 such blocks on a multiprocessor: 528 rows at a time on an H100
constexpr float LOWEST = -3.402823466e38f;  // below every cosine; not -inf, so that -inf - LOWEST is not a NaN


// ---- The objectives -----------------------------------------------------------------------------------------------
enum Kind { CROSS_ENTROPY, COSFACE, ARCFACE, DSOFTMAX };

struct Objective {
    int64_t kind;
    double scale, margin, share;
    double cosine, sine, border;  // of the margin; beyond the angle pi - margin, arcface mirrors the curve
};

struct Target {
    double cosine, slope;  // psi(z_y), which stands in the target's place, and psi'(z_y)
};

__device__ Target arcface(double z, const Objective& o) {
    const double square = 1.0 - z * z;
    const double sine = sqrt(fmax(square, 1e-12));
    const double turned = z * o.cosine - sine * o.sine;
    const double slope = o.cosine + (square < 1e-12 ? 0.0 : z / sine) * o.sine;
    return z < o.border ? Target{-2.0 - turned, -slope} : Target{turned, slope};
}

__device__ Target apply_margin(double z, const Objective& objective) {
    switch (objective.kind) {
        case COSFACE: return {z - objective.margin, 1.0};
        case ARCFACE: return arcface(z, objective);
        case DSOFTMAX: return {0.0, 0.0};  // e^0 is the 1 of log(1 + sum over the others)
        default: return {z, 1.0};
    }
}

// ---- One sample ---------------------------------------------------------------------------------------------------
// The sum of e^{s (z_k - top)} over cosines so far, the target left out; top: the largest of them.
struct Running {
    float top = LOWEST;
    double sum = 0;

    __device__ void rise(float higher, float scale) {  // a NaN does not count as higher, and gets into the sum
        if (higher > top) sum *= expf(scale * (top - higher)), top = higher;
    }
    __device__ void take(float z, float scale) {
        rise(z, scale);
        sum += expf(scale * (z - top));
    }
};

struct Gradient {
    float top, factor;  // of class k: factor e^{s (z_k - top)}
    float target;       // of the sample's own class

    __device__ float of(float z, float scale) const { return factor * expf(scale * (z - top)); }
};

// Cosines [R, n] of all rows, and what is added to their logits: offset [R / rows, n] or null.
template <class T>
struct Columns {
    T* cosine;
    const float* offset;
    int64_t n, rows;
};

// Those of one row.
template <class T>
struct Part {
    T* cosine;
    const float* offset;
    float inverse;  // of the scale
    int64_t n;

    __device__ Part(const Columns<T>& all, int64_t row, const Objective& o)
        : cosine(all.cosine + row * all.n), offset(all.offset ? all.offset + row / all.rows * all.n : nullptr),
          inverse(float(1.0 / o.scale)), n(all.n) {}
    __device__ float shift(int64_t column) const { return offset ? offset[column] * inverse : 0.0f; }
    __device__ float operator()(int64_t column) const { return widen(cosine[column]) + shift(column); }
};

// z: the target's cosine, shift: what is added to it, others: all the rest.
__device__ Gradient finish(double z, float shift, Running others, const Objective& o, float* loss) {
    Target psi = apply_margin(z, o);
    if (o.kind != DSOFTMAX) psi.cosine += shift;  // there the 1 stands for no class
    const float top = fmaxf(others.top, float(psi.cosine));
    const double rest = others.sum * exp(o.scale * (double(others.top) - double(top)));
    const double sum = rest + exp(o.scale * (psi.cosine - top));
    double value = log(sum) + o.scale * (top - psi.cosine);
    double pull = psi.slope * rest / sum;  // (1 - p_y) psi', without the cancellation of 1 - p_y
    if (o.kind == DSOFTMAX) {
        const double far = o.scale * (o.margin - z);
        value += fmax(far, 0.0) + log1p(exp(-fabs(far)));  // log(1 + e^far)
        pull = 1.0 / (1.0 + exp(-far));
    }
    *loss = float(value);
    return {top, float(o.share * o.scale / sum), float(-o.share * o.scale * pull)};
}

// The same for a block, whose threads have a part of the cosines each.
__device__ Gradient finish_together(double z, float shift, Running mine, const Objective& o, float* loss) {
    __shared__ float tops[WARP];
    __shared__ double sums[WARP];
    __shared__ Gradient result;
    const float top = block_max(mine.top, tops);
    mine.rise(top, float(o.scale));
    const Running all = {top, block_sum(mine.sum, sums)};
    if (threadIdx.x == 0) result = finish(z, shift, all, o, loss);
    __syncthreads();
    return result;
}

// A row without a sample, by the threads first, first + step, ...
template <class T>
__device__ void clear(const Part<T>& active, const Part<T>& far, float* loss, int64_t first, int64_t step) {
    for (int64_t c = first; c < active.n; c += step) narrow(0.0f, active.cosine + c);
    for (int64_t c = first; c < far.n; c += step) narrow(0.0f, far.cosine + c);
    if (first == 0) *loss = 0.0f;
}

// ---- The versions: active.cosine [R, A], far.cosine [R, L], targets [R] -> losses [R]; the cosines become share *
// d loss / d cosine -------------------------------------------------------------------------------------------------
template <class T>
__global__ void margin_softmax_1(Columns<T> all, Columns<T> all_far, int64_t R, const int64_t* targets, Objective o,
                                 float* losses) {
    const int64_t i = global_thread();
    if (i >= R) return;
    const Part<T> active(all, i, o), far(all_far, i, o);
    const int64_t target = targets[i];
    if (target < 0) return clear(active, far, losses + i, 0, 1);
    const float scale = float(o.scale);
    Running others;
    for (int64_t c = 0; c < active.n; ++c)
        if (c != target && active(c) > others.top) others.top = active(c);
    for (int64_t c = 0; c < far.n; ++c) others.top = far(c) > others.top ? far(c) : others.top;
    for (int64_t c = 0; c < active.n; ++c)
        if (c != target) others.sum += expf(scale * (active(c) - others.top));
    for (int64_t c = 0; c < far.n; ++c) others.sum += expf(scale * (far(c) - others.top));
    const Gradient gradient = finish(widen(active.cosine[target]), active.shift(target), others, o, losses + i);
    for (int64_t c = 0; c < active.n; ++c)
        narrow(c == target ? gradient.target : gradient.of(active(c), scale), active.cosine + c);
    for (int64_t c = 0; c < far.n; ++c) narrow(gradient.of(far(c), scale), far.cosine + c);
}

template <class T>
__global__ void margin_softmax_2(Columns<T> all, Columns<T> all_far, const int64_t* targets, Objective o,
                                 float* losses) {
    const Part<T> active(all, blockIdx.x, o), far(all_far, blockIdx.x, o);
    const int64_t target = targets[blockIdx.x];
    if (target < 0) return clear(active, far, losses + blockIdx.x, threadIdx.x, blockDim.x);
    const float scale = float(o.scale), shift = active.shift(target);
    Running mine;
    for (int64_t c = threadIdx.x; c < active.n; c += blockDim.x)
        if (c != target) mine.take(active(c), scale);
    for (int64_t c = threadIdx.x; c < far.n; c += blockDim.x) mine.take(far(c), scale);
    const Gradient gradient = finish_together(widen(active.cosine[target]), shift, mine, o, losses + blockIdx.x);
    for (int64_t c = threadIdx.x; c < active.n; c += blockDim.x)
        narrow(c == target ? gradient.target : gradient.of(active(c), scale), active.cosine + c);
    for (int64_t c = threadIdx.x; c < far.n; c += blockDim.x) narrow(gradient.of(far(c), scale), far.cosine + c);
}

// 16 bytes: 4 float32 or 8 bfloat16.
template <class T>
struct Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    float x[SIZE];

    __device__ void load(const T* p) {
        const uint4 four = *reinterpret_cast<const uint4*>(p);
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
        for (int k = 0; k < SIZE; ++k)
            x[k] = sizeof(T) == 4 ? __uint_as_float(words[k % 4])
                                  : __uint_as_float(k % 2 ? words[k / 2] & 0xFFFF0000 : words[k / 2 % 4] << 16);
    }
    __device__ void store(T* p) const {
        uint32_t words[4];
        for (int k = 0; k < 4; ++k) {
            const int low = 2 * k % SIZE;
            words[k] = sizeof(T) == 4 ? __float_as_uint(x[k])
                                      : bf16_of_float(x[low]) | uint32_t(bf16_of_float(x[low + 1])) << 16;
        }
        *reinterpret_cast<uint4*>(p) = make_uint4(words[0], words[1], words[2], words[3]);
    }
};

// A row in packs. It need not begin or end at a multiple of 16 bytes: less than a pack before and behind is left over.
template <class T>
struct Packs {
    int64_t lead, packs, n;

    __device__ Packs(const Part<T>& part) : n(part.n) {
        lead = min(int64_t((16 - reinterpret_cast<uint64_t>(part.cosine) % 16) % 16 / sizeof(T)), n);
        packs = (n - lead) / Pack<T>::SIZE;
    }
    __device__ int64_t place(int64_t pack) const { return lead + pack * Pack<T>::SIZE; }
    // The column of what is left over that this thread has to do; n if none. Blocks have 32 threads or more.
    __device__ int64_t left_over() const {
        const int64_t c = threadIdx.x < lead ? int64_t(threadIdx.x) : place(packs) + threadIdx.x - lead;
        return min(c, n);
    }
};

template <class T>
__device__ void take_all(const Part<T>& part, int64_t target, float scale, Running& mine) {
    const Packs<T> packs(part);
    const int64_t alone = packs.left_over();
    Pack<T> pack;
    if (alone < part.n && alone != target) mine.take(part(alone), scale);
    for (int64_t k = threadIdx.x; k < packs.packs; k += blockDim.x) {
        const int64_t first = packs.place(k), own = target - first;
        pack.load(part.cosine + first);
        float top = LOWEST, sum = 0;
        for (int i = 0; i < Pack<T>::SIZE; ++i) {
            pack.x[i] = i == own ? -INFINITY : pack.x[i] + part.shift(first + i);  // the target's exponential is 0
            top = pack.x[i] > top ? pack.x[i] : top;
        }
        mine.rise(top, scale);
        for (int i = 0; i < Pack<T>::SIZE; ++i) sum += expf(scale * (pack.x[i] - mine.top));
        mine.sum += sum;
    }
}

template <class T>
__device__ void write_all(const Part<T>& part, int64_t target, float scale, const Gradient& gradient) {
    const Packs<T> packs(part);
    const int64_t alone = packs.left_over();
    Pack<T> pack;
    if (alone < part.n)
        narrow(alone == target ? gradient.target : gradient.of(part(alone), scale), part.cosine + alone);
    for (int64_t k = threadIdx.x; k < packs.packs; k += blockDim.x) {
        const int64_t first = packs.place(k), own = target - first;
        pack.load(part.cosine + first);
        for (int i = 0; i < Pack<T>::SIZE; ++i)
            pack.x[i] = i == own ? gradient.target : gradient.of(pack.x[i] + part.shift(first + i), scale);
        pack.store(part.cosine + first);
    }
}

template <class T>
__global__ void margin_softmax_3(Columns<T> all, Columns<T> all_far, const int64_t* targets, Objective o,
                                 float* losses) {
    const Part<T> active(all, blockIdx.x, o), far(all_far, blockIdx.x, o);
    const int64_t target = targets[blockIdx.x];
    if (target < 0) return clear(active, far, losses + blockIdx.x, threadIdx.x, blockDim.x);
    const float scale = float(o.scale), shift = active.shift(target);
    Running mine;
    take_all(active, target, scale, mine);
    take_all(far, -1 - Pack<T>::SIZE, scale, mine);
    const Gradient gradient = finish_together(widen(active.cosine[target]), shift, mine, o, losses + blockIdx.x);
    write_all(active, target, scale, gradient);
    write_all(far, -1 - Pack<T>::SIZE, scale, gradient);
}

// ---- Launchers ----------------------------------------------------------------------------------------------------
// As many threads as there are pieces of a row to do, a multiple of 32, up to THREADS.
static int64_t threads_for(int64_t pieces) { return min(blocks_for(pieces, WARP) * WARP, int64_t(THREADS)); }

template <class T>
static int64_t launch_margin_softmax(int64_t version, Columns<T> active, Columns<T> far, int64_t R,
                                     const int64_t* targets, Objective o, float* losses, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (R == 0 || active.n == 0) return launch_error();
    const int64_t packs = blocks_for(active.n, Pack<T>::SIZE);
    if (version == 1)
        LAUNCH(margin_softmax_1<T>, blocks_for(R, 32), 32, 0, stream, active, far, R, targets, o, losses);
    if (version == 2)
        LAUNCH(margin_softmax_2<T>, R, threads_for(active.n), 0, stream, active, far, targets, o, losses);
    if (version == 3)
        LAUNCH(margin_softmax_3<T>, R, threads_for(packs), 0, stream, active, far, targets, o, losses);
    return launch_error();
}

extern "C" int64_t margin_softmax_v(int64_t version, void* cosine, int64_t half, int64_t R, int64_t A,
                                    const int64_t* targets, const float* offset, int64_t G, void* far, int64_t L,
                                    const float* far_offset, int64_t kind, double scale, double margin, double share,
                                    float* losses, void* stream) {
    const double border = cos(3.14159265358979323846 - margin);
    const Objective o = {kind, scale, margin, share, cos(margin), sin(margin), border};
    const int64_t rows = R / max(G, int64_t(1));  // of a set
    const auto launch = [&](auto* active, auto* others) {
        using T = std::remove_pointer_t<decltype(active)>;
        return launch_margin_softmax<T>(version, {active, offset, A, rows}, {others, far_offset, L, rows}, R, targets, o,
                                        losses, stream);
    };
    return half ? launch(static_cast<uint16_t*>(cosine), static_cast<uint16_t*>(far))
                : launch(static_cast<float*>(cosine), static_cast<float*>(far));
}

extern "C" int64_t margin_softmax(void* cosine, int64_t half, int64_t R, int64_t A, const int64_t* targets,
                                  const float* offset, int64_t G, void* far, int64_t L, const float* far_offset,
                                  int64_t kind, double scale, double margin, double share, float* losses,
                                  void* stream) {
    return margin_softmax_v(3, cosine, half, R, A, targets, offset, G, far, L, far_offset, kind, scale, margin, share,
                            losses, stream);
}
