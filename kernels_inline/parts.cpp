// Gradients of the groups' parts, added up into the gradient of all active rows.
//
// Reads A d gradients (4 bytes each, 2 in bfloat16) and reads and writes 4 A d bytes of the total. Within one part the
// places are distinct, so threads never add to the same row; parts are added one after another, in a fixed order.
// The files are compiled as one (build.py), in the order of their names, so head.cpp's functions are at hand.

#include <cstdint>

namespace parts {

template <class T>
static void add(float* total, const int64_t* places, const T* part, int64_t A, int64_t d) {
#pragma omp parallel for schedule(static)
    for (int64_t a = 0; a < A; a++)
        for (int64_t j = 0; j < d; j++) total[places[a] * d + j] += head::widen(part[a * d + j]);
}

}  // namespace parts

// total [U, d] += part [A, d] (bfloat16 if `half`) at rows places [A], which ascend. Returns 1, with nothing changed, if
// they do not, or lie outside 0..U-1.
extern "C" int64_t add_rows(float* total, const int64_t* places, const void* part, int64_t half, int64_t A, int64_t U,
                            int64_t d) {
    for (int64_t a = 0; a < A; a++)
        if (places[a] < 0 || places[a] >= U || (a && places[a] <= places[a - 1])) return 1;
    if (half) parts::add(total, places, static_cast<const uint16_t*>(part), A, d);
    else parts::add(total, places, static_cast<const float*>(part), A, d);
    return 0;
}
