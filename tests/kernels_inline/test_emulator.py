"""CUDA on a CPU: sound kernels give what a GPU gives under both orders of the threads. Faults: test_emulator_faults."""

import numpy as np
import pytest
import torch
from cuda_runners import PLANTED, POISON_INT
from kernel_examples import integers

from kernels_inline.compiler import BuildError
from kernels_inline.cuda import emulator


@pytest.mark.parametrize("n, blocks, threads", [(1, 1, 32), (1000, 3, 128), (5000, 2, 1024)])
def test_block_sum(sound, order, n, blocks, threads):
    x, out = integers(n), torch.full((1,), POISON_INT, dtype=torch.int32)
    emulator.call(sound, "block_sum", x, n, out, blocks, threads, None)
    assert out.item() == x.sum()


@pytest.mark.parametrize("n", [1, 31, 64, 200])
def test_scan_in_dynamic_shared_memory(sound, order, n):
    x, out = integers(n), torch.full((n,), POISON_INT, dtype=torch.int32)
    emulator.call(sound, "scan", x, n, out, None)
    assert torch.equal(out, x.cumsum(0, dtype=torch.int32))


@pytest.mark.parametrize("n", [64, 45, 20])
def test_compaction_by_ballot_with_threads_that_end_early(sound, order, n):
    x = integers(n)
    out, count = torch.zeros(64, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)
    emulator.call(sound, "compact", x, n, out, count, None)
    expected = [x[:32][x[:32] > 0], x[32:][x[32:] > 0]]
    assert count.tolist() == [len(expected[0]), len(expected[1]), len(expected[0]) + len(expected[1])]
    for warp in (0, 1):
        assert torch.equal(out[32 * warp :][: len(expected[warp])], expected[warp])


def test_grids_and_blocks_of_three_dimensions(sound, order):
    out = torch.full((12, 64), POISON_INT, dtype=torch.int32)
    emulator.call(sound, "who", out, None)
    assert torch.equal(out, torch.arange(12)[:, None].int() * 1000 + torch.arange(64).int() * 10 + 8)


def test_shuffles_and_votes(sound, order):
    x = integers(32)
    out = torch.full((32, 16), POISON_INT, dtype=torch.int32)
    emulator.call(sound, "lanes", x, out, None)
    lane = torch.arange(32)
    bits = sum(1 << i for i in range(32) if x[i] > 0)
    expected = torch.zeros(32, 16, dtype=torch.int64)
    expected[:, 0] = x[37 % 32]
    expected[:, 1] = x[lane // 8 * 8 + 3]
    expected[:, 2] = x[torch.where(lane % 16 < 2, lane, lane - 2)]
    expected[:, 3] = x[torch.where(lane % 8 > 2, lane, lane + 5)]
    expected[:, 4] = x[lane ^ 9]
    expected[:, 5] = bits - (1 << 32 if bits >> 31 else 0)
    expected[:, 6] = 1
    expected[:, 7] = 1
    rest = torch.fmod(x, 3)  # of C: the sign of x
    for i in range(32):
        same = sum(1 << j for j in range(32) if rest[j] == rest[i])
        expected[i, 8] = same - (1 << 32 if same >> 31 else 0)
    expected[:, 9] = torch.where(lane < 12, 0xAAA, -1)
    expected[:, 10] = 1 + 2
    expected[:, 11] = 2 * x[1] + 1
    assert torch.equal(out.long(), expected)


def test_atomics(sound, order):
    i = torch.tensor([0, 0, 99, 0, -1, -5], dtype=torch.int32)
    wide, x = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
    emulator.call(sound, "atomics", i, wide, x, None)
    first = 0 if order == "forward" else 95
    assert i.tolist() == [2 * 95 * 96 // 2, 95, 0, -1, first, first]
    assert wide.item() == 192 << 40 and x.item() == 96


def test_bf16_as_torch_rounds_it(sound):
    values = [0.0, -0.0, 1.0, 1.00390625, 1.01171875, 3.3895e38, float("inf"), -float("inf"), float("nan"), 1e-40]
    x = torch.cat([torch.tensor(values), torch.randn(500, generator=torch.Generator().manual_seed(0))])
    bits, back = torch.zeros(len(x), dtype=torch.int16), torch.zeros(len(x))
    emulator.call(sound, "bf16", x, len(x), bits, back, None)
    assert torch.equal(back.nan_to_num(7), x.bfloat16().float().nan_to_num(7))
    assert torch.equal(bits[~x.isnan()], x.bfloat16().view(torch.int16)[~x.isnan()])


@pytest.mark.parametrize("n", [1, 2])
def test_binary_tensor_core_against_counting_bits(sound, order, n):
    generator = np.random.default_rng(0)
    a, b = (generator.integers(0, 2, (rows, 256 * n), dtype=np.uint8) for rows in (16, 8))
    words = [torch.from_numpy(np.packbits(x, axis=1, bitorder="little").view(np.int32)) for x in (a, b)]
    out = torch.full((16, 8), POISON_INT, dtype=torch.int32)
    emulator.call(sound, "binary_matmul", *words, n, out, None)
    assert np.array_equal(out.numpy(), a.astype(np.int32) @ b.astype(np.int32).T)


def test_counts_of_a_naive_and_a_tiled_product():
    library, n = emulator.load(PLANTED / "sound.cu", "counting"), 32
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n, generator=generator) for _ in "ab")
    emulator.counts(library)
    seen = []
    for version in (1, 2):
        c = torch.full((n, n), float("nan"))
        emulator.call(library, "matmul", version, a, b, c, n, None)
        torch.testing.assert_close(c, a @ b)
        seen.append(emulator.counts(library))
    naive, tiled = seen
    assert naive["global_loads"] == 2 * n**3 and tiled["global_loads"] == 2 * n**3 // 16
    assert naive["global_load_bytes"] == 4 * naive["global_loads"]
    assert naive["global_stores"] == tiled["global_stores"] == n**2
    # A warp is two rows of 16: two sectors of `a` and two of `b` for each k; four for the result.
    assert naive["global_requests"] == n * n // 32 * (2 * n + 1)
    assert naive["global_sectors"] == n * n // 32 * (4 * n + 4)
    assert tiled["global_sectors"] == n * n // 32 * (2 * n // 16 * 4 + 4)
    assert naive["shared_loads"] == naive["shared_stores"] == 0
    assert tiled["shared_loads"] == 2 * n**3 and tiled["shared_stores"] == 2 * n**3 // 16
    assert tiled["shared_wavefronts"] == tiled["shared_requests"] == n * n // 32 * (n // 16 * 2 + 2 * n)
    assert not any(emulator.counts(library).values())


@pytest.mark.parametrize("by, conflicts", [(1, 1), (2, 2), (32, 32), (33, 1), (0, 1)])
def test_counts_of_bank_conflicts_and_of_scattered_stores(by, conflicts):
    library, out = emulator.load(PLANTED / "sound.cu", "counting"), torch.zeros(32 * 8, dtype=torch.int32)
    emulator.counts(library)
    emulator.call(library, "stride", by, out, None)
    assert torch.equal(out[::8], torch.arange(32, dtype=torch.int32) * by)
    counts = emulator.counts(library)
    assert counts["shared_requests"] == 33 + 1 and counts["shared_wavefronts"] == 33 + conflicts
    assert counts["global_requests"] == 1 and counts["global_sectors"] in (
        32,
        33,
    )  # 33 if out is not aligned to 32 bytes


def test_only_the_counting_variant_counts(sound):
    with pytest.raises(ValueError, match='variant="counting"'):
        emulator.counts(sound)


def test_wrong_names_are_told():
    with pytest.raises(ValueError, match="order is 'backward'"), emulator.schedule("backward"):
        pass
    with pytest.raises(ValueError, match="variant is 'fast'"):
        emulator.load(PLANTED / "sound.cu", "fast")


def test_the_headers_stay_short():
    for path in emulator.FOLDER.glob("*.h"):
        lines = path.read_text().splitlines()
        assert len(lines) < 400 and max(map(len, lines)) <= 120, path.name


def test_a_mistake_of_the_compiler_is_one_sentence():
    with pytest.raises(BuildError, match=r"kernel\.cu:2:\d+: error") as error:
        emulator.load('extern "C" __global__ void f(int* x) {\n  *x = y;\n}')
    assert "\n" not in str(error.value)


def test_types_that_nvcc_refuses_are_refused():
    with pytest.raises(BuildError, match="CUDA's atomics take int, unsigned"):
        emulator.load("__global__ void f(int64_t* x) { atomicAdd(x, 1); }")
