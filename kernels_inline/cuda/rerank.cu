// rerank: the cosines of each query with its candidate rows, and the candidates in that order. The C++ twin is
// rerank.cpp, whose name and arguments the launcher has.
//
// A candidate becomes one number of 64 bits that sorts as wanted: (-cosine, id), -1 last. The first kernel makes these
// numbers, the second sorts those of each query and takes them apart again.
//
//   bytes moved       4 d read for each candidate (2 d of rows in bfloat16), at random rows; the queries come from the
//                     L2 cache; 28 B k besides
//
// INDEX OF VERSIONS
//   rerank_1          naive: a thread a candidate: neighbouring threads read addresses that lie in different rows
//   rerank_2          a warp a candidate: 32 neighbouring numbers are one load; sums by shuffles
//   rerank_3          a warp a candidate, 4 numbers a lane by loads of 16 bytes
//   order_1           a block a query sorts; in shared memory if there is room, else in global memory
//
// Ids are below 2^32 - 1. Sums are taken in a fixed order, so equal rows have equal cosines.
#include "launch.h"
#include "unit_rows.h"

constexpr int THREADS = 256;
constexpr int64_t MOST_SHARED = 48 * 1024;
constexpr uint64_t MISSING = ~uint64_t(0);
constexpr unsigned SIGN = 0x80000000;

// T: float, or uint16_t for rows in bfloat16.
template <class T>
struct Candidates {
    const float* queries;                    // [B, d]
    const T* rows;                           // [N, d]
    const int64_t* ids;                      // [B, k], -1: none
    int64_t batch, k, d, room;               // room: k, or more to make it a power of two
    uint64_t* keys;                          // [B, room]
};

// The numbers of 32 bits sort as floats do, 0 and -0 alike; the larger the cosine, the smaller the key.
__device__ __forceinline__ uint64_t key_of(float cosine, int64_t id) {
    const unsigned bits = __float_as_uint(0.0f - cosine);        // 0 - 0 is 0, 0 - -0 too
    return uint64_t(bits & SIGN ? ~bits : bits | SIGN) << 32 | uint64_t(id);
}

__device__ __forceinline__ float cosine_of(uint64_t key) {
    const unsigned bits = unsigned(key >> 32);
    return 0.0f - __uint_as_float(bits & SIGN ? bits & ~SIGN : ~bits);
}

__device__ __forceinline__ float cosine(float dot, float square) { return dot / fmaxf(sqrtf(square), NORM_FLOOR); }

template <class T>
__global__ void rerank_1(Candidates<T> all) {
    const int64_t place = global_thread(), b = place / all.room, i = place % all.room;
    if (b >= all.batch) return;
    const int64_t id = i < all.k ? all.ids[b * all.k + i] : -1;
    uint64_t key = MISSING;
    if (id >= 0) {
        float dot = 0, square = 0;
        for (int64_t j = 0; j < all.d; ++j) {
            const float x = widen(all.rows[id * all.d + j]);
            dot += all.queries[b * all.d + j] * x;
            square += x * x;
        }
        key = key_of(cosine(dot, square), id);
    }
    all.keys[place] = key;
}

// Numbers at once: 1 or 4.
template <int numbers, class T>
__device__ __forceinline__ void rerank_by_warps(const Candidates<T>& all) {
    const int64_t place = global_warp(), b = place / all.room, i = place % all.room;
    if (b >= all.batch) return;
    const int64_t id = i < all.k ? all.ids[b * all.k + i] : -1;
    uint64_t key = MISSING;
    if (id >= 0) {
        const float* query = all.queries + b * all.d;
        const T* row = all.rows + id * all.d;
        float dot = 0, square = 0;
        for (int64_t j = numbers * lane_id(); j < all.d; j += numbers * WARP) {
            if (numbers == 4) {
                const float4 x = load4(row + j);
                dot += dot4(load4(query + j), x);
                square += dot4(x, x);
            } else {
                const float x = widen(row[j]);
                dot += query[j] * x;
                square += x * x;
            }
        }
        key = key_of(cosine(warp_sum(dot), warp_sum(square)), id);
    }
    if (lane_id() == 0) all.keys[place] = key;
}

template <class T>
__global__ void __launch_bounds__(THREADS) rerank_2(Candidates<T> all) {
    rerank_by_warps<1>(all);
}

template <class T>
__global__ void __launch_bounds__(THREADS) rerank_3(Candidates<T> all) {
    rerank_by_warps<4>(all);
}

template <class T>
__global__ void __launch_bounds__(THREADS) order_1(Candidates<T> all, bool in_shared, int64_t* ids, float* cosines) {
    DYNAMIC_SHARED(uint64_t, copy);          // [room] if in_shared
    uint64_t* keys = all.keys + blockIdx.x * all.room;
    if (in_shared) {
        for (int64_t i = threadIdx.x; i < all.room; i += THREADS) copy[i] = keys[i];
        keys = copy;
    }
    sort_keys(keys, int(all.room));
    for (int64_t i = threadIdx.x; i < all.k; i += THREADS) {
        const int64_t place = blockIdx.x * all.k + i;
        ids[place] = keys[i] == MISSING ? -1 : int64_t(keys[i] & 0xFFFFFFFF);
        cosines[place] = keys[i] == MISSING ? -INFINITY : cosine_of(keys[i]);
    }
}

// ---- Launchers ------------------------------------------------------------------------------------------------------
template <class T>
static int64_t launch_rerank(int64_t version, const float* queries, const T* rows, const int64_t* ids, int64_t B,
                             int64_t k, int64_t d, int64_t* ids_out, float* cosines_out, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (B == 0 || k == 0) return launch_error();
    if (version == 3 && (d % 4 || !aligned16(queries) || !aligned16(rows))) version = 2;
    const int64_t room = power_of_two(k), warps = blocks_for(B * room * WARP, THREADS);
    const Candidates<T> all = {queries, rows, ids, B, k, d, room, scratch<uint64_t>(B * room, stream)};
    if (version == 1) LAUNCH(rerank_1<T>, blocks_for(B * room, THREADS), THREADS, 0, stream, all);
    if (version == 2) LAUNCH(rerank_2<T>, warps, THREADS, 0, stream, all);
    if (version == 3) LAUNCH(rerank_3<T>, warps, THREADS, 0, stream, all);
    const bool in_shared = 8 * room <= MOST_SHARED;
    LAUNCH(order_1<T>, B, THREADS, in_shared ? size_t(8 * room) : 0, stream, all, in_shared, ids_out, cosines_out);
    release(all.keys, stream);
    return launch_error();
}

// queries [B, d] of length 1, rows [N, d] of any length (of a `kind` of loads.h), ids [B, k] (-1: none).
// Out: ids_out [B, k] by (-cosine, id), -1 last; cosines_out [B, k], -inf for -1.
extern "C" int64_t rerank_v(int64_t version, const float* queries, const void* rows, int64_t kind, const int64_t* ids,
                            int64_t B, int64_t k, int64_t d, int64_t* ids_out, float* cosines_out, void* stream) {
    return typed_rows(rows, kind, [&](auto* stored) {
        return launch_rerank(version, queries, stored, ids, B, k, d, ids_out, cosines_out, stream);
    });
}

extern "C" int64_t rerank(const float* queries, const void* rows, int64_t kind, const int64_t* ids, int64_t B,
                          int64_t k, int64_t d, int64_t* ids_out, float* cosines_out, void* stream) {
    return rerank_v(3, queries, rows, kind, ids, B, k, d, ids_out, cosines_out, stream);
}
