"""lessons/margins.py: curves, arcs and pictures of notebook 07, its widget and its exercises."""

import math

import ipywidgets as widgets
import numpy as np
import pytest
import torch

from annsoftmax_ref import objectives
from annsoftmax_ref import reference as ref
from annsoftmax_ref.lessons import check, explore, margins
from annsoftmax_ref.lessons.pictures import png


@pytest.mark.parametrize("choice", margins.CHOICES)
def test_the_pull_is_the_slope_of_the_reference_by_the_angle(choice):
    names = {
        "no margin": ("cross_entropy", None),
        "CosFace": ("cosface", 0.3),
        "ArcFace": ("arcface", 0.3),
        "ArcFace, insightface": ("arcface_insightface", 0.3),
        "combined": ("combined", (1, 0.15, 0.15)),
        "D-Softmax": ("dsoftmax", 0.7),
    }
    name, margin = names[choice]
    degrees = np.array([10.0, 45.0, 100.0, 172.0])
    theta = np.radians(degrees)
    z = np.stack([np.cos(theta), np.full(4, math.cos(math.radians(50)))], axis=1)
    _, dz = ref.make_objective(name, 20.0, margin)(z, np.zeros(4, dtype=int))
    expected = 4 * dz[:, 0] * -np.sin(theta)  # the reference takes the mean over four samples
    np.testing.assert_allclose(margins.pull(margins.make(choice, 20, 0.3), degrees, 50), expected, rtol=1e-9)


def test_the_logit_and_its_slope():
    logit, slope = margins.own_logit(objectives.ArcFace(20, 0.5), [60.0])
    theta = math.radians(60)
    assert logit[0] == pytest.approx(20 * math.cos(theta + 0.5))
    assert slope[0] == pytest.approx(20 * math.sin(theta + 0.5) / math.sin(theta))
    assert margins.own_logit(objectives.InsightFaceArcFace(20, 0.5), [60.0])[1][0] == pytest.approx(20)


def test_the_arcs_end_where_the_margin_says():
    degrees = np.arange(20, 80, 0.01)  # from class A to class B
    for objective, end in (
        (objectives.CrossEntropy(20), 30.0),
        (objectives.ArcFace(20, 0.3), (60 - math.degrees(0.3)) / 2),
        (objectives.CosFace(20, 0.3), 30 - math.degrees(math.asin(0.3))),
        (objectives.DSoftmax(20, 0.95), math.degrees(math.acos(0.95))),
    ):
        owner = margins.arcs(objective, degrees)
        assert degrees[owner == 0].max() - 20 == pytest.approx(end, abs=0.02)
        assert 80 - degrees[owner == 1].min() == pytest.approx(end, abs=0.02)
    assert (margins.arcs(objectives.CrossEntropy(20)) >= 0).mean() > 0.99, "no gaps without a margin"


def test_the_pictures_differ_with_the_margin_and_the_widget_follows_each_control():
    assert png(margins.draw_logits(margin=0.5)) != png(margins.draw_logits(margin=0.2))
    assert png(margins.draw_circles(margin=0.3)) != png(margins.draw_circles(margin=0.1))
    box = explore(
        margins.draw_objective,
        choice=widgets.Dropdown(options=list(margins.CHOICES), value="CosFace"),
        scale=widgets.FloatSlider(value=20, max=64),
        margin=widgets.FloatSlider(value=0.1, max=1),
        rival=widgets.IntSlider(value=50, max=120),
    )
    seen = {box.picture.value}
    for name, value in (("margin", 0.5), ("scale", 40), ("rival", 80)):
        box.controls[name].value = value
        seen.add(box.picture.value)
    for choice in margins.CHOICES:
        box.controls["choice"].value = choice
        seen.add(box.picture.value)
    assert len(seen) == 4 + len(margins.CHOICES) - 1
    box.controls["scale"].value = 0
    assert "scale is 0" in box.message.value


def test_an_unknown_choice_is_named():
    with pytest.raises(ValueError, match="choice is 'SphereFace'; it should be one of no margin, CosFace"):
        margins.make("SphereFace", 20, 0.1)


@pytest.mark.parametrize("name", margins.EXERCISES)
def test_each_exercise_rejects_what_is_a_little_off(name, capsys):
    exercise = margins.EXERCISES[name]
    assert not check(exercise, lambda *arguments: 1.01 * exercise.solution(*arguments) + 0.01)


def test_the_solutions_are_right_by_other_means():
    s = margins.scale_for(0.9, 5204)
    assert math.exp(s) / (math.exp(s) + 5203) == pytest.approx(0.9)
    cosine = torch.tensor([math.cos(math.radians(170))], dtype=torch.float64, requires_grad=True)
    objectives.ArcFace(1, 0.5).target_cosine(cosine).sum().backward()
    assert margins.arcface_slope(170.0, 0.5) == pytest.approx(cosine.grad.item())
    assert margins.arcface_arc(10, 0.5) == 0
