// Sign codes of rows, unit rows, nearest lists. The C++ twin is encode.cpp, whose names and arguments the launchers
// have.
//
//   function          bytes moved (n rows of d float32, W = ceil(d / 64) words a code)
//   sign_codes        reads 4 n d (with centroids: 4 n d more, most of it from the L2 cache); writes 8 n W
//   gather_unit_rows  reads 4 n d (and the centroids); writes 4 n d
//   row_argmax        reads 4 n columns; writes 8 n
// Rows may be in bfloat16: then 2 bytes of each number are read.
//
// INDEX OF VERSIONS
//   sign_codes_1        a thread a row, bit by bit: neighbouring threads read addresses that lie a whole row apart
//   sign_codes_2        a warp a row: 32 neighbouring numbers are one load, and one ballot makes their 32 bits
//   sign_codes_3        a warp a row, 4 numbers a lane by loads of 16 bytes; 8 lanes put their 4 bits together
//   gather_unit_rows_1  a thread a row
//   gather_unit_rows_2  a warp a row, the squares summed up by shuffles
//   gather_unit_rows_3  a warp a row, 16 bytes at a time
//   row_argmax_1        a thread a row
//   row_argmax_2        a warp a row; the lanes' best are compared by shuffles
//   row_argmax_3        a warp a row, 16 bytes at a time
//
// No value is looked at (ids, list numbers): an answer to the host would need a synchronisation. All sums are taken
// in a fixed order, without float atomics.
#include "launch.h"
#include "unit_rows.h"

constexpr int THREADS = 256;

// The length of a row, at least 1e-12. Added up in double where one thread does it all.
template <class T>
__device__ float row_norm(const T* row, int dim) {
    double squares = 0;
    for (int j = 0; j < dim; ++j) squares += double(widen(row[j])) * widen(row[j]);
    return clamped_norm(squares);
}

// The same by a warp: each lane has the squares of its own numbers, in float; the lanes' sums are added in double.
__device__ float warp_norm(float squares) { return clamped_norm(warp_sum(double(squares))); }

template <class T>
__device__ float lane_squares(const T* row, int dim) {
    float squares = 0;
    for (int j = lane_id(); j < dim; j += WARP) squares += widen(row[j]) * widen(row[j]);
    return squares;
}

template <class T>
__device__ float lane_squares4(const T* row, int dim) {
    float squares = 0;
    for (int j = 4 * lane_id(); j < dim; j += 4 * WARP) {
        const float4 x = load4(row + j);
        squares += dot4(x, x);
    }
    return squares;
}

__device__ float4 centred(float4 x, float norm, float4 c) {
    return make_float4(x.x / norm - c.x, x.y / norm - c.y, x.z / norm - c.z, x.w / norm - c.w);
}

// What all kernels on rows are given. Row i of the work is row ids[i] (null: i) and belongs to centroid lists[i].
// T: float, or uint16_t for bfloat16.
template <class T>
struct Rows {
    const T* rows;
    const int64_t* ids;
    const float* centroids;  // null: none is taken off
    const int64_t* lists;
    int64_t count;
    int dim;

    __device__ const T* row(int64_t i) const { return rows + (ids ? ids[i] : i) * dim; }
    __device__ const float* centroid(int64_t i) const { return centroids ? centroids + lists[i] * dim : nullptr; }
    bool fours() const { return dim % 4 == 0 && aligned16(rows) && aligned16(centroids); }
};

// ---- sign_codes ---------------------------------------------------------------------------------------------------
// Bit j of a code: number j of the row is above 0; with centroids: of the normalised row minus its list's centroid.

template <class T>
__global__ void sign_codes_1(Rows<T> work, int words, int64_t* codes) {
    const int64_t i = global_thread();
    if (i >= work.count) return;
    const T* row = work.row(i);
    const float* centroid = work.centroid(i);
    const float norm = centroid ? row_norm(row, work.dim) : 1.0f;
    for (int w = 0; w < words; ++w) {
        uint64_t word = 0;
        for (int bit = 0; bit < 64 && w * 64 + bit < work.dim; ++bit) {
            const int j = w * 64 + bit;
            const float x = centroid ? widen(row[j]) / norm - centroid[j] : widen(row[j]);
            word |= uint64_t(x > 0) << bit;
        }
        codes[i * words + w] = int64_t(word);
    }
}

// A code is written as 2 W pieces of 32 bits; lane k keeps the k-th of 32 pieces, so that they are written at once.
template <class T>
__global__ void sign_codes_2(Rows<T> work, int words, int64_t* codes) {
    const int64_t i = global_warp();
    if (i >= work.count) return;
    const T* row = work.row(i);
    const float* centroid = work.centroid(i);
    const float norm = centroid ? warp_norm(lane_squares(row, work.dim)) : 1.0f;
    uint32_t* code = reinterpret_cast<uint32_t*>(codes + i * words);
    const int pieces = 2 * words;
    for (int first = 0; first < pieces; first += WARP) {
        uint32_t mine = 0;
        for (int piece = first; piece < min(first + WARP, pieces); ++piece) {
            const int j = piece * WARP + lane_id();
            float x = 0;
            if (j < work.dim) x = centroid ? widen(row[j]) / norm - centroid[j] : widen(row[j]);
            const uint32_t bits = __ballot_sync(ALL_LANES, x > 0);
            if (lane_id() == piece - first) mine = bits;
        }
        if (first + lane_id() < pieces) code[first + lane_id()] = mine;
    }
}

template <class T>
__global__ void sign_codes_3(Rows<T> work, int words, int64_t* codes) {
    const int64_t i = global_warp();
    if (i >= work.count) return;
    const T* row = work.row(i);
    const float* centroid = work.centroid(i);
    const float norm = centroid ? warp_norm(lane_squares4(row, work.dim)) : 1.0f;
    const float4* centres = reinterpret_cast<const float4*>(centroid);
    uint32_t* code = reinterpret_cast<uint32_t*>(codes + i * words);
    for (int first = 0; first < work.dim; first += 4 * WARP) {
        const int four = first / 4 + lane_id(), piece = first / 32 + lane_id() / 8;
        float4 x = make_float4(0, 0, 0, 0);
        if (four < work.dim / 4) {
            x = load4(row + 4 * four);
            if (centroid) x = centred(x, norm, centres[four]);
        }
        uint32_t bits = uint32_t(x.x > 0) | uint32_t(x.y > 0) << 1 | uint32_t(x.z > 0) << 2 | uint32_t(x.w > 0) << 3;
        bits <<= 4 * (lane_id() % 8);
        for (int apart = 1; apart < 8; apart *= 2) bits |= __shfl_xor_sync(ALL_LANES, bits, apart);
        if (lane_id() % 8 == 0 && piece < 2 * words) code[piece] = bits;
    }
}

template <class T>
static int64_t launch_sign_codes(int64_t version, Rows<T> work, int words, int64_t* codes, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (work.count == 0) return launch_error();
    if (version == 3 && !work.fours()) version = 2;
    const int64_t warps = blocks_for(work.count * WARP, THREADS);
    if (version == 1) LAUNCH(sign_codes_1<T>, blocks_for(work.count, THREADS), THREADS, 0, stream, work, words, codes);
    if (version == 2) LAUNCH(sign_codes_2<T>, warps, THREADS, 0, stream, work, words, codes);
    if (version == 3) LAUNCH(sign_codes_3<T>, warps, THREADS, 0, stream, work, words, codes);
    return launch_error();
}

// ---- gather_unit_rows ---------------------------------------------------------------------------------------------
// out [count, dim]: rows ids, of length 1, minus their lists' centroids if these are given.

template <class T>
__global__ void gather_unit_rows_1(Rows<T> work, float* out) {
    const int64_t i = global_thread();
    if (i >= work.count) return;
    const T* row = work.row(i);
    const float* centroid = work.centroid(i);
    const float norm = row_norm(row, work.dim);
    for (int j = 0; j < work.dim; ++j) out[i * work.dim + j] = widen(row[j]) / norm - (centroid ? centroid[j] : 0.0f);
}

template <class T>
__global__ void gather_unit_rows_2(Rows<T> work, float* out) {
    const int64_t i = global_warp();
    if (i >= work.count) return;
    const T* row = work.row(i);
    const float* centroid = work.centroid(i);
    const float norm = warp_norm(lane_squares(row, work.dim));
    for (int j = lane_id(); j < work.dim; j += WARP)
        out[i * work.dim + j] = widen(row[j]) / norm - (centroid ? centroid[j] : 0.0f);
}

template <class T>
__global__ void gather_unit_rows_3(Rows<T> work, float* out) {
    const int64_t i = global_warp();
    if (i >= work.count) return;
    const T* row = work.row(i);
    const float* centroid = work.centroid(i);
    const float norm = warp_norm(lane_squares4(row, work.dim));
    for (int j = 4 * lane_id(); j < work.dim; j += 4 * WARP) {
        const float4 centre = centroid ? load4(centroid + j) : make_float4(0, 0, 0, 0);
        store4(centred(load4(row + j), norm, centre), out + i * work.dim + j);
    }
}

template <class T>
static int64_t launch_gather_unit_rows(int64_t version, Rows<T> work, float* out, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (work.count == 0) return launch_error();
    if (version == 3 && !(work.fours() && aligned16(out))) version = 2;
    const int64_t warps = blocks_for(work.count * WARP, THREADS);
    if (version == 1) LAUNCH(gather_unit_rows_1<T>, blocks_for(work.count, THREADS), THREADS, 0, stream, work, out);
    if (version == 2) LAUNCH(gather_unit_rows_2<T>, warps, THREADS, 0, stream, work, out);
    if (version == 3) LAUNCH(gather_unit_rows_3<T>, warps, THREADS, 0, stream, work, out);
    return launch_error();
}

// ---- row_argmax ---------------------------------------------------------------------------------------------------
// best [count]: the column of the largest of scores [count, columns], the first of equals; 0 if all are NaN.

struct Best {
    float score = -INFINITY;
    int column = 0x7FFFFFFF;  // beyond all columns

    // A NaN is never taken, and -inf is, if there is nothing else.
    __device__ void take(float other, int place) {
        if (other > score || (other == score && place < column)) score = other, column = place;
    }
    __device__ int64_t place() const { return column == 0x7FFFFFFF ? 0 : column; }
};

__device__ Best warp_best(Best best) {
    for (int apart = WARP / 2; apart > 0; apart /= 2) {
        const float score = __shfl_xor_sync(ALL_LANES, best.score, apart);
        const int column = __shfl_xor_sync(ALL_LANES, best.column, apart);
        best.take(score, column);
    }
    return best;
}

extern "C" __global__ void row_argmax_1(const float* scores, int64_t count, int columns, int64_t* best) {
    const int64_t i = global_thread();
    if (i >= count) return;
    Best found;
    for (int j = 0; j < columns; ++j) found.take(scores[i * columns + j], j);
    best[i] = found.place();
}

extern "C" __global__ void row_argmax_2(const float* scores, int64_t count, int columns, int64_t* best) {
    const int64_t i = global_warp();
    if (i >= count) return;
    Best found;
    for (int j = lane_id(); j < columns; j += WARP) found.take(scores[i * columns + j], j);
    found = warp_best(found);
    if (lane_id() == 0) best[i] = found.place();
}

extern "C" __global__ void row_argmax_3(const float* scores, int64_t count, int columns, int64_t* best) {
    const int64_t i = global_warp();
    if (i >= count) return;
    const float4* fours = reinterpret_cast<const float4*>(scores + i * columns);
    Best found;
    for (int four = lane_id(); four < columns / 4; four += WARP) {
        const float4 x = fours[four];
        found.take(x.x, 4 * four);
        found.take(x.y, 4 * four + 1);
        found.take(x.z, 4 * four + 2);
        found.take(x.w, 4 * four + 3);
    }
    found = warp_best(found);
    if (lane_id() == 0) best[i] = found.place();
}

extern "C" int64_t row_argmax_v(int64_t version, const float* scores, int64_t count, int64_t columns, int64_t* best,
                                void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (count == 0) return launch_error();
    if (version == 3 && (columns % 4 || !aligned16(scores))) version = 2;
    const int64_t warps = blocks_for(count * WARP, THREADS);
    if (version == 1)
        LAUNCH(row_argmax_1, blocks_for(count, THREADS), THREADS, 0, stream, scores, count, int(columns), best);
    if (version == 2) LAUNCH(row_argmax_2, warps, THREADS, 0, stream, scores, count, int(columns), best);
    if (version == 3) LAUNCH(row_argmax_3, warps, THREADS, 0, stream, scores, count, int(columns), best);
    return launch_error();
}

// ---- Launchers: rows are of a `kind` of loads.h --------------------------------------------------------------------
extern "C" int64_t sign_codes_v(int64_t version, const void* rows, int64_t kind, const int64_t* ids,
                                const float* centroids, const int64_t* lists, int64_t count, int64_t num_rows,
                                int64_t dim, int64_t nlist, int64_t words, int64_t* codes, void* stream) {
    return typed_rows(rows, kind, [&](auto* stored) {
        const Rows work{stored, ids, centroids, lists, count, int(dim)};
        return launch_sign_codes(version, work, int(words), codes, stream);
    });
}

extern "C" int64_t gather_unit_rows_v(int64_t version, const void* rows, int64_t kind, const int64_t* ids,
                                      const float* centroids, const int64_t* lists, int64_t count, int64_t num_rows,
                                      int64_t dim, int64_t nlist, float* out, void* stream) {
    return typed_rows(rows, kind, [&](auto* stored) {
        const Rows work{stored, ids, centroids, lists, count, int(dim)};
        return launch_gather_unit_rows(version, work, out, stream);
    });
}

// What the ops use: the last versions.
extern "C" int64_t sign_codes(const void* rows, int64_t kind, const int64_t* ids, const float* centroids,
                              const int64_t* lists, int64_t count, int64_t num_rows, int64_t dim, int64_t nlist,
                              int64_t words, int64_t* codes, void* stream) {
    return sign_codes_v(3, rows, kind, ids, centroids, lists, count, num_rows, dim, nlist, words, codes, stream);
}

extern "C" int64_t gather_unit_rows(const void* rows, int64_t kind, const int64_t* ids, const float* centroids,
                                    const int64_t* lists, int64_t count, int64_t num_rows, int64_t dim, int64_t nlist,
                                    float* out, void* stream) {
    return gather_unit_rows_v(3, rows, kind, ids, centroids, lists, count, num_rows, dim, nlist, out, stream);
}

extern "C" int64_t row_argmax(const float* scores, int64_t count, int64_t columns, int64_t* best, void* stream) {
    return row_argmax_v(3, scores, count, columns, best, stream);
}
