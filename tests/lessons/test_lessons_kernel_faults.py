"""Planted faults, each found and named at its line; a sound kernel is called sound."""

import pytest
import torch
from kernel_cells import DOUBLE, TURNED

from annsoftmax_ref.lessons import kernel_faults
from annsoftmax_ref.lessons.kernel_arguments import KernelError
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel

INTS = torch.arange(64, dtype=torch.int32)
RACE = "a race of line 4, `parts[threadIdx.x] = x[threadIdx.x];`, and line 5, `out[threadIdx.x] = parts[63 - "
SHARED = TURNED.replace("    out[", "    __syncthreads();\n    out[")
SUM = "\n__global__ void total(const float* x, float* out) {\n    atomicAdd(out, x[threadIdx.x]);\n}\n"
ONE = "\n__global__ void one(int* out) {\n    out[0] = threadIdx.x;\n}\n"
WAIT = """
__global__ void wait() {
    if (threadIdx.x < 6)
        __syncthreads();
    else
        __syncthreads();
}
"""
# Without `more` behind it, the array's end would be that of all shared memory, which every launch sees.
BEYOND = """
__global__ void beyond(const int* x, int* out) {
    __shared__ int parts[64], more[64];
    parts[threadIdx.x] = more[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = parts[threadIdx.x - 1] + more[threadIdx.x] + parts[threadIdx.x + 1];
}
"""

FAULTS = {
    "a missing barrier": (TURNED, 64, (INTS, INTS.clone()), "race", 4, RACE),
    "out of bounds": (DOUBLE, 64, (torch.zeros(50), torch.zeros(64), 64), "outside", 4, "reads element 50 of x"),
    "a wrong stride": (
        DOUBLE.replace("x[i]", "x[2 * i]"),
        64,
        (torch.zeros(64), torch.zeros(64), 64),
        "outside",
        4,
        "element 64 of x",
    ),
    "beyond a shared array": (BEYOND, 64, (INTS, INTS.clone()), "outside", 6, "outside of"),
    "a float atomic": (
        SUM,
        64,
        (torch.rand(64, generator=torch.Generator().manual_seed(0)), torch.zeros(1)),
        "order",
        3,
        "atomics add floats in any order",
    ),
    "two threads write": (ONE, 64, (INTS.clone(),), "race", 3, "two threads do this to the same memory at once"),
    "barriers that do not meet": (WAIT, 64, (), "launch", 4, "divergent barrier"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_at_its_line(fault):
    text, threads, arguments, kind, line, words = FAULTS[fault]
    before = [x.clone() for x in arguments if isinstance(x, torch.Tensor)]
    verdict = cuda_kernel(text).check[1, threads](*arguments)
    assert (verdict.fault, verdict.line) == (kind, line), verdict
    assert words in repr(verdict) and not verdict and "\n" not in repr(verdict)
    after = [x for x in arguments if isinstance(x, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.slow
def test_sound_kernels_have_no_fault():
    verdict = cuda_kernel(SHARED).check[1, 64](INTS, INTS.clone())
    assert verdict and repr(verdict).startswith("no fault found")
    x = torch.ones(64)
    assert cuda_kernel(DOUBLE).check[2, 32](x, x, 64)  # in place


@pytest.mark.slow
def test_a_look_that_could_not_be_taken_is_no_clean_bill(monkeypatch):
    monkeypatch.setattr(kernel_faults, "CHILD", "raise SystemExit('no sanitizer here')")
    with pytest.raises(KernelError, match=r"\(races\) did not come to its end, and says nothing: no sanitizer here"):
        cuda_kernel(DOUBLE).check[2, 32](torch.ones(64), torch.ones(64), 64)
