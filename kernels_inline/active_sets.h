// A set of classes as a bitmap of N bits (125 KB at a million classes: it stays in cache), and what enters it:
//   1. labels;
//   2. candidates rank by rank, every sample's nearest first; in the rank that overflows, the lowest ids;
//   3. if there is room left, fill_order in its order, then the lowest ids not yet in.
// The bitmap read from its start gives the ids in ascending order. A label's target is the number of ids below it:
// the running count at its word, plus the bits below its own.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace selection {

enum Error : int64_t {
    OK = 0, LABEL_OUT_OF_RANGE = 1, CANDIDATE_OUT_OF_RANGE = 2, FILL_OUT_OF_RANGE = 3, SAMPLE_OUT_OF_RANGE = 4
};

struct Bitmap {
    std::vector<uint64_t> words;
    int64_t size = 0, limit;                 // bits set; ids are below limit

    explicit Bitmap(int64_t limit) : words((limit + 63) / 64, 0), limit(limit) {}
    void clear() {
        std::fill(words.begin(), words.end(), 0);
        size = 0;
    }
    bool has(int64_t id) const { return words[id / 64] >> id % 64 & 1; }
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

struct Group {
    const int64_t *candidates, *labels;      // of the batch: [batch, k], [batch]
    const int64_t *samples, *fill_order;     // of the group: [b], -1 where there is no sample; [length]
    int64_t k, b, length;
};

struct Workspace {                           // of one thread
    Bitmap active;
    std::vector<int64_t> fresh, below;       // what the present rank added; ids below each word
    explicit Workspace(int64_t limit) : active(limit), below(active.words.size()) {}
};

int64_t add_labels(Bitmap& active, const Group& group) {
    for (int64_t i = 0; i < group.b; ++i) {
        if (group.samples[i] < 0) continue;
        const int64_t label = group.labels[group.samples[i]];
        if (!active.valid(label)) return LABEL_OUT_OF_RANGE;
        active.add(label);
    }
    return OK;
}

int64_t add_candidates(Workspace& space, const Group& group, int64_t count) {
    Bitmap& active = space.active;
    for (int64_t rank = 0; rank < group.k && active.size < count; ++rank) {
        space.fresh.clear();
        for (int64_t i = 0; i < group.b; ++i) {
            if (group.samples[i] < 0) continue;
            const int64_t id = group.candidates[group.samples[i] * group.k + rank];
            if (id < 0) continue;
            if (!active.valid(id)) return CANDIDATE_OUT_OF_RANGE;
            if (active.add(id)) space.fresh.push_back(id);
        }
        if (active.size > count) {           // keep the lowest ids of this rank
            std::vector<int64_t>& fresh = space.fresh;
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

// Writes the ids in the bitmap, and how many lie below each word.
void write_ids(Workspace& space, int64_t* ids) {
    int64_t written = 0;
    for (size_t w = 0; w < space.below.size(); ++w) {
        space.below[w] = written;
        for (uint64_t word = space.active.words[w]; word; word &= word - 1)
            ids[written++] = int64_t(w) * 64 + __builtin_ctzll(word);
    }
}

// targets [b] of a group whose labels are in, after write_ids; -1 where there is no sample.
void write_targets(const Workspace& space, const Group& group, int64_t* targets) {
    for (int64_t i = 0; i < group.b; ++i) {
        targets[i] = -1;
        if (group.samples[i] < 0) continue;
        const int64_t label = group.labels[group.samples[i]];
        const uint64_t lower = (uint64_t(1) << label % 64) - 1;
        targets[i] = space.below[label / 64] + __builtin_popcountll(space.active.words[label / 64] & lower);
    }
}

// The first error of groups, or 0.
int64_t first_error(const std::vector<int64_t>& errors) {
    const auto bad = std::find_if(errors.begin(), errors.end(), [](int64_t error) { return error != 0; });
    return bad == errors.end() ? OK : *bad;
}

// Whether each of samples [n] is -1 or a position in the batch.
bool valid_samples(const int64_t* samples, int64_t n, int64_t batch) {
    return std::all_of(samples, samples + n, [batch](int64_t s) { return s >= -1 && s < batch; });
}

}  // namespace selection
