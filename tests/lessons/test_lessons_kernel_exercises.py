"""The checker of kernels: what was expected, what came, which thread; a grade by traffic; hints."""

import numpy as np
import pytest

from annsoftmax_ref.lessons.kernel_cells import cuda_kernel
from annsoftmax_ref.lessons.kernel_exercises import KernelExercise

HEAD = "\n__global__ void scale(const float* x, float* out, int n) {\n"
MODEL = HEAD + "    const int i = blockIdx.x * blockDim.x + threadIdx.x;\n    if (i < n) out[i] = 2 * x[i];\n}\n"
SCALE = KernelExercise(
    arguments=lambda rng, n: {"x": rng.random(n, np.float32), "out": np.empty(n, np.float32), "n": n},
    specification=lambda x, out, n: {"out": 2 * x},
    sizes=[{"n": 1}, {"n": 33}, {"n": 1024}],
    grid=lambda n: (-(-n // 256), 256),
    least=lambda n: (4 * n, 4 * n),
    model=MODEL,
    hints=["a first one", "a second one"],
)
COUNT = KernelExercise(  # a counter that is added to
    arguments=lambda rng, n: {"x": rng.integers(0, 2, n, dtype=np.int32), "sum": np.full(1, 5, np.int32), "n": n},
    specification=lambda x, sum, n: {"sum": sum + x.sum()},
    sizes=[{"n": 40}],
    grid=lambda n: (1, 64),
    least=lambda n: (4 * n + 4, 4),
    model="__global__ void count(const int* x, int* sum, int n) {\n"
    "    if (threadIdx.x < n) atomicAdd(sum, x[threadIdx.x]);\n}",
    in_place=("sum",),
)


def scale(body):
    return cuda_kernel(f"{HEAD}{body}\n}}\n")


def test_a_right_answer_is_graded_by_what_it_moves(capsys):
    grade = SCALE.check(cuda_kernel(MODEL))
    assert grade and (grade.reads, grade.writes, grade.sectors) == (1, 1, 1)
    assert capsys.readouterr().out.splitlines()[0] == (
        "correct; 1.0 times the least possible reads; the model solution has 1.0"
    )
    wasteful = "    int i = blockIdx.x * 256 + threadIdx.x;\n    if (i >= n) return;\n    float sum = 0;\n"
    wasteful += (
        "    for (int k = 0; k < 4; ++k) {\n        sum += x[i];\n        __syncwarp();\n    }\n    out[i] = sum / 2;"
    )
    grade = SCALE.check(scale(wasteful))
    assert grade and (grade.reads, grade.writes) == (4, 1) and grade.sectors == 2.5
    assert "correct; 4.0 times the least possible reads; the model solution has 1.0" in capsys.readouterr().out


def test_neighbours_that_are_far_apart_cost_sectors():
    strided = (
        "    int i = threadIdx.x / 32 + threadIdx.x % 32 * 8 + blockIdx.x * 256;\n    if (i < n) out[i] = 2 * x[i];"
    )
    grade = SCALE.check(scale(strided))
    assert grade and grade.reads == 1 and grade.sectors == 8


@pytest.mark.parametrize(
    "body, words",
    [
        ("", "With n = 1, threads in forward order:\n  out[0] should be 1.70125; no thread wrote it"),
        (
            "    if (threadIdx.x == 0) out[0] = 3;",
            "and is 3: thread 0 of block 0 wrote it, in line 3, `if (threadIdx.x",
        ),
        ("    out[threadIdx.x] = 2 * x[threadIdx.x];", "thread 1 of block 0 reads element 1 of x, which has 1"),
        ("    if (threadIdx.x < n) out[threadIdx.x] = 2 * x[threadIdx.x];", "With n = 1024"),
        ("    out[0] = 2 * x;", "line 3, `out[0] = 2 * x;`: invalid operands"),
    ],
)
def test_a_wrong_answer_is_told_with_element_and_thread(body, words, capsys):
    assert not SCALE.check(scale(body))
    said = capsys.readouterr().out
    assert said.startswith("not yet. ") and words in said and "hints: .hint(1) to .hint(2)" in said


def test_an_answer_that_is_right_in_one_order_only_is_wrong(capsys):
    late = "    if (n > 40 && i == 0) out[5] = 0;"  # thread 5 writes there too: after it in the one order only
    assert not SCALE.check(
        scale("    const int i = blockIdx.x * 256 + threadIdx.x;\n    if (i < n) out[i] = 2 * x[i];\n" + late)
    )
    assert "threads in reverse order:\n  out[5] should be" in capsys.readouterr().out


def test_an_output_that_is_an_input_is_not_poisoned():
    assert COUNT.check(cuda_kernel(COUNT.model))
    assert not COUNT.check(cuda_kernel(COUNT.model.replace("atomicAdd(sum,", "*sum = (").replace("]);", "]);")))


def test_hints(capsys):
    SCALE.hint(2)
    assert capsys.readouterr().out == "a second one\n"
    with pytest.raises(ValueError, match="hint 3 is not there; the exercise has 2 hints"):
        SCALE.hint(3)
