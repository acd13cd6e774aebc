"""Notebook 08's picture and exercises: the frames say what the selector chose; stubs fail, solutions pass."""

import ipywidgets as widgets
import numpy as np
import pytest
from moved_controls import QUICK, move

from annsoftmax_ref.lessons import assembly, check, explore


@pytest.fixture(scope="module", autouse=True)
def warm():
    assembly.draw()


@pytest.mark.parametrize("rate, groups, nprobe", [(0.02, 8, 16), (0.1, 1, 64)])
def test_active_sets_are_a_partition_with_room_for_every_label(rate, groups, nprobe):
    active, labels = assembly.active_sets(rate, groups, nprobe), assembly.scene().labels
    assert len(active) == groups
    assert sorted(i for group in active for i in group.samples.tolist()) == list(range(assembly.BATCH))
    for group in active:
        assert len(group.classes) == round(rate * 5204)
        assert (group.classes[group.targets] == labels[group.samples]).all()


def test_neighbours_are_the_nearest_other_classes():
    here = assembly.scene()
    classes, cosines = assembly.neighbours(7)
    exact = (here.weight.double() @ here.x[7].double()).numpy()
    order = [c for c in np.argsort(-exact) if c != here.labels[7]][: len(classes)]
    assert set(classes) == set(order) and cosines == sorted(cosines, reverse=True)


def test_frames_say_who_is_in():
    active = assembly.active_sets(0.02, 8, 16)
    classes, _ = assembly.neighbours(43)
    (mine,) = (set(group.classes.tolist()) for group in active if 43 in group.samples)
    found = assembly.inside(43, classes, active)
    assert found == [c in mine for c in classes] and 0 < sum(found) < len(found)
    names = [text.get_text() for text in assembly.draw(43, 0.02, 8, 16).axes[0].get_yticklabels()]
    assert names == [f"1 to 8: {sum(found[:8])} in", f"9 to 16: {sum(found[8:])} in"]


def test_more_groups_and_more_probes_recall_more():
    def mean(groups, nprobe):
        active = assembly.active_sets(0.02, groups, nprobe)
        return np.mean([sum(assembly.inside(i, assembly.neighbours(i)[0], active)) for i in range(64)])

    assert mean(2, 16) < mean(4, 16) < mean(8, 16)
    assert mean(8, 1) < mean(8, 16)


def test_the_picture_follows_each_control_in_time():
    box = explore(
        assembly.draw,
        sample=widgets.IntSlider(value=43, max=63),
        rate=widgets.FloatSlider(value=0.02, min=0.01, max=0.2, step=0.01),
        groups=widgets.SelectionSlider(value=8, options=[1, 2, 4, 8, 16, 32]),
        nprobe=widgets.IntSlider(value=16, min=1, max=64),
    )
    seconds = move(box, ("groups", 2), ("nprobe", 1), ("rate", 0.2), ("sample", 12))
    assert min(seconds) < QUICK
    box.controls["rate"].value = 0.01
    box.controls["groups"].value = 1
    assert "more than its 52 active classes" in box.message.value


@pytest.mark.parametrize("sample", [-1, 64])
def test_what_cannot_be_drawn_is_said(sample):
    with pytest.raises(ValueError, match=f"sample is {sample}; it should be from 0 to 63"):
        assembly.draw(sample=sample)


def test_wrong_answers_are_rejected(capsys):
    assert not check(assembly.EXERCISES["batch_loss"], lambda losses, sizes: losses.mean())
    assert not check(assembly.EXERCISES["batch_loss"], lambda losses, sizes: losses @ sizes / sizes.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        naive = check(
            assembly.EXERCISES["captured_mass"],
            lambda z, own, active: np.exp(z)[active[active != own]].sum() / np.exp(np.delete(z, own)).sum(),
        )
    assert not naive
    encode = assembly.EXERCISES["rows_to_encode"]
    assert not check(encode, lambda sets, swept, old, new: np.flatnonzero(old != new))
    assert not check(encode, lambda sets, swept, old, new: np.unique(np.append(np.concatenate(sets), swept)))
