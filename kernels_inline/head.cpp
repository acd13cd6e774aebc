// The active rows of the head: read, scaled to length 1, and their gradients.
//
//   kernel              bytes moved (A rows of d dimensions, float32)
//   gather_normalise    reads 4 A d weights; writes 4 A d unit rows (2 A d in bfloat16) and 4 A norms
//   normalise_backward  reads 4 A d weights and 4 A d gradients (2 A d in bfloat16); writes 4 A d gradients
//   add_rows            reads A d gradients of one group (4 bytes each, 2 in bfloat16); reads and writes 4 A d of the
//                       total. Places are distinct within a group, so threads never add to the same row; groups are
//                       added one after another, in a fixed order.
//
// Every entry point returns 0, or 1 if an id (or a place) is not as it should be; then nothing has been written.
#include "numbers.h"
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace head {

using namespace numbers;

template <class T>
static void normalise_row(const float* row, int64_t d, T* unit, float* norm) {
    *norm = std::max(float(std::sqrt(dot(row, row, d))), NORM_FLOOR);
    for (int64_t j = 0; j < d; j++) narrow(row[j] / *norm, unit + j);
}

template <class T>
static void gather_normalise(const float* weight, int64_t d, const int64_t* ids, int64_t A, T* unit, float* norms) {
#pragma omp parallel for schedule(static) if (threads::pay(8 * A * d))
    for (int64_t a = 0; a < A; a++) {
        prefetch(weight + ids[std::min(a + AHEAD, A - 1)] * d, d);
        normalise_row(weight + ids[a] * d, d, unit + a * d, norms + a);
    }
}

// The gradient g of a unit row u = w / |w| becomes the one of w: (g - (g.u) u) / |w|. At the floor, u = w / floor.
static void normalise_row_backward(float* grad, const float* row, int64_t d, float norm) {
    const float along = norm > NORM_FLOOR ? float(dot(grad, row, d) / norm / norm) : 0.0f;  // (g.u) / |w|
    for (int64_t j = 0; j < d; j++) grad[j] = (grad[j] - along * row[j]) / norm;
}

template <class T>
static void add_rows(float* total, const int64_t* places, const T* part, int64_t A, int64_t d) {
#pragma omp parallel for schedule(static) if (threads::pay(12 * A * d))
    for (int64_t a = 0; a < A; a++)
        for (int64_t j = 0; j < d; j++) total[places[a] * d + j] += widen(part[a * d + j]);
}

}  // namespace head

extern "C" {

// weight [N, d], ids [A] -> unit [A, d] (bfloat16 if `half`), norms [A], at least 1e-12
int64_t gather_normalise(const float* weight, int64_t N, int64_t d, const int64_t* ids, int64_t A, int64_t half, void* unit,
                     float* norms) {
    if (!head::inside(ids, A, N)) return 1;
    if (half) head::gather_normalise(weight, d, ids, A, static_cast<uint16_t*>(unit), norms);
    else head::gather_normalise(weight, d, ids, A, static_cast<float*>(unit), norms);
    return 0;
}

// grad [A, d], with respect to the unit rows of weight[ids] -> in place, with respect to the rows themselves.
// Where `slope` [A, d] (bfloat16) is not null, it holds the former and grad receives the latter.
int64_t normalise_backward(float* grad, const uint16_t* slope, const float* weight, int64_t N, int64_t d, const int64_t* ids,
                       int64_t A, const float* norms) {
    if (!head::inside(ids, A, N)) return 1;
#pragma omp parallel for schedule(static) if (threads::pay(12 * A * d))
    for (int64_t a = 0; a < A; a++) {
        head::prefetch(weight + ids[std::min(a + head::AHEAD, A - 1)] * d, d);
        if (slope)
            for (int64_t j = 0; j < d; j++) grad[a * d + j] = head::widen(slope[a * d + j]);
        head::normalise_row_backward(grad + a * d, weight + ids[a] * d, d, norms[a]);
    }
    return 0;
}

// total [U, d] += part [A, d] (bfloat16 if `half`) at rows places [A], which ascend. Returns 1, with nothing changed, if
// they do not, or lie outside 0..U-1.
int64_t add_rows(float* total, const int64_t* places, const void* part, int64_t half, int64_t A, int64_t U,
                            int64_t d) {
    for (int64_t a = 0; a < A; a++)
        if (places[a] < 0 || places[a] >= U || (a && places[a] <= places[a - 1])) return 1;
    if (half) head::add_rows(total, places, static_cast<const uint16_t*>(part), A, d);
    else head::add_rows(total, places, static_cast<const float*>(part), A, d);
    return 0;
}

}
