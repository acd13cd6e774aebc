"""The cell magics, in an IPython of their own: what they show, bind and say about mistakes."""

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from kernel_cells import DOUBLE

from annsoftmax_ref.lessons import kernel_cells
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel, names_in

HELP = "__device__ float twice(float x) { return 2 * x; }\n"
USING = (
    "template <class T, int n>\n__global__ void by_help(T* x) {\n    x[threadIdx.x] = twice(x[threadIdx.x]) + n;\n}\n"
)


@pytest.fixture(scope="module")
def shell():
    shell = InteractiveShell.instance()  # the one that display() asks
    kernel_cells.load_ipython_extension(shell)
    yield shell
    InteractiveShell.clear_instance()


def run(shell, text):
    """What a cell prints, what it displays, and whether it ended well."""
    with capture_output() as captured:
        result = shell.run_cell(text)
    return captured.stdout + captured.stderr, [output.data for output in captured.outputs], result.success


def test_a_cell_shows_its_source_and_binds_its_kernel(shell):
    said, (shown,), well = run(shell, "%%cuda_kernel double_1\n" + DOUBLE[1:])
    assert well and said == ""
    assert shown["text/plain"] == "kernel double_1(const float* x, float* out, int n)"
    assert "__global__" in shown["text/html"] and ">2  </i>" in shown["text/html"]
    out = torch.zeros(3)
    shell.user_ns["double_1"][1, 32](torch.ones(3), out, 3)
    assert out.tolist() == [2, 2, 2]


def test_helpers_and_template_arguments(shell):
    said, (shown,), _ = run(shell, "%%cuda_helpers twice\n" + HELP)
    assert said == "" and shown["text/plain"] == "helpers twice"
    said, _, well = run(shell, "%%cuda_kernel by_help<float, 3> using twice\n" + USING)
    assert well and said == ""
    x = torch.ones(2)
    shell.user_ns["by_help"][1, 2](x)
    assert x.tolist() == [5, 5]


def test_mistakes_are_told_with_the_line_of_the_cell_and_no_traceback(shell):
    said, _, well = run(shell, "%%cuda_kernel double_1\n" + DOUBLE[1:].replace("2 * x", "2 * y"))
    assert well and said == (
        "double_1 cannot be compiled. line 4, `if (i < n) out[i] = 2 * y[i];`: 'y' was not declared in this scope\n"
    )
    said, _, well = run(shell, "double_1[1, 32](None, None, 0)")
    assert not well and "KernelError: line 4" in said and "Traceback" not in said and ".py" not in said
    said, _, _ = run(shell, "%%cuda_kernel wrong\n" + DOUBLE[1:])
    assert said == "the cell has no kernel wrong; it has double_1\n"
    said, _, _ = run(shell, "%%cuda_kernel double_1 using nobody\n" + DOUBLE[1:])
    assert said.startswith("no cell has bound 'nobody'")


def test_one_cell_may_hold_several_kernels(shell):
    both = DOUBLE[1:] + DOUBLE[1:].replace("double_1", "again").replace("2 *", "3 *")
    _, shown, _ = run(shell, "%%cuda_kernel double_1 again\n" + both)
    assert len(shown) == 1
    x = torch.ones(1)
    for name in ("double_1", "again"):
        shell.user_ns[name][1, 32](x, x, 1)
    assert x.item() == 6


def test_the_magic_s_line():
    assert names_in("scale<float, 4> add using rows more") == (["scale<float, 4>", "add"], ["rows", "more"])
    assert names_in("scale") == (["scale"], [])


def test_a_source_without_kernels_is_told():
    with pytest.raises(ValueError, match="a kernel begins with __global__ void NAME"):
        cuda_kernel(HELP)
