"""Arguments of a launch: each mistake is one sentence; memory is laid out the same in every run."""

import pytest
import torch
from kernel_cells import DOUBLE

from annsoftmax_ref.lessons.kernel_arguments import ALIGNED, Grid, KernelArgumentError, Placed, checked
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel

X, OUT = torch.arange(8.0), torch.zeros(8)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((X, OUT), r"takes 3 arguments \(x, out, n\) and was given 2"),
        ((X.double(), OUT, 8), r"x of double_1 is a tensor of float64; it should be float32, for const float\*"),
        ((X, [0.0], 8), r"out of double_1 is \[0.0\]; it should be a tensor, for float\*"),
        ((X, OUT, 1.5), "n of double_1 is 1.5; it should be a whole number, for int"),
        ((X, OUT, X), "n of double_1 is a tensor; it should be a whole number"),
        ((X, OUT, 2**31), "n of double_1 is 2147483648, which int does not hold"),
        ((X[::2], OUT, 4), r"x of double_1 has strides \(2,\); it should be contiguous"),
        ((X[:5], X[4:], 4), "x and out overlap in memory"),
    ],
)
def test_wrong_arguments_get_one_sentence(arguments, words):
    kernel = cuda_kernel(DOUBLE)
    with pytest.raises(KernelArgumentError, match=words) as error:
        Placed(*checked(kernel.name, kernel.parameters, arguments))
    assert "\n" not in str(error.value) and isinstance(error.value, TypeError)


def test_grids():
    assert Grid.of((4, 256)).numbers == (4, 1, 1, 256, 1, 1, 0)
    assert Grid.of(((2, 3), (8, 8, 2), 512)).numbers == (2, 3, 1, 8, 8, 2, 512)
    for sizes, words in (
        (4, "stands 4"),
        ((1, 2, 3, 4), "in the brackets"),
        ((1.5, 2), "blocks is"),
        ((1, (1, 2, 3, 4)), "threads"),
    ):
        with pytest.raises(KernelArgumentError, match=words):
            Grid.of(sizes)


def test_arrays_begin_where_those_of_a_gpu_do_and_changes_come_back():
    kernel, x = cuda_kernel(DOUBLE), torch.arange(40.0)
    memory = Placed(*checked(kernel.name, kernel.parameters, (x[3:20], OUT, 4)))
    assert memory.arrays["x"].data_ptr() % ALIGNED == 12 and memory.arrays["out"].data_ptr() % ALIGNED == 0
    assert memory.array_at(memory.arrays["x"].data_ptr() + 8)[0] == "x"
    assert memory.outside(memory.arrays["x"].data_ptr() - 4, 4) == "element -1 of x, which has 17"
    assert memory.outside(memory.arrays["x"].data_ptr() - 2**25, 4) == (
        "memory outside of its arguments and shared arrays"
    )
    memory.arrays["x"].zero_()
    memory.arrays["out"].fill_(7)
    out = OUT.clone()
    memory = Placed(*checked(kernel.name, kernel.parameters, (x, out, 4)))
    memory.arrays["x"].zero_()
    memory.arrays["out"].fill_(7)
    memory.copy_back()
    assert x[1] == 1 and (out == 7).all()  # x is const
