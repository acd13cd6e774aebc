// select.cu: exactly `count` of the N classes, as ascending ids, without a sort and without waiting for the GPU.
//
//   union_active  for each group, from its samples' candidates and labels and an order to fill up from (twin: select.cpp)
//   select_map    from the flat scan's map: one byte for each class, the larger the better; the labels always
//
// Both give every class a key, the smaller the better, and take the `count` smallest, ties to the lower id:
//
//   union_active  0 a label | 1 + c candidate in column c | k + 1 + i place i of fill_order | last: none of these
//   select_map    0 a label | 256 - byte
//
// A histogram of the keys and its running sum give the cut: all keys below cut.key, and the first cut.take classes of
// that key. Classes with the last key need no bin: they are what the others leave. A running count over the ids gives
// each chosen class its place, so they come out in ascending order. The result is the same in every version.
//   bytes moved       union_active: 16 N + 8 (b k + L) + 8 (k + L) + 8 count    select_map: 3.5 N + 8 count
//
// INDEX OF VERSIONS
//   union_active_1    one block; one thread of it looks for the cut and writes the ids
//   union_active_2    many blocks: tiles are counted, the counts summed up by one block, then each tile writes its ids
//   union_active_3    as 2, each thread with four neighbouring classes, read as one int4
//   select_map_1      one block, the histogram in global memory; one thread looks for the cut and writes the ids
//   select_map_2      as union_active_2, with a histogram in the shared memory of each block
//   select_map_3      each thread reads 16 bytes at once; lanes with the same byte are counted by one atomic
//
// More distinct labels than count: the CPU returns an error, which a GPU cannot without a host that waits. Here the
// lowest `count` of the labels are taken, and the targets of the others are -1; no other target ever is.
// Over 300 lines, since a ladder is read from top to bottom in one file, and both ladders share how they cut.
#include "launch.h"

constexpr int THREADS = 256, ONE_BLOCK = 1024, SUMMED = 4096;  // SUMMED: bins whose counts are summed by one block
constexpr int NO_RANK = 0x7F7F7F7F;                            // what fill_bytes can write

struct Cut { int key, take; };

// ---- Keys: load<n> gives those of n neighbouring classes; id is a multiple of n. Beyond the last class: last + 1 ----

struct Ranks {
    const int* rank;  // [N, and up to 15 more]
    int64_t N;
    int last;
    template <int n>
    __device__ void load(int64_t id, int (&keys)[n]) const {
        if constexpr (n == 4) {
            const int4 four = id < N ? *reinterpret_cast<const int4*>(rank + id) : int4{0, 0, 0, 0};
            keys[0] = four.x, keys[1] = four.y, keys[2] = four.z, keys[3] = four.w;
        } else {
            for (int i = 0; i < n; ++i) keys[i] = id + i < N ? rank[id + i] : 0;
        }
        for (int i = 0; i < n; ++i) keys[i] = id + i < N ? min(keys[i], last) : last + 1;
    }
};

struct Bytes {
    const uint8_t* map;
    const unsigned* labels;  // bit id % 32 of word id / 32
    int64_t N;
    static constexpr int last = 256;
    template <int n>
    __device__ void load(int64_t id, int (&keys)[n]) const {
        const unsigned bits = id < N ? labels[id / 32] >> id % 32 : 0;  // n divides 32: all in one word
        unsigned words[(n + 3) / 4] = {};
        if (n == 16 && id + 16 <= N) {
            const uint4 all = *reinterpret_cast<const uint4*>(map + id);
            words[0] = all.x, words[1 % ((n + 3) / 4)] = all.y, words[2 % ((n + 3) / 4)] = all.z;
            words[3 % ((n + 3) / 4)] = all.w;
        } else {
            for (int i = 0; i < n && id + i < N; ++i) words[i / 4] |= unsigned(map[id + i]) << i % 4 * 8;
        }
        for (int i = 0; i < n; ++i) {
            const int key = bits >> i & 1 ? 0 : 256 - int(words[i / 4] >> i % 4 * 8 & 255);
            keys[i] = id + i < N ? key : last + 1;
        }
    }
};

// ---- What every version does ----------------------------------------------------------------------------------------

// What one group's set is made from; see union_active_v.
struct Group {
    const int64_t *candidates, *labels, *samples, *fill_order;
    int64_t b, k, length;
};

// rank[c] = the smallest key of class c. The threads of the grid share the work.
__device__ void rank_classes(const Group& group, int* rank, int64_t thread, int64_t threads) {
    for (int64_t i = thread; i < group.b; i += threads)
        if (group.samples[i] >= 0) atomicMin(rank + group.labels[group.samples[i]], 0);
    for (int64_t i = thread; i < group.b * group.k; i += threads) {
        const int64_t sample = group.samples[i / group.k], column = i % group.k;
        const int64_t id = sample < 0 ? -1 : group.candidates[sample * group.k + column];
        if (id >= 0) atomicMin(rank + id, int(column) + 1);
    }
    for (int64_t i = thread; i < group.length; i += threads) atomicMin(rank + group.fill_order[i], int(group.k + 1 + i));
}

__device__ void mark_labels(const int64_t* labels, int64_t batch, unsigned* marked, int64_t thread, int64_t threads) {
    for (int64_t i = thread; i < batch; i += threads) atomicOr(marked + labels[i] / 32, 1u << labels[i] % 32);
}

// targets[i] = the place of the label of sample i (of samples[i], unless null) among the classes; -1 where there is none.
__device__ void find_targets(const int64_t* labels, const int64_t* samples, int64_t b, const int64_t* classes,
                             int64_t count, int64_t* targets, int64_t thread, int64_t threads) {
    for (int64_t i = thread; i < b; i += threads) {
        const int64_t sample = samples ? samples[i] : i, label = sample < 0 ? -1 : labels[sample];
        int64_t low = 0, high = count;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (classes[middle] < label) low = middle + 1;
            else high = middle;
        }
        targets[i] = low < count && classes[low] == label ? low : -1;
    }
}

// ---- Version 1 ------------------------------------------------------------------------------------------------------

// By one block: histogram [last] of zeros, then the cut and the ids by its first thread.
template <class Keys>
__device__ void select_by_one_block(const Keys& keys, int64_t count, int* histogram, int64_t* classes) {
    int key[1];
    for (int64_t id = threadIdx.x; id < keys.N; id += blockDim.x) {
        keys.load(id, key);
        if (key[0] < keys.last) atomicAdd(histogram + key[0], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        Cut cut = {0, int(count)};
        while (cut.key < keys.last && histogram[cut.key] < cut.take) cut.take -= histogram[cut.key++];
        for (int64_t id = 0, place = 0; id < keys.N; ++id) {
            keys.load(id, key);
            if (key[0] < cut.key || (key[0] == cut.key && cut.take-- > 0)) classes[place++] = id;
        }
    }
    __syncthreads();
}

__global__ void union_active_1(Group group, int64_t count, int* rank, int64_t N, int* histogram, int64_t* classes,
                               int64_t* targets) {
    rank_classes(group, rank, threadIdx.x, blockDim.x);
    __syncthreads();
    select_by_one_block(Ranks{rank, N, int(group.k + group.length + 1)}, count, histogram, classes);
    find_targets(group.labels, group.samples, group.b, classes, count, targets, threadIdx.x, blockDim.x);
}

__global__ void select_map_1(const uint8_t* map, const int64_t* labels, int64_t batch, int64_t count, int64_t N,
                             unsigned* marked, int* histogram, int64_t* classes, int64_t* targets) {
    mark_labels(labels, batch, marked, threadIdx.x, blockDim.x);
    __syncthreads();
    select_by_one_block(Bytes{map, marked, N}, count, histogram, classes);
    find_targets(labels, nullptr, batch, classes, count, targets, threadIdx.x, blockDim.x);
}

// ---- Versions 2 and 3: a tile is what one block looks at, `each` neighbouring classes a thread, `rounds` times ------

__global__ void rank_classes_2(Group group, int* rank) {
    rank_classes(group, rank, global_thread(), int64_t(gridDim.x) * blockDim.x);
}

__global__ void mark_labels_2(const int64_t* labels, int64_t batch, unsigned* marked) {
    mark_labels(labels, batch, marked, global_thread(), int64_t(gridDim.x) * blockDim.x);
}

__global__ void find_targets_2(const int64_t* labels, const int64_t* samples, int64_t b, const int64_t* classes,
                               int64_t count, int64_t* targets) {
    find_targets(labels, samples, b, classes, count, targets, global_thread(), int64_t(gridDim.x) * blockDim.x);
}

// Few classes share a rank (at most one for each sample), so atomics in global memory hardly ever meet.
template <int each, int rounds>
__global__ void count_ranks_2(Ranks ranks, int* histogram) {
    int keys[each];
    for (int round = 0; round < rounds; ++round) {
        ranks.load(((int64_t(blockIdx.x) * rounds + round) * THREADS + threadIdx.x) * each, keys);
        for (int i = 0; i < each; ++i)
            if (keys[i] < ranks.last) atomicAdd(histogram + keys[i], 1);
    }
}

// Most bytes are 0, below any sample's threshold: theirs is the last key, which is not counted.
template <int each, int rounds>
__global__ void count_bytes_2(Bytes bytes, int* histogram) {
    __shared__ int mine[Bytes::last];
    int keys[each];
    mine[threadIdx.x] = 0;
    __syncthreads();
    for (int round = 0; round < rounds; ++round) {
        bytes.load(((int64_t(blockIdx.x) * rounds + round) * THREADS + threadIdx.x) * each, keys);
        for (int i = 0; i < each; ++i) {
            if (each == 1) {
                if (keys[i] < Bytes::last) atomicAdd(mine + keys[i], 1);
                continue;
            }
            if (!__any_sync(ALL_LANES, keys[i] < Bytes::last)) continue;
            const unsigned same = __match_any_sync(ALL_LANES, keys[i]);  // lanes with this key: the first one counts
            if (keys[i] < Bytes::last && __ffs(int(same)) - 1 == lane_id())
                atomicAdd(mine + keys[i], __popc(same));
        }
    }
    __syncthreads();
    if (mine[threadIdx.x] > 0) atomicAdd(histogram + threadIdx.x, mine[threadIdx.x]);
}

// sums[b] = the counts of the bins SUMMED b .. SUMMED b + SUMMED - 1, together.
__global__ void sum_bins_2(const int* histogram, int64_t bins, int* sums) {
    __shared__ int room[WARP];
    int sum = 0;
    const int64_t first = int64_t(blockIdx.x) * SUMMED;
    for (int64_t i = first + threadIdx.x; i < min(first + SUMMED, bins); i += blockDim.x) sum += histogram[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// By one block: the first of the places first .. end - 1 up to which `sum` and the values reach count, else end.
// sum: afterwards without the value of that place.
__device__ int64_t reach(const int* values, int64_t first, int64_t end, int64_t count, int& sum) {
    __shared__ int room[WARP], before_place;
    __shared__ int64_t place;
    for (int64_t chunk = first; chunk < end; chunk += blockDim.x) {
        const int64_t i = chunk + threadIdx.x;
        const int value = i < end ? values[i] : 0;
        int total;
        const int before = sum + block_scan_exclusive(value, room, &total);
        if (before < count && count <= before + value) {
            place = i;
            before_place = before;
        }
        sum += total;
        if (sum < count) continue;
        __syncthreads();
        sum = before_place;
        const int64_t found = place;
        __syncthreads();  // now the next call may write
        return found;
    }
    return end;
}

// sums[b]: of `each` bins. Looks for the sum, then for the bin in it.
__global__ void find_cut_2(const int* sums, int64_t each, const int* histogram, int64_t bins, int64_t count, Cut* cut) {
    int sum = 0;
    const int64_t all = (bins + each - 1) / each, found = reach(sums, 0, all, count, sum);
    const int64_t key = found < all ? reach(histogram, found * each, min((found + 1) * each, bins), count, sum) : bins;
    if (threadIdx.x == 0) *cut = {int(key), int(count - sum)};
}

// How many of these keys are below the cut, and (times 65536) how many at it.
template <int each>
__device__ unsigned count_chosen(const int (&keys)[each], int cut) {
    unsigned counts = 0;
    for (int i = 0; i < each; ++i) counts += keys[i] < cut ? 1u : keys[i] == cut ? 0x10000u : 0u;
    return counts;
}

template <class Keys, int each, int rounds>
__global__ void count_tiles_2(Keys keys_of, const Cut* cut, unsigned* tiles) {
    __shared__ unsigned room[WARP];
    unsigned counts = 0;
    int keys[each];
    for (int round = 0; round < rounds; ++round) {
        keys_of.load(((int64_t(blockIdx.x) * rounds + round) * THREADS + threadIdx.x) * each, keys);
        counts += count_chosen(keys, cut->key);
    }
    counts = block_sum(counts, room);
    if (threadIdx.x == 0) tiles[blockIdx.x] = counts;
}

// By one block: before[t] = how many classes of the tiles before t are below the cut, and at it.
__global__ void place_tiles_2(const unsigned* tiles, int64_t count, int2* before) {
    __shared__ unsigned long long room[WARP];
    unsigned long long sum = 0, total;  // below the cut in the low half, at it in the high one
    for (int64_t chunk = 0; chunk < count; chunk += blockDim.x) {
        const int64_t t = chunk + threadIdx.x;
        const unsigned mine = t < count ? tiles[t] : 0;
        const unsigned long long both = (unsigned long long)(mine >> 16) << 32 | (mine & 0xFFFF);
        const unsigned long long earlier = sum + block_scan_exclusive(both, room, &total);
        if (t < count) before[t] = make_int2(int(earlier & 0xFFFFFFFF), int(earlier >> 32));
        sum += total;
    }
}

// A class goes behind those before it that are chosen: all below the cut, and those at it up to cut.take.
template <class Keys, int each, int rounds>
__global__ void write_tiles_2(Keys keys_of, const Cut* cut, const int2* before, int64_t* classes) {
    __shared__ unsigned room[WARP];
    const Cut limit = *cut;
    int below_tile = before[blockIdx.x].x, at_tile = before[blockIdx.x].y;
    int keys[each];
    for (int round = 0; round < rounds; ++round) {
        const int64_t id = ((int64_t(blockIdx.x) * rounds + round) * THREADS + threadIdx.x) * each;
        keys_of.load(id, keys);
        unsigned total;
        const unsigned earlier = block_scan_exclusive(count_chosen(keys, limit.key), room, &total);
        int below = below_tile + int(earlier & 0xFFFF), at = at_tile + int(earlier >> 16);
        for (int i = 0; i < each; ++i) {
            if (keys[i] < limit.key) classes[below++ + min(at, limit.take)] = id + i;
            if (keys[i] != limit.key) continue;
            if (at < limit.take) classes[below + at] = id + i;
            ++at;
        }
        below_tile += int(total & 0xFFFF);
        at_tile += int(total >> 16);
    }
}

template <class Keys, int each, int rounds>
void write_selected(Keys keys, const Cut* cut, int64_t* classes, void* stream) {
    const int64_t tiles = blocks_for(keys.N, each * rounds * THREADS);
    int2* before = scratch<int2>(tiles, stream);
    unsigned* counts = scratch<unsigned>(tiles, stream);
    LAUNCH((count_tiles_2<Keys, each, rounds>), tiles, THREADS, 0, stream, keys, cut, counts);
    LAUNCH(place_tiles_2, 1, ONE_BLOCK, 0, stream, counts, tiles, before);
    LAUNCH((write_tiles_2<Keys, each, rounds>), tiles, THREADS, 0, stream, keys, cut, before, classes);
    release(counts, stream);
    release(before, stream);
}

template <int each, int rounds>
void union_by_tiles(Ranks ranks, int* histogram, int64_t count, int64_t* classes, void* stream) {
    const int64_t sums_count = blocks_for(ranks.last, SUMMED);
    int* sums = scratch<int>(sums_count, stream);
    Cut* cut = scratch<Cut>(1, stream);
    const int64_t tiles = blocks_for(ranks.N, each * rounds * THREADS);
    LAUNCH((count_ranks_2<each, rounds>), tiles, THREADS, 0, stream, ranks, histogram);
    LAUNCH(sum_bins_2, sums_count, THREADS, 0, stream, histogram, ranks.last, sums);
    LAUNCH(find_cut_2, 1, ONE_BLOCK, 0, stream, sums, SUMMED, histogram, ranks.last, count, cut);
    write_selected<Ranks, each, rounds>(ranks, cut, classes, stream);
    release(cut, stream);
    release(sums, stream);
}

template <int each, int rounds>
void map_by_tiles(Bytes bytes, int* histogram, int64_t count, int64_t* classes, void* stream) {
    Cut* cut = scratch<Cut>(1, stream);
    const int64_t tiles = blocks_for(bytes.N, each * rounds * THREADS);
    LAUNCH((count_bytes_2<each, rounds>), tiles, THREADS, 0, stream, bytes, histogram);
    LAUNCH(find_cut_2, 1, THREADS, 0, stream, histogram, 1, histogram, Bytes::last, count, cut);
    write_selected<Bytes, each, rounds>(bytes, cut, classes, stream);
    release(cut, stream);
}

// ---- Launchers ------------------------------------------------------------------------------------------------------

void union_of_group(int64_t version, const Group& group, int64_t count, int64_t N, int* rank, int* histogram,
                    int64_t* classes, int64_t* targets, void* stream) {
    const int64_t last = group.k + group.length + 1;
    fill_bytes(rank, NO_RANK & 0xFF, blocks_for(N, 16) * 16 * 4, stream);
    fill_bytes(histogram, 0, last * 4, stream);
    if (version == 1) {
        LAUNCH(union_active_1, 1, ONE_BLOCK, 0, stream, group, count, rank, N, histogram, classes, targets);
        return;
    }
    const int64_t b = group.b, most = max(max(b, b * group.k), group.length);
    if (most > 0) LAUNCH(rank_classes_2, blocks_for(most, THREADS), THREADS, 0, stream, group, rank);
    const Ranks ranks = {rank, N, int(last)};
    if (version == 2) union_by_tiles<1, 8>(ranks, histogram, count, classes, stream);
    else union_by_tiles<4, 2>(ranks, histogram, count, classes, stream);
    if (b > 0) LAUNCH(find_targets_2, blocks_for(b, THREADS), THREADS, 0, stream, group.labels, group.samples, b, classes,
                      count, targets);
}

// candidates [batch, k] (-1: none), labels [batch], samples [G, b] (-1: none), fill_order [G, length];
// count <= num_classes -> classes [G, count] ascending in each row, targets [G, b].
extern "C" int64_t union_active_v(int64_t version, const int64_t* candidates, const int64_t* labels,
                                  const int64_t* samples, const int64_t* fill_order, int64_t batch, int64_t k, int64_t G,
                                  int64_t b, int64_t length, int64_t count, int64_t num_classes, int64_t* classes,
                                  int64_t* targets, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (G * b > 0) fill_bytes(targets, 0xFF, G * b * 8, stream);
    if (count == 0) return launch_error();
    int* rank = scratch<int>(blocks_for(num_classes, 16) * 16, stream);
    int* histogram = scratch<int>(k + length + 1, stream);
    for (int64_t g = 0; g < G; ++g) {
        const Group group = {candidates, labels, samples + g * b, fill_order + g * length, b, k, length};
        union_of_group(version, group, count, num_classes, rank, histogram, classes + g * count, targets + g * b, stream);
    }
    release(histogram, stream);
    release(rank, stream);
    return launch_error();
}

extern "C" int64_t union_active(const int64_t* candidates, const int64_t* labels, const int64_t* samples,
                                const int64_t* fill_order, int64_t batch, int64_t k, int64_t G, int64_t b, int64_t length,
                                int64_t count, int64_t num_classes, int64_t* classes, int64_t* targets, void* stream) {
    return union_active_v(3, candidates, labels, samples, fill_order, batch, k, G, b, length, count, num_classes,
                          classes, targets, stream);
}

// classes [count] ascending, targets [batch]; labels [batch].
// map [num_classes] bytes; count <= num_classes. Version 3 reads 16 bytes at once: a map that is a part of another
// tensor, and does not begin at a multiple of 16, goes to version 2.
extern "C" int64_t select_map_v(int64_t version, const uint8_t* map, const int64_t* labels, int64_t batch,
                                int64_t count, int64_t num_classes, int64_t* classes, int64_t* targets, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (batch > 0) fill_bytes(targets, 0xFF, batch * 8, stream);
    if (count == 0) return launch_error();
    const int64_t N = num_classes, words = blocks_for(N, 32);
    unsigned* marked = scratch<unsigned>(words, stream);
    int* histogram = scratch<int>(Bytes::last, stream);
    fill_bytes(marked, 0, words * 4, stream);
    fill_bytes(histogram, 0, Bytes::last * 4, stream);
    if (version == 1) {
        LAUNCH(select_map_1, 1, ONE_BLOCK, 0, stream, map, labels, batch, count, N, marked, histogram, classes,
               targets);
    } else {
        if (batch > 0) LAUNCH(mark_labels_2, blocks_for(batch, THREADS), THREADS, 0, stream, labels, batch, marked);
        const Bytes bytes = {map, marked, N};
        if (version == 2 || !aligned16(map)) map_by_tiles<1, 8>(bytes, histogram, count, classes, stream);
        else map_by_tiles<16, 1>(bytes, histogram, count, classes, stream);
        if (batch > 0)
            LAUNCH(find_targets_2, blocks_for(batch, THREADS), THREADS, 0, stream, labels, nullptr, batch, classes,
                   count, targets);
    }
    release(histogram, stream);
    release(marked, stream);
    return launch_error();
}

extern "C" int64_t select_map(const uint8_t* map, const int64_t* labels, int64_t batch, int64_t count,
                              int64_t num_classes, int64_t* classes, int64_t* targets, void* stream) {
    return select_map_v(3, map, labels, batch, count, num_classes, classes, targets, stream);
}
