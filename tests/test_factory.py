"""factory.py: heads by their names, and names of one's own."""

import pytest
import torch

from annsoftmax_ref import AllClasses, NearestClasses, RandomClasses, SoftmaxHead, make_head
from annsoftmax_ref.cli import build_parser
from annsoftmax_ref.factory import DEFAULT_HEADS, HEADS, make_selector, register_head


def test_each_name_makes_a_head_that_learns():
    x, labels = torch.randn(8, 6), torch.arange(8)
    for name in HEADS:
        head = make_head(name, 40, 6, "cosface", rate=0.5)
        assert isinstance(head, SoftmaxHead) and torch.isfinite(head(x, labels))
        head(x, labels).backward()
        assert head.weight.grad.is_sparse is (name not in ("full", "random_dense"))


def test_groups_are_for_those_that_take_them_and_the_rate_is_not_for_full():
    assert make_selector("ann", 0.3, groups=5).groups == 5 and make_selector("ann", 0.3).groups is None
    assert make_selector("random", 0.3, groups=5).groups == 5 and make_selector("random", 0.3).groups == 1
    assert all(make_selector(name, 0.3, groups="rule").groups is None for name in ("ann", "forest"))
    assert make_selector("full", 0.3, groups=5).sample_rate == 1.0
    assert make_selector("forest", 0.3, trees=7).trees == 7


def test_an_option_that_the_selector_does_not_take_is_refused():
    for name in ("full", "random", "ann"):
        with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
            make_selector(name, 0.3, speed=2)


def test_a_name_of_ones_own_is_known_at_once_and_may_be_defined_again(registries):
    def define(sparse):
        @register_head("own", sparse=sparse)
        class Own(RandomClasses):
            pass

        return Own

    assert list(HEADS)[:2] == ["full", "random"] and set(DEFAULT_HEADS) < set(HEADS)
    for sparse in (False, True):
        kind = define(sparse)
        head = make_head("own", 40, 6, rate=0.5)
        assert type(head.selector) is kind and head.sparse is sparse
        assert build_parser().parse_args(["compare", "--heads", "own"]).heads == ["own"]


def test_a_name_that_is_taken_is_refused(registries):
    before = dict(HEADS)
    for name, words in (
        ("ann", "name is 'ann', which is taken; it should be none of full, random"),
        ("", "name is ''"),
    ):
        with pytest.raises(ValueError, match=words):
            register_head(name)(AllClasses)
    assert HEADS == before and HEADS["ann"] is NearestClasses
