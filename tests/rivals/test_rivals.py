"""rivals: against the reference in float64, and what each promises."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_heads import losses_of

from annsoftmax_ref import (
    CosFace,
    ForestClasses,
    LabelGraphClasses,
    LSHClasses,
    RowSGD,
    SoftmaxHead,
    make_head,
)
from annsoftmax_ref import reference as ref
from annsoftmax_ref.cli import build_parser
from annsoftmax_ref.experiments import compare
from annsoftmax_ref.factory import HEADS
from annsoftmax_ref.reference import rivals as ref_rivals

SELECTORS = [
    lambda rate=0.2: LSHClasses(rate, bits=3, tables=4, rebuild_steps=3),
    lambda rate=0.2: ForestClasses(rate, trees=5, leaf_size=4, rebuild_steps=3),
    lambda rate=0.2: LabelGraphClasses(rate, neighbours=6, rebuild_steps=3),
]
NAMES = ["lsh", "forest", "knn"]


def batch_of(n, d, b, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x = F.normalize(torch.randn(b, d, generator=generator, dtype=torch.float64), dim=1)
    return x, torch.randint(n, (b,), generator=generator), weight


def prepared(selector, weight, seed=3):
    selector.bind(*weight.shape)
    selector.to(weight.dtype)
    generator = torch.Generator().manual_seed(seed)
    selector.prepare(weight, generator)
    return generator


def same_candidates(ours, theirs):
    """Equal but for columns of -1 at the end, which the reference keeps."""
    width = ours.shape[1]
    np.testing.assert_array_equal(ours.numpy(), theirs[:, :width])
    assert (theirs[:, width:] == -1).all()


@pytest.mark.parametrize("n, bits, tables", [(97, 3, 5), (97, 1, 1), (200, 8, 20), (3, 2, 4), (97, 30, 2)])
def test_hash_tables_equal_the_reference(n, bits, tables):
    x, labels, weight = batch_of(n, 12, 9)
    selector = LSHClasses(0.3, bits, tables)
    prepared(selector, weight)
    planes = selector.planes.numpy()
    unit = F.normalize(weight, dim=1)
    np.testing.assert_array_equal(selector.hash(unit).numpy(), ref_rivals.simhash_codes(weight.numpy(), planes))
    expected = ref_rivals.bucket_candidates(x.numpy(), weight.numpy(), planes, selector.active_classes)
    same_candidates(selector.candidates(x, labels, weight), expected)


def test_codes_agree_as_often_as_the_angle_says():
    """P(two bits agree) = 1 - angle / pi, over 20,000 planes; within four standard errors."""
    angle = 1.0
    w = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    selector = LSHClasses(1.0, bits=1, tables=20_000)
    prepared(selector, w)
    codes = selector.hash(w)
    agree = (codes[:, 0] == codes[:, 1]).double().mean().item()
    p = 1 - angle / math.pi
    assert abs(agree - p) < 4 * math.sqrt(p * (1 - p) / 20_000)


@pytest.mark.parametrize("n, trees, leaf_size", [(97, 5, 4), (64, 3, 2), (65, 3, 2), (3, 2, 2), (20, 2, 50), (1, 1, 2)])
def test_forest_equals_the_reference(n, trees, leaf_size):
    x, labels, weight = batch_of(n, 12, 9)
    selector = ForestClasses(0.5, trees, leaf_size)
    prepared(selector, weight)
    assert selector.depth == ref_rivals.tree_depth(n, leaf_size)
    assert all(int(sizes.sum()) == n for sizes in selector._sizes) and int(selector._sizes[-1].max()) <= leaf_size
    planes = selector.planes.numpy()
    grown = [ref_rivals.grow_tree(weight.numpy(), directions) for directions in planes]
    quota = selector.quota(len(x))
    assert quota == int(selector.active_classes / len(x)) + 1
    same_candidates(
        selector.candidates(x, labels, weight), ref_rivals.forest_candidates(x.numpy(), weight.numpy(), grown, quota)
    )


@pytest.mark.parametrize("make, module", [(SELECTORS[0], "lsh"), (SELECTORS[1], "forest")])
def test_working_in_chunks_changes_nothing(make, module, monkeypatch):
    x, labels, weight = batch_of(97, 12, 9)
    whole, parts = make(), make()
    prepared(whole, weight)
    expected = whole.candidates(x, labels, weight)
    monkeypatch.setattr(f"annsoftmax_ref.rivals.{module}.CHUNK", 50)
    prepared(parts, weight)
    assert torch.equal(parts.candidates(x, labels, weight), expected)


@pytest.mark.parametrize("n, neighbours", [(97, 6), (97, 200), (2, 1), (1, 5)])
def test_label_graph_equals_the_reference(n, neighbours, monkeypatch):
    monkeypatch.setattr("annsoftmax_ref.rivals.label_graph.CHUNK", 10 * n)
    x, labels, weight = batch_of(n, 12, 9)
    selector = LabelGraphClasses(0.3, neighbours)
    prepared(selector, weight)
    graph = ref_rivals.label_graph(weight.numpy(), min(neighbours, n - 1))
    np.testing.assert_array_equal(selector.graph.numpy(), graph)
    expected = ref_rivals.label_candidates(labels.numpy(), graph)
    np.testing.assert_array_equal(selector.candidates(x, labels, weight).numpy(), expected)


@pytest.mark.parametrize("make", SELECTORS)
def test_active_sets_equal_the_reference(make):
    """All the way: the same candidates, the same random fill, the same A classes."""
    x, labels, weight = batch_of(97, 12, 9)
    selector = make(0.3)
    generator = prepared(selector, weight)
    fill = torch.Generator()
    fill.set_state(generator.get_state())
    (active,) = selector.select(x, labels, weight, generator)
    candidates = selector.candidates(x, labels, weight).numpy()
    # 29 of 97 classes are wanted: below half, so the fill is drawn with replacement (active_sets.draw_fill).
    order = torch.randint(97, (2 * 29 + 64,), generator=fill).numpy()
    classes, targets = ref.union_active(candidates, labels.numpy(), order, 29, 97)
    np.testing.assert_array_equal(active.classes.numpy(), classes)
    np.testing.assert_array_equal(active.targets.numpy(), targets)


@pytest.mark.parametrize("make", SELECTORS)
@pytest.mark.parametrize("rate", [0.2, 1.0])
@pytest.mark.parametrize("n, b", [(97, 16), (97, 1), (20, 3), (1, 1), (2, 1)])
def test_active_sets_are_what_is_promised(make, rate, n, b):
    x, labels, weight = batch_of(n, 12, b)
    selector = make(rate)
    generator = prepared(selector, weight)
    (active,) = selector.select(x, labels, weight, generator)
    assert active.samples.tolist() == list(range(b))
    assert len(active.classes) == selector.active_classes
    assert (active.classes.diff() > 0).all()
    assert torch.equal(active.classes[active.targets], labels)


@pytest.mark.parametrize("make", SELECTORS)
def test_what_is_kept_is_made_anew_at_its_period_only(make):
    _, _, weight = batch_of(97, 12, 4)
    selector = make()
    generator = prepared(selector, weight)
    kept = selector.graph if isinstance(selector, LabelGraphClasses) else selector.members
    first = kept.clone()
    weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    for step in range(2, 5):  # rebuild_steps is 3: steps 1 and 4 build
        selector.prepare(weight, generator)
        assert torch.equal(kept, first) == (step < 4)


def make_small(make, seed=0):
    return SoftmaxHead(53, 10, make(), CosFace(12.0, 0.2), seed=seed, dtype=torch.float64).double()


def run(head, optimizer, seeds):
    return losses_of(head, optimizer, (batch_of(53, 10, 8, seed)[:2] for seed in seeds))


@pytest.mark.parametrize("make", SELECTORS)
def test_the_same_seed_gives_the_same_losses(make):
    first, again, other = (make_small(make, seed) for seed in (5, 5, 6))
    losses = [run(head, RowSGD(head.parameters(), lr=0.1), range(8)) for head in (first, again, other)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("make", SELECTORS)
def test_a_saved_head_goes_on_as_if_never_saved(make):
    first = make_small(make)
    optimizer = RowSGD(first.parameters(), lr=0.1, momentum=0.9)
    run(first, optimizer, range(8))  # between two rebuilds
    saved, saved_optimizer = copy.deepcopy(first.state_dict()), copy.deepcopy(optimizer.state_dict())
    second = make_small(make, seed=99)
    second.load_state_dict(saved)
    other = RowSGD(second.parameters(), lr=0.1, momentum=0.9)
    other.load_state_dict(saved_optimizer)
    assert run(first, optimizer, range(8, 16)) == run(second, other, range(8, 16))
    for name, value in first.selector.state_dict().items():
        assert torch.equal(value, second.selector.state_dict()[name]), name


@pytest.mark.parametrize("make", SELECTORS)
def test_learns_with_batches_of_any_size_under_autocast(make):
    torch.manual_seed(0)
    head = SoftmaxHead(40, 16, make(0.3), CosFace(12.0, 0.1))
    optimizer = RowSGD(head.parameters(), lr=1.0, momentum=0.9)
    x, labels = torch.randn(40, 16), torch.arange(40)
    for step in range(150):
        part = torch.randperm(40)[: 1 + step % 11]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = head(x[part], labels[part])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (head.topk(x)[1].squeeze(1) == labels).float().mean() >= 0.95


def clustered_head(name, seed=0):
    """2,000 classes in 50 clusters; the head's rows are set to them."""
    head = make_head(name, 2000, 32, "cosface", rate=0.1, seed=seed)
    generator = torch.Generator().manual_seed(1)
    centres = F.normalize(torch.randn(50, 32, generator=generator), dim=1)
    with torch.no_grad():
        noise = F.normalize(torch.randn(2000, 32, generator=generator), dim=1)
        head.weight.copy_(F.normalize(centres.repeat(40, 1) + 0.5 * noise, dim=1))
    labels = torch.randint(2000, (8,), generator=generator)
    noise = F.normalize(torch.randn(8, 32, generator=generator), dim=1)
    return head, F.normalize(head.weight[labels].detach() + 0.5 * noise, dim=1), labels


@pytest.mark.parametrize("name", NAMES)
def test_the_rivals_capture_more_mass_than_random_classes(name):
    found = {}
    for each in ("random", name):
        head, x, labels = clustered_head(each)
        head(x, labels).backward()
        found[each] = head.diagnose(x, labels)
    assert found[name]["captured_mass"] > found["random"]["captured_mass"] + 0.2
    assert found[name]["recall"] > found["random"]["recall"] + 0.2
    assert found[name]["gradient_error"] < found["random"]["gradient_error"]


def test_names_and_defaults():
    assert set(NAMES) < set(HEADS)
    kinds = [type(make_head(name, 20, 4, rate=0.3).selector) for name in NAMES]
    assert kinds == [LSHClasses, ForestClasses, LabelGraphClasses]
    assert make_head("forest", 20, 4, rate=0.3).selector.sample_rate == 0.3
    arguments = build_parser().parse_args(["compare"])
    assert list(arguments.heads) == list(compare.compare.__defaults__[1]) == ["full", "random", "ann"]
    assert build_parser().parse_args(["compare", "--heads", *NAMES]).heads == NAMES


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: LSHClasses(0.0), ValueError, "sample_rate is 0.0"),
        (lambda: LSHClasses(bits=0), ValueError, "bits is 0; it should be at least 1"),
        (lambda: LSHClasses(bits=31), ValueError, "bits is 31; it should be at most 30"),
        (lambda: LSHClasses(tables=2.5), TypeError, "tables is 2.5"),
        (lambda: LSHClasses(rebuild_steps=0), ValueError, "rebuild_steps is 0"),
        (lambda: ForestClasses(2), ValueError, "sample_rate is 2"),
        (lambda: ForestClasses(trees=0), ValueError, "trees is 0"),
        (lambda: ForestClasses(leaf_size=1), ValueError, "leaf_size is 1; it should be at least 2"),
        (lambda: ForestClasses(rebuild_steps="100"), TypeError, "rebuild_steps is '100'"),
        (lambda: LabelGraphClasses("0.1"), TypeError, "sample_rate is '0.1'"),
        (lambda: LabelGraphClasses(neighbours=0), ValueError, "neighbours is 0"),
        (lambda: ref_rivals.tree_depth(5, 1), ValueError, "leaf_size is 1"),
        (lambda: ref_rivals.label_graph(np.eye(3), 3), ValueError, "k is 3; it should lie in 0..2"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", SELECTORS)
def test_a_batch_that_cannot_be_taken_changes_nothing(make):
    head = make_small(lambda: make(0.1))
    x, _, _ = batch_of(53, 10, 8)
    state = copy.deepcopy(head.state_dict())
    with pytest.raises(ValueError, match="8 distinct classes into a group, more than its 5"):
        head(x, torch.arange(8))
    for name, value in head.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, state[name]), name
    with pytest.raises(RuntimeError, match="built nothing yet"):
        head.diagnose(x[:2], torch.arange(2))


@pytest.mark.parametrize("make", SELECTORS)
def test_selecting_changes_nothing_but_the_generator(make):
    x, labels, weight = batch_of(97, 12, 9)
    selector = make()
    generator = prepared(selector, weight)
    before, rows = copy.deepcopy(selector.state_dict()), weight.clone()
    selector.select(x, labels, weight, generator)
    assert torch.equal(weight, rows)
    for name, value in selector.state_dict().items():
        assert torch.equal(value, before[name]), name
