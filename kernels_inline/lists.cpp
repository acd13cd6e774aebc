// The inverted lists: new codes into them, and the sums of each list's rows.
//
// write_codes  into both places that hold a code: by class id, and in the slot of the class's list. The slots lie
//              scattered, so the cost is that of one cache line for each word written: about 2 W lines a row. Rows are
//              distinct, so threads never write the same place.
// list_sums    each row is read once and added to its list's sum. A list belongs to one thread, which adds its rows in
//              ascending order, so the number of threads does not change a bit of the result.
// far_offsets  how many classes of each list an active set leaves out, as a logarithm: one pass over the active classes.
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

// ids [n] distinct, fresh [n, W] -> codes [N, W] and slot_codes [nlist, W, capacity] at (assignment[id], place[id]),
// written[id] = *clock. Returns 1, with nothing written, if an id is outside 0..N-1.
extern "C" int64_t write_codes(int64_t* codes, int64_t* slot_codes, int32_t* written, const int64_t* assignment,
                               const int64_t* place, const int64_t* ids, const int64_t* fresh, int64_t n, int64_t N,
                               int64_t W, int64_t capacity, const int32_t* clock) {
    for (int64_t i = 0; i < n; ++i)
        if (ids[i] < 0 || ids[i] >= N) return 1;
#pragma omp parallel for schedule(static) if (threads::pay(128 * n * W))
    for (int64_t i = 0; i < n; ++i) {
        const int64_t id = ids[i];
        int64_t* slot = slot_codes + assignment[id] * W * capacity + place[id];
        for (int64_t w = 0; w < W; ++w) {
            codes[id * W + w] = fresh[i * W + w];
            slot[w * capacity] = fresh[i * W + w];
        }
        written[id] = *clock;
    }
    return 0;
}

// sums [nlist, dim] and counts [nlist] of rows [count, dim], row i being in list lists[i]. Returns 1 if a list is outside
// 0..nlist-1.
extern "C" int64_t list_sums(const float* rows, const int64_t* lists, int64_t count, int64_t dim, int64_t nlist,
                             float* sums, int64_t* counts) {
    for (int64_t i = 0; i < count; ++i)
        if (lists[i] < 0 || lists[i] >= nlist) return 1;
    std::vector<int64_t> first(nlist + 1, 0), order(count);
    for (int64_t i = 0; i < count; ++i) ++first[lists[i] + 1];
    for (int64_t list = 0; list < nlist; ++list) {
        counts[list] = first[list + 1];
        first[list + 1] += first[list];
    }
    std::vector<int64_t> place(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < count; ++i) order[place[lists[i]]++] = i;
#pragma omp parallel for schedule(dynamic, 16) if (threads::pay(4 * count * dim))
    for (int64_t list = 0; list < nlist; ++list) {
        float* sum = sums + list * dim;
        std::fill(sum, sum + dim, 0.0f);
        for (int64_t i = first[list]; i < first[list + 1]; ++i) {
            const float* row = rows + order[i] * dim;
            for (int64_t j = 0; j < dim; ++j) sum[j] += row[j];
        }
    }
    return 0;
}

// offsets [G, nlist]: log of the classes of each list that are not among classes [G, A], plus what the spread of the
// list's rows about their mean row adds. assignment [N], sizes [nlist] of all classes; means [nlist, dim]. Returns 1
// for a class outside 0..N-1, 2 for a list outside 0..nlist-1.
extern "C" int64_t far_offsets(const int64_t* classes, const int64_t* assignment, const int64_t* sizes,
                               const float* means, int64_t G, int64_t A, int64_t N, int64_t nlist, int64_t dim,
                               double scale, float* offsets) {
    std::vector<float> spread(nlist);
    for (int64_t list = 0; list < nlist; ++list) {
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (int64_t j = 0; j < dim; ++j) square += means[list * dim + j] * means[list * dim + j];
        spread[list] = float(scale * scale / 2) * (1 - square) / float(dim);
    }
    std::vector<int64_t> left(nlist);
    for (int64_t g = 0; g < G; ++g) {
        std::copy(sizes, sizes + nlist, left.begin());
        for (int64_t a = 0; a < A; ++a) {
            const int64_t id = classes[g * A + a];
            if (id < 0 || id >= N) return 1;
            if (assignment[id] < 0 || assignment[id] >= nlist) return 2;
            --left[assignment[id]];
        }
        for (int64_t list = 0; list < nlist; ++list)
            offsets[g * nlist + list] = std::log(float(left[list])) + spread[list];
    }
    return 0;
}
