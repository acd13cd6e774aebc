// row_gather.cu: rows scaled to length 1 as they will be once they are up to date, which they are not made here. The C++
// twin is row_gather.cpp. Launchers have the twin's names and arguments.
//
//   launcher          bytes moved (A rows of d float32)
//   row_sgd_gather    reads 8 A d, weight and momentum; writes 4 A d unit rows (2 A d in bfloat16) and 4 A norms
//   row_adamw_gather  reads 12 A d, weight, average and square; writes as much
//   in bfloat16 both read half of it; a momentum in int8 takes A d
// Catching up (rows.cu) and then gathering (head.cu) moves 24 A d and 32 A d.
//
// INDEX OF VERSIONS (both launchers share the kernels)
//   gather_rows_1   a thread a row: neighbouring threads read addresses that lie a whole row apart
//   gather_rows_2   a warp a row, the squares summed up by shuffles
//   gather_rows_3   a warp a row, 4 numbers at a time
//
// A row is read a second time, to be written, from the cache. Squares are summed up in double, so that the order does not
// show. Not looked at (an answer to the host would need a synchronisation): ids in range, ages in the table.
#include "launch.h"
#include "row_steps.h"
#include "unit_rows.h"

constexpr int THREADS = 256;

template <class Optimizer, class W, class B>
__device__ float up_to_date(const Rows<Optimizer, W, B>& rows, const Lagging<Optimizer>& row, int64_t j) {
    Real buffers[Optimizer::BUFFERS];
    return row.read(rows, j, buffers).value;
}

// Four numbers from j on.
template <class Optimizer, class W, class B>
__device__ float4 up_to_date4(const Rows<Optimizer, W, B>& rows, const Lagging<Optimizer>& row, int64_t j) {
    const int64_t place = row.id * rows.d + j;
    const float4 stored = load4(rows.weight + place);
    Real w[4] = {stored.x, stored.y, stored.z, stored.w}, buffers[4][Optimizer::BUFFERS];
    for (int i = 0; i < Optimizer::BUFFERS && row.age > 0; ++i) {
        typename Four<B>::type four = {};
        if (rows.buffers[i]) four = *reinterpret_cast<const typename Four<B>::type*>(rows.buffers[i] + place);
        buffers[0][i] = loaded(four.x, row.scale), buffers[1][i] = loaded(four.y, row.scale);
        buffers[2][i] = loaded(four.z, row.scale), buffers[3][i] = loaded(four.w, row.scale);
    }
    if (row.age > 0)
        for (int k = 0; k < 4; ++k) row.optimizer.catch_up(row.missed, w[k], buffers[k]);
    return make_float4(w[0].value, w[1].value, w[2].value, w[3].value);
}

template <class Optimizer, class W, class B, class T>
__global__ void gather_rows_1(Rows<Optimizer, W, B> rows, T* unit, float* norms) {
    const int64_t a = global_thread();
    if (a >= rows.A) return;
    const Lagging<Optimizer> row = lagging_row(rows, a, 0);
    double squares = 0;
    for (int64_t j = 0; j < rows.d; ++j) squares += double(up_to_date(rows, row, j)) * up_to_date(rows, row, j);
    const float norm = clamped_norm(squares);
    for (int64_t j = 0; j < rows.d; ++j) narrow(up_to_date(rows, row, j) / norm, unit + a * rows.d + j);
    norms[a] = norm;
}

template <class Optimizer, class W, class B, class T>
__global__ void gather_rows_2(Rows<Optimizer, W, B> rows, T* unit, float* norms) {
    const int64_t a = global_warp();
    if (a >= rows.A) return;
    const Lagging<Optimizer> row = lagging_row(rows, a, 0);
    double squares = 0;
    for (int64_t j = lane_id(); j < rows.d; j += WARP) {
        const double x = up_to_date(rows, row, j);
        squares += x * x;
    }
    const float norm = clamped_norm(warp_sum(squares));
    for (int64_t j = lane_id(); j < rows.d; j += WARP)
        narrow(up_to_date(rows, row, j) / norm, unit + a * rows.d + j);
    if (lane_id() == 0) norms[a] = norm;
}

template <class Optimizer, class W, class B, class T>
__global__ void gather_rows_3(Rows<Optimizer, W, B> rows, T* unit, float* norms) {
    const int64_t a = global_warp();
    if (a >= rows.A) return;
    const Lagging<Optimizer> row = lagging_row(rows, a, 0);
    double squares = 0;
    for (int64_t j = 4 * lane_id(); j < rows.d; j += 4 * WARP) {
        const float4 x = up_to_date4(rows, row, j);
        squares += (double(x.x) * x.x + double(x.y) * x.y) + (double(x.z) * x.z + double(x.w) * x.w);
    }
    const float norm = clamped_norm(warp_sum(squares));
    for (int64_t j = 4 * lane_id(); j < rows.d; j += 4 * WARP) {
        const float4 x = up_to_date4(rows, row, j);
        store4(make_float4(x.x / norm, x.y / norm, x.z / norm, x.w / norm), unit + a * rows.d + j);
    }
    if (lane_id() == 0) norms[a] = norm;
}

template <class Optimizer, class W, class B, class T>
int64_t gather_rows(int64_t version, const Rows<Optimizer, W, B>& rows, T* unit, float* norms, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (rows.A == 0) return launch_error();
    const int64_t blocks = blocks_for(rows.A, version == 1 ? THREADS : THREADS / WARP);
    if (version == 1) LAUNCH((gather_rows_1<Optimizer, W, B, T>), blocks, THREADS, 0, stream, rows, unit, norms);
    else if (version == 2 || !(rows.fours() && aligned16(unit)))
        LAUNCH((gather_rows_2<Optimizer, W, B, T>), blocks, THREADS, 0, stream, rows, unit, norms);
    else LAUNCH((gather_rows_3<Optimizer, W, B, T>), blocks, THREADS, 0, stream, rows, unit, norms);
    return launch_error();
}

// ---- Launchers ------------------------------------------------------------------------------------------------------
// As those of rows.cu; numbers: of the last step that was done; unit [A, d], bfloat16 if half, else float32; norms [A].

struct Call {
    int64_t version, kind;
    float* scales;
    int64_t* last;
    int64_t d;
    const int64_t* ids;
    int64_t A;
    const double *table, *numbers;
    int64_t half;
    void* unit;
    float* norms;
    void* stream;
};

template <class Optimizer, class W, class B, int n>
int64_t gather_stored(const Call& call, W* weight, B*, void* const (&held)[n]) {
    Rows<Optimizer, W, B> rows = {weight, {}, call.scales, call.last, call.d, call.ids, call.A, call.table, call.numbers};
    for (int i = 0; i < n; ++i) rows.buffers[i] = static_cast<B*>(held[i]);
    if (call.half) return gather_rows(call.version, rows, static_cast<uint16_t*>(call.unit), call.norms, call.stream);
    return gather_rows(call.version, rows, static_cast<float*>(call.unit), call.norms, call.stream);
}

// held: the buffers
template <class Optimizer, int n>
int64_t gather_any(const Call& call, void* weight, void* const (&held)[n]) {
    return stored<Optimizer>(weight, call.kind, call.scales, [&](auto* rows, auto* buffer) {
        return gather_stored<Optimizer>(call, rows, buffer, held);
    });
}

extern "C" int64_t row_sgd_gather_v(int64_t version, void* weight, int64_t kind, void* momentum, float* scales,
                                    int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                    const double* table, int64_t window, const double* numbers, int64_t half,
                                    void* unit, float* norms, void* stream) {
    const Call call = {version, kind, scales, last, d, ids, A, table, numbers, half, unit, norms, stream};
    return gather_any<Sgd>(call, weight, {momentum});
}

extern "C" int64_t row_sgd_gather(void* weight, int64_t kind, void* momentum, float* scales, int64_t* last, int64_t N,
                                  int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                  const double* numbers, int64_t half, void* unit, float* norms, void* stream) {
    return row_sgd_gather_v(3, weight, kind, momentum, scales, last, N, d, ids, A, table, window, numbers, half, unit,
                            norms, stream);
}

extern "C" int64_t row_adamw_gather_v(int64_t version, void* weight, int64_t kind, void* average, void* square,
                                      int64_t* last, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                                      const double* table, int64_t window, const double* numbers, int64_t half,
                                      void* unit, float* norms, void* stream) {
    const Call call = {version, kind, nullptr, last, d, ids, A, table, numbers, half, unit, norms, stream};
    return gather_any<AdamW>(call, weight, {average, square});
}

extern "C" int64_t row_adamw_gather(void* weight, int64_t kind, void* average, void* square, int64_t* last, int64_t N,
                                    int64_t d, const int64_t* ids, int64_t A, const double* table, int64_t window,
                                    const double* numbers, int64_t half, void* unit, float* norms, void* stream) {
    return row_adamw_gather_v(3, weight, kind, average, square, last, N, d, ids, A, table, window, numbers, half, unit,
                              norms, stream);
}
