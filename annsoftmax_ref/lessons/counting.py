"""Exercises of notebook 13, "Count bits": signs by ballot, distances, a group's nearest, binary tensor cores."""

from __future__ import annotations

import numpy as np

from annsoftmax_ref.lessons.kernel_exercises import KernelExercise

SIGN_WORDS = """
__global__ void sign_words(const float* x, int* words, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned bits = __ballot_sync(ALL_LANES, i < n && x[i] > 0);
    if (lane_id() == 0 && i < n) words[i / 32] = int(bits);
}
"""

LIST_DISTANCES = """
__global__ void list_distances(const uint64_t* query, const uint64_t* codes, int* distances, int words, int count) {
    __shared__ uint64_t kept[8];
    if (threadIdx.x < words) kept[threadIdx.x] = query[threadIdx.x];
    __syncthreads();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int distance = 0;
    for (int w = 0; w < words; ++w) distance += __popcll(codes[w * count + i] ^ kept[w]);
    distances[i] = distance;
}
"""

SMALLEST = """
__global__ void smallest(const uint64_t* queries, const uint64_t* codes, int* distances, int batch, int count) {
    __shared__ uint64_t tile[2 * 32];
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const uint64_t low = i < count ? codes[2 * i] : 0, high = i < count ? codes[2 * i + 1] : 0;
    int best = 129;
    for (int first = 0; first < batch; first += 32) {
        const int here = min(32, batch - first);
        __syncthreads();
        if (threadIdx.x < 2 * here) tile[threadIdx.x] = queries[2 * first + threadIdx.x];
        __syncthreads();
        for (int q = 0; q < here; ++q)
            best = min(best, int(__popcll(low ^ tile[2 * q]) + __popcll(high ^ tile[2 * q + 1])));
    }
    if (i < count) distances[i] = best;
}
"""

HOW_MANY = """
__global__ void how_many(const int* distances, int* counts, int n, int bins) {
    __shared__ int mine[129];
    for (int i = threadIdx.x; i < bins; i += blockDim.x) mine[i] = 0;
    __syncthreads();
    const int end = min(n, 2048 * int(blockIdx.x + 1));
    for (int i = 2048 * blockIdx.x + threadIdx.x; i < end; i += blockDim.x) atomicAdd(&mine[distances[i]], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < bins; i += blockDim.x)
        if (mine[i] > 0) atomicAdd(&counts[i], mine[i]);
}
"""

SHARED_BITS = """
__global__ void shared_bits(const uint32_t* codes, const uint32_t* queries, int* sums) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const uint32_t a[4] = {codes[8 * g + t], codes[8 * (g + 8) + t], codes[8 * g + t + 4], codes[8 * (g + 8) + t + 4]};
    const uint32_t b[2] = {queries[8 * g + t], queries[8 * g + t + 4]};
    int32_t mine[4] = {};
    binary_mma(mine, a, b);
    for (int i = 0; i < 4; ++i) sums[8 * (g + 8 * (i / 2)) + 2 * t + i % 2] = mine[i];
}
"""


def _words(rng, *shape: int) -> np.ndarray:
    return rng.integers(-(2**63), 2**63 - 1, shape)


def _popcount(x: np.ndarray) -> np.ndarray:
    return np.bitwise_count(x.view(f"u{x.itemsize}")).astype(np.int32)


def _sign_arguments(rng, n: int) -> dict:
    x = rng.standard_normal(n, dtype=np.float32)
    x[rng.random(n) < 0.1] = 0  # whose bit is 0
    return {"x": x, "words": np.empty(-(-n // 32), np.int32), "n": n}


def _signs(x, words, n) -> dict:
    bits = np.zeros(32 * len(words), bool)
    bits[:n] = x > 0
    return {"words": np.packbits(bits, bitorder="little").view(np.int32)}


def _list_arguments(rng, words: int, count: int) -> dict:
    codes = _words(rng, words, count)
    return {
        "query": _words(rng, words),
        "codes": codes,
        "distances": np.empty(count, np.int32),
        "words": words,
        "count": count,
    }


def _smallest_arguments(rng, batch: int, count: int) -> dict:
    return {
        "queries": _words(rng, batch, 2),
        "codes": _words(rng, count, 2),
        "distances": np.empty(count, np.int32),
        "batch": batch,
        "count": count,
    }


def _how_many_arguments(rng, n: int, bins: int) -> dict:
    distances = rng.binomial(bins - 1, 0.5, n).astype(np.int32)
    return {"distances": distances, "counts": np.full(bins, 3, np.int32), "n": n, "bins": bins}


def _shared_arguments(rng, bits: int) -> dict:
    """bits: of 256, those that may be set, so that a wrong place shows by itself."""
    allowed = np.packbits(np.arange(256) < bits, bitorder="little").view(np.uint32)
    codes, queries = (rng.integers(0, 2**32, (rows, 8), np.uint32) & allowed for rows in (16, 8))
    return {"codes": codes.view(np.int32), "queries": queries.view(np.int32), "sums": np.empty((16, 8), np.int32)}


EXERCISES = {
    "sign_words": KernelExercise(
        arguments=_sign_arguments,
        specification=_signs,
        sizes=[{"n": 1}, {"n": 31}, {"n": 33}, {"n": 300}, {"n": 8192}],
        grid=lambda n: (-(-n // 256), 256),
        least=lambda n: (4 * n, 4 * -(-n // 32)),
        model=SIGN_WORDS,
        hints=(
            "A thread a number, not a thread a word: 32 lanes side by side read 32 numbers side by side.",
            "__ballot_sync(ALL_LANES, condition) has to be met by all 32 lanes, those behind the end of x too: put "
            "i < n into the condition, and do not return before.",
        ),
    ),
    "list_distances": KernelExercise(
        arguments=_list_arguments,
        specification=lambda query, codes, distances, words, count: {
            "distances": _popcount(codes ^ query[:, None]).sum(axis=0)
        },
        sizes=[{"words": 1, "count": 1}, {"words": 2, "count": 33}, {"words": 3, "count": 300}]
        + [{"words": 8, "count": 1024}],
        grid=lambda words, count: (-(-count // 256), 256),
        least=lambda words, count: (8 * words * (count + 1), 4 * count),
        model=LIST_DISTANCES,
        hints=(
            "Word w of code i stands at codes[w * count + i]: neighbouring threads read neighbouring words.",
            "If each thread reads the query for itself, that is as many bytes as all codes have. Let a few threads of "
            "the block copy it to __shared__ uint64_t kept[8], then __syncthreads(), and only then return if there is "
            "no code for this thread.",
        ),
    ),
    "smallest": KernelExercise(
        arguments=_smallest_arguments,
        specification=lambda queries, codes, distances, batch, count: {
            "distances": _popcount(codes[:, None] ^ queries).sum(axis=2).min(axis=1)
        },
        sizes=[{"batch": 1, "count": 1}, {"batch": 33, "count": 40}, {"batch": 70, "count": 300}]
        + [{"batch": 64, "count": 1024}],
        grid=lambda batch, count: (-(-count // 256), 256),
        least=lambda batch, count: (16 * (count + batch), 4 * count),
        model=SMALLEST,
        hints=(
            "Keep the code's two words in variables, and read them before the loop over the queries.",
            "32 queries at a time go to __shared__ uint64_t tile[64]. There are two barriers a tile: one before it is "
            "filled anew, since others may still read it, and one before it is read.",
        ),
    ),
    "how_many": KernelExercise(
        arguments=_how_many_arguments,
        specification=lambda distances, counts, n, bins: {"counts": counts + np.bincount(distances, minlength=bins)},
        sizes=[{"n": 1, "bins": 2}, {"n": 2049, "bins": 65}, {"n": 5000, "bins": 129}, {"n": 8192, "bins": 129}],
        grid=lambda n, bins: (-(-n // 2048), 256),
        least=lambda n, bins: (4 * n, 4 * bins),
        model=HOW_MANY,
        hints=(
            "An atomicAdd on global memory counts as a read and a write, and one for each distance is 8,192 of them. "
            "Count in __shared__ int mine[129] first.",
            "Three parts with a barrier between: set mine to 0, count this block's 2,048 distances, add what is not 0 "
            "to counts.",
        ),
        in_place=("counts",),
    ),
    "shared_bits": KernelExercise(
        arguments=_shared_arguments,
        specification=lambda codes, queries, sums: {
            "sums": _popcount(codes[:, None] & queries[None]).sum(axis=2, dtype=np.int32)
        },
        sizes=[{"bits": 1}, {"bits": 40}, {"bits": 256}],
        grid=lambda bits: (1, 32),
        least=lambda bits: (4 * 8 * (16 + 8), 4 * 16 * 8),
        model=SHARED_BITS,
        hints=(
            "With g = lane_id() / 4 and t = lane_id() % 4, a[0] is word t of row g: codes[8 * g + t]. The picture of "
            "the fragments has the others.",
            "int32_t mine[4] = {}; binary_mma(mine, a, b); and then each of the four has a place in sums.",
        ),
    ),
}
