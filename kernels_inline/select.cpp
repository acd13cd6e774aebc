// Active sets: for each group of samples the union of their candidates with their labels, cut or filled to exactly
// `count` classes, by a bitmap (active_sets.h).
// Cost of a group: O(N / 64 + b k + count); nothing of N words is allocated and nothing is sorted.
#include "active_sets.h"
#include "threads.h"

#include <cstdint>
#include <vector>

namespace selection {

// classes [count] and targets [b] of one group. Returns an Error, or the number of distinct labels negated where it
// exceeds count.
int64_t union_of_group(Workspace& space, const Group& group, int64_t count, int64_t* classes, int64_t* targets) {
    Bitmap& active = space.active;
    active.clear();
    int64_t error = add_labels(active, group);
    if (error) return error;
    if (active.size > count) return -active.size;
    error = add_candidates(space, group, count);
    if (!error) error = fill(active, group.fill_order, group.length, count);
    if (error) return error;
    write_ids(space, classes);
    write_targets(space, group, targets);
    return OK;
}

}  // namespace selection

// classes [G, count] ascending in each row, targets [G, b] (-1: no sample). candidates [batch, k] (-1: none),
// labels [batch], samples [G, b] (-1: none), fill_order [G, length]; count <= num_classes.
// Returns what union_of_group returns of the lowest group for which that is not 0.
extern "C" int64_t union_active(const int64_t* candidates, const int64_t* labels, const int64_t* samples,
                                const int64_t* fill_order, int64_t batch, int64_t k, int64_t G, int64_t b,
                                int64_t length, int64_t count, int64_t num_classes, int64_t* classes,
                                int64_t* targets) {
    if (!selection::valid_samples(samples, G * b, batch)) return selection::SAMPLE_OUT_OF_RANGE;
    std::vector<int64_t> errors(G, selection::OK);
#pragma omp parallel if (G > 1 && threads::pay(G * (8 * b * k + 16 * count + num_classes / 4)))
    {
        selection::Workspace space(num_classes);
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < G; ++g) {
            const selection::Group group{candidates, labels, samples + g * b, fill_order + g * length, k, b, length};
            errors[g] = union_of_group(space, group, count, classes + g * count, targets + g * b);
        }
    }
    return selection::first_error(errors);
}
