// flat_map: every query of a group against the codes of ALL classes, and of that one byte a class: how far the nearest
// of the group's queries is on the near side of its own threshold. select.cu takes the active classes from it.
//
// A query is 1 or 2 bit planes; codes.h says what its distance from a code is. All is in integers:
//
//     score(q, c)  = most - distance(q, c), 0 .. most; most = dim (2^planes - 1). With one plane: the bits that agree
//     margin(g, c) = max over the queries q of group g of score(q, c) - threshold[q]
//     map[g][c]    = clamp(64 + floor(margin(g, c) / 2^shift), 0, 254); 0 for a group without queries
//
// So 64 is a class that just reaches the threshold of a query, and 255 stays free for the labels. A step of a score is
// one bit of one plane; with two planes scores vary about twice as much, which shift = 1 takes back.
// Search, union and removal of duplicates are one pass: no lists of queries, no atomics, no sort.
//
//   bytes moved       8 W N read for each group, G N written; the queries come from the L2 cache
//   operations        planes W (xor, popcount, add) for each pair of a query and a class; version 4: planes W / 4
//                     (rounded up) mma of 256 bits for each 16 classes x 8 queries, and a few instructions a pair
//
// INDEX OF VERSIONS
//   flat_map_1        naive: a thread a class, a popcount a word, the queries from global memory
//   flat_map_2        the class's words in registers (if they are 2 or 8), the queries by tiles in shared memory
//   flat_map_3        as 2, with carry-save adders before the popcounts
//   flat_map_4        binary tensor cores: 32 classes a warp in registers, all the group's queries in shared memory
//
// Version 4 (fragments.h) needs compute capability 8.x or 9.0 and at most 1,024 bits; elsewhere version 3 is taken.
#include "launch.h"
#include "fragments.h"

constexpr int THREADS = 256, QUERIES = 32;   // QUERIES: of a tile of versions 2 and 3, at most
constexpr int LEVEL = 64, HIGHEST = 254;     // bytes
constexpr int NONE = -(1 << 29);             // below every margin
constexpr int64_t TILE_BYTES = 48 * 1024, FRAGMENT_BYTES = 64 * 1024, BLOCKS = 4 * 132;

struct Flat {
    const uint64_t* queries;                 // [B, planes, words], ordered by group
    const int32_t* thresholds;               // [B]
    const uint64_t* codes;                   // [N, words]
    const int64_t* starts;                   // [G + 1]: group g has the queries starts[g] .. starts[g + 1] - 1
    int64_t N;
    int words, most, shift;
    int tile;                                // queries in shared memory at a time
    uint8_t* map;                            // [G, N]
};

__device__ __forceinline__ uint8_t byte_of(int margin, int shift) {
    return uint8_t(min(max(LEVEL + (margin >> shift), 0), HIGHEST));
}

template <int planes>
__global__ void flat_map_1(Flat flat) {
    const int64_t c = global_thread(), group = blockIdx.y;
    if (c >= flat.N) return;
    const uint64_t* code = flat.codes + c * flat.words;
    int margin = NONE;
    for (int64_t q = flat.starts[group]; q < flat.starts[group + 1]; ++q) {
        int distance = 0;
        for (int p = 0; p < planes; ++p)
            for (int w = 0; w < flat.words; ++w)
                distance += __popcll(code[w] ^ flat.queries[(q * planes + p) * flat.words + w]) << p;
        margin = max(margin, flat.most - distance - flat.thresholds[q]);
    }
    flat.map[group * flat.N + c] = byte_of(margin, flat.shift);
}

// Versions 2 and 3. Threads beyond the last class work on class 0 in vain, since they are needed at the barriers.
template <int planes, int fixed_words, bool compress>
__device__ __forceinline__ void map_by_tiles(const Flat& flat) {
    DYNAMIC_SHARED(uint64_t, tile);          // [flat.tile, planes, words]
    __shared__ int offsets[QUERIES];
    const int words = fixed_words ? fixed_words : flat.words, each = planes * words;
    const int64_t c = global_thread(), group = blockIdx.y, end = flat.starts[group + 1];
    const uint64_t* code = flat.codes + (c < flat.N ? c : 0) * words;
    uint64_t kept[fixed_words ? fixed_words : 1];
#pragma unroll
    for (int w = 0; w < fixed_words; ++w) kept[w] = code[w];
    int margin = NONE;
    for (int64_t first = flat.starts[group]; first < end; first += flat.tile) {
        const int count = int(min(int64_t(flat.tile), end - first));
        __syncthreads();
        for (int i = int(threadIdx.x); i < count * each; i += int(blockDim.x)) tile[i] = flat.queries[first * each + i];
        if (int(threadIdx.x) < count) offsets[threadIdx.x] = flat.most - flat.thresholds[first + threadIdx.x];
        __syncthreads();
        for (int q = 0; q < count; ++q) {
            const int distance = distance_to<planes, compress>(
                tile + q * each, words, [&](int w) { return fixed_words ? kept[fixed_words ? w : 0] : code[w]; });
            margin = max(margin, offsets[q] - distance);
        }
    }
    if (c < flat.N) flat.map[group * flat.N + c] = byte_of(margin, flat.shift);
}

template <int planes, int fixed_words>
__global__ void __launch_bounds__(THREADS, 2) flat_map_2(Flat flat) {
    map_by_tiles<planes, fixed_words, false>(flat);
}

template <int planes, int fixed_words>
__global__ void __launch_bounds__(THREADS, 2) flat_map_3(Flat flat) {
    map_by_tiles<planes, fixed_words, true>(flat);
}

// ---- Version 4 ------------------------------------------------------------------------------------------------------
// offsets[q] = what the margin of query q is if it shares no bit with a class, and the class has none. In place of a
// query that is not there: one that is never the nearest.
template <int planes>
__device__ void load_offsets(const Flat& flat, int64_t first, int count, int* offsets) {
    for (int q = int(threadIdx.x); q < blocks_for(count, 8) * 8; q += int(blockDim.x)) {
        int offset = NONE;
        if (q < count) {
            const uint64_t* query = flat.queries + (first + q) * planes * flat.words;
            const auto nothing = [](int) { return uint64_t(0); };
            offset = flat.most - flat.thresholds[first + q] - distance_to<planes, true>(query, flat.words, nothing);
        }
        offsets[q] = offset;
    }
}

template <int planes, int steps>
__global__ void __launch_bounds__(THREADS, 2) flat_map_4(Flat flat) {
    DYNAMIC_SHARED(uint64_t, fragments);     // [tile / 8, planes, steps, 32]
    int* offsets = reinterpret_cast<int*>(fragments + int64_t(flat.tile) * planes * steps * 4);
    const int lane = lane_id(), column = lane % 4;
    const int64_t group = blockIdx.y, begin = flat.starts[group], end = flat.starts[group + 1];
    int64_t loaded = -1;
    for (int64_t first_class = blockIdx.x * THREADS; first_class < flat.N; first_class += gridDim.x * THREADS) {
        const int64_t mine = first_class + warp_id() * WARP;     // the first of this warp's 32 classes
        Classes<steps> classes;
        classes.load(flat.words, [&](int at) {
            return mine + at < flat.N ? flat.codes + (mine + at) * flat.words : nullptr;
        });
        int margin[4] = {NONE, NONE, NONE, NONE};
        for (int64_t first = begin; first < end; first += flat.tile) {
            const int count = int(min(int64_t(flat.tile), end - first));
            if (first != loaded) {                               // nearly always all queries fit, and this is done once
                __syncthreads();
                load_fragments<planes, steps>(flat.queries + first * planes * flat.words, count, flat.words, fragments);
                load_offsets<planes>(flat, first, count, offsets);
                __syncthreads();
                loaded = first;
            }
            const int eights = mine < flat.N ? int(blocks_for(count, 8)) : 0;
            for (int eight = 0; eight < eights; ++eight) {
                int32_t shared_bits[2][4] = {};
                share_bits<planes>(classes, fragments, eight, shared_bits);
                const int left = offsets[8 * eight + 2 * column], right = offsets[8 * eight + 2 * column + 1];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int32_t* two = shared_bits[i / 2] + i % 2 * 2;
                    margin[i] = max(margin[i], max(left + 2 * two[0], right + 2 * two[1]));
                }
            }
        }
        // The four lanes of a row have seen different queries.
        classes.add_ones();
        int byte = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            for (int apart = 1; apart < 4; apart *= 2)
                margin[i] = max(margin[i], __shfl_xor_sync(ALL_LANES, margin[i], apart));
            const int here = byte_of(margin[i] - ((1 << planes) - 1) * classes.ones[i], flat.shift);
            const int taken = __shfl_sync(ALL_LANES, here, lane % 8 * 4);   // so that lane i has that of class mine + i
            if (lane / 8 == i) byte = taken;
        }
        if (mine + lane < flat.N) flat.map[group * flat.N + mine + lane] = uint8_t(byte);
    }
}

// ---- Launchers ------------------------------------------------------------------------------------------------------
template <int planes, int fixed_words>
void launch_tiles(int64_t version, dim3 grid, Flat flat, void* stream) {
    const int64_t bytes = 8 * planes * flat.words;
    flat.tile = int(max(int64_t(1), min(int64_t(QUERIES), TILE_BYTES / bytes)));
    if (version == 2) LAUNCH((flat_map_2<planes, fixed_words>), grid, THREADS, flat.tile * bytes, stream, flat);
    if (version == 3) LAUNCH((flat_map_3<planes, fixed_words>), grid, THREADS, flat.tile * bytes, stream, flat);
}

template <int planes, int steps>
void launch_tensor_cores(dim3 grid, int64_t batch, Flat flat, void* stream) {
    const int64_t bytes = planes * steps * 32 + 4;               // of a query and its offset
    flat.tile = int(min(blocks_for(batch, 8), FRAGMENT_BYTES / bytes / 8) * 8);
    const dim3 blocks(unsigned(min(int64_t(grid.x), BLOCKS)), grid.y);
    LAUNCH((flat_map_4<planes, steps>), blocks, THREADS, flat.tile * bytes, stream, flat);
}

template <int planes>
void launch_map(int64_t version, int64_t groups, int64_t batch, const Flat& flat, void* stream) {
    const dim3 grid(unsigned(blocks_for(flat.N, THREADS)), unsigned(groups));
    const int steps = (flat.words + 3) / 4;
    if (version == 4 && (steps > 4 || !has_binary_mma())) version = 3;
    if (version == 1) LAUNCH(flat_map_1<planes>, grid, THREADS, 0, stream, flat);
    else if (version == 4 && steps == 1) launch_tensor_cores<planes, 1>(grid, batch, flat, stream);
    else if (version == 4 && steps == 2) launch_tensor_cores<planes, 2>(grid, batch, flat, stream);
    else if (version == 4) launch_tensor_cores<planes, 4>(grid, batch, flat, stream);
    else if (flat.words == 2) launch_tiles<planes, 2>(version, grid, flat, stream);
    else if (flat.words == 8) launch_tiles<planes, 8>(version, grid, flat, stream);
    else launch_tiles<planes, 0>(version, grid, flat, stream);
}

// queries [batch, planes, words], planes 1 or 2, ordered by group; thresholds [batch]; codes [N, words]; starts
// [groups + 1]; most = dim (2^planes - 1). map [groups, N].
extern "C" int64_t flat_map_v(int64_t version, const int64_t* queries, const int32_t* thresholds, const int64_t* codes,
                              const int64_t* starts, int64_t batch, int64_t groups, int64_t planes, int64_t words,
                              int64_t N, int64_t most, int64_t shift, uint8_t* map, void* stream) {
    if (version < 1 || version > 4) return NO_SUCH_VERSION;
    if (groups == 0 || N == 0) return launch_error();
    const Flat flat = {reinterpret_cast<const uint64_t*>(queries), thresholds, reinterpret_cast<const uint64_t*>(codes),
                       starts, N, int(words), int(most), int(shift), 0, map};
    if (planes == 1) launch_map<1>(version, groups, batch, flat, stream);
    else launch_map<2>(version, groups, batch, flat, stream);
    return launch_error();
}

extern "C" int64_t flat_map(const int64_t* queries, const int32_t* thresholds, const int64_t* codes,
                            const int64_t* starts, int64_t batch, int64_t groups, int64_t planes, int64_t words,
                            int64_t N, int64_t most, int64_t shift, uint8_t* map, void* stream) {
    return flat_map_v(4, queries, thresholds, codes, starts, batch, groups, planes, words, N, most, shift, map, stream);
}
