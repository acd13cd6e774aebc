"""The C++ kernels in their places: no worse than plain torch at the same precision, against the float64 reference."""

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from annsoftmax_ref import (
    IVFBinaryIndex,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
    backend,
    make_objective,
    rows,
)
from annsoftmax_ref import reference as ref
from kernels_inline import build, dispatch
from kernels_inline.flat_ops import flat_map
from kernels_inline.flat_threshold_ops import flat_thresholds
from kernels_inline.rerank_ops import rerank
from kernels_inline.select_ops import select_map

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))

OBJECTIVES = [("cross_entropy", 12.0, None), ("cosface", 12.0, 0.2), ("arcface", 12.0, 0.3), ("dsoftmax", 12.0, 0.8)]


def made(objective, groups=3, rate=0.4, n=300, d=40, **options):
    return SoftmaxHead(n, d, NearestClasses(rate, groups=groups, **options), make_objective(*objective))


def batch(n=300, d=40, b=17, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, d, generator=generator), torch.randint(n, (b,), generator=generator)


def loss_and_gradients(head, x, labels, name, half=False):
    """With the active sets of the reference's choice, so that all backends compute the same thing."""
    head = copy.deepcopy(head)
    x = x.clone().requires_grad_()
    with backend.use(name), torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = head(x, labels)
        loss.backward()
    return loss.item(), x.grad.double(), head.weight.grad.to_dense().double()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=[o[0] for o in OBJECTIVES])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("half", [False, True])
def test_loss_and_gradients_are_no_worse_than_torchs(objective, groups, half):
    head = made(objective, groups)
    x, labels = batch()
    with backend.use("torch"):
        head.selector.prepare(head.weight, head.generator)
    probe = copy.deepcopy(head)
    with backend.use("torch"):
        probe.selector.prepare(probe.weight, probe.generator)
        active = probe.selector.select(torch.nn.functional.normalize(x, dim=1), labels, probe.weight, probe.generator)
    exact = ref.grouped_loss(
        x.double().numpy(),
        head.weight.detach().double().numpy(),
        labels.numpy(),
        [g.samples.numpy() for g in active],
        [g.classes.numpy() for g in active],
        ref.make_objective(*objective),
    )
    errors = {}
    for name in ("torch", "cpp"):
        loss, dx, dw = loss_and_gradients(head, x, labels, name, half)
        errors[name] = [abs(loss - exact[0]), np.abs(dx.numpy() - exact[1]).max(), np.abs(dw.numpy() - exact[2]).max()]
    floor = [abs(exact[0]), np.abs(exact[1]).max(), np.abs(exact[2]).max()]
    for ours, torchs, size in zip(errors["cpp"], errors["torch"], floor, strict=True):
        assert ours <= 1.5 * torchs + (1e-3 if half else 1e-6) * size


def test_the_same_seed_chooses_the_same_classes_on_both():
    head, x, labels = made(OBJECTIVES[1], rotate=True), *batch()
    chosen = {}
    for name in ("torch", "cpp"):
        twin = copy.deepcopy(head)
        with backend.use(name):
            twin.selector.prepare(twin.weight, twin.generator)
            active = twin.selector.select(torch.nn.functional.normalize(x, dim=1), labels, twin.weight, twin.generator)
        chosen[name] = torch.cat([g.classes for g in active]), twin.selector.index.codes
    # The rotated products differ in their last bits, so a sign may: one in ten thousand at most.
    assert (chosen["torch"][1] != chosen["cpp"][1]).double().mean() < 1e-3
    if torch.equal(chosen["torch"][1], chosen["cpp"][1]):
        assert torch.equal(chosen["torch"][0], chosen["cpp"][0])


@pytest.mark.parametrize("options", [{}, {"rotate": True}, {"centre": True}])
def test_the_index_finds_and_keeps_the_same_on_both(options):
    generator = torch.Generator().manual_seed(2)
    rows_ = torch.randn(900, 70, generator=generator)
    queries = torch.randn(20, 70, generator=generator)
    index = IVFBinaryIndex(900, 70, 24, **options)
    with backend.use("torch"):
        index.train_lists(rows_, torch.Generator().manual_seed(0))
    twin = copy.deepcopy(index)
    for step in range(30):
        ids = torch.randperm(900, generator=generator)[:60].sort().values
        rows_[ids] += 0.2 * torch.randn(60, 70, generator=generator)
        found = {}
        for name, one in (("torch", index), ("cpp", twin)):
            with backend.use(name):
                one.update_rows(rows_, ids)
                one.refresh(rows_, torch.arange(30 * step, 30 * step + 30))
                found[name] = one.search(queries, rows_, 25, 6, rerank=False)
        torch.testing.assert_close(twin.centroids, index.centroids, rtol=1e-4, atol=1e-5)
        # Sums in another order differ in their last bits, so that now and then a row changes its list or a sign.
        assert (twin.assignment == index.assignment).double().mean() > 0.99
        assert (twin.codes == index.codes).double().mean() > 0.99
        if torch.equal(twin.assignment, index.assignment) and torch.equal(twin.codes, index.codes):
            assert all(torch.equal(a, b) for a, b in zip(found["torch"], found["cpp"], strict=True))
    with backend.use("torch"):
        exact, cosines = index.search(queries, rows_, 25, 24)
    with backend.use("cpp"):
        ours, ours_cosines = index.search(queries, rows_, 25, 24)
    torch.testing.assert_close(ours_cosines, cosines, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "row_class, dense_class, options, tolerance",
    [
        (RowSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01), 2e-6),
        (RowSGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True), 2e-6),
        (RowAdamW, torch.optim.AdamW, dict(lr=0.01, weight_decay=0.1), 2e-5),
    ],
)
def test_row_optimizers_equal_dense_ones_over_hundreds_of_steps(row_class, dense_class, options, tolerance, generator):
    start = torch.randn(80, 70, generator=generator)
    dense = torch.nn.Parameter(start.double())
    dense_optimizer = dense_class([dense], **options)
    errors = {}
    weights = {name: torch.nn.Parameter(start.clone()) for name in ("torch", "cpp")}
    optimizers = {name: row_class([weight], **options) for name, weight in weights.items()}
    for _ in range(300):
        ids = torch.randperm(80, generator=generator)[:9].sort().values
        target = torch.randn(9, 70, generator=generator)
        dense.grad = torch.zeros_like(dense)
        dense.grad[ids] = 2 * (dense.detach()[ids] - target)
        dense_optimizer.step()
        for name, weight in weights.items():
            with backend.use(name):
                ((rows.gather_rows(weight, ids) - target) ** 2).sum().backward()
                optimizers[name].step()
                optimizers[name].zero_grad()
    for name, weight in weights.items():
        with backend.use(name):
            optimizers[name].flush()
        errors[name] = (weight.detach().double() - dense.detach()).abs().max().item()
    assert errors["cpp"] <= 1.5 * errors["torch"] + tolerance


def test_the_optimizers_codes_are_those_of_the_rows_it_moved():
    head = made(OBJECTIVES[1])
    optimizer = RowSGD(head.parameters(), lr=0.5, momentum=0.9)
    with backend.use("cpp"):
        for seed in range(5):
            head(*batch(seed=seed)).backward()
            optimizer.step()
            optimizer.zero_grad()
            ((made_for, codes),) = [entry for entry in head.selector._log.moved if entry[1] is not None]
            assert len(codes) == len(made_for) > 0
            if seed == 3:  # somebody else changes the weight: the codes made on the way are not its codes any more
                with torch.no_grad():
                    head.weight.neg_()
            head.selector.sync(head.weight)
            assert torch.equal(
                head.selector.index.codes[made_for], head.selector.index.encode(head.weight.detach()[made_for])
            )


def test_an_objective_of_ones_own_is_not_taken_for_its_base():
    class Softer(type(make_objective("cosface"))):
        def target_cosine(self, cosine):
            return cosine - 0.01

    x, labels = batch()
    head = SoftmaxHead(300, 40, RandomClasses(0.5), Softer(12.0, 0.2))
    twin = copy.deepcopy(head)
    with backend.use("torch"):
        expected = twin(x, labels)
    torch.testing.assert_close(head(x, labels), expected)


def test_two_forward_passes_before_their_backward_passes():
    """Gradient accumulation: rows caught up for the second pass must not disturb the first."""
    head = made(OBJECTIVES[1])
    optimizer = RowSGD(head.parameters(), lr=0.1, momentum=0.9)
    results = {}
    for name in ("torch", "cpp"):
        twin = copy.deepcopy(head)
        optimizer = RowSGD(twin.parameters(), lr=0.1, momentum=0.9)
        with backend.use(name):
            for seed in range(4):
                losses = [twin(*batch(seed=10 * seed + i)) for i in range(3)]
                sum(losses).backward()
                optimizer.step()
                optimizer.zero_grad()
        results[name] = twin.prototypes()
    torch.testing.assert_close(results["cpp"], results["torch"], rtol=1e-4, atol=1e-5)


@pytest.fixture
def no_compiler(monkeypatch):
    def library_for(place):
        raise build.BuildError("there is no compiler")

    caches = dispatch._can_be_had, dispatch._say_once
    monkeypatch.setattr(dispatch, "library_for", library_for)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def on_cuda(dtype=torch.float32):
    """As much of a tensor on a GPU as the decision looks at."""
    return SimpleNamespace(
        device=torch.device("cuda", 0), dtype=dtype, is_floating_point=lambda: dtype.is_floating_point
    )


@pytest.mark.parametrize("place, kind", [(torch.zeros(1), "C++"), (on_cuda(), "CUDA")])
def test_without_a_compiler_torch_runs_and_says_so_once(no_compiler, caplog, place, kind):
    with caplog.at_level(logging.WARNING):
        for op in dispatch.LAUNCHERS:
            assert not backend.runs(op, place)
    assert caplog.text.count(f"plain torch runs instead of the {kind} kernels: there is no compiler") == 1
    for name in {"cpp", "emulator"} if kind == "C++" else {"cuda"}:
        with backend.use(name), pytest.raises(build.BuildError, match="there is no compiler"):
            backend.runs(rerank, place)


def test_a_flat_search_without_a_compiler_falls_back_too(no_compiler):
    head = SoftmaxHead(300, 40, NearestClasses(0.1, flat=1))
    assert head(*batch()).isfinite()


@pytest.mark.parametrize("op", [flat_map, flat_thresholds, select_map])
def test_a_flat_search_on_a_gpu_obeys_use_torch_and_use_cpp(op):
    codes = on_cuda(torch.int64)
    for name in ("torch", "cpp"):
        with backend.use(name):
            assert not backend.runs(op, codes)


def test_choices(monkeypatch):
    assert backend.runs() and not backend.runs(rerank, torch.zeros(1, dtype=torch.float64))
    with backend.use("torch"):
        assert not backend.runs()
        assert not backend.runs(rerank, torch.zeros(1))
    monkeypatch.setenv("ANNSOFTMAX_BACKEND", "torch")
    assert backend.current() == "torch"
    with backend.use("cpp"):
        assert backend.runs(rerank, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        assert not backend.runs(flat_map, torch.zeros(1))  # has no kernel in C++
    with pytest.raises(ValueError, match="backend is 'gpu'"), backend.use("gpu"):
        pass
