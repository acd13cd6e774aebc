// Exact re-ranking: the cosines of each query with its candidate rows, and the candidates in that order.
//
// The rows of candidates lie anywhere in the weight matrix, and a row is a candidate of several queries. So the pairs
// of a tile of queries are taken in the order of their rows, about: each row is read from memory once for the tile,
// the next ones are prefetched while one is computed, and its length is summed up in the same pass as its product with
// the query. Then each query's candidates are sorted.

#include "numbers.h"
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>
#include <omp.h>

namespace reranking {

// dot(query, row) / |row|, the length clamped below as torch.nn.functional.normalize does.
template <class T>
float cosine_with(const float* query, const T* row, int64_t d) {
    float dot = 0, square = 0;
#pragma omp simd reduction(+ : dot, square)
    for (int64_t j = 0; j < d; ++j) {
        dot += query[j] * numbers::widen(row[j]);
        square += numbers::widen(row[j]) * numbers::widen(row[j]);
    }
    return dot / std::max(std::sqrt(square), numbers::NORM_FLOOR);
}

// A key that sorts as (-cosine, id) does, ids being below 2^32: a float's bits as an integer of its order.
uint64_t key_of(float cosine, int64_t id) {
    const uint32_t bits = numbers::bits_of(-cosine + 0.0f);   // no -0
    const uint32_t ordered = bits & 0x80000000 ? ~bits : bits | 0x80000000;
    return uint64_t(ordered) << 32 | uint64_t(id);
}

float cosine_of(uint64_t key) {
    const uint32_t ordered = uint32_t(key >> 32);
    return -numbers::float_of(ordered & 0x80000000 ? ordered & 0x7fffffff : ~ordered);
}

constexpr size_t FEW = 256;      // keys that are sorted faster by comparing each with each, which is vectorised

void sort(std::vector<uint64_t>& keys, std::vector<uint64_t>& spare) {
    const size_t n = keys.size();
    if (n > FEW) return std::sort(keys.begin(), keys.end());
    spare.resize(n);
    for (size_t i = 0; i < n; ++i) {
        const uint64_t key = keys[i];
        uint64_t before = 0, equal = 0;
        for (size_t j = 0; j < n; ++j) before += keys[j] < key;
        for (size_t j = 0; j < i; ++j) equal += keys[j] == key;
        spare[before + equal] = key;
    }
    std::swap(keys, spare);
}

constexpr int64_t TILE = 128;    // queries whose pairs are put in order together
constexpr int64_t BUCKETS = 4096;

struct Pair {
    int64_t id, place;           // place: b k + i, of the tile
};

struct Workspace {               // of one thread
    std::vector<Pair> pairs;
    std::vector<int64_t> first;  // of each bucket of neighbouring ids
    std::vector<uint64_t> keys, found, spare;
};

// The pairs of candidates ids [B, k] that are there, by bucket of their ids.
void sort_by_row(const int64_t* ids, int64_t B, int64_t k, int64_t N, Workspace& space) {
    const int64_t width = (N + BUCKETS - 1) / BUCKETS;
    space.first.assign(BUCKETS + 1, 0);
    for (int64_t place = 0; place < B * k; ++place)
        if (ids[place] >= 0) ++space.first[ids[place] / width + 1];
    for (int64_t bucket = 0; bucket < BUCKETS; ++bucket) space.first[bucket + 1] += space.first[bucket];
    space.pairs.resize(space.first[BUCKETS]);
    for (int64_t place = 0; place < B * k; ++place)
        if (ids[place] >= 0) space.pairs[space.first[ids[place] / width]++] = {ids[place], place};
}

// A tile: queries [B, d], ids [B, k] -> ids_out, cosines_out [B, k].
template <class T>
void rerank_tile(const float* queries, const T* rows, const int64_t* ids, int64_t B, int64_t k, int64_t d, int64_t N,
                 Workspace& space, int64_t* ids_out, float* cosines_out) {
    sort_by_row(ids, B, k, N, space);
    space.keys.resize(B * k);
    const int64_t pairs = space.pairs.size();
    for (int64_t p = 0; p < pairs; ++p) {
        if (p + numbers::AHEAD < pairs) numbers::prefetch(rows + space.pairs[p + numbers::AHEAD].id * d, d);
        const auto [id, place] = space.pairs[p];
        space.keys[place] = key_of(cosine_with(queries + place / k * d, rows + id * d, d), id);
    }
    for (int64_t b = 0; b < B; ++b) {
        space.found.clear();
        for (int64_t place = b * k; place < (b + 1) * k; ++place)
            if (ids[place] >= 0) space.found.push_back(space.keys[place]);
        sort(space.found, space.spare);
        const int64_t found = space.found.size();
        for (int64_t i = 0; i < k; ++i) {
            ids_out[b * k + i] = i < found ? int64_t(space.found[i] & 0xffffffff) : -1;
            cosines_out[b * k + i] = i < found ? cosine_of(space.found[i]) : -INFINITY;
        }
    }
}

template <class T>
void rerank(const float* queries, const T* rows, const int64_t* ids, int64_t B, int64_t k, int64_t d, int64_t N,
            int64_t* ids_out, float* cosines_out) {
    const bool shared = threads::pay(4 * B * k * d);
    const int64_t tile = std::clamp<int64_t>(B / (shared ? omp_get_max_threads() : 1), 1, TILE);
#pragma omp parallel if (shared)
    {
        Workspace space;
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < B; b += tile)
            rerank_tile(queries + b * d, rows, ids + b * k, std::min(tile, B - b), k, d, N, space, ids_out + b * k,
                        cosines_out + b * k);
    }
}

}  // namespace reranking

// queries [B, d] of length 1, rows [N, d] of any length (of a `kind` of numbers.h), ids [B, k] (-1: none).
// Out: ids_out [B, k] by (-cosine, id), -1 last; cosines_out [B, k], -inf for -1.
extern "C" int64_t rerank(const float* queries, const void* rows, int64_t kind, const int64_t* ids, int64_t B,
                          int64_t k, int64_t d, int64_t* ids_out, float* cosines_out) {
    const int64_t N = B * k ? *std::max_element(ids, ids + B * k) + 1 : 0;
    if (N == 0) {                // no candidate at all
        std::fill(ids_out, ids_out + B * k, -1);
        std::fill(cosines_out, cosines_out + B * k, -INFINITY);
        return 0;
    }
    numbers::typed_rows(rows, kind,
                   [&](auto* stored) { reranking::rerank(queries, stored, ids, B, k, d, N, ids_out, cosines_out); });
    return 0;
}
