"""Notebook 15's exercises: a late row's step, bfloat16 by shared random bits, a unit row's step, a clipped step."""

from __future__ import annotations

import numpy as np

from annsoftmax_ref.lessons.kernel_exercises import KernelExercise

STEP_LATE = """
__global__ void step_late(float* weight, float* momentum, const int64_t* ids, const float* drift, const float* fade,
                          const float* grad, int A, int d, float lr, float mu) {
    const int64_t a = global_warp();
    if (a >= A) return;
    const bool first = lane_id() == 0;
    const int64_t id = __shfl_sync(ALL_LANES, first ? ids[a] : 0, 0);
    const float far = __shfl_sync(ALL_LANES, first ? drift[a] : 0, 0);
    const float left = __shfl_sync(ALL_LANES, first ? fade[a] : 0, 0);
    for (int j = lane_id(); j < d; j += WARP) {
        const float before = momentum[id * d + j], v = mu * (left * before) + grad[a * d + j];
        momentum[id * d + j] = v;
        weight[id * d + j] = weight[id * d + j] + far * before - lr * v;
    }
}
"""

TO_BF16 = """
__global__ void to_bf16(const float* x, const uint32_t* random, uint16_t* out, int n) {
    const int64_t pair = global_thread();
    if (2 * pair >= n) return;
    const uint32_t bits = random[pair];
    if (2 * pair + 1 == n) {  // half a pair
        out[2 * pair] = uint16_t((__float_as_uint(x[2 * pair]) + (bits & 0xFFFF)) >> 16);
        return;
    }
    const float2 both = reinterpret_cast<const float2*>(x)[pair];
    const uint32_t first = __float_as_uint(both.x) + (bits & 0xFFFF), second = __float_as_uint(both.y) + (bits >> 16);
    reinterpret_cast<uint32_t*>(out)[pair] = first >> 16 | (second & 0xFFFF0000);
}
"""

STEP_UNIT = """
__global__ void step_unit(float* weight, const float* slope, int rows, int d, float lr) {
    const int64_t row = global_warp();
    if (row >= rows) return;
    float w[4] = {}, g[4] = {}, squares = 0, dot = 0;
    for (int k = 0; k < 4; ++k)
        if (lane_id() + k * WARP < d) {
            w[k] = weight[row * d + lane_id() + k * WARP];
            g[k] = slope[row * d + lane_id() + k * WARP];
            squares += w[k] * w[k];
            dot += w[k] * g[k];
        }
    squares = warp_sum(squares);
    const float norm = sqrtf(squares), share = warp_sum(dot) / squares;
    for (int k = 0; k < 4; ++k)
        if (lane_id() + k * WARP < d)
            weight[row * d + lane_id() + k * WARP] = w[k] - lr * (g[k] - share * w[k]) / norm;
}
"""

CLIPPED = """
__global__ void clipped(float* weight, const float* grad, const float* squares, int n, float lr, float longest) {
    __shared__ float rate;
    if (threadIdx.x == 0) rate = lr * fminf(1.0f, longest / sqrtf(squares[0]));
    __syncthreads();
    const int64_t i = global_thread();
    if (i < n) weight[i] -= rate * grad[i];
}
"""


def _late_arguments(rng, A: int, d: int) -> dict:
    weight, momentum = rng.standard_normal((2, 40, d), dtype=np.float32)
    drift, fade = -rng.random(A, np.float32), rng.random(A, np.float32)
    grad, ids = rng.standard_normal((A, d), dtype=np.float32), rng.permutation(40)[:A]
    given = {"weight": weight, "momentum": momentum, "ids": ids, "drift": drift, "fade": fade, "grad": grad}
    return given | {"A": A, "d": d, "lr": 0.1, "mu": 0.9}


def step_late(weight, momentum, ids, drift, fade, grad, A, d, lr, mu) -> dict:
    v = mu * fade[:, None] * momentum[ids] + grad
    weight[ids] += drift[:, None] * momentum[ids] - lr * v
    momentum[ids] = v
    return {"weight": weight, "momentum": momentum}


def _bf16_arguments(rng, n: int) -> dict:
    random = rng.integers(-(2**31), 2**31, -(-n // 2)).astype(np.int32)
    return {"x": rng.standard_normal(n, np.float32), "random": random, "out": np.empty(n, np.int16), "n": n}


def to_bf16(x, random, out, n) -> dict:
    sixteen = random.view(np.uint16)[:n]  # the lower half of each first
    return {"out": ((x.view(np.uint32) + sixteen) >> 16).astype(np.uint16).view(np.int16)}


def _unit_arguments(rng, rows: int, d: int) -> dict:
    weight, slope = rng.standard_normal((2, rows, d), dtype=np.float32)
    return {"weight": weight + 0.1, "slope": slope, "rows": rows, "d": d, "lr": 0.1}


def step_unit(weight, slope, rows, d, lr) -> dict:
    norm = np.linalg.norm(weight, axis=1, keepdims=True)
    unit = weight / norm
    return {"weight": weight - lr * (slope - (slope * unit).sum(axis=1, keepdims=True) * unit) / norm}


def _clipped_arguments(rng, n: int, longest: float) -> dict:
    weight, grad = rng.standard_normal((2, n), dtype=np.float32)
    squares = np.square(grad).sum(keepdims=True)
    return {"weight": weight, "grad": grad, "squares": squares, "n": n, "lr": 0.1, "longest": longest}


def clipped(weight, grad, squares, n, lr, longest) -> dict:
    return {"weight": weight - lr * np.minimum(1, longest / np.sqrt(squares)) * grad}


EXERCISES = {
    "step_late": KernelExercise(
        arguments=_late_arguments,
        specification=step_late,
        sizes=[{"A": 1, "d": 1}, {"A": 9, "d": 33}, {"A": 3, "d": 100}, {"A": 32, "d": 128}],
        grid=lambda A, d: (-(-A // 8), 256),
        least=lambda A, d: (12 * A * d + 16 * A, 8 * A * d),
        model=STEP_LATE,
        in_place=("weight", "momentum"),
        hints=(
            "The drift takes the momentum as it was; the step takes what is left of it. Keep the old one in a "
            "register.",
            "Lane 0 reads what is the same for the whole row, and hands it on: __shfl_sync(ALL_LANES, lane_id() == 0 ? "
            "drift[a] : 0, 0).",
        ),
    ),
    "to_bf16": KernelExercise(
        arguments=_bf16_arguments,
        specification=to_bf16,
        sizes=[{"n": 1}, {"n": 2}, {"n": 77}, {"n": 4096}],
        grid=lambda n: (-(-n // 512), 256),
        least=lambda n: (4 * n + 4 * -(-n // 2), 2 * n),
        model=TO_BF16,
        hints=(
            "There is a thread for each pair of numbers. The last pair may be half a pair.",
            "__float_as_uint(x) are the bits of a float. The carry does the rest: add 16 random bits, shift by 16.",
            "Twice the least sectors? Two loads of 4 bytes, 8 apart, touch each sector twice. A pair is a float2, and "
            "two results side by side are 32 bits.",
        ),
    ),
    "step_unit": KernelExercise(
        arguments=_unit_arguments,
        specification=step_unit,
        sizes=[{"rows": 1, "d": 2}, {"rows": 3, "d": 128}, {"rows": 9, "d": 33}, {"rows": 64, "d": 128}],
        grid=lambda rows, d: (-(-rows // 8), 256),
        least=lambda rows, d: (8 * rows * d, 4 * rows * d),
        model=STEP_UNIT,
        in_place=("weight",),
        tolerance=1e-4,
        hints=(
            "With w as it is, not of length 1, what is taken away is (g.w / w.w) w; all of it is divided by |w|.",
            "Two sums at a time: w.w and g.w. Both rows stay in registers, at most four numbers of each a lane.",
        ),
    ),
    "clipped": KernelExercise(
        arguments=_clipped_arguments,
        specification=clipped,
        sizes=[
            {"n": 1, "longest": 9.0},
            {"n": 1000, "longest": 1.0},
            {"n": 300, "longest": 100.0},
            {"n": 4096, "longest": 1.0},
        ],
        grid=lambda n, longest: (-(-n // 256), 256),
        least=lambda n, longest: (8 * n + 4, 4 * n),
        model=CLIPPED,
        in_place=("weight",),
        hints=(
            "squares[0] is on the device: no host has to look at it.",
            "One thread of the block reads it and leaves the rate in shared memory. What must stand between that and "
            "the others' reading it?",
        ),
    ),
}
