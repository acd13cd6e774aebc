// ivf_scan: the k codes nearest to each query in the inverted lists that it probes, exactly. The C++ twin is
// scan.cpp, whose names and arguments the launcher has; codes.h says what a distance is.
//
// A block does one query, and goes over its lists two times:
//   1. it counts how many codes lie at each distance, so that the distance of the k-th is known, and
//   2. collects the codes up to there as keys, distance << id_bits | id, which are then sorted.
// Codes at the distance of the k-th are too many, nearly always: all of them are collected, there is room for 256.
// Where there are even more, the lists are read again to find the largest id that is still needed, 8 bits at a time.
// So all is exact and of fixed size, and nothing of the size of queries times codes is ever stored.
//
//   bytes read        2 (8 W + 8) for each pair of a query and a code, most of it from the L2 cache if lists are short
//   operations        2 planes W (xor, popcount, add) for each pair
//
// INDEX OF VERSIONS
//   ivf_scan_1        naive: a thread a code, a popcount a word; query, histogram and keys in global memory
//   ivf_scan_2        query, histogram and keys in shared memory, the code's words in registers (if they are 2 or 8)
//   ivf_scan_3        as 2, with carry-save adders before the popcounts
//
// A list is read by neighbouring threads at neighbouring addresses in all versions, since its codes lie word-major. It
// is not copied to shared memory: a block has one query, so it needs each code once a pass.
#include "launch.h"

constexpr int THREADS = 256, DIGIT = 8, DIGITS = 1 << DIGIT;
constexpr int64_t MOST_TIES = 256;           // that are collected beyond k without looking at ids first
constexpr int64_t MOST_SHARED = 48 * 1024;   // bytes of histogram or keys that every GPU has

struct Scan {
    const uint64_t* queries;                 // [batch, per_query, planes, words]; per_query: 1 or nprobe
    const int64_t *probed, *slots;           // [batch, nprobe], [nlist, capacity]: -1 is a free slot
    const uint64_t* codes;                   // [nlist, words, capacity]
    const int64_t* ends;                     // [nlist]
    int64_t per_query, nprobe, capacity, k, room;  // room: keys that can be collected, a power of two
    int words, most, id_bits;
    int32_t* histograms;                     // [batch, most + 1]; null: in shared memory
    uint64_t* keys;                          // [batch, room]; null: in shared memory, over the histogram
    int64_t* ids;                            // [batch, k]
    int32_t* found;                          // [batch, k]
};

// visit(distance, id) for every code in the lists of this block's query. staged: room for a query, or null.
template <int planes, int fixed_words, bool compress, class Visit>
__device__ __forceinline__ void each_code(const Scan& scan, uint64_t* staged, Visit visit) {
    const int words = fixed_words ? fixed_words : scan.words;
    const int64_t capacity = scan.capacity;
    for (int64_t probe = 0; probe < scan.nprobe; ++probe) {
        const int64_t number = blockIdx.x * scan.per_query + (scan.per_query == 1 ? 0 : probe);
        const uint64_t* query = scan.queries + number * planes * words;
        if (staged != nullptr) {
            __syncthreads();
            for (int i = int(threadIdx.x); i < planes * words; i += int(blockDim.x)) staged[i] = query[i];
            __syncthreads();
            query = staged;
        }
        const int64_t list = scan.probed[blockIdx.x * scan.nprobe + probe], end = scan.ends[list];
        for (int64_t slot = threadIdx.x; slot < end; slot += blockDim.x) {
            const int64_t id = scan.slots[list * capacity + slot];
            if (id < 0) continue;
            const uint64_t* code = scan.codes + list * words * capacity + slot;
            if constexpr (fixed_words > 0) {
                uint64_t kept[fixed_words];
#pragma unroll
                for (int w = 0; w < fixed_words; ++w) kept[w] = code[w * capacity];
                visit(distance_to<planes, compress>(query, words, [&](int w) { return kept[w]; }), id);
            } else {
                visit(distance_to<planes, compress>(query, words, [&](int w) { return code[w * capacity]; }), id);
            }
        }
    }
}

__device__ __forceinline__ void clear(int32_t* counts, int bins) {
    for (int i = int(threadIdx.x); i < bins; i += int(blockDim.x)) counts[i] = 0;
    __syncthreads();
}

// The wanted-th smallest id (from 1) at this distance: first its highest 8 bits, by a histogram, then the next.
template <int planes, int fixed_words, bool compress>
__device__ int64_t nth_id(const Scan& scan, uint64_t* staged, int distance, int64_t wanted) {
    __shared__ int32_t counts[DIGITS];
    int64_t prefix = 0;
    for (int shift = (scan.id_bits - 1) / DIGIT * DIGIT; shift >= 0; shift -= DIGIT) {
        __syncthreads();
        clear(counts, DIGITS);
        each_code<planes, fixed_words, compress>(scan, staged, [&](int here, int64_t id) {
            if (here == distance && id >> shift >> DIGIT == prefix) atomicAdd(&counts[id >> shift & (DIGITS - 1)], 1);
        });
        __syncthreads();
        const Rank digit = find_rank(counts, DIGITS, wanted);
        prefix = prefix << DIGIT | digit.bin;
        wanted -= digit.below;
    }
    return prefix;
}

template <int planes, int fixed_words, bool compress>
__device__ __forceinline__ void search(const Scan& scan, int32_t* histogram, uint64_t* keys, uint64_t* staged) {
    __shared__ int collected;
    if (threadIdx.x == 0) collected = 0;
    clear(histogram, scan.most + 1);
    each_code<planes, fixed_words, compress>(
        scan, staged, [&](int distance, int64_t) { atomicAdd(&histogram[distance], 1); });
    __syncthreads();

    const Rank last = find_rank(histogram, scan.most + 1, scan.k);
    uint64_t bound = (uint64_t(last.bin + 1) << scan.id_bits) - 1;
    if (last.below + last.inside > scan.room)
        bound = uint64_t(last.bin) << scan.id_bits |
                uint64_t(nth_id<planes, fixed_words, compress>(scan, staged, last.bin, scan.k - last.below));
    __syncthreads();                         // from here the keys may lie over the histogram

    each_code<planes, fixed_words, compress>(scan, staged, [&](int distance, int64_t id) {
        const uint64_t key = uint64_t(distance) << scan.id_bits | uint64_t(id);
        if (key <= bound) keys[atomicAdd(&collected, 1)] = key;
    });
    __syncthreads();
    const int count = collected, padded = int(power_of_two(count));
    for (int i = count + int(threadIdx.x); i < padded; i += int(blockDim.x)) keys[i] = ~uint64_t(0);
    sort_keys(keys, padded);

    for (int64_t i = threadIdx.x; i < scan.k; i += blockDim.x) {
        const int64_t place = blockIdx.x * scan.k + i;
        scan.ids[place] = i < count ? int64_t(keys[i] & ((uint64_t(1) << scan.id_bits) - 1)) : -1;
        scan.found[place] = i < count ? int32_t(keys[i] >> scan.id_bits) : scan.most + 1;
    }
}

// The shared memory of versions 2 and 3: a query, then the histogram, and later the keys in the same place.
template <int planes, int fixed_words, bool compress>
__device__ __forceinline__ void search_in_shared(const Scan& scan) {
    DYNAMIC_SHARED(uint64_t, staged);
    uint64_t* rest = staged + planes * (fixed_words ? fixed_words : scan.words);
    int32_t* histogram = reinterpret_cast<int32_t*>(rest);
    if (scan.histograms != nullptr) histogram = scan.histograms + int64_t(blockIdx.x) * (scan.most + 1);
    uint64_t* keys = scan.keys != nullptr ? scan.keys + blockIdx.x * scan.room : rest;
    search<planes, fixed_words, compress>(scan, histogram, keys, staged);
}

template <int planes>
__global__ void ivf_scan_1(Scan scan) {
    search<planes, 0, false>(scan, scan.histograms + int64_t(blockIdx.x) * (scan.most + 1),
                             scan.keys + blockIdx.x * scan.room, nullptr);
}

template <int planes, int fixed_words>
__global__ void __launch_bounds__(THREADS, 2) ivf_scan_2(Scan scan) {
    search_in_shared<planes, fixed_words, false>(scan);
}

template <int planes, int fixed_words>
__global__ void __launch_bounds__(THREADS, 2) ivf_scan_3(Scan scan) {
    search_in_shared<planes, fixed_words, true>(scan);
}

// ---- Launchers ------------------------------------------------------------------------------------------------------
template <int planes, int fixed_words>
void launch_in_shared(int64_t version, int64_t batch, size_t shared, const Scan& scan, void* stream) {
    if (version == 2) LAUNCH((ivf_scan_2<planes, fixed_words>), batch, THREADS, shared, stream, scan);
    if (version == 3) LAUNCH((ivf_scan_3<planes, fixed_words>), batch, THREADS, shared, stream, scan);
}

template <int planes>
void launch_scan(int64_t version, int64_t batch, size_t shared, const Scan& scan, void* stream) {
    if (version == 1) LAUNCH(ivf_scan_1<planes>, batch, THREADS, 0, stream, scan);
    else if (scan.words == 2) launch_in_shared<planes, 2>(version, batch, shared, scan, stream);
    else if (scan.words == 8) launch_in_shared<planes, 8>(version, batch, shared, scan, stream);
    else launch_in_shared<planes, 0>(version, batch, shared, scan, stream);
}

// ids, found [batch, k]: the k smallest (distance, id) of each query, -1 and most + 1 where there are fewer.
// planes is 1 or 4; most is the largest distance that can occur. For the other arguments see Scan.
extern "C" int64_t ivf_scan_v(int64_t version, const int64_t* codes, const int64_t* probed, const int64_t* slots,
                              const int64_t* slot_codes, const int64_t* ends, int64_t batch, int64_t per_query,
                              int64_t nprobe, int64_t planes, int64_t nlist, int64_t capacity, int64_t words,
                              int64_t num_rows, int64_t most, int64_t k, int64_t* ids, int32_t* found, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (batch == 0 || k == 0) return launch_error();
    Scan scan = {reinterpret_cast<const uint64_t*>(codes), probed, slots,
                 reinterpret_cast<const uint64_t*>(slot_codes), ends, per_query, nprobe, capacity, k,
                 power_of_two(k + MOST_TIES), int(words), int(most), 0, nullptr, nullptr, ids, found};
    while ((num_rows - 1) >> scan.id_bits) ++scan.id_bits;
    const int64_t histogram_bytes = 4 * (most + 1), key_bytes = 8 * scan.room;
    size_t shared = 0;
    if (version == 1 || histogram_bytes > MOST_SHARED) scan.histograms = scratch<int32_t>(batch * (most + 1), stream);
    else shared = size_t(histogram_bytes);
    if (version == 1 || key_bytes > MOST_SHARED) scan.keys = scratch<uint64_t>(batch * scan.room, stream);
    else shared = max(shared, size_t(key_bytes));
    shared += size_t(8 * planes * words);
    if (planes == 1) launch_scan<1>(version, batch, shared, scan, stream);
    else launch_scan<4>(version, batch, shared, scan, stream);
    release(scan.keys, stream);
    release(scan.histograms, stream);
    return launch_error();
}

extern "C" int64_t ivf_scan(const int64_t* codes, const int64_t* probed, const int64_t* slots,
                            const int64_t* slot_codes, const int64_t* ends, int64_t batch, int64_t per_query,
                            int64_t nprobe, int64_t planes, int64_t nlist, int64_t capacity, int64_t words,
                            int64_t num_rows, int64_t most, int64_t k, int64_t* ids, int32_t* found, void* stream) {
    return ivf_scan_v(3, codes, probed, slots, slot_codes, ends, batch, per_query, nprobe, planes, nlist, capacity,
                      words, num_rows, most, k, ids, found, stream);
}
