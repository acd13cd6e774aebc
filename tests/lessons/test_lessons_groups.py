"""lessons/groups.py: what is measured of a grouped batch, the pictures and widget of notebook 06, its exercises."""

import ipywidgets as widgets
import numpy as np
import pytest
import torch

from annsoftmax_ref import CosFace, NearestClasses, SoftmaxHead
from annsoftmax_ref import reference as ref
from annsoftmax_ref.diagnostics import diagnose
from annsoftmax_ref.lessons import check, explore, groups, load_trained, pictures


@pytest.fixture(scope="module")
def batch():
    """The first 64 samples and 600 classes of the trained head, without drawings."""
    trained, rng = load_trained(), np.random.default_rng(0)
    labels = trained.batch_labels[:64].astype(np.int64)
    classes = np.unique(np.append(labels, rng.permutation(len(trained.prototypes))[:600]))
    images = rng.integers(0, 256, (64, 32, 32)).astype(np.uint8)
    return groups.Batch(
        trained.batch[:64].astype(np.float64),
        trained.prototypes[classes].astype(np.float64),
        np.searchsorted(classes, labels),
        images,
        active=100,
    )


def test_the_real_batch_is_a_tenth_of_the_classes():
    real = groups.real_batch(load_trained(), torch.zeros(40_000, 32, 32, dtype=torch.uint8))
    assert real.x.shape == (256, 128) and real.images.shape == (256, 32, 32) and real.active == 520
    found = (real.x @ real.prototypes.T).argmax(axis=1)
    assert (found == real.labels).mean() > 0.85


@pytest.mark.parametrize("kind", groups.KINDS)
def test_more_groups_recall_more_and_touch_more_rows(batch, kind):
    found = [groups.measure(batch, G, kind) for G in (1, 4, 16)]
    for less, more in zip(found, found[1:], strict=False):
        assert more.recalled > less.recalled and more.mass > less.mass
        assert more.error < less.error and more.rows > less.rows
    assert found[0].rows == batch.active


def test_one_group_of_all_classes_misses_nothing(batch):
    whole = groups.Batch(batch.x, batch.prototypes, batch.labels, batch.images, active=len(batch.prototypes))
    found = groups.measure(whole, 1, "random")
    assert found.recalled == groups.NEAR and found.mass == pytest.approx(1) and found.error < 1e-12


def test_the_measures_are_those_of_diagnose(batch):
    """With an index that searches every list and brings in all that it finds, diagnose sees the same active sets."""
    classes = len(batch.prototypes)
    selector = NearestClasses(batch.active / classes, groups=4, nlist=1, nprobe=1, candidates=classes, far=False)
    head = SoftmaxHead(classes, 128, selector, CosFace(20, 0.1))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(batch.prototypes))
    x, labels = torch.from_numpy(batch.x).float(), torch.from_numpy(batch.labels)
    head(x, labels)  # trains the index
    looked, found = diagnose(head, x, labels, k=groups.NEAR), groups.measure(batch, 4, "similar")
    assert looked["recall"] * groups.NEAR == pytest.approx(found.recalled, abs=0.2)
    assert looked["captured_mass"] == pytest.approx(found.mass, abs=0.01)
    assert looked["gradient_error"] == pytest.approx(found.error, abs=0.02)


def test_the_groups_are_those_of_the_reference(batch):
    for one, two in zip(groups.make_groups(batch, 5, "similar"), ref.similar_groups(batch.x, 5), strict=True):
        np.testing.assert_array_equal(one, two)
    parts = groups.make_groups(batch, 5, "random")
    assert sorted(np.concatenate(parts)) == list(range(64))
    for part, active in zip(parts, groups.active_sets(batch, parts), strict=True):
        candidates, labels = batch.nearest[part], batch.labels[part]
        expected = ref.union_active(candidates, labels, np.arange(0), 100, len(batch.prototypes))[0]
        np.testing.assert_array_equal(active, expected)
    with pytest.raises(ValueError, match="kind is 'sorted'; it should be one of random, similar"):
        groups.make_groups(batch, 5, "sorted")


def test_the_widget_follows_both_controls(batch):
    box = explore(
        lambda **values: groups.draw_groups(batch, **values),
        groups=widgets.SelectionSlider(options=groups.GROUPS, value=8),
        kind=widgets.Dropdown(options=groups.KINDS, value="similar"),
    )
    seen = {box.picture.value}
    for name, value in (("groups", 1), ("groups", 32), ("kind", "random")):
        box.controls[name].value = value
        seen.add(box.picture.value)
    assert len(seen) == 4
    assert pictures.png(groups.draw_curves(batch)) != pictures.png(groups.draw_curves(batch, (4, "random")))


@pytest.mark.parametrize("name", groups.EXERCISES)
def test_each_exercise_rejects_what_is_a_little_off(name, capsys):
    exercise = groups.EXERCISES[name]
    assert not check(exercise, lambda *arguments: exercise.solution(*arguments) + 1)


def test_the_solutions_are_right_by_hand():
    assert groups.own_places(520, 256, 8) == 488 / 32
    assert groups.cut_by_rank(groups.NEIGHBOURS, 5).tolist() == [2, 3, 5, 6, 7]
    assert groups.far_offset(np.array([0.6, 0.0]), 5, 20.0) == pytest.approx(np.log(5) + 400 * 0.64 / 4)
    means, sizes, lists = np.array([[0.6, 0.0], [0.0, 0.5]]), np.array([3, 2]), np.array([0, 0, 1, 0, 1])
    offsets = ref.far_offsets(means, sizes, lists, np.array([0, 2, 4]), scale=8.0)
    np.testing.assert_allclose(offsets, [groups.far_offset(means[0], 2, 8.0), groups.far_offset(means[1], 0, 8.0)])
