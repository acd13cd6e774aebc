"""Which classes are whose, collectives and their bytes."""

import copy
import pickle

import pytest
import torch
from ranks import on_ranks
from sharded import make_case, make_head

from annsoftmax_ref import CosFace
from annsoftmax_ref.shards import Shards, range_of, ring_bytes


@pytest.mark.parametrize("num_classes", [1, 3, 9, 10, 1003, 300_000_000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7, 256])
def test_ranges_tile_the_classes_as_dtensor_has_them(num_classes, ranks):
    ends = [range_of(num_classes, rank, ranks) for rank in range(ranks)]
    assert ends[0][0] == 0 and ends[-1][1] == num_classes
    assert all(a[1] == b[0] for a, b in zip(ends, ends[1:], strict=False))
    chunks = list(torch.empty(num_classes, device="meta").chunk(ranks))
    sizes = [len(chunk) for chunk in chunks] + [0] * (ranks - len(chunks))
    assert [last - first for first, last in ends] == sizes


@pytest.mark.parametrize("total", [1, 5, 100, 1003])
def test_shares_add_up_and_fit(total):
    def of_rank(rank, group):
        shards = Shards(1003, group)
        assert shards.share_before(total) == sum(
            Shards(1003, group).share_before(total, range_of(1003, r, 7)[1])
            - Shards(1003, group).share_before(total, range_of(1003, r, 7)[0])
            for r in range(rank)
        )
        return shards.share(total), shards.size

    shares = on_ranks(7, of_rank)
    assert sum(share for share, _ in shares) == total
    assert all(0 <= share <= size for share, size in shares)


def test_collectives_and_what_they_count():
    sizes = [2, 0, 3]

    def of_rank(rank, group):
        shards = Shards(10, group)
        own = torch.full((sizes[rank], 4), float(rank), dtype=torch.float16)
        gathered = shards.gather(own, sizes, "features")
        assert gathered[:, 0].tolist() == [0, 0, 2, 2, 2]
        mine = shards.reduce_scatter(torch.arange(5.0)[:, None] + rank, sizes, "gradient")
        assert mine.flatten().tolist() == [[3, 6], [], [9, 12, 15]][rank]
        values = torch.tensor([[0.0, -torch.inf, 1.0], [1.0, -torch.inf, -torch.inf], [2.0, -torch.inf, 3.0]])[rank]
        summed = shards.log_sum(values.requires_grad_())
        summed[[0, 2]].sum().backward()
        expected = torch.tensor([[0.0, 0, 1], [1, 0, -torch.inf], [2, 0, 3]])
        assert torch.allclose(summed.detach()[[0, 2]], expected.logsumexp(0)[[0, 2]])
        assert summed[1] == -torch.inf
        assert torch.allclose(values.grad[[0, 2]], expected.softmax(0)[rank][[0, 2]])
        assert values.grad[1] == 0
        return dict(shards.received)

    counted = on_ranks(3, of_rank)
    assert counted[0] == counted[1] == counted[2]
    assert counted[0] == {"features": 2 * 3 * 4 * 2, "gradient": 2 * 3 * 4, "softmax": 2 * (2 * 2 * 12 // 3)}
    assert ring_bytes("all_gather", 10, 4) == 30
    assert ring_bytes("all_reduce", 10, 4) == 15


def test_nan_on_one_process_is_nan_on_all():
    """gloo's MAX may lose it, SUM does not."""

    def of_rank(rank, group):
        values = torch.tensor([float("nan") if rank == 2 else 1.0])
        return Shards(10, group).log_sum(values).isnan().item()

    assert on_ranks(3, of_rank) == [True] * 3


def test_bytes_of_a_step_do_not_grow_with_the_classes():
    def of_case(num_classes):
        case = make_case(num_classes, 8)

        def of_rank(rank, group):
            head = make_head(case, CosFace, group=group)
            x = case.x[rank::2].clone().requires_grad_()
            head(x, case.y[rank::2]).backward()
            return sum(head.shards.received.values())

        return on_ranks(2, of_rank)

    assert of_case(10) == of_case(4000)


def test_a_split_head_is_neither_copied_nor_pickled():
    case = make_case(10, 8)

    def of_rank(rank, group):
        head = make_head(case, CosFace, group=group)
        for copied in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="^a head split over processes cannot be copied or pickled; save it"):
                copied(head)

    on_ranks(2, of_rank)
