"""lists.cu: every version gives what plain torch gives, bit for bit."""

import pytest
import torch
from cuda_runners import RUNNERS, poisoned, runner, versions

CLOCK = torch.tensor(7, dtype=torch.int32)


@pytest.fixture(params=RUNNERS)
def lists(request):
    return runner(request.param, "lists.cu")


def version_of(name):
    return pytest.mark.parametrize("version", versions("lists.cu", name))


# -------------------------------------------------------------------------------------------------- list_sums


@version_of("list_sums")
@pytest.mark.parametrize(
    "count, dim, nlist", [(1, 1, 1), (300, 33, 7), (700, 8, 3), (40, 130, 60), (0, 5, 4), (5, 300, 2)]
)
def test_list_sums_add_rows_in_ascending_order(lists, version, count, dim, nlist):
    rows, numbers = torch.randn(count, dim) * 100, torch.randint(nlist, (count,))
    numbers[: count // 3] = nlist - 1  # a long list; others are often empty
    sums, counts = poisoned(nlist, dim, dtype=torch.float32), poisoned(nlist, dtype=torch.int64)
    assert lists("list_sums_v", version, rows, numbers, count, dim, nlist, sums, counts) == 0
    expected = torch.zeros(nlist, dim)
    for row, number in zip(rows, numbers.tolist(), strict=True):
        expected[number] += row
    assert torch.equal(sums, expected)
    assert torch.equal(counts, torch.bincount(numbers, minlength=nlist))


@pytest.mark.parametrize("nlist", [1, 1030])
def test_list_sums_of_more_lists_than_threads_and_many_tiles(lists, nlist):
    rows, numbers = torch.randn(1100, 2), torch.randint(nlist, (1100,))
    results = []
    for version in versions("lists.cu", "list_sums"):
        sums, counts = poisoned(nlist, 2, dtype=torch.float32), poisoned(nlist, dtype=torch.int64)
        if version != 2 or nlist == 1:  # a block a list takes long in the emulator
            assert lists("list_sums_v", version, rows, numbers, 1100, 2, nlist, sums, counts) == 0
            results.append((sums, counts))
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))
    assert torch.equal(results[0][1], torch.bincount(numbers, minlength=nlist))


# -------------------------------------------------------------------------------------------------- write_codes


@version_of("write_codes")
@pytest.mark.parametrize("words, n", [(1, 1), (2, 9), (5, 60), (3, 0)])
def test_write_codes_touches_these_rows_and_no_others(lists, version, words, n):
    num_rows, nlist, capacity = 60, 4, 24
    places = torch.randperm(nlist * capacity)[:num_rows]
    assignment, place = places // capacity, places % capacity
    ids, fresh = torch.randperm(num_rows)[:n], torch.randint(-(2**62), 2**62, (n, words))
    codes, slot_codes = (
        poisoned(num_rows, words, dtype=torch.int64),
        poisoned(nlist, words, capacity, dtype=torch.int64),
    )
    written = poisoned(num_rows, dtype=torch.int32)
    expected = codes.clone(), slot_codes.clone(), written.clone()
    expected[0][ids] = fresh
    expected[1][assignment[ids], :, place[ids]] = fresh
    expected[2][ids] = 7
    arguments = codes, slot_codes, written, assignment, place, ids, fresh, n, num_rows, words, capacity, CLOCK
    assert lists("write_codes_v", version, *arguments) == 0
    assert all(torch.equal(a, b) for a, b in zip((codes, slot_codes, written), expected, strict=True))


def test_the_launchers_of_the_lists_are_the_last_versions(lists):
    rows, numbers = torch.randn(9, 6), torch.randint(2, (9,))
    sums, counts = poisoned(2, 6, dtype=torch.float32), poisoned(2, dtype=torch.int64)
    assert lists("list_sums", rows, numbers, 9, 6, 2, sums, counts) == 0
    assert torch.equal(counts, torch.bincount(numbers, minlength=2))
    codes, slot_codes = torch.zeros(3, 1, dtype=torch.int64), torch.zeros(1, 1, 3, dtype=torch.int64)
    written, place, ids = torch.zeros(3, dtype=torch.int32), torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    fresh, home = torch.tensor([[5], [6]]), torch.zeros(3, dtype=torch.int64)
    assert lists("write_codes", codes, slot_codes, written, home, place, ids, fresh, 2, 3, 1, 3, CLOCK) == 0
    assert codes.flatten().tolist() == [6, 5, 0] and slot_codes.flatten().tolist() == [5, 0, 6]
    assert written.tolist() == [7, 7, 0]
