"""registry.py: what stands on an objective's class is all that the package knows of it, and its kernel is its own."""

import pytest
import torch
import torch.nn.functional as F

from annsoftmax_ref import CosFace, Objective, backend, make_objective
from annsoftmax_ref import reference as ref
from annsoftmax_ref.loss import scored_loss
from annsoftmax_ref.objectives import OBJECTIVES, register_objective
from annsoftmax_ref.training import default_recipe
from kernels_inline import build
from kernels_inline.softmax_ops import KINDS


class HarderCosFace(CosFace):
    """A formula of its own, on a class whose formula a kernel knows."""

    def target_cosine(self, cosine):
        return super().target_cosine(cosine) - 1.0


@pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
def test_the_kernel_of_a_class_is_not_taken_for_its_subclass():
    assert CosFace(8.0).kernel == KINDS["cosface"] and HarderCosFace(8.0).kernel is None
    x, w, target = F.normalize(torch.randn(12, 4), dim=1), F.normalize(torch.randn(9, 4), dim=1), torch.arange(12) % 9
    with backend.use("cpp"):
        plain, harder = (scored_loss(x, w, target, kind(8.0, 0.1), 1 / 12) for kind in (CosFace, HarderCosFace))
    assert harder.item() == pytest.approx(HarderCosFace(8.0, 0.1)(x @ w.T, target).mean().item(), rel=1e-5)
    assert harder > plain + 1


def test_each_kernel_is_that_of_the_objective_of_its_name():
    assert {name: kind.kernel for name, kind in OBJECTIVES.items() if kind.kernel is not None} == KINDS
    assert set(OBJECTIVES) == set(ref.OBJECTIVES)


def test_an_objective_defined_once_more_takes_the_place_of_the_first(registries):
    """As a notebook's cell does that is run again."""

    def define(margin):
        @register_objective
        class Own(CosFace):
            name, default_margin, recipe_margin = "own", margin, margin

        return Own

    first, second = define(0.3), define(0.4)
    assert OBJECTIVES["own"] is second is not first
    assert default_recipe("own").make_objective().margin == make_objective("own").margin == 0.4


def test_a_name_that_is_taken_or_missing_is_refused_and_nothing_registered(registries):
    before = dict(OBJECTIVES)
    for kind, error, words in (
        (HarderCosFace, ValueError, "name is 'cosface', which is taken; it should be none of cross_entropy, cosface"),
        (type("Nameless", (Objective,), {}), ValueError, "name is None; it should be the text by which Nameless"),
        (CosFace(), TypeError, "it should be a subclass of Objective"),
        (torch.nn.Linear, TypeError, "it should be a subclass of Objective"),
    ):
        with pytest.raises(error, match=words):
            register_objective(kind)
    assert before == OBJECTIVES
