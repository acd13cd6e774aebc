// Active sets in which classes stand for those left out, with the logarithm of each one's weight: a uniform sample of
// the classes that were not searched (tail), or a priority sample of all by estimated logits. By the bitmaps of
// active_sets.h. All randomness comes in as ready-made draws.
// Cost of a group: O(N / 64 + b k + count), for a priority sample a logarithm for each place.
#include "active_sets.h"
#include "threads.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

namespace selection {

struct Result {                              // of one group: [count], [b], [count]
    int64_t *classes, *targets;
    double* log_weights;
};

// Searched classes, at most `wanted` of them and all labels, and a uniform sample of the others.
int64_t tail_of_group(Workspace& space, const Group& group, int64_t wanted, int64_t count, const Result& out) {
    Bitmap& active = space.active;
    active.clear();
    int64_t error = add_labels(active, group);
    if (error) return error;
    if (active.size > count) return -active.size;
    error = add_candidates(space, group, std::max(wanted, active.size));
    if (error) return error;
    const Bitmap searched = active;
    error = fill(active, group.fill_order, group.length, count);
    if (error) return error;
    write_ids(space, out.classes);
    write_targets(space, group, out.targets);
    const int64_t places = count - searched.size;
    const double each = places ? std::log(double(active.limit - searched.size) / double(places)) : 0;
    for (int64_t i = 0; i < count; ++i) out.log_weights[i] = searched.has(out.classes[i]) ? 0 : each;
    return OK;
}

struct Scores {                              // of the batch: [batch, k]; [p] and [batch, p]
    const float* logits;
    const int64_t* pilot;
    const float* pilot_logits;
    int64_t p;
};

struct Items {                               // of which a sample is drawn
    std::vector<int64_t> ids;
    std::vector<double> scores, priorities;  // logarithms; priority: of score / u
    void clear() { ids.clear(), scores.clear(), priorities.clear(); }
    void add(int64_t id, double score, double priority) {
        ids.push_back(id);
        scores.push_back(score);
        priorities.push_back(priority);
    }
    int64_t size() const { return ids.size(); }
};

// known: classes that are a label or a candidate of the group; best[c]: of a candidate, its largest logit.
int64_t best_logits(const Group& group, const float* logits, const Bitmap& labels, Bitmap& known, float* best) {
    for (int64_t i = 0; i < group.b; ++i) {
        if (group.samples[i] < 0) continue;
        const int64_t row = group.samples[i] * group.k;
        for (int64_t rank = 0; rank < group.k; ++rank) {
            const int64_t id = group.candidates[row + rank];
            if (id < 0) continue;
            if (!known.valid(id)) return CANDIDATE_OUT_OF_RANGE;
            if (known.add(id)) best[id] = logits[row + rank];
            else if (!labels.has(id)) best[id] = std::max(best[id], logits[row + rank]);
        }
    }
    return OK;
}

// Logarithm of the mean score of those classes of the pilot that are not known; where all are, the least of items.
double floor_of(const Group& group, const Scores& scores, const Bitmap& known, const Items& items) {
    std::vector<double> largest;
    for (int64_t j = 0; j < scores.p; ++j) {
        if (known.has(scores.pilot[j])) continue;
        double most = -std::numeric_limits<double>::infinity();
        for (int64_t i = 0; i < group.b; ++i)
            if (group.samples[i] >= 0) most = std::max(most, double(scores.pilot_logits[group.samples[i] * scores.p + j]));
        largest.push_back(most);
    }
    if (!largest.empty()) {
        const double top = *std::max_element(largest.begin(), largest.end());
        double sum = 0;
        for (double logit : largest) sum += std::exp(logit - top);
        return top + std::log(sum / double(largest.size()));
    }
    return items.size() ? *std::min_element(items.scores.begin(), items.scores.end()) : 0;
}

// The classes that no sample found, as many as could be kept: they share one score, so that only the smallest of
// their uniforms are drawn. Gaps between sorted exponential variables are exponential (Renyi 1953).
void add_unfound(const Group& group, Bitmap& taken, double score, int64_t wanted, const double* draws,
                 Items& items) {
    int64_t still = taken.limit - taken.size, next = 0, lowest = 0;
    double sum = 0;
    for (; wanted > 0; --wanted, --still, ++draws) {
        while (next < group.length && !taken.add(group.fill_order[next])) ++next;
        int64_t id = next < group.length ? group.fill_order[next++] : -1;
        if (id < 0) {                        // the draw ran out
            while (!taken.add(lowest)) ++lowest;
            id = lowest;
        }
        sum += *draws / double(still);
        items.add(id, score, score - std::log(-std::expm1(-sum)));
    }
}

// The priority of which `places` are larger: those are kept. -inf where there are no more items than places.
double threshold_of(const Items& items, int64_t places, std::vector<double>& spare) {
    if (items.size() <= places) return -std::numeric_limits<double>::infinity();
    spare = items.priorities;
    std::nth_element(spare.begin(), spare.begin() + places, spare.end(), std::greater<double>());
    return spare[places];
}

struct Known {                               // of one thread, beside a Workspace
    Bitmap known;
    std::unique_ptr<float[]> best;
    std::unique_ptr<double[]> log_weights;   // by class, of those that are kept
    Items items;
    std::vector<double> spare;
    explicit Known(int64_t limit)
        : known(limit), best(new float[limit]), log_weights(new double[limit]) {}
};

// The labels, and a priority sample of all other classes. draws [b k + count + 1], exponential: minus the logarithms of
// the candidates' uniforms, by ascending id, and what the smallest uniforms of the others are made of.
int64_t priority_of_group(Workspace& space, Known& aside, const Group& group, const Scores& scores,
                          const double* draws, int64_t count, const Result& out) {
    Bitmap& active = space.active;
    active.clear();
    int64_t error = add_labels(active, group);
    if (error) return error;
    const int64_t positives = active.size, places = count - positives;
    if (places < 0) return -positives;
    aside.known = active;
    error = best_logits(group, scores.logits, active, aside.known, aside.best.get());
    if (error) return error;

    Items& items = aside.items;
    items.clear();
    for (size_t w = 0; w < aside.known.words.size(); ++w)
        for (uint64_t word = aside.known.words[w] & ~active.words[w]; word; word &= word - 1) {
            const int64_t id = int64_t(w) * 64 + __builtin_ctzll(word);
            const double score = aside.best[id];
            items.add(id, score, score + draws[items.size()]);
        }
    // No more of them can be among the kept, or be the threshold.
    const int64_t extra = std::min(aside.known.limit - aside.known.size, places + 1);
    const double floor = floor_of(group, scores, aside.known, items);
    add_unfound(group, aside.known, floor, extra, draws + group.b * group.k, items);

    const double threshold = threshold_of(items, places, aside.spare);
    for (const bool equal : {false, true})   // equals of the threshold find what room is left
        for (int64_t i = 0; i < items.size() && active.size < count; ++i)
            if (equal ? items.priorities[i] == threshold : items.priorities[i] > threshold) {
                active.add(items.ids[i]);
                aside.log_weights[items.ids[i]] = std::max(0.0, threshold - items.scores[i]);
            }
    write_ids(space, out.classes);
    write_targets(space, group, out.targets);
    for (int64_t i = 0; i < count; ++i) out.log_weights[i] = aside.log_weights[out.classes[i]];
    for (int64_t i = 0; i < group.b; ++i)
        if (out.targets[i] >= 0) out.log_weights[out.targets[i]] = 0;
    return OK;
}

}  // namespace selection

// classes [G, count] ascending in each row, targets [G, b] (-1: no sample), log_weights [G, count]. wanted: places
// for searched classes. The other arguments, and what is returned, as of union_active (select.cpp).
extern "C" int64_t tail_active(const int64_t* candidates, const int64_t* labels, const int64_t* samples,
                               const int64_t* fill_order, int64_t batch, int64_t k, int64_t G, int64_t b,
                               int64_t length, int64_t wanted, int64_t count, int64_t num_classes, int64_t* classes,
                               int64_t* targets, double* log_weights) {
    using namespace selection;
    if (!valid_samples(samples, G * b, batch)) return SAMPLE_OUT_OF_RANGE;
    std::vector<int64_t> errors(G, OK);
#pragma omp parallel if (G > 1 && threads::pay(G * (8 * b * k + 32 * count + num_classes / 4)))
    {
        Workspace space(num_classes);
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < G; ++g) {
            const Group group{candidates, labels, samples + g * b, fill_order + g * length, k, b, length};
            errors[g] = tail_of_group(space, group, wanted, count,
                                      {classes + g * count, targets + g * b, log_weights + g * count});
        }
    }
    return first_error(errors);
}

// The same by a priority sample. logits [batch, k]: estimates of the candidates' own; pilot [p] classes drawn
// uniformly, pilot_logits [batch, p]; draws [G, b k + count + 1], exponential.
extern "C" int64_t priority_active(const int64_t* candidates, const float* logits, const int64_t* labels,
                                   const int64_t* samples, const int64_t* fill_order, const int64_t* pilot,
                                   const float* pilot_logits, const double* draws, int64_t batch, int64_t k,
                                   int64_t p, int64_t G, int64_t b, int64_t length, int64_t count,
                                   int64_t num_classes, int64_t* classes, int64_t* targets, double* log_weights) {
    using namespace selection;
    if (!valid_samples(samples, G * b, batch)) return SAMPLE_OUT_OF_RANGE;
    const auto valid = [num_classes](int64_t id) { return id >= 0 && id < num_classes; };
    if (!std::all_of(fill_order, fill_order + G * length, valid) || !std::all_of(pilot, pilot + p, valid))
        return FILL_OUT_OF_RANGE;
    std::vector<int64_t> errors(G, OK);
    // A logarithm takes as long as some 100 bytes.
#pragma omp parallel if (G > 1 && threads::pay(G * (50 * b * k + 200 * count + num_classes / 4)))
    {
        Workspace space(num_classes);
        Known aside(num_classes);
#pragma omp for schedule(dynamic)
        for (int64_t g = 0; g < G; ++g) {
            const Group group{candidates, labels, samples + g * b, fill_order + g * length, k, b, length};
            errors[g] = priority_of_group(space, aside, group, {logits, pilot, pilot_logits, p},
                                          draws + g * (b * k + count + 1), count,
                                          {classes + g * count, targets + g * b, log_weights + g * count});
        }
    }
    return first_error(errors);
}
