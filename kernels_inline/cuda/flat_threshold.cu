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
//   rank_1             a thread a query walks along its histogram
//   rank_2             a warp a query adds up 32 bins at a time by shuffles
//
// Version 2 needs 4 (most + 1) bytes of shared memory; where that is more than 48 KB, version 1 is taken.
#include "launch.h"

constexpr int THREADS = 256, QUERIES = 8, EACH = 16;   // EACH: classes of the sample that a thread looks at
constexpr int64_t MOST_SHARED = 48 * 1024;

struct Sample {
    const uint64_t* queries;                 // [B, planes, words]
    const uint64_t* codes;                   // [N, words]
    int64_t batch, size, stride, first;      // size: classes in the sample
    int words, bins;
    int at_once;                             // queries whose histograms fit into shared memory together
    int32_t* histograms;                     // [B, bins]: how many classes lie at each distance
};

template <int planes>
__global__ void flat_thresholds_1(Sample sample) {
    const int64_t i = global_thread(), q = blockIdx.y;
    if (i >= sample.size) return;
    const uint64_t* code = sample.codes + (sample.first + i * sample.stride) * sample.words;
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
    const int64_t end = min(sample.size, (int64_t(blockIdx.x) + 1) * EACH * THREADS);
    for (int64_t i = int64_t(blockIdx.x) * EACH * THREADS + threadIdx.x; i < end; i += THREADS) {
        const uint64_t* code = sample.codes + (sample.first + i * sample.stride) * words;
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
template <int planes>
void launch_histograms(int64_t version, Sample sample, void* stream) {
    const int64_t query_bytes = 4 * sample.bins + 8 * planes * sample.words;
    if (version == 1) {
        const dim3 grid(unsigned(blocks_for(sample.size, THREADS)), unsigned(sample.batch));
        LAUNCH(flat_thresholds_1<planes>, grid, THREADS, 0, stream, sample);
        return;
    }
    sample.at_once = int(min(int64_t(QUERIES), MOST_SHARED / query_bytes));
    const size_t shared = size_t(sample.at_once * query_bytes);
    const int64_t shares = blocks_for(sample.size, EACH * THREADS), tiles = blocks_for(sample.batch, sample.at_once);
    const dim3 grid{unsigned(shares), unsigned(tiles)};
    if (sample.words == 2) LAUNCH((flat_thresholds_2<planes, 2>), grid, THREADS, shared, stream, sample);
    else if (sample.words == 8) LAUNCH((flat_thresholds_2<planes, 8>), grid, THREADS, shared, stream, sample);
    else LAUNCH((flat_thresholds_2<planes, 0>), grid, THREADS, shared, stream, sample);
}

// queries [batch, planes, words], planes 1 or 2; codes [N, words]; most = dim (2^planes - 1); 1 <= k;
// 0 <= first < min(stride, N). thresholds [batch].
extern "C" int64_t flat_thresholds_v(int64_t version, const int64_t* queries, const int64_t* codes, int64_t batch,
                                     int64_t planes, int64_t words, int64_t N, int64_t most, int64_t k, int64_t stride,
                                     int64_t first, int32_t* thresholds, void* stream) {
    if (version < 1 || version > 2) return NO_SUCH_VERSION;
    if (batch == 0) return launch_error();
    const int64_t bins = most + 1;
    if (4 * bins + 8 * planes * words > MOST_SHARED) version = 1;
    int32_t* histograms = scratch<int32_t>(batch * bins, stream);
    fill_bytes(histograms, 0, 4 * batch * bins, stream);
    const Sample sample = {reinterpret_cast<const uint64_t*>(queries), reinterpret_cast<const uint64_t*>(codes), batch,
                           blocks_for(N - first, stride), stride, first, int(words), int(bins), 0, histograms};
    if (planes == 1) launch_histograms<1>(version, sample, stream);
    else launch_histograms<2>(version, sample, stream);
    const int64_t rank = blocks_for(k, stride), one = blocks_for(batch, THREADS);
    const int64_t warps = blocks_for(batch * WARP, THREADS);
    if (version == 1) LAUNCH(rank_1, one, THREADS, 0, stream, histograms, batch, int(bins), rank, thresholds);
    if (version == 2) LAUNCH(rank_2, warps, THREADS, 0, stream, histograms, batch, int(bins), rank, thresholds);
    release(histograms, stream);
    return launch_error();
}

extern "C" int64_t flat_thresholds(const int64_t* queries, const int64_t* codes, int64_t batch, int64_t planes,
                                   int64_t words, int64_t N, int64_t most, int64_t k, int64_t stride, int64_t first,
                                   int32_t* thresholds, void* stream) {
    return flat_thresholds_v(2, queries, codes, batch, planes, words, N, most, k, stride, first, thresholds, stream);
}
