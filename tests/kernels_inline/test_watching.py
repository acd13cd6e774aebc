"""Who uses which memory: recorded access by access, and a launch ends before it uses memory that is not its own."""

import pytest
import torch
from kernel_examples import integers

from kernels_inline.cuda import emulator, watching

TEXT = """
__constant__ int table[2] = {10, 20};
__global__ void shift(const int* x, int n, int* out) {
    __shared__ int parts[32];
    parts[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = parts[threadIdx.x] + table[threadIdx.x % 2];
}
extern "C" int64_t launch(const int* x, int64_t n, int* out, void* stream) {
    LAUNCH(shift, 2, int(n), 0, stream, x, int(n), out);
    return launch_error();
}
"""


@pytest.fixture(scope="module")
def library():
    return emulator.load(TEXT, "counting")


def test_uses_are_told_by_thread_address_and_line(library):
    x, out = integers(32), torch.zeros(32, dtype=torch.int32)
    with watching.only([x, out], library, recording=True):
        emulator.call(library, "launch", x, 32, out, None)
        uses = watching.uses(library)
    loads = uses[(uses["store"] == 0) & (uses["shared"] == 0) & (uses["address"] < x.data_ptr() + 128)]
    loads = loads[loads["address"] >= x.data_ptr()]
    assert loads["thread"].tolist() == 2 * list(range(32)) and loads["block"].tolist() == 32 * [0] + 32 * [1]
    assert ((loads["address"] - x.data_ptr()) // 4).tolist() == 2 * list(range(32))
    stores = uses[(uses["store"] == 1) & (uses["shared"] == 0)]
    assert (stores["address"] - out.data_ptr() == 4 * stores["thread"]).all() and (stores["bytes"] == 4).all()
    assert (uses["shared"] == 1).sum() == 2 * 2 * 32
    lines = watching.lines(library, uses["code"])
    assert lines[loads[0]["code"]][0] == ("kernel.cu", 5) and lines[stores[0]["code"]][0] == ("kernel.cu", 7)


def test_a_launch_ends_before_it_uses_memory_of_others_and_the_next_one_works(library, order):
    x, out = integers(32), torch.zeros(40, dtype=torch.int32)
    for tensors, thread, store in (([x[:20], out], 20, 0), ([x, out[:20]], 20, 1)):
        for _ in range(2):
            with (
                watching.only(tensors, library),
                pytest.raises(RuntimeError, match="kernel shift, an access outside of all arrays"),
            ):
                emulator.call(library, "launch", x, 32, out, None)
            assert watching.fault(library) is None  # it is forgotten with the block
            with watching.only(tensors, library):
                with pytest.raises(RuntimeError):
                    emulator.call(library, "launch", x, 32, out, None)
                fault = watching.fault(library)
            assert fault["thread"] == (thread if order == "forward" else 31) and fault["store"] == store
            assert fault["block"] == 0 and fault["bytes"] == 4
    assert (out[20:] == 0).all() or order == "forward"
    with watching.only([x, out], library):
        emulator.call(library, "launch", x, 32, out, None)
        assert watching.fault(library) is None and len(watching.uses(library)) == 0
    assert torch.equal(out[:32], x + torch.tensor([10, 20], dtype=torch.int32).repeat(16))


def test_counting_can_be_left_out(library):
    x, out = integers(32), torch.zeros(32, dtype=torch.int32)
    emulator.counts(library)
    for counting in (False, True):
        with watching.only([x, out], library, counting=counting):
            emulator.call(library, "launch", x, 32, out, None)
        assert emulator.counts(library)["global_stores"] == 64 * counting


VECTORS = """
__global__ void copy(const float4* x, float4* out, ushort4* small) {
    __shared__ float4 parts[32];
    const float4 mine = x[threadIdx.x];
    parts[threadIdx.x] = make_float4(mine.x, mine.y + 1, mine.z, mine.w);
    __syncthreads();
    out[threadIdx.x] = parts[31 - threadIdx.x];
    small[threadIdx.x] = ushort4{1, 2, 3, 4};
}
extern "C" int64_t launch(const void* x, void* out, void* small, void* stream) {
    LAUNCH(copy, 1, 32, 0, stream, (const float4*)x, (float4*)out, (ushort4*)small);
    return launch_error();
}
"""


def test_a_vector_is_loaded_and_stored_in_one_piece(order):
    library = emulator.load(VECTORS, "counting")
    x, out, small = torch.arange(128.0).view(32, 4), torch.zeros(32, 4), torch.zeros(32, 4, dtype=torch.int16)
    with watching.only([x, out, small], library, recording=True):
        emulator.call(library, "launch", x, out, small, None)
        uses = watching.uses(library)
    assert torch.equal(out, x.flip(0) + torch.tensor([0.0, 1, 0, 0])) and small[31].tolist() == [1, 2, 3, 4]
    assert len(uses) == 5 * 32 and sorted(uses["bytes"].tolist()) == 32 * [8] + 128 * [16]
    assert (uses["store"] == 1).sum() == 3 * 32 and (uses["shared"] == 1).sum() == 2 * 32
    lines = {place[0][1] for place in (list(filter(of_cell, found)) for found in told(library, uses)) if place}
    assert lines == {4, 5, 7, 8}


def told(library, uses):
    return watching.lines(library, uses["code"]).values()


def of_cell(place):
    return place[0] == "kernel.cu"
