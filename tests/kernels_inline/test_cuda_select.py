"""select.cu: union_active and select_map, every version, against their torch twins, number for number."""

import re

import pytest
import torch
from cuda_runners import FOLDER, RUNNERS, index, poisoned, runner, versions

from annsoftmax_ref import active_sets, backend
from kernels_inline.cuda import emulator
from kernels_inline.select_ops import select_map_torch

SOURCE = "select.cu"
FASTEST = 3
both = pytest.mark.parametrize("version", versions(SOURCE, "union_active"))


@pytest.fixture(params=RUNNERS)
def call(request):
    return runner(request.param, SOURCE)


def ids(*shape, below, generator):
    return torch.randint(below, shape, generator=generator)


NOTHING = torch.zeros(0, dtype=torch.int64)


def test_the_index_names_every_version():
    assert index(SOURCE) == [f"{name}_{v}" for name in ("union_active", "select_map") for v in (1, 2, 3)]
    numbered = set(re.findall(r"(\w+_v)\(int64_t version", (FOLDER / SOURCE).read_text()))
    assert numbered == {"union_active_v", "select_map_v"}


# -------------------------------------------------------------------------------------------------------- union_active


def union_of_groups(call, version, candidates, labels, samples, fill_order, count, num_classes):
    classes, targets = poisoned(len(samples), count, dtype=torch.int64), poisoned(*samples.shape, dtype=torch.int64)
    sizes = *candidates.shape, *samples.shape, fill_order.shape[1], count, num_classes
    assert call("union_active_v", version, candidates, labels, samples, fill_order, *sizes, classes, targets) == 0
    return classes, targets


def one_group(candidates, labels, fill_order, *sizes):
    return candidates, labels, torch.arange(len(labels)).unsqueeze(0), fill_order.unsqueeze(0), *sizes


def union(call, version, *arguments):
    (classes,), (targets,) = union_of_groups(call, version, *one_group(*arguments))
    return classes, targets


def assert_unions(call, version, *arguments):
    with backend.use("torch"):
        classes, targets = active_sets.union_active(*arguments)
    ours = union_of_groups(call, version, *arguments)
    assert torch.equal(ours[0], classes) and torch.equal(ours[1], targets)


def assert_union(call, version, *arguments):
    assert_unions(call, version, *one_group(*arguments))


@both
@pytest.mark.parametrize("num_classes, batch, k, length, count", [
    (2500, 20, 30, 700, 400),     # the cut falls among the candidates
    (5000, 20, 30, 3000, 2600),   # among fill_order: more bins than one block sums up, with the 4500 below
    (6000, 4, 40, 4500, 3500),
    (300, 9, 6, 50, 200),         # among the rest
    (97, 40, 5, 0, 97),           # all classes
    (33, 1, 0, 10, 5),            # no candidates
    (1, 1, 1, 1, 1),
    (257, 0, 3, 9, 70),           # no samples
])  # fmt: skip
def test_union_equals_plain_torch(call, version, num_classes, batch, k, length, count, generator):
    labels, fill_order = (ids(n, below=num_classes, generator=generator) for n in (batch, length))
    candidates = ids(batch, k, below=num_classes, generator=generator)
    candidates[torch.rand(batch, k, generator=generator) < 0.2] = -1
    assert_union(call, version, candidates, labels, fill_order, max(count, len(labels.unique())), num_classes)


@both
def test_unions_of_several_groups(call, version, generator):
    labels, candidates = ids(11, below=500, generator=generator), ids(11, 9, below=500, generator=generator)
    order = torch.randperm(11, generator=generator)
    samples = torch.cat([order, torch.tensor([-1])]).view(3, 4)  # the last group has one sample less
    for count in (5, 17, 60, 500):
        fill_order = ids(3, 40, below=500, generator=generator)
        assert_unions(call, version, candidates, labels, samples, fill_order, count, 500)


@both
def test_random_unions(call, version, generator):
    for _ in range(12):
        num_classes, batch, k, length = (int(ids(1, below=n, generator=generator)) + 1 for n in (300, 20, 30, 200))
        labels, fill_order = (ids(n, below=num_classes, generator=generator) for n in (batch, length))
        candidates = ids(batch, k, below=num_classes, generator=generator)
        candidates[torch.rand(batch, k, generator=generator) < 0.4] = -1
        least = len(labels.unique())
        count = least + int(ids(1, below=num_classes - least + 1, generator=generator))
        assert_union(call, version, candidates, labels, fill_order, count, num_classes)


@both
def test_unions_at_the_edges(call, version):
    last = 2100  # the last of two tiles
    labels, none = torch.tensor([last, 0, last]), torch.full((3, 4), -1)
    order = torch.tensor([5, 5, last, 5, 0, 2047, 2048])
    assert_union(call, version, none, labels, order, 2, last + 1)  # the labels alone
    assert_union(call, version, none, labels, order, 5, last + 1)  # repeats in fill_order count once
    assert_union(call, version, none, labels, NOTHING, 9, last + 1)
    ties = torch.arange(last, last - 12, -1).view(3, 4)  # in each column three classes, of which some fit
    for count in range(2, 15):
        assert_union(call, version, ties, labels, order, count, last + 1)


@both
def test_fill_order_is_kept(call, version):
    order = torch.tensor([60, 40, 50, 3, 40, 2, 59, 1])
    for count in range(1, 12):
        assert_union(call, version, torch.tensor([[40, -1]]), torch.tensor([50]), order, count, 70)


def test_more_tiles_than_one_block_sums_up_at_once(call, generator):
    num_classes = 1025 * 2048 + 7
    candidates, labels = (ids(*shape, below=num_classes, generator=generator) for shape in ((9, 40), (9,)))
    assert_union(call, FASTEST, candidates, labels, labels.flip(0), num_classes - 1000, num_classes)


@both
def test_too_many_labels_leave_some_without_a_target(call, version):
    labels = torch.tensor([7, 2, 9, 2, 40])
    classes, targets = union(call, version, torch.zeros(5, 2, dtype=torch.int64), labels, NOTHING, 3, 50)
    assert classes.tolist() == [2, 7, 9] and targets.tolist() == [1, 0, 2, 0, -1]
    classes, targets = union(call, version, torch.zeros(5, 2, dtype=torch.int64), labels, NOTHING, 0, 50)
    assert targets.tolist() == [-1] * 5


# ---------------------------------------------------------------------------------------------------------- select_map


def cut(call, version, scores, labels, count):
    classes, targets = poisoned(count, dtype=torch.int64), poisoned(len(labels), dtype=torch.int64)
    assert call("select_map_v", version, scores, labels, len(labels), count, len(scores), classes, targets) == 0
    return classes, targets


def assert_cut(call, version, scores, labels, count):
    ours, expected = cut(call, version, scores, labels, count), select_map_torch(scores, labels, count)
    assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])


def draw_map(n, high, empty, generator):
    scores = torch.randint(high, (n,), generator=generator, dtype=torch.uint8)
    scores[torch.rand(n, generator=generator) < empty] = 0
    return scores


@both
@pytest.mark.parametrize("n, batch, high, empty, count", [
    (9000, 30, 256, 0.0, 900),   # three tiles of version 3, five of version 2
    (4101, 30, 256, 0.9, 1000),  # the cut falls among the zeros
    (2500, 3, 3, 0.3, 333),      # many ties
    (100, 0, 256, 0.0, 17),
    (100, 1, 256, 0.0, 100),
    (31, 9, 2, 0.5, 12),
    (1, 1, 256, 0.0, 1),
])  # fmt: skip
def test_map_equals_plain_torch(call, version, n, batch, high, empty, count, generator):
    labels = ids(batch, below=n, generator=generator)
    assert_cut(call, version, draw_map(n, high, empty, generator), labels, count)


@both
@pytest.mark.parametrize("byte", [0, 1, 254, 255])
def test_a_map_of_one_byte(call, version, byte):
    scores = torch.full((4200,), byte, dtype=torch.uint8)
    for count in (2, 3, 2050, 4097, 4200):  # the ids are the labels and the lowest
        assert_cut(call, version, scores, torch.tensor([4199, 32, 4199]), count)


@both
def test_every_size_of_cut(call, version, generator):
    scores = draw_map(37, 4, 0.2, generator)
    for count in range(38):
        assert_cut(call, version, scores, torch.tensor([36, 0])[: min(2, count)], count)


@both
def test_a_map_at_an_odd_address(version, generator):
    """Version 3 cannot read 16 bytes at once from there."""
    scores = draw_map(602, 9, 0.2, generator)[1:]
    classes, targets = poisoned(50, dtype=torch.int64), poisoned(1, dtype=torch.int64)
    arguments = version, scores, torch.tensor([600]), 1, 50, 601, classes, targets, None
    assert emulator.call(emulator.load(FOLDER / SOURCE), "select_map_v", *arguments) == 0
    assert torch.equal(classes, select_map_torch(scores, torch.tensor([600]), 50)[0])


@both
def test_too_many_labels_of_a_map(call, version):
    scores, labels = torch.full((50,), 255, dtype=torch.uint8), torch.tensor([7, 2, 9, 2, 40])
    classes, targets = cut(call, version, scores, labels, 3)
    assert classes.tolist() == [2, 7, 9] and targets.tolist() == [1, 0, 2, 0, -1]


def test_versions_that_there_are_not(call):
    none = NOTHING.view(0, 0)
    for name, arguments in {"union_active_v": (none, NOTHING, none, none, 0, 0, 0, 0, 0, 1, 1),
                            "select_map_v": (torch.zeros(1, dtype=torch.uint8), NOTHING, 0, 1, 1)}.items():  # fmt: skip
        for version in (0, FASTEST + 1):
            assert call(name, version, *arguments, NOTHING, NOTHING) == 100
