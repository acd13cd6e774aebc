// flat_thresholds: for each query the score that about k of the N classes reach, from a sample of the classes.
// flat.cu says what a score is, and measures the classes by these thresholds.
//
// Scores are integers, so counting how many classes lie at each distance is the whole selection: no sort, and ties are
// no matter. The sample is the classes first, first + stride, first + 2 stride, ...; with r = ceil(k / stride),
//
//     threshold[q] = most - (the r-th smallest distance of q in the sample), 0 if the sample has fewer than r classes
//
// that is the largest score that at least r classes of the sample reach.
//
//   bytes moved       8 W N / stride read, 4 B (most + 1) written twice and read once
//   operations        for each query and class of the sample planes W popcounts and an atomic in a histogram
//
// INDEX OF VERSIONS
//   flat_thresholds_1  naive: a thread a query and class, one histogram a query in global memory
//   flat_thresholds_2  histograms of up to 8 queries in a block's shared memory, the class's words in registers
//   flat_thresholds_3  binary tensor cores: 32 classes a warp in registers, queries by eights with their histograms
//   rank_1             a thread a query walks along its histogram
//   rank_2             a warp a query adds up 32 bins at a time by shuffles
//
// Version 2 needs 4 (most + 1) bytes of shared memory; where that is more than 48 KB, version 1 is taken. Version 3
// (fragments.h) needs compute capability 8.x or 9.0, at most 1,024 bits, and shared memory for eight histograms;
// elsewhere version 2 is taken.
#include "launch.h"
#include "fragments.h"

constexpr int THREADS = 256, QUERIES = 8, EACH = 16;   // EACH: classes of the sample that a thread looks at
constexpr int64_t MOST_SHARED = 48 * 1024, TILE_BYTES = 64 * 1024;  // of versions 2 and 3

struct Sample {
    const uint64_t* queries;                 // [B, planes, words]
    const uint64_t* codes;                   // [N, words]
    int64_t batch, N, stride;
    const int64_t* first;
    int words, bins;
    int at_once;                             // queries whose histograms fit into shared memory together
    int32_t* histograms;                     // [B, bins]: how many classes lie at each distance

    __host__ __device__ int64_t most() const { return (N + stride - 1) / stride; }  // classes in it, from first = 0
    __device__ int64_t size() const { return (N - *first + stride - 1) / stride; }
};

template <int planes>
__global__ void flat_thresholds_1(Sample sample) {
    const int64_t i = global_thread(), q = blockIdx.y;
    if (i >= sample.size()) return;
    const uint64_t* code = sample.codes + (*sample.first + i * sample.stride) * sample.words;
    int distance = 0;
    for (int p = 0; p < planes; ++p)
        for (int w = 0; w < sample.words; ++w)
            distance += __popcll(code[w] ^ sample.queries[(q * planes + p) * sample.words + w]) << p;
    atomicAdd(&sample.histograms[q * sample.bins + distance], 1);
}

template <int planes, int fixed_words>
__global__ void __launch_bounds__(THREADS, 2) flat_thresholds_2(Sample sample) {
    DYNAMIC_SHARED(uint64_t, queries);       // [at_once, planes, words], then the histograms [at_once, bins]
    const int words = fixed_words ? fixed_words : sample.words, each = planes * words;
    const int64_t first_query = int64_t(blockIdx.y) * sample.at_once;
    const int count = int(min(int64_t(sample.at_once), sample.batch - first_query));
    int32_t* histograms = reinterpret_cast<int32_t*>(queries + sample.at_once * each);
    for (int i = int(threadIdx.x); i < count * each; i += THREADS) queries[i] = sample.queries[first_query * each + i];
    for (int i = int(threadIdx.x); i < count * sample.bins; i += THREADS) histograms[i] = 0;
    __syncthreads();
    const int64_t first = *sample.first, end = min(sample.size(), (int64_t(blockIdx.x) + 1) * EACH * THREADS);
    for (int64_t i = int64_t(blockIdx.x) * EACH * THREADS + threadIdx.x; i < end; i += THREADS) {
        const uint64_t* code = sample.codes + (first + i * sample.stride) * words;
        uint64_t kept[fixed_words ? fixed_words : 1];
#pragma unroll
        for (int w = 0; w < fixed_words; ++w) kept[w] = code[w];
        for (int q = 0; q < count; ++q) {
            const int distance = distance_to<planes, true>(
                queries + q * each, words, [&](int w) { return fixed_words ? kept[fixed_words ? w : 0] : code[w]; });
            atomicAdd(&histograms[q * sample.bins + distance], 1);
        }
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < count * sample.bins; i += THREADS)
        if (histograms[i] > 0) atomicAdd(&sample.histograms[first_query * sample.bins + i], histograms[i]);
}

template <int planes, int steps>
__global__ void __launch_bounds__(THREADS, 2) flat_thresholds_3(Sample sample) {
    DYNAMIC_SHARED(uint64_t, fragments);     // [at_once / 8, planes, steps, 32], then bases [at_once], histograms
    int* bases = reinterpret_cast<int*>(fragments + int64_t(sample.at_once) * planes * steps * 4);
    int32_t* histograms = bases + sample.at_once;
    const int64_t first_query = int64_t(blockIdx.y) * sample.at_once;
    const int count = int(min(int64_t(sample.at_once), sample.batch - first_query)), words = sample.words;
    const uint64_t* queries = sample.queries + first_query * planes * words;
    load_fragments<planes, steps>(queries, count, words, fragments);
    for (int q = int(threadIdx.x); q < count; q += THREADS)  // the distance of a class that has no bit
        bases[q] = distance_to<planes, true>(queries + q * planes * words, words, [](int) { return uint64_t(0); });
    for (int i = int(threadIdx.x); i < count * sample.bins; i += THREADS) histograms[i] = 0;
    __syncthreads();
    const int64_t first = *sample.first, size = sample.size();
    for (int64_t i = blockIdx.x * THREADS + warp_id() * WARP; i < size; i += gridDim.x * THREADS) {
        Classes<steps> classes;
        classes.load(words, [&](int at) {
            return i + at < size ? sample.codes + (first + (i + at) * sample.stride) * words : nullptr;
        });
        classes.add_ones();
        for (int eight = 0; eight < int(blocks_for(count, 8)); ++eight) {
            int32_t shared_bits[2][4] = {};
            share_bits<planes>(classes, fragments, eight, shared_bits);
#pragma unroll
            for (int pair = 0; pair < 8; ++pair) {           // 4 classes, 2 queries
                const int at = classes.row(pair / 2), q = 8 * eight + 2 * (lane_id() % 4) + pair % 2;
                if (i + at >= size || q >= count) continue;
                const int ones = ((1 << planes) - 1) * classes.ones[pair / 2];
                const int distance = bases[q] + ones - 2 * shared_bits[pair / 4][pair % 4];
                atomicAdd(&histograms[q * sample.bins + distance], 1);
            }
        }
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < count * sample.bins; i += THREADS)
        if (histograms[i] > 0) atomicAdd(&sample.histograms[first_query * sample.bins + i], histograms[i]);
}

__global__ void rank_1(const int32_t* histograms, int64_t batch, int bins, int64_t rank, int32_t* thresholds) {
    const int64_t q = global_thread();
    if (q >= batch) return;
    int64_t through = 0;
    int distance = 0;
    for (; distance < bins - 1; ++distance) {
        through += histograms[q * bins + distance];
        if (through >= rank) break;
    }
    thresholds[q] = bins - 1 - distance;
}

__global__ void rank_2(const int32_t* histograms, int64_t batch, int bins, int64_t rank, int32_t* thresholds) {
    const int64_t q = global_warp();
    if (q >= batch) return;
    const int distance = find_rank(histograms + q * bins, bins, rank).bin;
    if (lane_id() == 0) thresholds[q] = bins - 1 - distance;
}

// ---- Launchers ------------------------------------------------------------------------------------------------------
template <int planes, int steps>
bool launch_tensor_cores(Sample sample, void* stream) {
    const int64_t bytes = planes * steps * 32 + 4 + 4 * sample.bins;      // of a query
    sample.at_once = int(min(blocks_for(sample.batch, 8), TILE_BYTES / bytes / 8) * 8);
    if (sample.at_once == 0) return false;
    const int64_t shares = blocks_for(sample.most(), EACH * THREADS), tiles = blocks_for(sample.batch, sample.at_once);
    const dim3 grid{unsigned(shares), unsigned(tiles)};
    LAUNCH((flat_thresholds_3<planes, steps>), grid, THREADS, sample.at_once * bytes, stream, sample);
    return true;
}

template <int planes>
void launch_histograms(int64_t version, Sample sample, void* stream) {
    const int64_t query_bytes = 4 * sample.bins + 8 * planes * sample.words;
    if (version == 1) {
        const dim3 grid(unsigned(blocks_for(sample.most(), THREADS)), unsigned(sample.batch));
        LAUNCH(flat_thresholds_1<planes>, grid, THREADS, 0, stream, sample);
        return;
    }
    if (version == 3 && has_binary_mma()) {
        const int steps = (sample.words + 3) / 4;
        if (steps == 1 && launch_tensor_cores<planes, 1>(sample, stream)) return;
        if (steps == 2 && launch_tensor_cores<planes, 2>(sample, stream)) return;
        if ((steps == 3 || steps == 4) && launch_tensor_cores<planes, 4>(sample, stream)) return;
    }
    sample.at_once = int(min(int64_t(QUERIES), MOST_SHARED / query_bytes));
    const size_t shared = size_t(sample.at_once * query_bytes);
    const int64_t shares = blocks_for(sample.most(), EACH * THREADS), tiles = blocks_for(sample.batch, sample.at_once);
    const dim3 grid{unsigned(shares), unsigned(tiles)};
    if (sample.words == 2) LAUNCH((flat_thresholds_2<planes, 2>), grid, THREADS, shared, stream, sample);
    else if (sample.words == 8) LAUNCH((flat_thresholds_2<planes, 8>), grid, THREADS, shared, stream, sample);
    else LAUNCH((flat_thresholds_2<planes, 0>), grid, THREADS, shared, stream, sample);
}

// queries [batch, planes, words], planes 1 or 2; codes [N, words]; most = dim (2^planes - 1); 1 <= k;
// 0 <= *first < min(stride, N). thresholds [batch].
extern "C" int64_t flat_thresholds_v(int64_t version, const int64_t* queries, const int64_t* codes, int64_t batch,
                                     int64_t planes, int64_t words, int64_t N, int64_t most, int64_t k, int64_t stride,
                                     const int64_t* first, int32_t* thresholds, void* stream) {
    if (version < 1 || version > 3) return NO_SUCH_VERSION;
    if (batch == 0) return launch_error();
    const int64_t bins = most + 1;
    if (4 * bins + 8 * planes * words > MOST_SHARED) version = 1;
    int32_t* histograms = scratch<int32_t>(batch * bins, stream);
    fill_bytes(histograms, 0, 4 * batch * bins, stream);
    const Sample sample = {reinterpret_cast<const uint64_t*>(queries), reinterpret_cast<const uint64_t*>(codes), batch,
                           N, stride, first, int(words), int(bins), 0, histograms};
    if (planes == 1) launch_histograms<1>(version, sample, stream);
    else launch_histograms<2>(version, sample, stream);
    const int64_t rank = blocks_for(k, stride), one = blocks_for(batch, THREADS);
    const int64_t warps = blocks_for(batch * WARP, THREADS);
    if (version == 1) LAUNCH(rank_1, one, THREADS, 0, stream, histograms, batch, int(bins), rank, thresholds);
    if (version >= 2) LAUNCH(rank_2, warps, THREADS, 0, stream, histograms, batch, int(bins), rank, thresholds);
    release(histograms, stream);
    return launch_error();
}

extern "C" int64_t flat_thresholds(const int64_t* queries, const int64_t* codes, int64_t batch, int64_t planes,
                                   int64_t words, int64_t N, int64_t most, int64_t k, int64_t stride,
                                   const int64_t* first, int32_t* thresholds, void* stream) {
    return flat_thresholds_v(3, queries, codes, batch, planes, words, N, most, k, stride, first, thresholds, stream);
}
