// New codes into both places that hold them: by class id, and in the slot of the class's list.
//
// The slots lie scattered, so the cost is that of one cache line for each word written: about 2 W lines a row. Rows are
// distinct, so threads never write the same place.

#include <cstdint>

// ids [n] distinct, fresh [n, W] -> codes [N, W] and slot_codes [nlist, W, capacity] at (assignment[id], place[id]),
// written[id] = clock. Returns 1, with nothing written, if an id is outside 0..N-1.
extern "C" int64_t write_codes(int64_t* codes, int64_t* slot_codes, int32_t* written, const int64_t* assignment,
                               const int64_t* place, const int64_t* ids, const int64_t* fresh, int64_t n, int64_t N,
                               int64_t W, int64_t capacity, int64_t clock) {
    for (int64_t i = 0; i < n; ++i)
        if (ids[i] < 0 || ids[i] >= N) return 1;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; ++i) {
        const int64_t id = ids[i];
        int64_t* slot = slot_codes + assignment[id] * W * capacity + place[id];
        for (int64_t w = 0; w < W; ++w) {
            codes[id * W + w] = fresh[i * W + w];
            slot[w * capacity] = fresh[i * W + w];
        }
        written[id] = static_cast<int32_t>(clock);
    }
    return 0;
}
