"""captured.py: a step that is replayed is the step, to the last bit; on the CPU, by recorded_graph.py."""

import contextlib
import copy

import pytest
import torch
from recorded_graph import graphs_on_the_cpu

from annsoftmax_ref import (
    AllClasses,
    ArcFace,
    CosFace,
    CrossEntropy,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
    backend,
)

SELECTORS = {
    "random": lambda: RandomClasses(0.1),
    "random, groups": lambda: RandomClasses(0.1, groups=3),
    "lists": lambda: NearestClasses(0.1, groups=1, flat=0, refresh_steps=7),
    "lists, groups": lambda: NearestClasses(0.1, groups=4, flat=0, refresh_steps=7),
    "flat": lambda: NearestClasses(0.1, groups=1, flat=1, far=True),
    "flat, groups": lambda: NearestClasses(0.1, groups=4, flat=2),
}
OPTIMIZERS = {
    "sgd": lambda p: RowSGD(p, lr=0.5, momentum=0.9, weight_decay=1e-3),
    "plain sgd": lambda p: RowSGD(p, lr=0.5),
    "adamw": lambda p: RowAdamW(p, lr=0.05),
}
N, D, B = 400, 32, 24


def make(selector="lists, groups", optimizer="sgd", **options):
    head = SoftmaxHead(N, D, SELECTORS[selector](), CosFace(16.0), seed=3, **options)
    return head, OPTIMIZERS[optimizer](head.parameters())


def kept(head, optimizer):
    return lambda: [*head.parameters(), *head.buffers(), *head.selector.kept_tensors(), *optimizer.kept_tensors()]


def batches(count, size=B):
    generator = torch.Generator().manual_seed(5)
    return [
        (torch.randn(size, D, generator=generator), torch.randint(N, (size,), generator=generator))
        for _ in range(count)
    ]


def ordinary(head, optimizer, x, labels):
    x = x.clone().requires_grad_()
    loss = head(x, labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach(), x.grad


def without_graphs(head, optimizer):
    step = head.captured_step(optimizer)
    step._can_be_captured = lambda embeddings: False
    return step


def captured(step, x, labels):
    x = x.clone().requires_grad_()
    loss = step(x, labels)
    loss.backward()
    return loss.detach(), x.grad


def assert_same(head, other):
    ours, theirs = head.state_dict(), other.state_dict()
    for state in (ours, theirs):  # codes have another number where they are written at the end of a step
        if "selector.index.clock" in state:
            state["age of codes"] = state.pop("selector.index.clock") - state.pop("selector.index.written")
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("selector", SELECTORS)
def test_replayed_steps_are_the_steps(selector, optimizer, dtype):
    """Losses, gradients, weights, buffers, index and counters, while the learning rate changes; and so is what follows
    without the graph. In bfloat16 the step without a graph is whole_step, too, which rounds less often."""
    plain, replayed = make(selector, optimizer, dtype=dtype), make(selector, optimizer, dtype=dtype)
    with graphs_on_the_cpu(kept(*replayed)) as graphs:
        step = replayed[0].captured_step(replayed[1])
        whole = without_graphs(*plain)
        for number, batch in enumerate(batches(16)):
            for _, trained in (plain, replayed):
                trained.param_groups[0]["lr"] *= 0.95
            loss, slope = ordinary(*plain, *batch) if dtype == torch.float32 else captured(whole, *batch)
            again, slope_again = captured(step, *batch)
            assert torch.equal(loss, again) and torch.equal(slope, slope_again), number
        assert step.replayed >= 9 and not any(graph.reads for graph in graphs)
        assert_same(plain[0], replayed[0])
        for batch in batches(3):
            assert torch.equal(ordinary(*plain, *batch)[0], ordinary(*replayed, *batch)[0])
    ours, theirs = (trained.state_dict()["state"] for _, trained in (plain, replayed))
    for name, value in ours[0].items():
        assert value is theirs[0][name] or torch.equal(torch.as_tensor(value), torch.as_tensor(theirs[0][name])), name


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("selector", ["random", "lists"])
def test_a_step_by_the_gradient_of_unit_rows_is_the_plain_one(selector, optimizer, dtype, half, monkeypatch):
    """In float32 to the last bit. In less it is rounded less often, and ends no farther from float32 than the plain."""
    plain, whole, exact = (make(selector, optimizer, dtype=kind) for kind in (dtype, dtype, torch.float32))
    step, read = whole[0].captured_step(whole[1]), []
    gather = type(whole[1]).unit_rows
    monkeypatch.setattr(type(whole[1]), "unit_rows", lambda *args: read.append(gather(*args)) or read[-1])
    for batch in batches(12):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            (loss, slope), (again, slope_again) = ordinary(*plain, *batch), captured(step, *batch)
        ordinary(*exact, *batch)
        if dtype == torch.float32 and not half:
            assert torch.equal(loss, again) and torch.equal(slope, slope_again)
    assert len(read) == 12 and None not in read
    assert step.replayed == 0 and whole[0].weight.grad is None
    for head, _ in (plain, whole, exact):
        head.sync()
    theirs, ours = ((x[0].weight.detach().float() - exact[0].weight.detach()).norm() for x in (plain, whole))
    assert ours <= 1.1 * theirs


def test_an_overflow_in_float16_moves_nothing():
    head, optimizer = make("random")
    step, (x, labels) = head.captured_step(optimizer), batches(1)[0]
    before = head.weight.detach().clone()
    loss, slope = captured(step, x.half() * torch.inf, labels)
    assert loss.isnan() and slope.isnan().all() and torch.equal(head.weight, before) and not optimizer.state


def test_what_disturbs_a_graph_is_followed_by_another_one():
    plain, replayed = make(), make()
    with graphs_on_the_cpu(kept(*replayed)) as graphs:
        step = replayed[0].captured_step(replayed[1])
        more = iter(batches(60))

        def go_on(times):
            for batch in [next(more) for _ in range(times)]:
                assert torch.equal(ordinary(*plain, *batch)[0], captured(step, *batch)[0])

        go_on(6)
        with torch.no_grad():  # somebody else writes to the weight
            for head, _ in (plain, replayed):
                head.weight[5:50].mul_(-1)
        go_on(6)
        for head, _ in (plain, replayed):  # all rows are read
            head.topk(torch.randn(2, D, generator=torch.Generator().manual_seed(1)))
        go_on(6)
        for _, trained in (plain, replayed):  # buffers move elsewhere
            trained.load_state_dict(copy.deepcopy(trained.state_dict()))
        go_on(6)
        small = batches(1, B // 2)[0]  # another batch size
        assert torch.equal(ordinary(*plain, *small)[0], captured(step, *small)[0])
        go_on(6)
        assert len(graphs) == 5 and step.replayed >= 15
        assert_same(plain[0], replayed[0])


def test_the_first_steps_and_those_on_a_cpu_are_ordinary():
    plain, other = make(), make()
    step = other[0].captured_step(other[1])
    for batch in batches(5):
        assert torch.equal(ordinary(*plain, *batch)[0], captured(step, *batch)[0])
    assert step.replayed == 0
    assert_same(plain[0], other[0])


def test_autocast_is_as_it_was_outside():
    plain, replayed = make("lists"), make("lists")
    with graphs_on_the_cpu(kept(*replayed)), torch.autocast("cpu", torch.bfloat16):
        step = replayed[0].captured_step(replayed[1])
        whole = without_graphs(*plain)
        for batch in batches(8):
            assert torch.equal(captured(whole, *batch)[0], captured(step, *batch)[0])
        assert step.replayed >= 4


def test_a_bad_batch_is_refused_with_nothing_moved():
    head, optimizer = make()
    with graphs_on_the_cpu(kept(head, optimizer)):
        step = head.captured_step(optimizer)
        for batch in batches(6):
            captured(step, *batch)
        before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        x, labels = batches(1)[0]
        with pytest.raises(ValueError, match="labels"):
            step(x, labels + N)
        with pytest.raises(ValueError, match="embeddings"):
            step(x * torch.nan, labels)
        assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
        count = step.replayed
        captured(step, x, labels)
        assert step.replayed == count + 1


def test_what_it_cannot_take_is_one_sentence():
    head, optimizer = make()
    with pytest.raises(TypeError, match="optimizer is a SGD; it should be a RowSGD or RowAdamW"):
        head.captured_step(torch.optim.SGD(head.parameters(), 0.1))
    other = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="optimizer has 3 parameters; it should have the head's"):
        head.captured_step(RowSGD([*head.parameters(), *other.parameters()], 0.1))
    for message, options in (
        ("selector is AllClasses", dict(selector=AllClasses())),
        ("selector is NearestClasses", dict(selector=NearestClasses(0.1, tail=0.1))),
        ("selector is NearestClasses", dict(selector=NearestClasses(0.1, mass_target=0.9))),
        ("ignore_index is -100", dict(selector=RandomClasses(0.1), ignore_index=-100)),
        ("class_weights is", dict(selector=RandomClasses(0.1), class_weights=torch.ones(N))),
        ("sparse is False", dict(selector=RandomClasses(0.1), sparse=False)),
        ("bias is", dict(selector=RandomClasses(0.1), objective=CrossEntropy(), bias=True)),
    ):
        bad = SoftmaxHead(N, D, **{"objective": ArcFace()} | options)
        with pytest.raises(ValueError, match=message):
            bad.captured_step(RowSGD(bad.parameters(), 0.1))
    step = head.eval().captured_step(optimizer)
    with pytest.raises(ValueError, match="head is in eval mode"):
        step(*batches(1)[0])


@pytest.mark.parametrize("groups, optimizer", [(1, "sgd"), (4, "plain sgd")])
def test_fixed_shapes_choose_as_shapes_that_depend_on_values(groups, optimizer):
    """Where nothing is drawn and slices of rows are of one size, a step in fixed shapes is the plain one. (Of a union
    of groups more rows are up to date, which a search sees where rows drift by momentum.)"""
    losses = []
    for fixed in (False, True):
        # All places are taken by what is near, and mean rows, which few classes have looked at more often, by nobody.
        selector = NearestClasses(0.1, groups=groups, flat=0, refresh_steps=8, candidates=N, far=False)
        head = SoftmaxHead(N, D, selector, CosFace(16.0), seed=3)
        trained = OPTIMIZERS[optimizer](head.parameters())
        with backend.as_on_a_gpu() if fixed else contextlib.nullcontext():
            losses.append(torch.stack([ordinary(head, trained, *batch)[0] for batch in batches(8)]))
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("selector", [*SELECTORS, "by default"])
def test_a_graph_on_a_gpu(selector, dtype):
    """A real one: its steps are the ordinary ones, up to the order in which torch adds on a GPU."""
    losses, replayed = [], 0
    for captures in (False, True):
        chosen = NearestClasses(0.1, groups=4) if selector == "by default" else SELECTORS[selector]()
        head = SoftmaxHead(N, D, chosen, CosFace(16.0), seed=3, device="cuda", dtype=dtype)
        optimizer = OPTIMIZERS["sgd"](head.parameters())
        step = head.captured_step(optimizer) if captures else None
        found = []
        for x, labels in batches(16):
            optimizer.param_groups[0]["lr"] *= 0.95
            batch = x.cuda(), labels.cuda()
            found.append((captured(step, *batch) if captures else ordinary(head, optimizer, *batch))[0])
        losses.append(torch.stack(found))
        replayed = step.replayed if captures else replayed
    assert replayed >= 9
    torch.testing.assert_close(*losses, rtol=1e-3 if dtype == torch.float32 else 0.05, atol=1e-3)
