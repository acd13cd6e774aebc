// Search: the k codes nearest to each query in the inverted lists that it probes, exactly.
//
// Order is by (distance, id), kept as one integer key = distance << id_bits | id, so that comparing keys is
// comparing both. scan_codes.h says what a distance is. A pair that is too far away leaves no trace: nothing of the
// size of queries times codes is ever stored.
//   1. A sample (about 4,096 of a query's codes) gives a bound that somewhat more than k codes stay within.
//   2. The queries of a tile (at most 128) are scanned list by list, so that a list is read into cache once for all
//      of them. Codes within the query's bound are appended to its buffer; a full buffer is sorted, cut to k, and
//      lowers the bound.
//   3. The few survivors are radix sorted. A query whose bound kept fewer than k is scanned again without one,
//      so the sample decides the speed only, never the result.
// Cost: the pairs (see scan_codes.h), about 20 instructions for each of the 1.5 k to 2 k survivors of a query, and
// their sort. Memory: 32 (k + 64) bytes a query of a tile and thread.
#include "scan_codes.h"
#include "threads.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>
#include <omp.h>

namespace scan {

constexpr int64_t TILE = 128;                // queries that share one pass over the lists
constexpr int64_t CHUNK = 1024;              // codes whose masks are made before any is looked at
constexpr int64_t SAMPLED_GROUPS = 512;      // of a query, about

enum Error : int64_t { OK = 0, LIST_OUT_OF_RANGE = 1, END_OUT_OF_RANGE = 2, ID_OUT_OF_RANGE = 3 };

struct Index {                               // the inverted lists
    const int64_t *slots, *codes, *ends;     // [nlist, capacity] ids, [nlist, words, capacity], [nlist]
    int64_t nlist, capacity, words, num_rows, most;   // most: the largest distance
    int id_bits, key_bits;                            // of a key: those of the id, and all
};

struct Queries {
    const int64_t *codes, *probed;           // [batch, per_query, planes, words], [batch, nprobe]
    int64_t batch, per_query, nprobe;        // per_query: 1, or nprobe if the code depends on the list
    template <int planes>
    const int64_t* code(int64_t query, int64_t probe, int64_t words) const {
        return codes + (query * per_query + (per_query == 1 ? 0 : probe)) * planes * words;
    }
};

// Least significant byte first; `spare` holds as many keys. n is in the thousands, so each pass stays in L1.
void radix_sort(int64_t* keys, int64_t* spare, int64_t n, int bits) {
    int64_t *from = keys, *to = spare;
    for (int shift = 0; shift < bits; shift += 8, std::swap(from, to)) {
        int64_t place[257] = {0};
        for (int64_t i = 0; i < n; ++i) ++place[(from[i] >> shift & 255) + 1];
        for (int b = 0; b < 256; ++b) place[b + 1] += place[b];
        for (int64_t i = 0; i < n; ++i) to[place[from[i] >> shift & 255]++] = from[i];
    }
    if (from != keys) std::memcpy(keys, from, n * sizeof(int64_t));
}

// The smallest keys seen for one query.
struct Nearest {
    int64_t *keys, *spare;
    int64_t k, room, count, bound;           // room >= k + 64; keys above the bound are not wanted

    void cut(int bits) {
        radix_sort(keys, spare, count, bits);
        if (count < k) return;
        count = k;
        bound = std::min(bound, keys[k - 1]);
    }
};

struct Pair {
    int32_t list, row, probe;                // row: of the tile
};

struct Workspace {                           // of one thread
    std::vector<int64_t> keys, spare, first;
    std::vector<Pair> pairs;
    std::vector<int32_t> histograms;         // [tile, most + 1]
    std::vector<Nearest> nearest;
};

template <int planes>
void near_masks_of(const Index& index, const int64_t* codes, int64_t groups, const int64_t* query, int64_t limit,
                   uint8_t* masks) {
    const auto scan = index.words == 2 ? near_masks<planes, 2> : index.words == 8 ? near_masks<planes, 8>
                                                                                : near_masks<planes, 0>;
    scan(codes, index.capacity, groups, query, index.words, limit, masks);
}

// Offers the codes of one list to one query. First the masks of a chunk, without a branch, then the few bits set.
template <int planes>
int64_t scan_list(const Index& index, int64_t list, const int64_t* query, Nearest& nearest) {
    const int64_t* codes = index.codes + list * index.words * index.capacity;
    const int64_t* slots = index.slots + list * index.capacity;
    const int64_t end = index.ends[list];
    uint8_t masks[CHUNK / GROUP];
    for (int64_t start = 0; start < end; start += CHUNK) {
        const int64_t left = std::min(CHUNK, end - start), inside = std::min(CHUNK, index.capacity - start) / GROUP;
        const int64_t groups = (left + GROUP - 1) / GROUP;
        near_masks_of<planes>(index, codes + start, std::min(groups, inside), query, nearest.bound >> index.id_bits,
                              masks);
        if (groups > inside) masks[inside] = 255;                // it would reach past the list: look at each code
        if (left % GROUP) masks[groups - 1] &= (1 << left % GROUP) - 1;
        std::memset(masks + groups, 0, -groups & 7);
        for (int64_t block = 0; block < left; block += 64) {
            if (nearest.count + 64 > nearest.room) nearest.cut(index.key_bits);
            uint64_t mask;
            std::memcpy(&mask, masks + block / GROUP, 8);
            for (; mask; mask &= mask - 1) {
                const int64_t slot = start + block + __builtin_ctzll(mask), id = slots[slot];
                if (id < 0) continue;
                if (id >= index.num_rows) return ID_OUT_OF_RANGE;
                int64_t distance;
                distances<planes, 1>(codes + slot, index.capacity, query, index.words, &distance);
                const int64_t key = distance << index.id_bits | id;
                if (key <= nearest.bound) nearest.keys[nearest.count++] = key;
            }
        }
    }
    return OK;
}

// The pairs (query, probe) of a tile in order of their list: a counting sort, so that each list comes up once.
void sort_by_list(const Index& index, const Queries& queries, int64_t begin, int64_t end, Workspace& space) {
    const int64_t* probed = queries.probed + begin * queries.nprobe;
    space.first.assign(index.nlist + 1, 0);
    space.pairs.resize((end - begin) * queries.nprobe);
    for (size_t i = 0; i < space.pairs.size(); ++i) ++space.first[probed[i] + 1];
    for (int64_t list = 0; list < index.nlist; ++list) space.first[list + 1] += space.first[list];
    for (int64_t row = 0; row < end - begin; ++row)
        for (int64_t probe = 0; probe < queries.nprobe; ++probe, ++probed)
            space.pairs[space.first[*probed]++] = {int32_t(*probed), int32_t(row), int32_t(probe)};
}

// Sets each query's bound so that about k codes, and probably a few more, stay within it: one in `step` groups of
// each list is looked at, list by list as in the scan. With r of a query's k nearest expected among them,
// r + 3 sqrt(r) + 4 are taken (three standard deviations); with too few to say, everything is.
template <int planes>
void sample_bounds(const Index& index, const Queries& queries, int64_t begin, int64_t end, Workspace& space) {
    int64_t groups = 0;
    for (const Pair& pair : space.pairs) groups += index.ends[pair.list] / GROUP;
    const int64_t step = std::max<int64_t>(8, groups / (end - begin) / SAMPLED_GROUPS), bins = index.most + 1;
    std::fill(space.histograms.begin(), space.histograms.end(), 0);
    for (const auto [list, row, probe] : space.pairs) {
        const int64_t* query = queries.code<planes>(begin + row, probe, index.words);
        int32_t* histogram = space.histograms.data() + row * bins;
        // A multiplicative hash: lists start at different groups, so that short ones get their share too.
        int64_t group = (uint64_t(list) * 0x9E3779B97F4A7C15 >> 40) % step;
        for (; group < index.ends[list] / GROUP; group += step) {
            int64_t found[GROUP];
            distances<planes, GROUP>(index.codes + list * index.words * index.capacity + group * GROUP,
                                     index.capacity, query, index.words, found);
            const int64_t* ids = index.slots + list * index.capacity + group * GROUP;
            for (int i = 0; i < GROUP; ++i) histogram[found[i]] += ids[i] >= 0;
        }
    }
    for (int64_t row = 0; row < end - begin; ++row) {
        const int32_t* histogram = space.histograms.data() + row * bins;
        const double expected = double(space.nearest[row].k) / step, wanted = expected + 3 * std::sqrt(expected) + 4;
        int64_t below = 0, distance = 0;
        while (distance < index.most && (below += histogram[distance]) < wanted) ++distance;
        space.nearest[row].bound = ((distance + 1) << index.id_bits) - 1;
    }
}

template <int planes>
int64_t search_tile(const Index& index, const Queries& queries, int64_t begin, int64_t end, Workspace& space) {
    const int64_t everything = ((index.most + 1) << index.id_bits) - 1;
    for (Nearest& nearest : space.nearest) nearest.count = 0;
    sort_by_list(index, queries, begin, end, space);
    sample_bounds<planes>(index, queries, begin, end, space);
    int64_t error = OK;
    for (const auto [list, row, probe] : space.pairs) {
        const int64_t* query = queries.code<planes>(begin + row, probe, index.words);
        if ((error = scan_list<planes>(index, list, query, space.nearest[row]))) return error;
    }
    for (int64_t q = begin; q < end; ++q) {
        Nearest& nearest = space.nearest[q - begin];
        if (nearest.count < nearest.k && nearest.bound < everything) {       // the sample's bound was too low
            nearest.count = 0;
            nearest.bound = everything;
            for (int64_t probe = 0; probe < queries.nprobe; ++probe) {
                const int64_t* query = queries.code<planes>(q, probe, index.words);
                error = scan_list<planes>(index, queries.probed[q * queries.nprobe + probe], query, nearest);
                if (error) return error;
            }
        }
        nearest.cut(index.key_bits);
    }
    return OK;
}

template <int planes>
int64_t search_all(const Index& index, const Queries& queries, int64_t k, int64_t* ids, int32_t* found) {
    const int64_t codes = std::accumulate(index.ends, index.ends + index.nlist, int64_t(0)) / index.nlist;  // a list
    const bool shared = threads::pay(8 * queries.batch * queries.nprobe * codes * planes * index.words);
    const int64_t tile = std::clamp<int64_t>(queries.batch / (shared ? omp_get_max_threads() : 1), 1, TILE);
    const int64_t tiles = (queries.batch + tile - 1) / tile, room = 4 * k + 256;
    int64_t error = OK;
#pragma omp parallel if (shared)
    {
        Workspace space;
        space.keys.resize(tile * room);
        space.spare.resize(room);
        space.histograms.resize(tile * (index.most + 1));
        for (int64_t i = 0; i < tile; ++i)
            space.nearest.push_back({space.keys.data() + i * room, space.spare.data(), k, room, 0, 0});
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < tiles; ++t) {
            const int64_t begin = t * tile, end = std::min(queries.batch, begin + tile);
            const int64_t status = search_tile<planes>(index, queries, begin, end, space);
            if (status) {
#pragma omp atomic write
                error = status;
            }
            for (int64_t q = begin; q < end && !status; ++q) {
                const Nearest& nearest = space.nearest[q - begin];
                for (int64_t i = 0; i < k; ++i) {
                    const bool missing = i >= nearest.count;
                    ids[q * k + i] = missing ? -1 : nearest.keys[i] & ((int64_t(1) << index.id_bits) - 1);
                    found[q * k + i] = int32_t(missing ? index.most + 1 : nearest.keys[i] >> index.id_bits);
                }
            }
        }
    }
    return error;
}

int bits_for(int64_t largest) { return largest ? 64 - __builtin_clzll(largest) : 0; }

}  // namespace scan

// ids, found [batch, k]: the k smallest (distance, id) of each query, -1 and most + 1 where there are fewer.
// planes is 1 or 4; most is the largest distance that can occur. For the other arguments see Index and Queries.
extern "C" int64_t ivf_scan(const int64_t* codes, const int64_t* probed, const int64_t* slots,
                            const int64_t* slot_codes, const int64_t* ends, int64_t batch, int64_t per_query,
                            int64_t nprobe, int64_t planes, int64_t nlist, int64_t capacity, int64_t words,
                            int64_t num_rows, int64_t most, int64_t k, int64_t* ids, int32_t* found) {
    using namespace scan;
    for (int64_t i = 0; i < batch * nprobe; ++i)
        if (probed[i] < 0 || probed[i] >= nlist) return LIST_OUT_OF_RANGE;
    for (int64_t list = 0; list < nlist; ++list)
        if (ends[list] < 0 || ends[list] > capacity) return END_OUT_OF_RANGE;
    const int id_bits = bits_for(num_rows - 1);
    const Index index{slots, slot_codes, ends, nlist, capacity, words, num_rows,
                      most, id_bits, id_bits + bits_for(most)};
    const Queries queries{codes, probed, batch, per_query, nprobe};
    return planes == 1 ? search_all<1>(index, queries, k, ids, found)
                       : search_all<4>(index, queries, k, ids, found);
}
