"""The exercises of notebook 14, each a kernel: keep, count, add up, and one pass for a softmax."""

from __future__ import annotations

import numpy as np

from annsoftmax_ref import reference as ref
from annsoftmax_ref.lessons.kernel_exercises import KernelExercise

LANES = 32


def _keep_in_warps(scores: np.ndarray, threshold: int, kept: np.ndarray, **_) -> dict:
    kept = np.full_like(kept, -1).reshape(-1, LANES)
    for warp in range(len(kept)):
        found = [i for i in range(LANES * warp, min(LANES * warp + LANES, len(scores))) if scores[i] > threshold]
        kept[warp, : len(found)] = found
    return {"kept": kept.reshape(-1)}


KEEP = KernelExercise(
    arguments=lambda rng, n: {
        "scores": rng.integers(0, 100, n, dtype=np.int32), "threshold": 60, "n": n,
        "kept": np.empty(-(-n // LANES) * LANES, np.int32),
    },
    specification=_keep_in_warps,
    sizes=[{"n": 1}, {"n": 32}, {"n": 45}, {"n": 2048}],
    grid=lambda n: (-(-n // 256), 256),
    least=lambda n: (4 * n, 4 * n),
    hints=[
        "mask = __ballot_sync(ALL_LANES, mine) tells every lane which lanes keep their id; all lanes must call it.",
        "A kept id goes to the place of the number of set bits below its lane; the others share the places behind.",
        "An id that is not kept: its place is __popc(mask) plus the number of lanes before it that keep nothing.",
    ],
    model="""__global__ void keep(const int* scores, int threshold, int n, int* kept) {
        const int i = global_thread(), before = (1u << lane_id()) - 1;
        const bool mine = i < n && scores[i] > threshold;
        const unsigned mask = __ballot_sync(ALL_LANES, mine);
        const int place = mine ? __popc(mask & before) : __popc(mask) + __popc(~mask & before);
        const int places = (n + WARP - 1) / WARP * WARP;
        if (i < places) kept[i - lane_id() + place] = mine ? i : -1;
    }""",
)  # fmt: skip

HISTOGRAM = KernelExercise(
    arguments=lambda rng, n: {
        "map": rng.integers(0, 256, n, dtype=np.uint8), "n": n, "counts": np.empty(256, np.int32),
    },
    specification=lambda map, n, counts: {"counts": np.bincount(map, minlength=256).astype(np.int32)},
    sizes=[{"n": 1}, {"n": 300}, {"n": 4096}],
    grid=lambda n: (1, 256),
    least=lambda n: (n, 4 * 256),
    hints=[
        "One thread a byte value, which reads the whole map, is right, and reads it 256 times.",
        "__shared__ int mine[256]; each thread reads other bytes and adds 1 by atomicAdd(mine + byte, 1).",
        "Two barriers: between the zeros and the first addition, and between the last addition and the writing.",
    ],
    model="""__global__ void histogram(const uint8_t* map, int n, int* counts) {
        __shared__ int mine[256];
        mine[threadIdx.x] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += 256) atomicAdd(mine + map[i], 1);
        __syncthreads();
        counts[threadIdx.x] = mine[threadIdx.x];
    }""",
)  # fmt: skip

RUNNING_SUM = KernelExercise(
    arguments=lambda rng, n: {"x": rng.integers(0, 9, n, dtype=np.int32), "n": n, "sums": np.empty(n, np.int32)},
    specification=lambda x, n, sums: {"sums": np.cumsum(x, dtype=np.int32)},
    sizes=[{"n": 1}, {"n": 256}, {"n": 257}, {"n": 3000}],
    grid=lambda n: (1, 256),
    least=lambda n: (4 * n, 4 * n),
    hints=[
        "A chunk of 256 numbers at a time; what came before the chunk is the same in all threads.",
        "before = block_scan_exclusive(value, room, &total): the sum before this thread; total: of the chunk.",
        "A thread beyond the end takes part with a 0: no thread may stay away from a barrier.",
    ],
    model="""__global__ void running_sum(const int* x, int n, int* sums) {
        __shared__ int room[WARP];
        int sum = 0, total;
        for (int chunk = 0; chunk < n; chunk += 256) {
            const int i = chunk + threadIdx.x, value = i < n ? x[i] : 0;
            const int before = block_scan_exclusive(value, room, &total);
            if (i < n) sums[i] = sum + before + value;
            sum += total;
        }
    }""",
)


def _log_sum_exp(logits: np.ndarray, A: int, results: np.ndarray) -> dict:
    return {"results": ref.log_sum_exp(logits.astype(np.float64)).astype(np.float32)}


LOG_SUM_EXP = KernelExercise(
    arguments=lambda rng, rows, A, spread: {
        "logits": (spread * rng.standard_normal((rows, A))).astype(np.float32), "A": A,
        "results": np.empty(rows, np.float32),
    },
    specification=_log_sum_exp,
    sizes=[{"rows": 2, "A": 1, "spread": 1}, {"rows": 3, "A": 33, "spread": 200}, {"rows": 8, "A": 500, "spread": 5}],
    grid=lambda rows, A, spread: (rows, 32),
    least=lambda rows, A, spread: (4 * rows * A, 4 * rows),
    hints=[
        "Two passes, the largest and then the sum, are right, and read everything twice.",
        "Each lane keeps a largest and a sum of its own; when a larger logit comes, the sum is scaled down first.",
        "At the end: highest = warp_max(top), each lane scales its sum to it, then warp_sum adds them up. A lane "
        "without a logit takes part: it brings the sum 0, and a top below every logit.",
    ],
    model="""__global__ void log_sum_exp(const float* logits, int A, float* results) {
        float top = -3e38f, sum = 0;
        for (int c = threadIdx.x; c < A; c += WARP) {
            const float x = logits[int64_t(blockIdx.x) * A + c];
            if (x > top) sum *= expf(top - x), top = x;
            sum += expf(x - top);
        }
        const float highest = warp_max(top);
        sum = warp_sum(sum * expf(top - highest));
        if (threadIdx.x == 0) results[blockIdx.x] = highest + logf(sum);
    }""",
)  # fmt: skip

EXERCISES = {"keep": KEEP, "histogram": HISTOGRAM, "running_sum": RUNNING_SUM, "log_sum_exp": LOG_SUM_EXP}
