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
#include <utility>
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

}  // namespace reranking

// queries [B, d] of length 1, rows [N, d] of any length, ids [B, k] (-1: none).
// Out: ids_out [B, k] by (-cosine, id), -1 last; cosines_out [B, k], -inf for -1.
extern "C" int64_t rerank(const float* queries, const float* rows, const int64_t* ids, int64_t B, int64_t k, int64_t d,
                          int64_t* ids_out, float* cosines_out) {
    using numbers::AHEAD;
#pragma omp parallel for schedule(dynamic, 4) if (threads::pay(4 * B * k * d))
    for (int64_t b = 0; b < B; ++b) {
        const int64_t* mine = ids + b * k;
        std::vector<std::pair<float, int64_t>> found;   // (-cosine, id): sorts as wanted
        found.reserve(k);
        for (int64_t i = 0; i < k; ++i) {
            if (i + AHEAD < k && mine[i + AHEAD] >= 0) numbers::prefetch(rows + mine[i + AHEAD] * d, d);
            if (mine[i] >= 0) found.emplace_back(-reranking::cosine_with(queries + b * d, rows + mine[i] * d, d), mine[i]);
        }
        std::sort(found.begin(), found.end());
        for (int64_t i = 0; i < k; ++i) {
            const bool there = i < static_cast<int64_t>(found.size());
            ids_out[b * k + i] = there ? found[i].second : -1;
            cosines_out[b * k + i] = there ? -found[i].first : -INFINITY;
        }
    }
    return 0;
}
