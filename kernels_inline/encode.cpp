// Codes of rows, and their nearest lists.
//
// sign_codes        reads each row once (centred: its centroid too) and writes d / 8 bytes: bound by memory.
// gather_unit_rows  rows picked, normalised and centred, for a matrix product (the rotation) to follow.
// row_argmax        one pass over a block of scores that is still in cache.
#include "numbers.h"
#include "signs.h"
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace encode {

using numbers::widen;

enum Error : int64_t { OK = 0, ID_OUT_OF_RANGE = 1, LIST_OUT_OF_RANGE = 2 };

// out = row / max(|row|, 1e-12), minus the centroid if there is one.
template <class T>
void unit_row(const T* row, const float* centroid, int64_t dim, float* out) {
    float lanes[16] = {0};                   // 16 partial sums, so that the loop vectorises without reordering sums
    int64_t j = 0;
    for (; j + 16 <= dim; j += 16)
        for (int i = 0; i < 16; ++i) lanes[i] += widen(row[j + i]) * widen(row[j + i]);
    float squares = 0;
    for (float lane : lanes) squares += lane;
    for (; j < dim; ++j) squares += widen(row[j]) * widen(row[j]);
    const float norm = std::max(std::sqrt(squares), 1e-12f);
    for (j = 0; j < dim; ++j) out[j] = widen(row[j]) / norm - (centroid ? centroid[j] : 0.0f);
}

int64_t check(const int64_t* ids, int64_t count, int64_t num_rows, const int64_t* lists, int64_t nlist) {
    for (int64_t i = 0; i < count; ++i) {
        if (ids && (ids[i] < 0 || ids[i] >= num_rows)) return ID_OUT_OF_RANGE;
        if (lists && (lists[i] < 0 || lists[i] >= nlist)) return LIST_OUT_OF_RANGE;
    }
    return OK;
}

template <class T>
void sign_codes(const T* rows, const int64_t* ids, const float* centroids, const int64_t* lists, int64_t count,
                int64_t dim, int64_t words, int64_t* codes) {
#pragma omp parallel if (threads::pay((centroids ? 8 : 4) * count * dim))
    {
        std::vector<float> unit(centroids ? dim : 0);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; ++i) {
            const T* row = rows + (ids ? ids[i] : i) * dim;
            if (centroids) {
                unit_row(row, centroids + lists[i] * dim, dim, unit.data());
                signs::pack_row(unit.data(), dim, words, codes + i * words);
            } else {
                signs::pack_row(row, dim, words, codes + i * words);
            }
        }
    }
}

}  // namespace encode

// Of rows [num_rows, dim], of a `kind` of numbers.h: codes [count, words] of rows ids [count] (null: row i is i). With
// centroids [nlist, dim] and lists [count]: of the normalised row minus its list's centroid. Without, the length of a
// row cannot change a sign and is not computed.
extern "C" int64_t sign_codes(const void* rows, int64_t kind, const int64_t* ids, const float* centroids,
                              const int64_t* lists, int64_t count, int64_t num_rows, int64_t dim, int64_t nlist,
                              int64_t words, int64_t* codes) {
    const int64_t error = encode::check(ids, count, num_rows, lists, nlist);
    if (error) return error;
    numbers::typed_rows(rows, kind,
                   [&](auto* stored) { encode::sign_codes(stored, ids, centroids, lists, count, dim, words, codes); });
    return encode::OK;
}

// out [count, dim]: rows ids (of such a kind), normalised, minus their lists' centroids if these are given.
extern "C" int64_t gather_unit_rows(const void* rows, int64_t kind, const int64_t* ids, const float* centroids,
                                    const int64_t* lists, int64_t count, int64_t num_rows, int64_t dim, int64_t nlist,
                                    float* out) {
    const int64_t error = encode::check(ids, count, num_rows, lists, nlist);
    if (error) return error;
    numbers::typed_rows(rows, kind, [&](auto* stored) {
#pragma omp parallel for schedule(static) if (threads::pay(12 * count * dim))
        for (int64_t i = 0; i < count; ++i)
            encode::unit_row(stored + ids[i] * dim, centroids ? centroids + lists[i] * dim : nullptr, dim,
                             out + i * dim);
    });
    return encode::OK;
}

// best [count]: the column of the largest of scores [count, columns], the first of equals.
extern "C" int64_t row_argmax(const float* scores, int64_t count, int64_t columns, int64_t* best) {
#pragma omp parallel for schedule(static) if (threads::pay(4 * count * columns))
    for (int64_t i = 0; i < count; ++i) {
        const float* row = scores + i * columns;
        float lanes[16];
        std::fill(lanes, lanes + 16, -INFINITY);
        int64_t j = 0;
        for (; j + 16 <= columns; j += 16)
            for (int lane = 0; lane < 16; ++lane) lanes[lane] = row[j + lane] > lanes[lane] ? row[j + lane] : lanes[lane];
        float largest = *std::max_element(lanes, lanes + 16);
        for (; j < columns; ++j) largest = std::max(largest, row[j]);
        const float* place = std::find(row, row + columns, largest);
        best[i] = place == row + columns ? 0 : place - row;                  // not found: nothing but NaN
    }
    return 0;
}
