"""grouping.py, active_sets.py and selectors.py: against the reference, and what each promises."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from annsoftmax_ref import AllClasses, CosFace, NearestClasses, RandomClasses, SoftmaxHead, active_sets
from annsoftmax_ref import reference as ref
from annsoftmax_ref.active_sets import active_count, draw_fill, union_active
from annsoftmax_ref.grouping import random_groups, similar_groups


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_union_equals_the_reference(data):
    n = data.draw(st.integers(1, 40), "classes")
    b = data.draw(st.integers(1, 6), "batch")
    k = data.draw(st.integers(0, 12), "candidates")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000), "seed"))
    candidates = torch.randint(-1, n, (b, k), generator=generator)
    labels = torch.randint(n, (b,), generator=generator)
    fill = torch.randint(n, (data.draw(st.integers(0, 20), "fill"),), generator=generator)
    count = data.draw(st.integers(len(labels.unique()), n), "count")
    (classes,), (targets,) = union_active(candidates, labels, torch.arange(b)[None], fill[None], count, n)
    expected = ref.union_active(candidates.numpy(), labels.numpy(), fill.numpy(), count, n)
    np.testing.assert_array_equal(classes.numpy(), expected[0])
    np.testing.assert_array_equal(targets.numpy(), expected[1])


def test_union_refuses_more_labels_than_places():
    with pytest.raises(ValueError, match="3 distinct classes, more than the 2"):
        union_active(NONE.expand(3, 0), torch.tensor([0, 1, 2]), torch.arange(3)[None], torch.arange(5)[None], 2, 5)


@pytest.mark.parametrize("n", [1, 2, 7, 10, 1000, 4999])
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.1, 0.25, 0.5, 1.0])
def test_active_count_equals_the_reference(n, rate):
    assert active_count(n, rate) == ref.active_count(n, rate)


def test_fill_is_uniform(generator):
    """Chi-squared of how often each class is among the first 10 distinct of 100, over 3,000 draws."""
    seen = torch.zeros(100)
    for _ in range(3000):
        everybody = torch.zeros(1, 1, dtype=torch.int64)
        classes, _ = union_active(NONE, torch.tensor([0]), everybody, draw_fill(100, 10, generator), 10, 100)
        seen[classes[0]] += 1
    expected = 3000 * 9 / 99
    chi2 = ((seen[1:] - expected) ** 2 / (expected * (1 - 9 / 99))).sum().item() * 98 / 99
    assert 60 < chi2 < 150  # 98 degrees of freedom: 99.9 % lies in 57..150


@pytest.mark.parametrize("batch, groups", [(1, 1), (1, 4), (7, 3), (64, 8), (5, 5), (10, 4), (23, 6)])
def test_groups_partition_the_batch(batch, groups, generator):
    x = torch.nn.functional.normalize(torch.randn(batch, 6, generator=generator, dtype=torch.float64), dim=1)
    for made in (random_groups(batch, groups, generator), similar_groups(x, groups)):
        assert [int((g >= 0).sum()) for g in made] == ref.group_sizes(batch, groups)
        assert made[made >= 0].sort().values.tolist() == list(range(batch))
        assert (made[:, :-1] >= 0).all()
    if batch == groups:  # the two ends of a pair are equally far from their mean: rounding decides
        return
    for ours, theirs in zip(similar_groups(x, groups), ref.similar_groups(x.numpy(), groups), strict=True):
        np.testing.assert_array_equal(ours[ours >= 0].numpy(), theirs)


def test_similar_groups_do_not_depend_on_autocast(generator):
    x = torch.nn.functional.normalize(torch.randn(64, 8, generator=generator), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        half = similar_groups(x, 8)
    assert torch.equal(half, similar_groups(x, 8))


def test_similar_groups_are_more_alike_than_random_ones(generator):
    x = torch.nn.functional.normalize(torch.randn(64, 8, generator=generator), dim=1)

    def spread(groups):
        return sum((x[g] - x[g].mean(0)).square().sum() for g in groups).item()

    assert spread(similar_groups(x, 8)) < 0.8 * spread(random_groups(64, 8, generator))


NONE = torch.empty(1, 0, dtype=torch.int64)  # candidates


def batch_of(n, d, b, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, d, generator=generator)
    x = torch.nn.functional.normalize(torch.randn(b, d, generator=generator), dim=1)
    return x, torch.randint(n, (b,), generator=generator), weight


SELECTORS = [
    lambda: AllClasses(),
    lambda: RandomClasses(0.2),
    lambda: RandomClasses(0.9),
    lambda: NearestClasses(0.2),
    lambda: NearestClasses(0.2, groups=3, grouping="similar", rerank=False),
    lambda: NearestClasses(1.0, groups=2),
    lambda: NearestClasses(0.3, rotate=True, centre=True, nlist=1),
    lambda: NearestClasses(0.2, groups=3, grouping="similar", tail=0.5),
    lambda: NearestClasses(0.2, groups=3, grouping="similar", priority=True),
    lambda: NearestClasses(0.3, rotate=True, centre=True, priority=True),
    lambda: NearestClasses(0.2, mass_target=0.9, priority=True, rerank=False),
    lambda: NearestClasses(0.3, groups=3, flat=1),
    lambda: NearestClasses(0.3, flat=2, rotate=True, grouping="random"),
]


@pytest.mark.parametrize("make", SELECTORS)
@pytest.mark.parametrize("n, b", [(97, 16), (97, 1), (20, 3)])
def test_active_sets_are_what_is_promised(make, n, b):
    x, labels, weight = batch_of(n, 12, b)
    selector = make()
    selector.bind(n, 12)
    generator = torch.Generator().manual_seed(3)
    selector.prepare(weight, generator)
    active = selector.select(x, labels, weight, generator)
    assert torch.cat([g.samples for g in active]).sort().values.tolist() == list(range(b))
    for group in active:
        assert len(group.classes) == selector.active_classes
        assert (group.classes.diff() > 0).all()
        assert torch.equal(group.classes[group.targets], labels[group.samples])


def test_nearest_classes_holds_each_samples_nearest():
    x, labels, weight = batch_of(400, 16, 8)
    selector = NearestClasses(0.2, groups=2, nlist=8, nprobe=8, candidates=400)
    selector.bind(400, 16)
    generator = torch.Generator().manual_seed(3)
    selector.prepare(weight, generator)
    exact = torch.tensor(ref.brute_force(x.numpy(), weight.numpy(), 10)[0])
    for group in selector.select(x, labels, weight, generator):
        assert torch.isin(exact[group.samples], group.classes).all()


def test_codes_follow_rows_before_the_next_search():
    x, labels, weight = batch_of(200, 16, 8)
    selector = NearestClasses(0.2, nlist=4, refresh_steps=1000)
    selector.bind(200, 16)
    generator = torch.Generator().manual_seed(3)
    selector.prepare(weight, generator)
    ids = torch.tensor([3, 90, 150])
    weight[ids] = -weight[ids]
    assert selector.index.stale_bits(weight) > 0
    selector.prepare(weight, generator)
    assert selector.index.stale_bits(weight) == 0


@pytest.mark.parametrize("make", [AllClasses, RandomClasses, NearestClasses, lambda: NearestClasses(mass_target=0.9)])
def test_a_selector_shared_by_two_heads_is_refused_and_the_first_goes_on(make):
    """Its index would follow the rows of one of them only (insightface#1758)."""
    x, labels, _ = batch_of(97, 12, 8)
    selector = make()
    head, alone = SoftmaxHead(97, 12, selector), SoftmaxHead(97, 12, make())
    with pytest.raises(ValueError, match=rf"{type(selector).__name__} that is already bound to a head of 97 classes"):
        SoftmaxHead(200, 12, selector, seed=7)
    assert [head(x, labels).item() for _ in range(3)] == [alone(x, labels).item() for _ in range(3)]


def test_a_head_that_is_refused_leaves_its_selector_free():
    selector = RandomClasses()
    for options in ({"class_weights": torch.zeros(97)}, {"bias": True, "objective": CosFace()}):
        with pytest.raises(ValueError, match="class_weights|bias"):
            SoftmaxHead(97, 12, selector, **options)
    SoftmaxHead(97, 12, selector)


@pytest.mark.parametrize("make", SELECTORS)
def test_selecting_changes_nothing_but_the_generator(make):
    x, labels, weight = batch_of(97, 12, 16)
    selector = make()
    selector.bind(97, 12)
    generator = torch.Generator().manual_seed(3)
    selector.prepare(weight, generator)
    state, attributes = copy.deepcopy(selector.state_dict()), {**vars(selector)}
    selector.select(x, labels, weight, generator)
    assert vars(selector) == attributes
    for name, value in selector.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0, equal_nan=True)


def test_every_row_is_looked_at_within_refresh_steps():
    x, labels, weight = batch_of(203, 16, 8)
    selector = NearestClasses(0.2, nlist=4, refresh_steps=7)
    selector.bind(203, 16)
    generator = torch.Generator().manual_seed(3)
    selector.prepare(weight, generator)
    weight.data.neg_()  # not counted as a write, after which all codes would be made at once
    for _ in range(7):
        selector.prepare(weight, generator)
    assert selector.index.stale_bits(weight) == 0


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: RandomClasses(0.0), ValueError, "sample_rate is 0.0"),
        (lambda: RandomClasses(1.5), ValueError, "sample_rate is 1.5"),
        (lambda: RandomClasses("0.1"), TypeError, "sample_rate is '0.1'"),
        (lambda: NearestClasses(groups=0), ValueError, "groups is 0"),
        (lambda: NearestClasses(grouping="sorted"), ValueError, "grouping is 'sorted'"),
        (lambda: NearestClasses(nlist=4, nprobe=5).bind(100, 8), ValueError, "nprobe is 5"),
        (lambda: NearestClasses(nlist=101).bind(100, 8), ValueError, "nlist is 101"),
        (lambda: NearestClasses(refresh_steps=0.5), TypeError, "refresh_steps is 0.5"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    "n, rate, batch, groups", [(5204, 0.1, 256, 8), (20_000, 0.01, 96, 8), (10**6, 0.1, 256, 1), (20_000, 0.05, 96, 2)]
)
def test_groups_leave_each_sample_about_sixteen_classes_of_its_own(n, rate, batch, groups):
    selector = NearestClasses(rate)
    selector.num_classes = n
    assert selector.groups_for(batch) == groups
    assert NearestClasses(rate, groups=5).groups_for(batch) == 5


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 17])
def test_no_group_is_smaller_than_four_samples(batch):
    selector = NearestClasses(0.01)
    selector.num_classes = 400
    assert selector.groups_for(batch) == max(1, batch // 4)


def test_a_fill_made_by_a_hash_is_as_good_as_one_that_is_drawn(generator):
    """What a GPU makes, here on the CPU: a permutation, or enough different classes; uniform; another one each time."""
    permuted = active_sets._hashed_fill(50, 30, generator, 3, "cpu")
    assert torch.equal(permuted.sort(dim=1).values, torch.arange(50).expand(3, 50))
    assert len({tuple(row) for row in permuted.tolist()}) == 3
    drawn = active_sets._hashed_fill(1000, 100, generator, 400, "cpu")
    assert min(len(row.unique()) for row in drawn) >= 100 and 0 <= int(drawn.min()) <= int(drawn.max()) < 1000
    counts = torch.bincount(drawn.flatten(), minlength=1000).double()
    expected = drawn.numel() / 1000
    assert ((counts - expected).square() / expected).sum() < 1000 + 4 * (2 * 1000) ** 0.5  # chi-square
    again = torch.Generator().manual_seed(1)
    once, twice = (active_sets._hashed_fill(1000, 10, again.manual_seed(1), 1, "cpu") for _ in range(2))
    assert torch.equal(once, twice)
