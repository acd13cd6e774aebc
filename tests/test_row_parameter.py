"""row_parameter.py: rows lag, and nobody who reads or writes the weight in an ordinary way can tell."""

import copy
import io
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from annsoftmax_ref import ANNSoftmax, CosFace, NearestClasses, RandomClasses, RowAdamW, RowSGD, SoftmaxHead, backend
from annsoftmax_ref.row_log import RowLog
from annsoftmax_ref.row_parameter import RowParameter, row_state, unwatched

N, D = 300, 16


def random_head(sparse=True, **options):
    return SoftmaxHead(N, D, RandomClasses(0.1), CosFace(16, 0.1), seed=3, sparse=sparse, **options)


def optimizer_of(head, sparse=True):
    return (RowSGD if sparse else torch.optim.SGD)(head.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-3)


def train(head, optimizer, steps=20, after=lambda: None, passes=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for _ in range(passes):
            x, labels = torch.randn(16, D, generator=generator), torch.randint(N, (16,), generator=generator)
            head(x, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        after()


def unit(seed=1):
    rows = torch.randn(N, D, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def twins(use, **options):
    """What ``use(head)`` gives after training with rows that lag, and with a dense optimizer."""
    found = []
    for sparse in (True, False):
        head = random_head(sparse, **options)
        train(head, optimizer_of(head, sparse))
        found.append(use(head))
    return found


def averaged_by_torch(head):
    average = AveragedModel(head, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    train(head, optimizer_of(head, head.sparse), after=lambda: average.update_parameters(head), seed=7)
    return average.module.weight


def averaged_by_hand(head):
    shadow = [p.data.clone() for p in head.parameters()]

    def update():
        for mean, p in zip(shadow, head.parameters(), strict=True):
            mean.mul_(0.9).add_(p.data, alpha=0.1)

    train(head, optimizer_of(head, head.sparse), after=update, seed=7)
    return shadow[0]


READERS = {
    "torch's moving average of weights": averaged_by_torch,
    "a moving average by hand, over .data": averaged_by_hand,
    "a regularizer": lambda head: head.weight.square().sum(),
    "rows by number": lambda head: head.weight[5:9],
    "a linear layer's function": lambda head: torch.nn.functional.linear(torch.ones(2, D), head.weight),
    "an export": lambda head: torch.from_numpy(head.weight.detach().numpy().copy()),
    "a list of tensors for a foreach function": lambda head: torch._foreach_mul([head.weight], 2.0)[0],
    "a copy into another tensor": lambda head: torch.empty(N, D).copy_(head.weight),
    "parameters_to_vector": lambda head: torch.nn.utils.parameters_to_vector(head.parameters()),
    "torch.save of the parameter": lambda head: saved(head.weight),
    "deepcopy": lambda head: copy.deepcopy(head.weight),
    "state_dict": lambda head: head.state_dict()["weight"],
}


def saved(what):
    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("reader", READERS)
def test_who_reads_the_weight_sees_what_a_dense_optimizer_would_have_left(reader):
    lazy, dense = twins(READERS[reader])
    torch.testing.assert_close(lazy, dense, rtol=1e-4, atol=1e-6)


def test_the_bias_is_watched_as_well():
    def sum_of_bias(sparse):
        head = SoftmaxHead(N, D, RandomClasses(0.1), seed=3, sparse=sparse, bias=True)
        train(head, optimizer_of(head, sparse))
        return head.bias * 1

    torch.testing.assert_close(sum_of_bias(True), sum_of_bias(False), rtol=1e-4, atol=1e-6)


WRITERS = {
    "copy_": lambda head, w: head.weight.copy_(w),
    "copy_ into .data": lambda head, w: head.weight.data.copy_(w),
    "a new .data": lambda head, w: setattr(head.weight, "data", w.clone()),
    "rows by number": lambda head, w: head.weight.__setitem__(slice(None), w),
    "a foreach function": lambda head, w: torch._foreach_copy_([head.weight], [w]),
    "load_state_dict": lambda head, w: head.load_state_dict({"weight": w}, strict=False),
    "vector_to_parameters": lambda head, w: torch.nn.utils.vector_to_parameters(w.flatten(), head.parameters()),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_pretrained_class_vectors_stay_as_they_were_written(writer):
    head = random_head()
    train(head, optimizer_of(head))
    with torch.no_grad():
        WRITERS[writer](head, unit())
    torch.testing.assert_close(head.prototypes(), unit(), rtol=1e-6, atol=1e-6)


def test_rows_renormalised_in_a_loop_are_what_a_dense_optimizer_would_train():
    found = []
    for sparse in (True, False):
        head = random_head(sparse)

        def renormalise(head=head):
            with torch.no_grad():
                head.weight.div_(head.weight.norm(dim=1, keepdim=True))

        train(head, optimizer_of(head, sparse), after=renormalise)
        found.append(head.weight.detach())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_an_embedding_that_a_row_optimizer_trains_is_read_up_to_date():
    found = []
    for sparse in (True, False):
        table = torch.nn.Embedding(N, D, sparse=sparse)
        torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(1))
        optimizer = optimizer_of(table, sparse)
        for step in range(8):
            table(torch.arange(step, N, 40)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(table(torch.arange(N)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_weight_that_is_tied_stays_tied_and_is_watched():
    table, head = torch.nn.Embedding(N, D), random_head()
    head.weight = table.weight
    assert head.weight is table.weight and type(table.weight) is RowParameter
    train(head, optimizer_of(head))
    torch.testing.assert_close(torch.nn.functional.normalize(table.weight.detach(), dim=1), head.prototypes())


def test_questions_that_look_at_no_value_do_not_bring_rows_up_to_date():
    head = random_head()
    train(head, optimizer_of(head), steps=5)
    with unwatched():
        before = head.weight.detach().clone()
    weight = head.weight
    assert weight.shape == (N, D) and weight.dtype and weight.device and weight.requires_grad and len(weight) == N
    weight.grad = None
    head.zero_grad()
    list(head.named_parameters())
    with unwatched():
        assert torch.equal(before, head.weight)
        assert not torch.equal(before, copy.deepcopy(head).weight)  # which reads it


def test_a_parameter_that_was_copied_or_pickled_is_watched_and_belongs_to_nobody():
    head = random_head()
    train(head, optimizer_of(head), steps=5)
    for twin in (copy.deepcopy(head.weight), pickle.loads(pickle.dumps(head.weight))):
        assert type(twin) is RowParameter and twin.requires_grad
        assert row_state(twin).owner is None and torch.equal(twin, head.weight)


# ------------------------------------------------------------------------------------------- the index and its owner


def ann_head(**options):
    return SoftmaxHead(N, D, NearestClasses(0.2, nlist=8, nprobe=4), CosFace(16, 0.1), **options)


def step(head, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return head(torch.randn(16, D, generator=generator), torch.randint(N, (16,), generator=generator))


@pytest.mark.parametrize("writer", WRITERS)
def test_the_index_is_of_the_weights_that_were_loaded(writer):
    head = ann_head()
    step(head)
    with torch.no_grad():
        WRITERS[writer](head, unit())
    step(head)
    index = head.selector.index
    assert index.stale_bits(head.weight) == 0
    # The lists, too, are of the new rows: nearly all rows stand in their nearest one.
    assert (index.nearest_list(unit()) == index.assignment).double().mean() > 0.8


def test_the_index_of_another_weight_is_made_anew():
    head = ann_head()
    step(head)
    head.load_state_dict({k: v for k, v in ann_head(seed=9).state_dict().items() if "index" in k}, strict=False)
    step(head)
    assert head.selector.index.stale_bits(head.weight) == 0


def test_two_heads_on_one_weight_both_follow_it():
    first, second = ann_head(), ann_head()
    second.weight = first.weight
    step(first), step(second)
    train(first, optimizer_of(first), steps=10)
    second.sync()
    assert second.selector.index.stale_bits(second.weight) == 0


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("kind", [RowSGD, RowAdamW, torch.optim.SGD])
def test_accumulated_gradients_leave_no_code_old(kind, passes):
    head = ann_head()
    options = {"lr": 1e-2} if kind is RowAdamW else {"lr": 1.0, "momentum": 0.9}
    train(head, kind(head.parameters(), **options), passes=passes)
    head.sync()
    assert head.selector.index.stale_bits(head.weight) == 0


def test_an_averaged_head_with_its_buffers_trains_on():
    head = ANNSoftmax(N, D)
    average = AveragedModel(head, use_buffers=True)
    train(head, optimizer_of(head), steps=5, after=lambda: average.update_parameters(head))
    mean = average.module.train()
    assert torch.isfinite(step(mean))
    assert mean.selector.index.stale_bits(mean.weight) == 0


def test_a_log_that_nobody_reads_does_not_grow():
    log, ids = RowLog(), torch.arange(10)
    for shift in range(100):
        log.add(ids + shift, None, 50)
    assert log.everything and sum(len(entry) for entry, _ in log.moved) <= 100


@pytest.mark.parametrize("kind", [RowSGD, RowAdamW])
def test_training_rewrites_only_the_codes_of_rows_that_moved(kind):
    head = ann_head()
    optimizer = kind(head.parameters(), lr=0.1)
    for seed in range(6):
        step(head, seed).backward()
        optimizer.step()
        optimizer.zero_grad()
        log = head.selector._log
        assert not log.everything
        slices, (_, codes) = log.moved[:-1], log.moved[-1]  # of the lists' upkeep and of the sweep; the step's rows
        assert sum(len(ids) for ids, _ in slices) <= N / 50 + 1 and (codes is not None) == backend.runs(kind.ops.step)
