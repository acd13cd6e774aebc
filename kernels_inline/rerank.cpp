// Exact re-ranking: the cosines of each query with its candidate rows, and the candidates in that order.
//
// The rows of candidates lie anywhere in the weight matrix, so the cost is that of reading B k rows of 4 d bytes at
// random, once: a row's length is summed up in the same pass as its product with the query. The next rows are
// prefetched while one is computed, since the order of reading is known ahead.

#include "numbers.h"
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace reranking {

// dot(query, row) / |row|, the length clamped below as torch.nn.functional.normalize does.
float cosine_with(const float* query, const float* row, int64_t d) {
    float dot = 0, square = 0;
#pragma omp simd reduction(+ : dot, square)
    for (int64_t j = 0; j < d; ++j) {
        dot += query[j] * row[j];
        square += row[j] * row[j];
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

struct Workspace {               // of one thread
    std::vector<uint64_t> keys, spare;
};

// One query [d] and its candidates ids [k]: ids_out, cosines_out [k].
void rerank_query(const float* query, const float* rows, const int64_t* ids, int64_t k, int64_t d, Workspace& space,
                  int64_t* ids_out, float* cosines_out) {
    using numbers::AHEAD;
    space.keys.clear();
    for (int64_t i = 0; i < k; ++i) {
        if (i + AHEAD < k && ids[i + AHEAD] >= 0) numbers::prefetch(rows + ids[i + AHEAD] * d, d);
        if (ids[i] >= 0) space.keys.push_back(key_of(cosine_with(query, rows + ids[i] * d, d), ids[i]));
    }
    sort(space.keys, space.spare);
    const int64_t found = space.keys.size();
    for (int64_t i = 0; i < k; ++i) {
        ids_out[i] = i < found ? int64_t(space.keys[i] & 0xffffffff) : -1;
        cosines_out[i] = i < found ? cosine_of(space.keys[i]) : -INFINITY;
    }
}

}  // namespace reranking

// queries [B, d] of length 1, rows [N, d] of any length, ids [B, k] (-1: none).
// Out: ids_out [B, k] by (-cosine, id), -1 last; cosines_out [B, k], -inf for -1.
extern "C" int64_t rerank(const float* queries, const float* rows, const int64_t* ids, int64_t B, int64_t k, int64_t d,
                          int64_t* ids_out, float* cosines_out) {
#pragma omp parallel if (threads::pay(4 * B * k * d))
    {
        reranking::Workspace space;
#pragma omp for schedule(dynamic, 4)
        for (int64_t b = 0; b < B; ++b)
            reranking::rerank_query(queries + b * d, rows, ids + b * k, k, d, space, ids_out + b * k,
                                    cosines_out + b * k);
    }
    return 0;
}
