"""Notebook 12's exercises: the models move the least possible, first ideas more, and wrong ones are rejected."""

import pytest

from annsoftmax_ref.lessons import first_kernels
from annsoftmax_ref.lessons.first_kernels import EXERCISES
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel

# A thread a row.
SLOW_GATHER = """
__global__ void gather(const float* weight, const int64_t* ids, float* out, int count, int d) {
    const int64_t a = global_thread();
    if (a < count)
        for (int j = 0; j < d; ++j) out[a * d + j] = weight[ids[a] * d + j];
}
"""
TWICE = first_kernels.READ_ONCE.replace("mine[k] / norm", "x[row * d + lane_id() + k * WARP] / norm")
STRAIGHT = """
__global__ void turn_over(const float* x, float* out, int rows, int columns) {
    const int j = blockIdx.x * 32 + threadIdx.x;
    for (int i = blockIdx.y * 32 + threadIdx.y; i < min(blockIdx.y * 32 + 32, rows); i += blockDim.y)
        if (j < columns) out[j * rows + i] = x[i * columns + j];
}
"""


@pytest.mark.parametrize("name", EXERCISES)
def test_the_model_solves_it_with_the_least_possible(name, capsys):
    grade = EXERCISES[name].check(cuda_kernel(EXERCISES[name].model))
    assert grade, grade.message
    assert grade.reads == grade.writes == 1 and 1 <= grade.sectors < 1.03
    assert len(EXERCISES[name].hints) >= 2


@pytest.mark.parametrize(
    "name, source, reads, sectors",
    [
        ("gather", SLOW_GATHER, (1, 1), (6, 8)),
        ("read_once", TWICE, (2, 2), (1.5, 1.5)),
        ("turn_over", STRAIGHT, (1, 1), (4.5, 4.5)),
    ],
)
def test_a_first_idea_is_right_and_moves_more(name, source, reads, sectors, capsys):
    grade = EXERCISES[name].check(cuda_kernel(source))
    assert grade, grade.message
    assert reads[0] <= grade.reads <= reads[1] and sectors[0] <= grade.sectors <= sectors[1], grade


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("gather", "weight[id * d + j]", "weight[id * count + j]"),  # a wrong stride
        ("gather", "j < d", "j < WARP"),
        ("read_once", "warp_sum(squares)", "squares"),
        ("read_once", "k < 4", "k < 3"),
        ("turn_over", "__syncthreads();", ""),
        ("turn_over", "* rows +", "* columns +"),
    ],
)
def test_wrong_answers_are_rejected(name, old, new, capsys):
    model = EXERCISES[name].model
    assert old in model
    assert not EXERCISES[name].check(cuda_kernel(model.replace(old, new)))
    assert capsys.readouterr().out.startswith("not yet. With ")
