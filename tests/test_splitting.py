"""How a split head comes to be: the same weights for any number of processes, refused options, generators."""

import pytest
import torch
from ranks import on_ranks

from annsoftmax_ref import ArcFace, CosFace, NearestClasses, RandomClasses, SoftmaxHead, make_head
from annsoftmax_ref.objectives import Objective
from annsoftmax_ref.rivals import LabelGraphClasses
from annsoftmax_ref.splitting import BLOCK, seed_of


@pytest.mark.parametrize("num_classes", [3, BLOCK + 5])
def test_first_weights_do_not_depend_on_the_number_of_processes(num_classes):
    def of_rank(rank, group):
        return SoftmaxHead(num_classes, 5, seed=7, process_group=group).weight.detach()

    whole = torch.cat(on_ranks(1, of_rank))
    assert whole.shape == (num_classes, 5)
    assert torch.allclose(whole.norm(dim=1), torch.ones(num_classes))
    for ranks in (2, 3, 4):
        assert torch.equal(torch.cat(on_ranks(ranks, of_rank)), whole)
    other = on_ranks(1, lambda rank, group: SoftmaxHead(num_classes, 5, seed=8, process_group=group).weight.detach())
    assert not torch.equal(other[0], whole)


def test_one_generator_is_common_and_one_is_each_process_s_own():
    def of_rank(rank, group):
        head = SoftmaxHead(10, 5, RandomClasses(0.5), process_group=group)
        return head.common.initial_seed(), head.generator.initial_seed()

    common, own = zip(*on_ranks(3, of_rank), strict=True)
    assert len(set(common)) == 1 and len(set(own)) == 3
    assert seed_of(1, 2) != seed_of(2, 1)


class Whole(Objective):
    """Needs a sample's logits together."""

    def forward(self, cosine, target, offset=None):
        return cosine.std(dim=1)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: {"objective": Whole()}, "objective is Whole.* its loss does not follow from sums over classes"),
        (lambda: {"selector": NearestClasses(0.5, mass_target=0.9)}, "mass_target is 0.9 with a process_group"),
        (lambda: {"selector": NearestClasses(0.5, centre=True)}, "centre is True with a process_group"),
        (lambda: {"selector": NearestClasses(0.5, rotate=True, rerank=False)}, "rotate is True with rerank=False"),
        (
            lambda: {"selector": LabelGraphClasses(0.5)},
            "selector is LabelGraphClasses.* its graph joins classes of",
        ),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        on_ranks(2, lambda rank, group: SoftmaxHead(10, 5, process_group=group, **make()))


def test_what_is_no_group_is_refused():
    with pytest.raises(TypeError, match="^process_group is 'gloo'; it should be an instance of ProcessGroup"):
        SoftmaxHead(10, 5, process_group="gloo")


def test_heads_by_name_are_split_too():
    def of_rank(rank, group):
        head = make_head("ann", 11, 5, ArcFace(), 0.5, process_group=group, averaged=False)
        return len(head.weight), head.averaged

    assert on_ranks(3, of_rank) == [(4, False), (4, False), (3, False)]


def test_the_state_of_a_split_head_goes_on_where_it_was_saved():
    x, y = torch.randn(6, 5), torch.arange(6)

    def of_rank(rank, group):
        head = SoftmaxHead(40, 5, RandomClasses(0.3), CosFace(), seed=1, process_group=group)
        head(x, y)
        state = head.state_dict()
        expected = head(x, y).item()
        other = SoftmaxHead(40, 5, RandomClasses(0.3), CosFace(), seed=2, process_group=group)
        other.load_state_dict(state)
        return other(x, y).item() == expected

    assert on_ranks(3, of_rank) == [True] * 3
