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
#include "logits.h"

#include <type_traits>

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
