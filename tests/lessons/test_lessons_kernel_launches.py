"""Kernels of cells: launched on the emulator in both orders, counted, their accesses and mistakes told by line."""

import pytest
import torch
from kernel_cells import DOUBLE, ROW_SUMS, TURNED

from annsoftmax_ref.lessons.kernel_arguments import KernelArgumentError, KernelError
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel
from annsoftmax_ref.lessons.kernel_launches import Helpers
from kernels_inline.cuda import emulator, sources

X = torch.arange(100.0)


@pytest.fixture(scope="module")
def double():
    return cuda_kernel(DOUBLE)


@pytest.mark.parametrize("order", emulator.SCHEDULES)
def test_a_launch_changes_the_tensors_that_it_was_given(double, order):
    out = torch.zeros(100)
    with emulator.schedule(order):
        double[4, 32](X, out, 90)
    assert torch.equal(out[:90], 2 * X[:90]) and (out[90:] == 0).all()
    double[(2, 1, 1), (50,)](out, out, 100)  # in place
    assert torch.equal(out[:90], 4 * X[:90])


def test_numpy_arrays_are_taken_too(double):
    out = torch.zeros(8).numpy()
    double[1, 32](X.numpy(), out, 8)
    assert out.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]


def test_traffic_is_exact_and_tells_a_column_from_a_row(double):
    out = torch.zeros(1024)
    rows = double.traffic[4, 256](torch.zeros(1024), out, 1024)
    assert (rows.global_load_bytes, rows.global_store_bytes) == (4096, 4096)
    assert rows.global_requests == 64 and rows.sectors_a_request == 4 and rows.used == 1
    column = cuda_kernel(ROW_SUMS).traffic[1, 32](torch.zeros(32, 8), torch.zeros(32), 32, 8)
    assert column.global_loads == 256 and column.global_requests == 9
    assert column.global_sectors == 8 * 32 + 4  # a sector a lane, but for the store
    assert "28.9 a request" in repr(column) and "shared" not in repr(column)


def test_accesses_name_the_array_the_element_the_lane_and_the_line(double):
    load, store = double.accesses[4, 32](X, torch.zeros(100), 100, block=3)
    assert (load.array, load.store, load.line, load.each, load.item) == ("x", False, 4, 1, 4)
    assert load.elements == {0: 96, 1: 97, 2: 98, 3: 99} and load.sectors == (12,)
    assert (store.array, store.store) == ("out", True)
    assert repr(load) == "line 4: 4 lanes load x[96] to [99], 4 bytes a lane, 1 sectors"
    requests = cuda_kernel(ROW_SUMS).accesses[1, 32](torch.zeros(32, 8), torch.zeros(32), 32, 8)
    assert [request.elements[1] for request in requests] == [*range(8, 16), 1]
    assert len(requests[0].sectors) == 32


def test_a_view_lies_where_it_lies_in_its_storage(double):
    load, _ = double.accesses[1, 32](torch.zeros(40)[1:33], torch.zeros(32), 32)
    assert len(load.sectors) == 5


def test_shared_memory_is_told_in_words():
    x, out = torch.arange(64, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    requests = cuda_kernel(TURNED).accesses[1, 64](x, out)
    assert [request.array for request in requests] == ["x", "shared", "shared", "out"]
    assert requests[2].elements[0] == 63 and requests[2].line == 5


def test_an_access_outside_names_the_line_the_thread_and_the_element(double):
    message = (
        r"line 4, `if \(i < n\) out\[i\] = 2 \* x\[i\];`: thread 4 of block 3 reads element 100 of x, which has 100"
    )
    with pytest.raises(KernelError, match=message):
        double[4, 32](X, torch.zeros(100), 101)
    with pytest.raises(KernelError, match="thread 10 of block 0 writes element 10 of out, which has 10"):
        double[1, 32](X, torch.zeros(10), 11)
    with pytest.raises(KernelError, match="through a null pointer"):
        double[1, 32](None, torch.zeros(10), 10)


@pytest.mark.parametrize(
    "body, words",
    [
        ("y = 3;", "line 3, `y = 3;`: 'y' was not declared"),
        ("\n    atomicAdd(x, 1);", r"line 4, `atomicAdd\(x, 1\);`: static assertion failed: CUDA's atomics take"),
        ("float z = widen(1.0f)", "line 4, `}`: expected"),
    ],
)
def test_mistakes_of_the_compiler_have_the_line_of_the_cell(body, words):
    with pytest.raises(KernelError, match=words) as error:
        cuda_kernel(f"\n__global__ void bad(long long* x) {{\n{body}\n}}").compile()
    assert error.value._render_traceback_() == [f"KernelError: {error.value}"]


def test_barriers_that_do_not_meet_are_told_by_line():
    kernel = cuda_kernel(
        "\n__global__ void apart() {\n    if (threadIdx.x < 32)\n        __syncthreads();\n    __syncwarp();\n}"
    )
    kernel[1, 32]()
    with pytest.raises(
        KernelError, match=r"threads 0 to 5 wait at __syncthreads in line 4, `__syncthreads\(\);`, threads 6"
    ):
        cuda_kernel(kernel.text.replace("< 32", "< 6").replace("__syncwarp", "__syncthreads"))[1, 32]()


def test_templates_structs_and_helpers_are_the_package_s():
    text = (sources.FOLDER / "head.cu").read_text()
    rows = (sources.FOLDER / "unit_rows.h").read_text().replace("#pragma once", "")
    rows += text[text.index("constexpr int THREADS") : text.index("// ---- gather_normalise")]
    body = text[text.index("template <class W, class T>\n__global__ void gather_normalise_2") :]
    body = body[: body.index("\n}\n") + 3]
    kernel = cuda_kernel("\n" + body, "gather_normalise_2<float, float>", [Helpers("rows", rows)])
    weight, ids = torch.randn(9, 40, generator=torch.Generator().manual_seed(0)), torch.tensor([8, 0, 3])
    unit, norms = torch.zeros(3, 40), torch.zeros(3)
    kernel[1, 96]((weight, ids, 3, 40), unit, norms)
    torch.testing.assert_close(norms, weight[ids].norm(dim=1))
    torch.testing.assert_close(unit, torch.nn.functional.normalize(weight[ids]))
    half = kernel.of("uint16_t", "float")
    half[1, 96]((weight.bfloat16(), ids, 3, 40), unit, norms)
    torch.testing.assert_close(norms, weight.bfloat16().float()[ids].norm(dim=1))
    with pytest.raises(KernelError, match="is a template of <W, T> and was given 0 arguments"):
        kernel.of()[1, 96]((weight, ids, 3, 40), unit, norms)
    with pytest.raises(KernelArgumentError, match=r"tuple of its 4 fields, \(weight, ids, A, d\)"):
        kernel[1, 96](weight, unit, norms)


def test_times_are_of_a_gpu_only(double):
    with pytest.raises(ValueError, match="takes tensors on a GPU"):
        double.milliseconds[4, 32](X, X, 100)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(double):
    out = torch.zeros(100, device="cuda")
    double[4, 32](X.cuda(), out, 100)
    assert torch.equal(out.cpu(), 2 * X)
    assert 0 < double.milliseconds[4, 32](X.cuda(), out, 100) < 100
    with pytest.raises(ValueError, match="x is not on cuda"):
        double[4, 32](X, out, 100)


def test_a_word_that_is_written_in_pieces_has_requests_of_pieces():
    halves = cuda_kernel(
        "\n__global__ void halves(int64_t* words) {\n    reinterpret_cast<int*>(words)[threadIdx.x] = 1;\n}\n"
    )
    (request,) = halves.accesses[1, 4](torch.zeros(4, dtype=torch.int64))
    assert (request.item, request.each, len(request.sectors)) == (4, 1, 1)
    assert request.elements == {0: 0, 1: 1, 2: 2, 3: 3}
