"""Notebook 12's exercises: a gather, rows read once, and a matrix turned over."""

from __future__ import annotations

import numpy as np

from annsoftmax_ref.lessons.kernel_exercises import KernelExercise

GATHER = """
__global__ void gather(const float* weight, const int64_t* ids, float* out, int count, int d) {
    const int64_t a = global_warp();
    if (a >= count) return;
    const int64_t id = __shfl_sync(ALL_LANES, lane_id() == 0 ? ids[a] : 0, 0);
    for (int j = lane_id(); j < d; j += WARP) out[a * d + j] = weight[id * d + j];
}
"""

READ_ONCE = """
__global__ void read_once(const float* x, float* out, int rows, int d) {
    const int64_t row = global_warp();
    if (row >= rows) return;
    float mine[4] = {}, squares = 0;
    for (int k = 0; k < 4; ++k)
        if (lane_id() + k * WARP < d) {
            mine[k] = x[row * d + lane_id() + k * WARP];
            squares += mine[k] * mine[k];
        }
    const float norm = sqrtf(warp_sum(squares));
    for (int k = 0; k < 4; ++k)
        if (lane_id() + k * WARP < d) out[row * d + lane_id() + k * WARP] = mine[k] / norm;
}
"""

TURN_OVER = """
__global__ void turn_over(const float* x, float* out, int rows, int columns) {
    __shared__ float tile[32][33];
    const int left = blockIdx.x * 32, top = blockIdx.y * 32;
    for (int i = threadIdx.y; i < 32; i += blockDim.y)
        if (top + i < rows && left + threadIdx.x < columns)
            tile[i][threadIdx.x] = x[(top + i) * columns + left + threadIdx.x];
    __syncthreads();
    for (int i = threadIdx.y; i < 32; i += blockDim.y)
        if (left + i < columns && top + threadIdx.x < rows)
            out[(left + i) * rows + top + threadIdx.x] = tile[threadIdx.x][i];
}
"""


def _gather_arguments(rng, count: int, d: int) -> dict:
    weight, ids = rng.standard_normal((40, d), dtype=np.float32), rng.integers(0, 40, count)
    return {"weight": weight, "ids": ids, "out": np.empty((count, d), np.float32), "count": count, "d": d}


def _read_once_arguments(rng, rows: int, d: int) -> dict:
    x = rng.standard_normal((rows, d), dtype=np.float32)
    return {"x": x, "out": np.empty_like(x), "rows": rows, "d": d}


def _turn_over_arguments(rng, rows: int, columns: int) -> dict:
    x = rng.standard_normal((rows, columns), dtype=np.float32)
    return {"x": x, "out": np.empty((columns, rows), np.float32), "rows": rows, "columns": columns}


EXERCISES = {
    "gather": KernelExercise(
        arguments=_gather_arguments,
        specification=lambda weight, ids, out, count, d: {"out": weight[ids]},
        sizes=[{"count": 1, "d": 1}, {"count": 9, "d": 33}, {"count": 3, "d": 100}, {"count": 64, "d": 128}],
        grid=lambda count, d: (-(-count // 8), 256),
        least=lambda count, d: (4 * count * d + 8 * count, 4 * count * d),
        model=GATHER,
        hints=(
            "Give each warp a row: global_warp() is its number, lane_id() a thread's place in it. Lanes side by side "
            "should read numbers side by side.",
            "All lanes need the row's id; 32 loads of it are 31 too many. Lane 0 loads it, __shfl_sync hands it on.",
        ),
    ),
    "read_once": KernelExercise(
        arguments=_read_once_arguments,
        specification=lambda x, out, rows, d: {"out": x / np.linalg.norm(x, axis=1, keepdims=True)},
        sizes=[{"rows": 1, "d": 1}, {"rows": 3, "d": 128}, {"rows": 9, "d": 33}, {"rows": 64, "d": 128}],
        grid=lambda rows, d: (-(-rows // 8), 256),
        least=lambda rows, d: (4 * rows * d, 4 * rows * d),
        model=READ_ONCE,
        hints=(
            "A row has at most 128 numbers, so a lane has at most four: float mine[4]. It is in registers if every "
            "index is known to the compiler.",
            "warp_sum(x) gives the sum of the 32 lanes' x to every lane. All lanes have to call it.",
        ),
    ),
    "turn_over": KernelExercise(
        arguments=_turn_over_arguments,
        specification=lambda x, out, rows, columns: {"out": x.T},
        sizes=[
            {"rows": 1, "columns": 1},
            {"rows": 1, "columns": 70},
            {"rows": 33, "columns": 31},
            {"rows": 64, "columns": 96},
        ],
        grid=lambda rows, columns: ((-(-columns // 32), -(-rows // 32)), (32, 8)),
        least=lambda rows, columns: (4 * rows * columns, 4 * rows * columns),
        model=TURN_OVER,
        hints=(
            "A row of x is a column of out: whichever is read in order, the other is written in strides. Let the block "
            "bring a square of 32 x 32 into shared memory, and write it from there.",
            "Between writing the square and reading it the block needs a __syncthreads(), which every thread reaches.",
            "tile[32][33]: with 32 the 32 numbers of a column lie in one bank.",
        ),
    ),
}
