"""RowSGD and RowAdamW against torch's dense optimizers, which are given zeros for the missing rows."""

import copy

import pytest
import torch

from annsoftmax_ref import RowAdamW, RowSGD, row_optimizer, rows
from annsoftmax_ref.row_parameter import unwatched

N, D = 60, 5


def twins(row_optimizer, dense_optimizer, **options):
    weight = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lazy, dense = torch.nn.Parameter(weight.clone()), torch.nn.Parameter(weight.clone())
    return lazy, dense, row_optimizer([lazy], **options), dense_optimizer([dense], **options)


def random_step(lazy, dense, lazy_optimizer, dense_optimizer, generator, tolerance=1e-6):
    ids = torch.randperm(N, generator=generator)[: int(torch.randint(1, 9, (), generator=generator))].sort().values
    target = torch.randn(len(ids), D, dtype=torch.float64, generator=generator)
    gathered = rows.gather_rows(lazy, ids)
    # A forward pass must read what the dense optimizer would have left.
    torch.testing.assert_close(gathered.detach(), dense.detach()[ids], rtol=tolerance, atol=tolerance)
    ((gathered - target) ** 2).sum().backward()
    dense.grad = torch.zeros_like(dense)
    dense.grad[ids] = 2 * (dense.detach()[ids] - target)
    for optimizer in (lazy_optimizer, dense_optimizer):
        optimizer.step()
        optimizer.zero_grad()


SGD_OPTIONS = [
    dict(lr=0.1),
    dict(lr=0.1, momentum=0.9),
    dict(lr=0.1, momentum=0.9, weight_decay=0.01),
    dict(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    dict(lr=0.1, weight_decay=0.01),
]


@pytest.mark.parametrize("options", SGD_OPTIONS)
@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_row_sgd_equals_dense_sgd_over_hundreds_of_steps(options, schedule, generator):
    lazy, dense, *optimizers = twins(RowSGD, torch.optim.SGD, **options)
    schedulers = []
    if schedule == "onecycle":  # changes the learning rate and the momentum
        cycle = options.get("momentum", 0) > 0
        schedulers = [
            torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=400, cycle_momentum=cycle) for o in optimizers
        ]
    for _ in range(400):
        random_step(lazy, dense, *optimizers, generator)
        for scheduler in schedulers:
            scheduler.step()
    assert schedule == "constant" or optimizers[0].param_groups[0]["lr"] != options["lr"]
    optimizers[0].flush()
    torch.testing.assert_close(lazy, dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options, tolerance",
    [
        (dict(lr=0.01, weight_decay=0.1), 1e-7),
        (dict(lr=0.01, betas=(0.5, 0.9), weight_decay=0.0), 1e-7),
        (dict(lr=0.01, betas=(0.0, 0.99)), 1e-7),
        (dict(lr=0.01, eps=1.0), 5e-3),  # eps as large as sqrt(v): the worst case
    ],
)
def test_row_adamw_equals_dense_adamw_over_hundreds_of_steps(options, tolerance, generator):
    lazy, dense, *optimizers = twins(RowAdamW, torch.optim.AdamW, **options)
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 400) for o in optimizers]
    for _ in range(300):
        random_step(lazy, dense, *optimizers, generator, tolerance)
        for scheduler in schedulers:
            scheduler.step()
    optimizers[0].flush()
    torch.testing.assert_close(lazy, dense, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "pair",
    [
        (RowSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
        (RowAdamW, torch.optim.AdamW, dict(lr=0.01)),
    ],
)
def test_lags_beyond_the_table_are_swept_up(pair, generator, monkeypatch):
    monkeypatch.setattr(row_optimizer, "WINDOW", 16)
    lazy, dense, *optimizers = twins(pair[0], pair[1], **pair[2])
    for _ in range(100):
        random_step(lazy, dense, *optimizers, generator)
        state = optimizers[0].state[lazy]
        assert int((state["step"] - state["last"]).max()) <= 16
    optimizers[0].flush()
    torch.testing.assert_close(lazy, dense, rtol=1e-6, atol=1e-8)


def test_a_step_touches_only_its_rows_and_a_sliver(generator):
    lazy, dense, *optimizers = twins(RowSGD, torch.optim.SGD, lr=0.1, momentum=0.9)
    for _ in range(5):
        random_step(lazy, dense, *optimizers, generator)
    with unwatched():
        before = lazy.detach().clone()
    ids = torch.tensor([3, 40])
    rows.gather_rows(lazy, ids).sum().backward()
    swept = set(range(optimizers[0].state[lazy]["cursor"], optimizers[0].state[lazy]["cursor"] + 1))
    optimizers[0].step()
    with unwatched():
        changed = set((before != lazy).any(dim=1).nonzero().squeeze(1).tolist())
    assert {3, 40} <= changed <= {3, 40} | swept


@pytest.mark.parametrize(
    "row_class, dense_class, options",
    [
        (RowSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01)),
        (RowAdamW, torch.optim.AdamW, dict(lr=0.01)),
    ],
)
def test_state_goes_to_disk_and_between_row_and_dense_optimizers(row_class, dense_class, options, generator):
    lazy, dense, *optimizers = twins(row_class, dense_class, **options)
    for _ in range(20):
        random_step(lazy, dense, *optimizers, generator)
    saved = copy.deepcopy(optimizers[0].state_dict())
    resumed = torch.nn.Parameter(lazy.detach().clone())
    second = row_class([resumed], **options)
    second.load_state_dict(saved)
    third = dense_class([torch.nn.Parameter(lazy.detach().clone())], **options)
    third.load_state_dict(saved)  # the names are torch's own
    for _ in range(20):
        random_step(resumed, dense, second, optimizers[1], generator)
    second.flush()
    torch.testing.assert_close(resumed, dense, rtol=1e-6, atol=1e-8)


def test_without_momentum_there_is_no_buffer_until_there_is_momentum(generator):
    """Rows that lag then have missed steps of both kinds."""
    lazy, dense, *optimizers = twins(RowSGD, torch.optim.SGD, lr=0.1, weight_decay=0.01)
    for momentum, has_buffer in ((0.0, False), (0.9, True), (0.0, True)):
        for optimizer in optimizers:
            optimizer.param_groups[0]["momentum"] = momentum
        for _ in range(30):
            random_step(lazy, dense, *optimizers, generator)
        assert (optimizers[0].state[lazy]["momentum_buffer"] is not None) == has_buffer
    optimizers[0].flush()
    torch.testing.assert_close(lazy, dense, rtol=1e-10, atol=1e-12)


def test_dense_gradients_take_the_dense_step(generator):
    lazy, dense, *optimizers = twins(RowSGD, torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(30):
        if step % 3:
            random_step(lazy, dense, *optimizers, generator)
            continue
        for weight, optimizer in zip((lazy, dense), optimizers, strict=True):
            rows.catch_up(weight)
            (weight**2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    optimizers[0].flush()
    torch.testing.assert_close(lazy, dense, rtol=1e-10, atol=1e-12)


def test_uncoalesced_gradients_are_summed():
    weight = torch.nn.Parameter(torch.zeros(4, 2))
    weight.grad = torch.sparse_coo_tensor([[1, 1, 3]], torch.ones(3, 2), (4, 2), check_invariants=True)
    RowSGD([weight], lr=1.0).step()
    assert weight.detach().tolist() == [[0, 0], [-2, -2], [0, 0], [-1, -1]]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda p: RowSGD(p, lr=-1.0), "lr is -1.0"),
        (lambda p: RowSGD(p, lr=0.1, momentum=1.0), "momentum is 1.0"),
        (lambda p: RowSGD(p, lr=0.1, nesterov=True), "nesterov is True"),
        (lambda p: RowSGD(p, lr=0.1, weight_decay=float("nan")), "weight_decay is nan"),
        (lambda p: RowAdamW(p, betas=(0.9, 1.0)), "betas is"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make([torch.nn.Parameter(torch.zeros(2, 2))])
