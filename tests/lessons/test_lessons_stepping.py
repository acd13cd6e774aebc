"""Notebook 15's exercises: the models move the least possible, first ideas more, and wrong ones are rejected."""

import pytest

from annsoftmax_ref.lessons import stepping
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel
from annsoftmax_ref.lessons.stepping import EXERCISES

# In two passes, the second of which reads what the first one wrote.
TWO_PASSES = """
__global__ void step_late(float* weight, float* momentum, const int64_t* ids, const float* drift, const float* fade,
                          const float* grad, int A, int d, float lr, float mu) {
    const int64_t a = global_warp();
    if (a >= A) return;
    for (int j = lane_id(); j < d; j += WARP) {
        weight[ids[a] * d + j] += drift[a] * momentum[ids[a] * d + j];
        momentum[ids[a] * d + j] *= fade[a];
    }
    for (int j = lane_id(); j < d; j += WARP) {
        momentum[ids[a] * d + j] = mu * momentum[ids[a] * d + j] + grad[a * d + j];
        weight[ids[a] * d + j] -= lr * momentum[ids[a] * d + j];
    }
}
"""
A_NUMBER_A_THREAD = """
__global__ void to_bf16(const float* x, const uint32_t* random, uint16_t* out, int n) {
    for (int64_t i = global_thread(); i < n; i += gridDim.x * blockDim.x)
        out[i] = uint16_t((__float_as_uint(x[i]) + (random[i / 2] >> 16 * (i % 2) & 0xFFFF)) >> 16);
}
"""
TWICE = """
__global__ void step_unit(float* weight, const float* slope, int rows, int d, float lr) {
    const int64_t row = global_warp();
    if (row >= rows) return;
    float squares = 0, dot = 0;
    for (int64_t i = row * d + lane_id(); i < row * d + d; i += WARP) {
        squares += weight[i] * weight[i];
        dot += weight[i] * slope[i];
    }
    squares = warp_sum(squares);
    const float share = warp_sum(dot) / squares;
    for (int64_t i = row * d + lane_id(); i < row * d + d; i += WARP)
        weight[i] -= lr * (slope[i] - share * weight[i]) / sqrtf(squares);
}
"""
ALL_LOOK = """
__global__ void clipped(float* weight, const float* grad, const float* squares, int n, float lr, float longest) {
    const int64_t i = global_thread();
    if (i < n) weight[i] -= lr * fminf(1.0f, longest / sqrtf(squares[0])) * grad[i];
}
"""


@pytest.mark.parametrize("name", EXERCISES)
def test_the_model_solves_it_with_the_least_possible(name, capsys):
    grade = EXERCISES[name].check(cuda_kernel(EXERCISES[name].model))
    assert grade, grade.message
    assert 1 <= grade.reads < 1.01 and grade.writes == 1 and grade.sectors < 1.04
    assert len(EXERCISES[name].hints) >= 2


@pytest.mark.parametrize(
    "name, source, reads",
    [
        ("step_late", TWO_PASSES, 1.9),
        ("to_bf16", A_NUMBER_A_THREAD, 4 / 3),
        ("step_unit", TWICE, 2),
        ("clipped", ALL_LOOK, 1.5),
    ],
)
def test_a_first_idea_is_right_and_reads_more(name, source, reads, capsys):
    grade = EXERCISES[name].check(cuda_kernel(source))
    assert grade, grade.message
    assert grade.reads >= reads - 0.01, grade


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("step_late", "far * before", "far * v"),
        ("step_late", "mu * (left * before)", "mu * before"),
        ("to_bf16", "+ (bits >> 16)", "+ (bits & 0xFFFF)"),
        ("to_bf16", "if (2 * pair + 1 == n)", "if (false)"),
        ("step_unit", "/ norm", ""),
        ("step_unit", "warp_sum(dot)", "dot"),
        ("clipped", "__syncthreads();", ""),
        ("clipped", "fminf(1.0f, longest / sqrtf(squares[0]))", "longest / sqrtf(squares[0])"),
    ],
)
def test_wrong_answers_are_rejected(name, old, new, capsys):
    model = EXERCISES[name].model
    assert old in model
    assert not EXERCISES[name].check(cuda_kernel(model.replace(old, new)))
    assert capsys.readouterr().out.startswith("not yet. With ")


def test_the_specifications_are_the_reference_s():
    import numpy as np
    import torch

    from annsoftmax_ref import reference as ref
    from kernels_inline import rows_rounded

    rng = np.random.default_rng(1)
    given = EXERCISES["step_late"].arguments(rng, A=5, d=7)
    history = [(0.1, 0.9, 0.0)] * 4
    missed = np.linalg.matrix_power(ref.sgd_missed_matrix(*history[0]), 4)
    given |= {"drift": np.full(5, missed[0, 1]), "fade": np.full(5, missed[1, 1])}
    w, v = (given[name][given["ids"]].astype(np.float64) for name in ("weight", "momentum"))
    right = ref.sgd_step(*ref.sgd_catch_up(w, v, history), given["grad"], 0.1, 0.9)
    ours = stepping.step_late(**given)
    for name, expected in zip(("weight", "momentum"), right, strict=True):
        assert np.allclose(ours[name][given["ids"]], expected, atol=1e-5)

    given = EXERCISES["to_bf16"].arguments(rng, n=9)
    bits = torch.from_numpy(given["random"].view(np.uint16)[:9].astype(np.int64))
    theirs = rows_rounded.round_at_random(torch.from_numpy(given["x"]), bits, 0)
    assert np.array_equal(stepping.to_bf16(**given)["out"], theirs.view(torch.int16).numpy())

    given = EXERCISES["step_unit"].arguments(rng, rows=3, d=6)
    w = torch.from_numpy(given["weight"].copy()).requires_grad_()
    torch.nn.functional.normalize(w, dim=1).backward(torch.from_numpy(given["slope"]))
    assert np.allclose(stepping.step_unit(**given)["weight"], (w - 0.1 * w.grad).detach().numpy(), atol=1e-5)
