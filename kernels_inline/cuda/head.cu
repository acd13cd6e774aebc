// The active rows of the head, and their gradients. The C++ twin is head.cpp, whose names and arguments the launchers
// have.
//
//   function            bytes moved (d dimensions, b samples, float32; "half": bfloat16)
//   gather_normalise    reads 4 A d weights; writes 4 A d unit rows (half: 2 A d) and 4 A norms
//   normalise_backward  reads 4 A d weights and 4 A d gradients (half: 2 A d); writes 4 A d gradients
//   merge_normalise_backward  reads 4 P d gradients (half: 2 P d), 4 U d weights and 8 (2 U + P) of the union; writes
//                       4 U d gradients
//
// Weights may be in bfloat16 or e4m3, 2 or 1 bytes a number, and then the gradient of rows is in bfloat16.
//
// INDEX OF VERSIONS
//   gather_normalise_1    a thread a row: neighbouring threads read addresses that lie a whole row apart
//   gather_normalise_2    a warp a row, the squares summed up by shuffles
//   gather_normalise_3    a warp a row, 4 numbers at a time
//   normalise_backward_1  a thread a row
//   normalise_backward_2  a warp a row
//   normalise_backward_3  a warp a row, 4 numbers at a time
//   merge_normalise_backward_1  a warp a row of the union
//   merge_normalise_backward_2  a warp a row of the union, 4 numbers at a time
//
// Sums are taken in a fixed order: parts in float32, which are then added in double, as in head.cpp. No id is
// looked at: an answer to the host would need a synchronisation.
#include "launch.h"
#include "unit_rows.h"

constexpr int THREADS = 256;
// The rows of weight [N, d], float or bfloat16 (W: uint16_t), that ids [A] name.
template <class W>
struct Rows {
    const W* weight;
    const int64_t* ids;
    int64_t A;
    int d;

    __device__ const W* row(int64_t a) const { return weight + ids[a] * d; }
    bool fours() const { return d % 4 == 0 && aligned16(weight); }
};

// ---- gather_normalise ---------------------------------------------------------------------------------------------
// unit [A, d]: the rows, of length 1; norms [A]: what they were divided by, at least 1e-12.

template <class W, class T>
__global__ void gather_normalise_1(Rows<W> rows, T* unit, float* norms) {
    const int64_t a = global_thread();
    if (a >= rows.A) return;
    const W* row = rows.row(a);
    double squares = 0;
    for (int j = 0; j < rows.d; ++j) squares += double(widen(row[j])) * widen(row[j]);
    const float norm = clamped_norm(squares);
    for (int j = 0; j < rows.d; ++j) narrow(widen(row[j]) / norm, unit + a * rows.d + j);
    norms[a] = norm;
}

template <class W, class T>
__global__ void gather_normalise_2(Rows<W> rows, T* unit, float* norms) {
    const int64_t a = global_warp();
    if (a >= rows.A) return;
    const W* row = rows.row(a);
    float squares = 0;
    for (int j = lane_id(); j < rows.d; j += WARP) squares += widen(row[j]) * widen(row[j]);
    const float norm = clamped_norm(warp_sum(double(squares)));
    for (int j = lane_id(); j < rows.d; j += WARP) narrow(widen(row[j]) / norm, unit + a * rows.d + j);
    if (lane_id() == 0) norms[a] = norm;
}

// The row is read a second time from the L1 cache.
template <class W, class T>
__global__ void gather_normalise_3(Rows<W> rows, T* unit, float* norms) {
    const int64_t a = global_warp();
    if (a >= rows.A) return;
    const W* row = rows.row(a);
    float squares = 0;
    for (int j = 4 * lane_id(); j < rows.d; j += 4 * WARP) {
        const float4 x = load4(row + j);
        squares += dot4(x, x);
    }
    const float norm = clamped_norm(warp_sum(double(squares)));
    for (int j = 4 * lane_id(); j < rows.d; j += 4 * WARP) {
        const float4 x = load4(row + j);
        store4(make_float4(x.x / norm, x.y / norm, x.z / norm, x.w / norm), unit + a * rows.d + j);
    }
    if (lane_id() == 0) norms[a] = norm;
}

template <class W, class T>
static int64_t launch_gather_normalise(int64_t version, Rows<W> rows, T* unit, float* norms, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (rows.A == 0) return launch_error();
    if (version == 3 && !(rows.fours() && aligned16(unit))) version = 2;
    const int64_t warps = blocks_for(rows.A * WARP, THREADS);
    if (version == 1)
        LAUNCH((gather_normalise_1<W, T>), blocks_for(rows.A, THREADS), THREADS, 0, stream, rows, unit, norms);
    if (version == 2) LAUNCH((gather_normalise_2<W, T>), warps, THREADS, 0, stream, rows, unit, norms);
    if (version == 3) LAUNCH((gather_normalise_3<W, T>), warps, THREADS, 0, stream, rows, unit, norms);
    return launch_error();
}

// ---- normalise_backward -------------------------------------------------------------------------------------------
// By the formula of unit_rows.h. slope [A, d] holds g and grad [A, d] receives the result; they may be the same. The result is of
// the kind that gradient_of says, or in place float.

// What is left of 4 numbers of the gradient, where share of the row x is taken away.
__device__ float4 across4(float4 g, float share, float4 x, float norm) {
    return make_float4((g.x - share * x.x) / norm, (g.y - share * x.y) / norm, (g.z - share * x.z) / norm,
                       (g.w - share * x.w) / norm);
}

template <class W, class T, class G>
__global__ void normalise_backward_1(Rows<W> rows, const float* norms, const T* slope, G* grad) {
    const int64_t a = global_thread();
    if (a >= rows.A) return;
    const W* row = rows.row(a);
    const float norm = norms[a];
    double dot = 0;
    for (int j = 0; j < rows.d; ++j) dot += double(widen(slope[a * rows.d + j])) * widen(row[j]);
    const float share = along(dot, norm);
    for (int j = 0; j < rows.d; ++j)
        narrow((widen(slope[a * rows.d + j]) - share * widen(row[j])) / norm, grad + a * rows.d + j);
}

template <class W, class T, class G>
__global__ void normalise_backward_2(Rows<W> rows, const float* norms, const T* slope, G* grad) {
    const int64_t a = global_warp();
    if (a >= rows.A) return;
    const W* row = rows.row(a);
    const float norm = norms[a];
    float dot = 0;
    for (int j = lane_id(); j < rows.d; j += WARP) dot += widen(slope[a * rows.d + j]) * widen(row[j]);
    const float share = along(warp_sum(double(dot)), norm);
    for (int j = lane_id(); j < rows.d; j += WARP)
        narrow((widen(slope[a * rows.d + j]) - share * widen(row[j])) / norm, grad + a * rows.d + j);
}

template <class W, class T, class G>
__global__ void normalise_backward_3(Rows<W> rows, const float* norms, const T* slope, G* grad) {
    const int64_t a = global_warp();
    if (a >= rows.A) return;
    const W* row = rows.row(a);
    const float norm = norms[a];
    float dot = 0;
    for (int j = 4 * lane_id(); j < rows.d; j += 4 * WARP) dot += dot4(load4(slope + a * rows.d + j), load4(row + j));
    const float share = along(warp_sum(double(dot)), norm);
    for (int j = 4 * lane_id(); j < rows.d; j += 4 * WARP) {
        const float4 g = load4(slope + a * rows.d + j);
        store4(across4(g, share, load4(row + j), norm), grad + a * rows.d + j);
    }
}

template <class W, class T, class G>
static int64_t launch_normalise_backward(int64_t version, Rows<W> rows, const float* norms, const T* slope, G* grad,
                                         void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (rows.A == 0) return launch_error();
    if (version == 3 && !(rows.fours() && aligned16(slope) && aligned16(grad))) version = 2;
    const int64_t warps = blocks_for(rows.A * WARP, THREADS);
    if (version == 1)
        LAUNCH((normalise_backward_1<W, T, G>), blocks_for(rows.A, THREADS), THREADS, 0, stream, rows, norms, slope, grad);
    if (version == 2) LAUNCH((normalise_backward_2<W, T, G>), warps, THREADS, 0, stream, rows, norms, slope, grad);
    if (version == 3) LAUNCH((normalise_backward_3<W, T, G>), warps, THREADS, 0, stream, rows, norms, slope, grad);
    return launch_error();
}

// ---- merge_normalise_backward -------------------------------------------------------------------------------------
// normalise_backward of the sum over slope [P, d] at places starts[u]..starts[u + 1] - 1, in that order -> grad [U, d].
// The sums are made twice, the second time from the L2 cache: between them is what all lanes found. A row may be named at
// no place.

// The union of the groups' rows: where each is named, and the lengths [P] at these places.
template <class W>
struct Union {
    Rows<W> rows;
    const int64_t* starts;
    const int64_t* places;
    const float* norms;

    __device__ float norm(int64_t u) const { return starts[u] < starts[u + 1] ? norms[places[starts[u]]] : 1.0f; }

    // Number j of the sum for row u, or 4 numbers from j on.
    template <class T>
    __device__ float sum(const T* slope, int64_t u, int j) const {
        float sum = 0;
        for (int64_t p = starts[u]; p < starts[u + 1]; ++p) sum += widen(slope[places[p] * rows.d + j]);
        return sum;
    }
    template <class T>
    __device__ float4 sum4(const T* slope, int64_t u, int j) const {
        float4 sum = make_float4(0, 0, 0, 0);
        for (int64_t p = starts[u]; p < starts[u + 1]; ++p) sum = add4(sum, load4(slope + places[p] * rows.d + j));
        return sum;
    }
};

template <class W, class T, class G>
__global__ void merge_normalise_backward_1(Union<W> merged, const T* slope, G* grad) {
    const int64_t u = global_warp();
    if (u >= merged.rows.A) return;
    const int d = merged.rows.d;
    const W* row = merged.rows.row(u);
    const float norm = merged.norm(u);
    float dot = 0;
    for (int j = lane_id(); j < d; j += WARP) dot += merged.sum(slope, u, j) * widen(row[j]);
    const float share = along(warp_sum(double(dot)), norm);
    for (int j = lane_id(); j < d; j += WARP)
        narrow((merged.sum(slope, u, j) - share * widen(row[j])) / norm, grad + u * d + j);
}

template <class W, class T, class G>
__global__ void merge_normalise_backward_2(Union<W> merged, const T* slope, G* grad) {
    const int64_t u = global_warp();
    if (u >= merged.rows.A) return;
    const int d = merged.rows.d;
    const W* row = merged.rows.row(u);
    const float norm = merged.norm(u);
    float dot = 0;
    for (int j = 4 * lane_id(); j < d; j += 4 * WARP) dot += dot4(merged.sum4(slope, u, j), load4(row + j));
    const float share = along(warp_sum(double(dot)), norm);
    for (int j = 4 * lane_id(); j < d; j += 4 * WARP)
        store4(across4(merged.sum4(slope, u, j), share, load4(row + j), norm), grad + u * d + j);
}

template <class W, class T, class G>
static int64_t launch_merge(int64_t version, Union<W> merged, const T* slope, G* grad, void* stream) {
    if (version < 1 || version > 2) return NO_SUCH_VERSION;
    if (merged.rows.A == 0) return launch_error();
    if (version == 2 && !(merged.rows.fours() && aligned16(slope) && aligned16(grad))) version = 1;
    const int64_t warps = blocks_for(merged.rows.A * WARP, THREADS);
    if (version == 1) LAUNCH((merge_normalise_backward_1<W, T, G>), warps, THREADS, 0, stream, merged, slope, grad);
    if (version == 2) LAUNCH((merge_normalise_backward_2<W, T, G>), warps, THREADS, 0, stream, merged, slope, grad);
    return launch_error();
}

// ---- Launchers: `half` says that unit or slope is bfloat16 --------------------------------------------------------
extern "C" int64_t gather_normalise_v(int64_t version, const void* weight, int64_t kind, int64_t N, int64_t d,
                                      const int64_t* ids, int64_t A, int64_t half, void* unit, float* norms,
                                      void* stream) {
    return typed_rows(weight, kind, [&](auto* stored) {
        const Rows rows{stored, ids, A, int(d)};
        return half ? launch_gather_normalise(version, rows, static_cast<uint16_t*>(unit), norms, stream)
                    : launch_gather_normalise(version, rows, static_cast<float*>(unit), norms, stream);
    });
}

// Where `slope` is not null, it holds the gradient in bfloat16 and grad, see gradient_of, receives the result; else grad
// is both, float.
extern "C" int64_t normalise_backward_v(int64_t version, void* grad, const uint16_t* slope, const void* weight,
                                        int64_t kind, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                        const float* norms, void* stream) {
    return typed_rows(weight, kind, [&](auto* stored) {
        const Rows rows{stored, ids, A, int(d)};
        if (slope) return launch_normalise_backward(version, rows, norms, slope, gradient_of(stored, grad), stream);
        float* both = static_cast<float*>(grad);
        return launch_normalise_backward(version, rows, norms, static_cast<const float*>(both), both, stream);
    });
}

extern "C" int64_t merge_normalise_backward_v(int64_t version, const void* slope, int64_t half, const void* weight,
                                              int64_t kind, int64_t N, int64_t d, const int64_t* ids, int64_t U,
                                              const int64_t* starts, const int64_t* places, int64_t P,
                                              const float* norms, void* grad, void* stream) {
    return typed_rows(weight, kind, [&](auto* stored) {
        const Union merged{Rows{stored, ids, U, int(d)}, starts, places, norms};
        return typed(slope, half, [&](auto* slopes) {
            return launch_merge(version, merged, slopes, gradient_of(stored, grad), stream);
        });
    });
}

// What the ops use: the last versions.
extern "C" int64_t gather_normalise(const void* weight, int64_t kind, int64_t N, int64_t d, const int64_t* ids,
                                    int64_t A, int64_t half, void* unit, float* norms, void* stream) {
    return gather_normalise_v(3, weight, kind, N, d, ids, A, half, unit, norms, stream);
}

extern "C" int64_t normalise_backward(void* grad, const uint16_t* slope, const void* weight, int64_t kind,
                                      int64_t N, int64_t d, const int64_t* ids, int64_t A, const float* norms,
                                      void* stream) {
    return normalise_backward_v(3, grad, slope, weight, kind, N, d, ids, A, norms, stream);
}

extern "C" int64_t merge_normalise_backward(const void* slope, int64_t half, const void* weight, int64_t kind,
                                            int64_t N, int64_t d, const int64_t* ids, int64_t U, const int64_t* starts,
                                            const int64_t* places, int64_t P, const float* norms, void* grad,
                                            void* stream) {
    return merge_normalise_backward_v(2, slope, half, weight, kind, N, d, ids, U, starts, places, P, norms,
                                      grad, stream);
}
