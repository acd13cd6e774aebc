// The active rows of the head: read, scaled to length 1, and their gradients.
//
//   kernel              bytes moved (A rows of d dimensions, float32)
//   gather_normalise    reads 4 A d weights; writes 4 A d unit rows (2 A d in bfloat16) and 4 A norms
//   normalise_backward  reads 4 A d weights and 4 A d gradients (2 A d in bfloat16); writes 4 A d gradients
//   union_rows          reads P = G A ids, 8 P; writes U distinct ones, where each begins and P places: 8 (2 U + P)
//   merge_normalise_backward  reads 4 P d gradients (2 P d in bfloat16), 4 U d weights and 8 (2 U + P) of the union;
//                       writes 4 U d gradients. A row's gradients are added in the order of the groups, by one thread.
// Weights may be in bfloat16 or e4m3, 2 or 1 bytes a number, and then the gradient of rows is in bfloat16.
//
// Every entry point returns 0 (union_rows: U), or a code if an id (or a place) is not as it should be; then nothing has
// been written.
#include "numbers.h"
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace head {

using namespace numbers;

template <class W, class T>
static void gather_normalise(const W* weight, int64_t d, const int64_t* ids, int64_t A, T* unit, float* norms) {
#pragma omp parallel for schedule(static) if (threads::pay(8 * A * d))
    for (int64_t a = 0; a < A; a++) {
        prefetch(weight + ids[std::min(a + AHEAD, A - 1)] * d, d);
        normalise_row(weight + ids[a] * d, d, unit + a * d, norms + a);
    }
}

// Where a row of float32 is worked on: at its place if it is to stay float32, else in `spare`, to be `put` there.
static float* workplace(float* place, float*) { return place; }
static float* workplace(uint16_t*, float* spare) { return spare; }
static void put(const float*, int64_t, float*) {}
static void put(const float* row, int64_t d, uint16_t* place) {
    for (int64_t j = 0; j < d; j++) narrow(row[j], place + j);
}

// slope null: grad, float32, is the gradient of unit rows, too.
template <class W, class G>
static void normalise_backward(G* grad, const uint16_t* slope, const W* weight, int64_t d, const int64_t* ids, int64_t A,
                               const float* norms) {
#pragma omp parallel if (threads::pay(12 * A * d))
    {
        std::vector<float> spare(d);
#pragma omp for schedule(static)
        for (int64_t a = 0; a < A; a++) {
            prefetch(weight + ids[std::min(a + AHEAD, A - 1)] * d, d);
            float* row = workplace(grad + a * d, spare.data());
            if (slope)
                for (int64_t j = 0; j < d; j++) row[j] = widen(slope[a * d + j]);
            normalise_row_backward(row, weight + ids[a] * d, d, norms[a]);
            put(row, d, grad + a * d);
        }
    }
}

constexpr int64_t SPAN = 1024;  // ids looked at together: their counts take 8 KB and stay in the L1 cache

static bool ascend(const int64_t* classes, int64_t G, int64_t A) {
    bool ok = true;
    for (int64_t g = 0; g < G; g++)
        for (int64_t a = 1; a < A; a++) ok &= classes[g * A + a - 1] < classes[g * A + a];
    return ok;
}

// Span by span: how often is each id named, then where does it begin, then which positions name it. All groups ascend,
// so that each is read from its start to its end and nothing is sorted.
static int64_t union_rows(const int64_t* classes, int64_t G, int64_t A, int64_t N, int64_t* ids, int64_t* starts,
                          int64_t* places) {
    std::vector<int64_t> at(G);  // the first position of each group that is not yet placed
    for (int64_t g = 0; g < G; g++) at[g] = g * A;
    int64_t U = 0, placed = 0;
    for (int64_t base = 0; base < N; base += SPAN) {
        int64_t next[SPAN] = {};  // of each id, first how often it is named, then where its next place is written
        uint64_t named[SPAN / 64] = {};
        for (int64_t g = 0; g < G; g++)
            for (int64_t p = at[g]; p < (g + 1) * A && classes[p] < base + SPAN; p++) {
                const int64_t j = classes[p] - base;
                next[j]++;
                named[j / 64] |= uint64_t(1) << j % 64;
            }
        for (int64_t w = 0; w < SPAN / 64; w++)
            for (uint64_t word = named[w]; word; word &= word - 1) {
                const int64_t j = w * 64 + __builtin_ctzll(word), count = next[j];
                ids[U] = base + j;
                starts[U++] = next[j] = placed;
                placed += count;
            }
        for (int64_t g = 0; g < G; g++)
            for (int64_t& p = at[g]; p < (g + 1) * A && classes[p] < base + SPAN; p++)
                places[next[classes[p] - base]++] = p;
    }
    starts[U] = placed;
    return U;
}

// Whether starts [U + 1] cut places [P] into U parts, which may be empty.
static bool cuts(const int64_t* starts, int64_t U, int64_t P) {
    bool ok = starts[0] == 0 && starts[U] == P;
    for (int64_t u = 0; u < U; u++) ok &= starts[u] <= starts[u + 1];
    return ok;
}

// grad [d] = the sum of the rows of slope [P, d] at places [count]; 0 if there are none
template <class T>
static void sum_rows(const T* slope, int64_t d, const int64_t* places, int64_t count, float* grad) {
    for (int64_t j = 0; j < d; j++) grad[j] = count ? widen(slope[places[0] * d + j]) : 0.0f;
    for (int64_t i = 1; i < count; i++)
        for (int64_t j = 0; j < d; j++) grad[j] += widen(slope[places[i] * d + j]);
}

template <class T, class W, class G>
static void merge_normalise_backward(const T* slope, const W* weight, int64_t d, const int64_t* ids, int64_t U,
                                     const int64_t* starts, const int64_t* places, const float* norms, G* grad) {
#pragma omp parallel if (threads::pay((4 * starts[U] + 8 * U) * d))
    {
        std::vector<float> spare(d);
#pragma omp for schedule(static)
        for (int64_t u = 0; u < U; u++) {
            const int64_t later = std::min(u + AHEAD, U - 1), *at = places + starts[u];
            prefetch(weight + ids[later] * d, d);
            for (int64_t i = starts[later]; i < starts[later + 1]; i++) prefetch(slope + places[i] * d, d);
            float* row = workplace(grad + u * d, spare.data());
            sum_rows(slope, d, at, starts[u + 1] - starts[u], row);
            if (starts[u] < starts[u + 1]) normalise_row_backward(row, weight + ids[u] * d, d, norms[at[0]]);
            put(row, d, grad + u * d);
        }
    }
}

}  // namespace head

extern "C" {

// weight [N, d] (of a `kind` of numbers.h), ids [A] -> unit [A, d] (bfloat16 if `half`), norms [A], at least 1e-12
int64_t gather_normalise(const void* weight, int64_t kind, int64_t N, int64_t d, const int64_t* ids, int64_t A,
                         int64_t half, void* unit, float* norms) {
    if (!head::inside(ids, A, N)) return 1;
    numbers::typed_rows(weight, kind, [&](auto* rows) {
        if (half) head::gather_normalise(rows, d, ids, A, static_cast<uint16_t*>(unit), norms);
        else head::gather_normalise(rows, d, ids, A, static_cast<float*>(unit), norms);
    });
    return 0;
}

// grad [A, d], with respect to the unit rows of weight[ids] -> in place, with respect to the rows themselves.
// Where `slope` [A, d] (bfloat16) is not null, it holds the former and grad, see gradient_of, receives the latter.
int64_t normalise_backward(void* grad, const uint16_t* slope, const void* weight, int64_t kind, int64_t N,
                           int64_t d, const int64_t* ids, int64_t A, const float* norms) {
    if (!head::inside(ids, A, N)) return 1;
    numbers::typed_rows(weight, kind, [&](auto* rows) {
        if (slope) head::normalise_backward(numbers::gradient_of(rows, grad), slope, rows, d, ids, A, norms);
        else head::normalise_backward(static_cast<float*>(grad), slope, rows, d, ids, A, norms);
    });
    return 0;
}

// classes [G, A], each row ascending and distinct -> ids [U] ascending and distinct, starts [U + 1] and places [G A]:
// places[starts[u]..starts[u + 1] - 1] are the positions in classes that hold ids[u], ascending. ids has room for
// min(G A, N), starts for one more. Returns U, or -1 for an id outside 0..N-1, -2 for a row that does not ascend.
int64_t union_rows(const int64_t* classes, int64_t G, int64_t A, int64_t N, int64_t* ids, int64_t* starts,
                   int64_t* places) {
    if (!head::inside(classes, G * A, N)) return -1;
    if (!head::ascend(classes, G, A)) return -2;
    return head::union_rows(classes, G, A, N, ids, starts, places);
}

// slope [P, d] (bfloat16 if `half`), with respect to unit rows of weight; ids [U], starts [U + 1] and places [P] as
// union_rows gives them, norms [P] -> grad [U, d], see gradient_of: each row's slopes added up, with respect to the
// row itself.
// Returns 1 for an id outside 0..N-1, 2 for starts that do not ascend from 0 to P, 3 for a place outside 0..P-1.
int64_t merge_normalise_backward(const void* slope, int64_t half, const void* weight, int64_t kind, int64_t N,
                                 int64_t d, const int64_t* ids, int64_t U, const int64_t* starts,
                                 const int64_t* places, int64_t P, const float* norms, void* grad) {
    if (!head::inside(ids, U, N)) return 1;
    if (!head::cuts(starts, U, P)) return 2;
    if (!head::inside(places, P, P)) return 3;
    numbers::typed(slope, half, [&](auto* slopes) {
        numbers::typed_rows(weight, kind, [&](auto* rows) {
            head::merge_normalise_backward(slopes, rows, d, ids, U, starts, places, norms,
                                           numbers::gradient_of(rows, grad));
        });
    });
    return 0;
}

}
