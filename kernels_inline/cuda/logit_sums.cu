// What a softmax that is split over several processes needs of the A columns of one of them: two numbers a sample, and
// once all processes have added theirs up, the gradient in place. The C++ twin is logit_sums.cpp, whose names and
// arguments the launchers have.
//
//   function      bytes moved (R samples, A cosines each; "half": bfloat16)
//   logit_sums    reads 4 R A cosines once (half: 2 R A)
//   logit_slopes  reads 4 R A cosines and writes 4 R A gradients (half: 2 R A each)
//
// In both the 4 A bytes of offsets come from the L2 cache for all rows of a set but the first, and the L cosines of a
// row with what stands for classes left out are treated as the A.
//
// INDEX OF VERSIONS
//   logit_sums_1    a thread a row, in two passes: the largest, the sum of exponentials
//   logit_sums_2    a block a row in one pass, 16 bytes at a time: a thread's sum is scaled down when a larger turns up
//   logit_slopes_1  a thread a row
//   logit_slopes_2  a block a row, 16 bytes at a time
//
// Sums are taken in a fixed order, and per-sample quantities in double. A target of -1 says that the own class is not
// among the columns; so is any other target that is not.
#include "launch.h"
#include "logits.h"

#include <type_traits>

constexpr int64_t NOBODYS = -1;  // target of far columns

// ---- Two numbers of each row --------------------------------------------------------------------------------------
struct Sums {
    double scale;
    float *own, *others;  // [R]

    template <class T>
    __device__ void write(int64_t row, const Part<T>& active, int64_t target, const Running& rest) const {
        const bool here = target >= 0 && target < active.n;
        own[row] = here ? float(scale * (double(widen(active.cosine[target])) + active.shift(target))) : 0.0f;
        others[row] = float(log(rest.sum) + scale * rest.top);
    }
};

template <class T>
__global__ void logit_sums_1(Columns<const T> all, Columns<const T> all_far, int64_t R, const int64_t* targets,
                             Sums sums) {
    const int64_t i = global_thread();
    if (i >= R) return;
    const Part<const T> active(all, i, sums), far(all_far, i, sums);
    const int64_t target = targets[i];
    const float scale = float(sums.scale);
    Running rest;
    for (int64_t c = 0; c < active.n; ++c)
        if (c != target && active(c) > rest.top) rest.top = active(c);
    for (int64_t c = 0; c < far.n; ++c) rest.top = far(c) > rest.top ? far(c) : rest.top;
    for (int64_t c = 0; c < active.n; ++c)
        if (c != target) rest.sum += expf(scale * (active(c) - rest.top));
    for (int64_t c = 0; c < far.n; ++c) rest.sum += expf(scale * (far(c) - rest.top));
    sums.write(i, active, target, rest);
}

// The sum over all cosines of a block, whose threads have a part of them each.
__device__ Running joined(Running mine, float scale) {
    __shared__ float tops[WARP];
    __shared__ double sums[WARP];
    const float top = block_max(mine.top, tops);
    mine.rise(top, scale);
    return {top, block_sum(mine.sum, sums)};
}

template <class T>
__global__ void logit_sums_2(Columns<const T> all, Columns<const T> all_far, const int64_t* targets, Sums sums) {
    const Part<const T> active(all, blockIdx.x, sums), far(all_far, blockIdx.x, sums);
    const int64_t target = targets[blockIdx.x];
    const float scale = float(sums.scale);
    Running mine;
    take_all(active, target, scale, mine);
    take_all(far, NOBODYS, scale, mine);
    const Running rest = joined(mine, scale);
    if (threadIdx.x == 0) sums.write(blockIdx.x, active, target, rest);
}

// ---- The slopes ---------------------------------------------------------------------------------------------------
struct Slopes {
    double scale;
    const float *others, *d_own, *d_others;  // [R]

    // top is others / scale, in float; the factor has what the rounding of it took away. Where there are no others,
    // nothing reaches top, and all exponentials are 0.
    __device__ Gradient of(int64_t row) const {
        const double rest = others[row];
        const float top = float(rest / scale), target = float(scale * d_own[row]);
        if (others[row] == -INFINITY) return {-LOWEST, 0.0f, target};
        return {top, float(scale * d_others[row] * exp(scale * top - rest)), target};
    }
};

template <class T>
__global__ void logit_slopes_1(Columns<T> all, Columns<T> all_far, int64_t R, const int64_t* targets, Slopes slopes) {
    const int64_t i = global_thread();
    if (i >= R) return;
    const Part<T> active(all, i, slopes), far(all_far, i, slopes);
    const Gradient gradient = slopes.of(i);
    const float scale = float(slopes.scale);
    for (int64_t c = 0; c < active.n; ++c)
        narrow(c == targets[i] ? gradient.target : gradient.of(active(c), scale), active.cosine + c);
    for (int64_t c = 0; c < far.n; ++c) narrow(gradient.of(far(c), scale), far.cosine + c);
}

template <class T>
__global__ void logit_slopes_2(Columns<T> all, Columns<T> all_far, const int64_t* targets, Slopes slopes) {
    __shared__ Gradient gradient;
    if (threadIdx.x == 0) gradient = slopes.of(blockIdx.x);
    __syncthreads();
    const float scale = float(slopes.scale);
    write_all(Part<T>(all, blockIdx.x, slopes), targets[blockIdx.x], scale, gradient);
    write_all(Part<T>(all_far, blockIdx.x, slopes), NOBODYS, scale, gradient);
}

// ---- Launchers ----------------------------------------------------------------------------------------------------
// Enough for the packs of a row, and a warp where there is no column.
template <class T>
int64_t threads_of(const Columns<T>& active, const Columns<T>& far) {
    return threads_for(max(blocks_for(max(active.n, far.n), Pack<T>::SIZE), int64_t(1)));
}

template <class T>
static int64_t launch_logit_sums(int64_t version, Columns<const T> active, Columns<const T> far, int64_t R,
                                 const int64_t* targets, Sums sums, void* stream) {
    if (version < 1 || version > 2) return NO_SUCH_VERSION;
    if (R == 0) return launch_error();
    if (version == 1) LAUNCH(logit_sums_1<T>, blocks_for(R, 32), 32, 0, stream, active, far, R, targets, sums);
    if (version == 2) LAUNCH(logit_sums_2<T>, R, threads_of(active, far), 0, stream, active, far, targets, sums);
    return launch_error();
}

template <class T>
static int64_t launch_logit_slopes(int64_t version, Columns<T> active, Columns<T> far, int64_t R,
                                   const int64_t* targets, Slopes slopes, void* stream) {
    if (version < 1 || version > 2) return NO_SUCH_VERSION;
    if (R == 0 || (active.n == 0 && far.n == 0)) return launch_error();
    if (version == 1) LAUNCH(logit_slopes_1<T>, blocks_for(R, 32), 32, 0, stream, active, far, R, targets, slopes);
    if (version == 2) LAUNCH(logit_slopes_2<T>, R, threads_of(active, far), 0, stream, active, far, targets, slopes);
    return launch_error();
}

extern "C" int64_t logit_sums_v(int64_t version, const void* cosine, int64_t half, int64_t R, int64_t A,
                                const int64_t* targets, const float* offset, int64_t G, const void* far, int64_t L,
                                const float* far_offset, double scale, float* own, float* others, void* stream) {
    const int64_t rows = R / max(G, int64_t(1));  // of a set
    const auto launch = [&](const auto* near, const auto* aside) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(near)>>;
        return launch_logit_sums<T>(version, {near, offset, A, rows}, {aside, far_offset, L, rows}, R, targets,
                                    {scale, own, others}, stream);
    };
    return half ? launch(static_cast<const uint16_t*>(cosine), static_cast<const uint16_t*>(far))
                : launch(static_cast<const float*>(cosine), static_cast<const float*>(far));
}

extern "C" int64_t logit_sums(const void* cosine, int64_t half, int64_t R, int64_t A, const int64_t* targets,
                              const float* offset, int64_t G, const void* far, int64_t L, const float* far_offset,
                              double scale, float* own, float* others, void* stream) {
    return logit_sums_v(2, cosine, half, R, A, targets, offset, G, far, L, far_offset, scale, own, others, stream);
}

extern "C" int64_t logit_slopes_v(int64_t version, void* cosine, int64_t half, int64_t R, int64_t A,
                                  const int64_t* targets, const float* offset, int64_t G, void* far, int64_t L,
                                  const float* far_offset, double scale, const float* others, const float* d_own,
                                  const float* d_others, void* stream) {
    const int64_t rows = R / max(G, int64_t(1));  // of a set
    const auto launch = [&](auto* near, auto* aside) {
        using T = std::remove_pointer_t<decltype(near)>;
        return launch_logit_slopes<T>(version, {near, offset, A, rows}, {aside, far_offset, L, rows}, R, targets,
                                      {scale, others, d_own, d_others}, stream);
    };
    return half ? launch(static_cast<uint16_t*>(cosine), static_cast<uint16_t*>(far))
                : launch(static_cast<float*>(cosine), static_cast<float*>(far));
}

extern "C" int64_t logit_slopes(void* cosine, int64_t half, int64_t R, int64_t A, const int64_t* targets,
                                const float* offset, int64_t G, void* far, int64_t L, const float* far_offset,
                                double scale, const float* others, const float* d_own, const float* d_others,
                                void* stream) {
    return logit_slopes_v(2, cosine, half, R, A, targets, offset, G, far, L, far_offset, scale, others, d_own,
                          d_others, stream);
}
