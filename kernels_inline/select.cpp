// Active sets: the union of the samples' candidates with their labels, cut or filled to exactly `count` classes.
//
// The set is a bitmap of N bits (125 KB at a million classes: it stays in cache). Classes enter it
//   1. labels;
//   2. candidates rank by rank, every sample's nearest first; in the rank that overflows, the lowest ids;
//   3. if there is room left, fill_order in its order, then the lowest ids not yet in.
// The bitmap read from its start gives the ids in ascending order. A label's target is the number of ids below it:
// the running count at its word, plus the bits below its own.
// Cost: O(N / 64 + b k + count); nothing of N words is allocated and nothing is sorted.
#include <algorithm>
#include <cstdint>
#include <vector>

namespace selection {

enum Error : int64_t { OK = 0, LABEL_OUT_OF_RANGE = 1, CANDIDATE_OUT_OF_RANGE = 2, FILL_OUT_OF_RANGE = 3 };

struct Bitmap {
    std::vector<uint64_t> words;
    int64_t size = 0, limit;                 // bits set; ids are below limit

    explicit Bitmap(int64_t limit) : words((limit + 63) / 64, 0), limit(limit) {}
    bool valid(int64_t id) const { return id >= 0 && id < limit; }
    bool add(int64_t id) {                   // false if it was in
        uint64_t &word = words[id / 64], bit = uint64_t(1) << id % 64;
        if (word & bit) return false;
        word |= bit;
        ++size;
        return true;
    }
    void remove(int64_t id) {
        words[id / 64] &= ~(uint64_t(1) << id % 64);
        --size;
    }
};

int64_t add_candidates(Bitmap& active, const int64_t* candidates, int64_t batch, int64_t k, int64_t count) {
    std::vector<int64_t> fresh;              // what the present rank added
    for (int64_t rank = 0; rank < k && active.size < count; ++rank) {
        fresh.clear();
        for (int64_t sample = 0; sample < batch; ++sample) {
            const int64_t id = candidates[sample * k + rank];
            if (id < 0) continue;
            if (!active.valid(id)) return CANDIDATE_OUT_OF_RANGE;
            if (active.add(id)) fresh.push_back(id);
        }
        if (active.size > count) {           // keep the lowest ids of this rank
            const int64_t kept = int64_t(fresh.size()) - (active.size - count);
            std::nth_element(fresh.begin(), fresh.begin() + kept, fresh.end());
            std::for_each(fresh.begin() + kept, fresh.end(), [&](int64_t id) { active.remove(id); });
        }
    }
    return OK;
}

int64_t fill(Bitmap& active, const int64_t* fill_order, int64_t length, int64_t count) {
    for (int64_t i = 0; i < length && active.size < count; ++i) {
        if (!active.valid(fill_order[i])) return FILL_OUT_OF_RANGE;
        active.add(fill_order[i]);
    }
    for (int64_t id = 0; active.size < count; ++id) active.add(id);
    return OK;
}

// Writes the ids in the bitmap and returns how many lie below each word.
std::vector<int64_t> write_ids(const Bitmap& active, int64_t* ids) {
    std::vector<int64_t> below(active.words.size());
    int64_t written = 0;
    for (size_t w = 0; w < active.words.size(); ++w) {
        below[w] = written;
        for (uint64_t word = active.words[w]; word; word &= word - 1)
            ids[written++] = int64_t(w) * 64 + __builtin_ctzll(word);
    }
    return below;
}

}  // namespace selection

// classes [count] ascending, targets [batch]. candidates [batch, k] (-1: none), labels [batch], fill_order [length];
// count <= num_classes. Returns an Error, or the number of distinct labels negated where it exceeds count.
extern "C" int64_t union_active(const int64_t* candidates, const int64_t* labels, const int64_t* fill_order,
                                int64_t batch, int64_t k, int64_t length, int64_t count, int64_t num_classes,
                                int64_t* classes, int64_t* targets) {
    selection::Bitmap active(num_classes);
    for (int64_t i = 0; i < batch; ++i) {
        if (!active.valid(labels[i])) return selection::LABEL_OUT_OF_RANGE;
        active.add(labels[i]);
    }
    if (active.size > count) return -active.size;
    int64_t error = selection::add_candidates(active, candidates, batch, k, count);
    if (!error) error = selection::fill(active, fill_order, length, count);
    if (error) return error;
    const std::vector<int64_t> below = selection::write_ids(active, classes);
    for (int64_t i = 0; i < batch; ++i) {
        const uint64_t lower = (uint64_t(1) << labels[i] % 64) - 1;
        targets[i] = below[labels[i] / 64] + __builtin_popcountll(active.words[labels[i] / 64] & lower);
    }
    return selection::OK;
}
