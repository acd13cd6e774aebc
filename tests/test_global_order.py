"""Candidates ranked among those of all processes, and the mass that sets so made hold."""

import pytest
import torch
from ranks import on_ranks

from annsoftmax_ref import CosFace, NearestClasses, SoftmaxHead
from annsoftmax_ref.bench.vectors import clustered_vectors
from annsoftmax_ref.global_order import in_global_order, places_by_need
from annsoftmax_ref.lessons.trained import load_trained
from annsoftmax_ref.shards import Shards


def scored(batch: int, num_classes: int) -> torch.Tensor:
    return torch.randn(batch, num_classes, generator=torch.Generator().manual_seed(0))


def test_on_one_process_a_column_is_a_rank():
    scores, found = scored(5, 40).topk(9, dim=1)

    def of_rank(rank, group):
        return in_global_order(found, scores, 9, Shards(40, group))

    assert torch.equal(on_ranks(1, of_rank)[0], found)


@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_columns_are_ranks_among_all_up_to_the_histograms_width(ranks):
    scores = scored(6, 400)
    true_ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)

    def of_rank(rank, group):
        shards = Shards(400, group)
        mine = scores[:, shards.first : shards.last].sort(dim=1, descending=True)
        table = in_global_order(mine.indices, mine.values, -(-400 // ranks), shards)
        assert all(sorted(row[row >= 0].tolist()) == list(range(shards.size)) for row in table)  # nobody is lost
        where = torch.stack([(row >= 0).nonzero()[:, 0][row[row >= 0].argsort()] for row in table])
        return where - true_ranks[:, shards.first : shards.last]

    errors = torch.cat(on_ranks(ranks, of_rank), dim=1).abs().double()
    assert errors.mean() < 4 and errors.max() < 40  # of 400, in 64 bins


def test_processes_with_few_candidates_or_none_take_part():
    scores = scored(3, 10)

    def of_rank(rank, group):
        shards = Shards(10, group)  # 3, 3, 3, 1
        mine = scores[:, shards.first : shards.last].sort(dim=1, descending=True)
        found = mine.indices.clone()
        found[0] = -1  # a sample without any
        k = None if rank else 0
        return in_global_order(found[:, :k], mine.values[:, :k], 3, shards)

    tables = on_ranks(4, of_rank)
    assert (tables[0] == -1).all()
    assert all((table[0] == -1).all() for table in tables[1:])
    assert all((table[1:] >= 0).sum(1).tolist() == [n, n] for table, n in zip(tables[1:], (3, 3, 1), strict=True))


@pytest.mark.parametrize("groups", [1, 3])
def test_places_go_where_the_best_candidates_are(groups):
    """Of 12 places, process 0 of 3 has all of the best candidates, and still no more than twice its share."""
    samples = torch.arange(6).view(groups, -1)
    labels = torch.full((6,), -1)

    def of_rank(rank, group):
        shards = Shards(90, group)
        table = torch.full((6, 30), -1)
        table[:, 10 * rank : 10 * rank + 10] = torch.arange(10)  # ranks 0 to 9 are process 0's, and so on
        return [places_by_need(table, labels, samples, 30, total, shards) for total in (12, 24, 60)]

    # 12: 10 and 2 by rank, process 0 held to 8. 24: 10, 10 and 4. 60: 30 candidates, the other 30 shared evenly.
    assert on_ranks(3, of_rank) == [[8, 10, 20], [2, 10, 20], [1, 4, 20]]


def captured(rows: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, ranks: int) -> float:
    """Of the softmax's mass on other classes, the share in the active sets, the samples' mean."""

    def of_rank(rank, group):
        head = SoftmaxHead(
            len(rows),
            rows.shape[1],
            NearestClasses(0.1, groups=1, nlist=1, nprobe=1, far=False),
            CosFace(),
            process_group=group,
        )
        with torch.no_grad():
            head.weight.copy_(rows[head.shards.first : head.shards.last])
        return head.active_sets(x, head.shards.here(labels)).classes[0] + head.shards.first

    classes = torch.cat(on_ranks(ranks, of_rank))
    logits = 20 * x @ rows.T
    mass = logits.scatter(1, labels[:, None], -torch.inf).softmax(dim=1)
    return mass[:, classes].sum(dim=1).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clustered", "trained"])
def test_sets_of_many_processes_hold_as_much_of_the_mass_as_those_of_one(kind):
    """Ids shuffled. A cut inside each shard would leave a quarter of it on 64."""
    if kind == "clustered":
        vectors = clustered_vectors(16384, 64, 256)
        rows, x = vectors.rows, vectors.queries
    else:
        trained = load_trained()
        rows, x = torch.from_numpy(trained.prototypes), torch.from_numpy(trained.queries[:256])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    labels = (x @ rows.T).argmax(dim=1)
    one = captured(rows, x, labels, 1)
    for ranks in (4, 16, 64):
        assert captured(rows, x, labels, ranks) > one - 0.02, ranks
