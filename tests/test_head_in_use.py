"""head.py as people use it: gradients of gradients, checkpoints, odd inputs, pickles, inference mode."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from annsoftmax_ref import (
    AllClasses,
    ANNSoftmax,
    ArcFace,
    CosFace,
    CrossEntropy,
    DSoftmaxK,
    NearestClasses,
    RandomClasses,
    RowSGD,
    SoftmaxHead,
    backend,
    batch,
)
from annsoftmax_ref.machine import device

N, D = 200, 16
SELECTORS = {
    "all classes": AllClasses,
    "random classes": lambda: RandomClasses(0.2),
    "nearest classes": lambda: NearestClasses(0.2, groups=1, nlist=4),
    "groups": lambda: NearestClasses(0.2, groups=3, nlist=4),
}


def made(selector="nearest classes", objective=None, **options):
    return SoftmaxHead(N, D, SELECTORS[selector](), objective or CosFace(8, 0.1), **options)


def data(seed=0, b=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, D, generator=generator), torch.randint(N, (b,), generator=generator)


def close(a, b, tolerance=1e-5):
    return (a - b).norm() <= tolerance * b.norm()


def train(head, steps=3, seed=0):
    optimizer = RowSGD(head.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        head(*data(seed + step)).backward()
        optimizer.step()
        optimizer.zero_grad()


# ------------------------------------------------------------------------------------------------ custom gradients


@pytest.mark.parametrize("of", ["embeddings", "weight"])
@pytest.mark.parametrize(
    "objective", [CrossEntropy(8), CosFace(8, 0.1), ArcFace(8, 0.1)], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize("selector", SELECTORS)
def test_a_penalty_on_the_gradient_has_the_gradient_of_plain_torch(selector, objective, of):
    found = {}
    for name in ("auto", "torch"):
        head = made(selector, objective)
        x, labels = data()
        x.requires_grad_()
        with backend.use(name):
            loss = head(x, labels)
            (grad,) = torch.autograd.grad(loss, x if of == "embeddings" else head.weight, create_graph=True)
            values = grad.coalesce().values() if grad.is_sparse else grad
            (found[name],) = torch.autograd.grad(values.square().sum(), x)
    assert found["torch"].norm() > 1e-6 and close(found["auto"], found["torch"], 1e-4)


def test_a_step_between_two_backward_passes_leaves_the_second_gradient_right():
    x, labels = data()
    head = SoftmaxHead(N, D, RandomClasses(1.0), CosFace(8, 0.1))
    optimizer = RowSGD(head.parameters(), lr=0.5, momentum=0.9)
    first, second = head(x, labels), head(-x, labels)
    twin = copy.deepcopy(head)
    twin(-x, labels).backward()
    first.backward()
    optimizer.step()
    optimizer.zero_grad()
    second.backward()
    assert close(head.weight.grad.to_dense(), twin.weight.grad.to_dense())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("objective", [CosFace(8, 0.1), DSoftmaxK(share=0.2)], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("selector", SELECTORS)
def test_checkpointing_draws_the_same_classes_for_the_gradient(selector, objective, reentrant):
    if objective.needs_all_classes and selector != "all classes":
        pytest.skip("this objective is for all classes")
    gradients, states = [], []
    for again in (False, True):
        head = made(selector, objective)
        total = 0.0
        leaves = [data(seed)[0].requires_grad_() for seed in range(2)]
        labels = data()[1]  # of both batches, as of two views of the same samples
        for leaf in leaves:
            total = total + (checkpoint(head, leaf, labels, use_reentrant=reentrant) if again else head(leaf, labels))
        total.backward()
        gradients.append(torch.stack([leaf.grad for leaf in leaves]))
        states.append(head.generator.get_state())
    assert torch.equal(*gradients) and torch.equal(*states)


def test_only_the_last_batches_are_remembered():
    head = made()
    for seed in range(9):
        head(*data(seed))
    assert len(head._scored._last) == batch.REMEMBERED
    assert len(copy.deepcopy(head)._scored._last) == 0


# ------------------------------------------------------------------------------------------------------- odd inputs


@pytest.mark.parametrize("selector", SELECTORS)
def test_labels_that_are_a_column_of_a_table_train_and_evaluate(selector):
    head, (x, labels) = made(selector), data()
    strided = torch.stack([labels, labels], dim=1)[:, 0]
    assert not strided.is_contiguous()
    state = head.generator.get_state()
    for mode in (True, False):
        head.train(mode).generator.set_state(state)
        expected = head(x, labels)
        head.generator.set_state(state)
        torch.testing.assert_close(head(x, strided), expected)
    assert head.diagnose(x, strided) == head.diagnose(x, labels)


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_head_in_float64_takes_embeddings_in_float32_and_the_other_way_round(selector):
    x, labels = data()
    for head, given in ((made(selector).double(), x), (made(selector), x.double())):
        assert torch.isfinite(head(given, labels))
        assert torch.isfinite(head.eval()(given, labels))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("selector", ["all classes", "random classes", "nearest classes"])
def test_the_fused_loss_stays_in_use_where_autocast_makes_products_in_bfloat16(selector, half):
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        node = made(selector)(*data()).grad_fn
    assert node.name() == "_FusedLossBackward"


@pytest.mark.parametrize("selector", SELECTORS)
def test_embeddings_that_overflowed_in_float16_let_the_grad_scaler_skip_the_step(selector):
    head, backbone = made(selector), torch.nn.Linear(D, D)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = RowSGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)
    before = [p.detach().clone() for p in parameters]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    x, labels = data()
    scaler.scale(head((backbone(x) * 1e6).half(), labels)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 1.0 and all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    with pytest.raises(ValueError, match="embeddings holds NaN or infinite values"):
        head(x * torch.inf, labels)  # in float32 nothing overflows that should not
    with pytest.raises(ValueError, match="embeddings holds NaN or infinite values"):
        head.eval()((x * 1e6).half(), labels)


def test_integers_of_numpy_are_integers():
    head = ANNSoftmax(np.int64(N), np.int32(D), groups=np.int64(2))
    assert type(head.num_classes) is int and torch.isfinite(head(*data()))
    assert head.topk(data()[0], k=np.int64(3))[1].shape == (12, 3)


@pytest.mark.parametrize("wrong", [CosFace, "cosface", 0.5, torch.nn.Linear(2, 2)], ids=repr)
def test_an_objective_that_is_none_is_named(wrong):
    with pytest.raises(TypeError, match=r"objective is .*; it should be an instance of Objective, made by calling"):
        ANNSoftmax(9, 4, wrong)


@pytest.mark.parametrize("wrong", [NearestClasses, "ann", CosFace()], ids=repr)
def test_a_selector_that_is_none_is_named(wrong):
    with pytest.raises(TypeError, match=r"selector is .*; it should be an instance of Selector, made by calling"):
        SoftmaxHead(9, 4, wrong)


# ------------------------------------------------------------------------------------- saving, and what goes with it


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_head_can_be_saved_whole_in_the_middle_of_training(selector):
    head = made(selector)
    train(head)
    file = io.BytesIO()
    torch.save(head, file)
    file.seek(0)
    for twin in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin.weight, head.weight)
        assert twin(*data(9)) == copy.deepcopy(head)(*data(9))


def test_all_of_a_state_dict_are_tensors():
    head = made()
    train(head)
    state = {name: value.cpu().clone() for name, value in head.state_dict().items()}
    twin = made(seed=5)
    twin.load_state_dict(state)
    assert twin(*data(9)) == head(*data(9))


def test_a_state_dict_of_the_first_version_is_still_read():
    head = made()
    state = head.state_dict() | {"_extra_state": {"generator": head.generator.get_state()}}
    twin = made(seed=5)
    twin.load_state_dict(state)
    assert torch.equal(twin.generator.get_state(), head.generator.get_state())


def test_gradients_are_clipped_by_torch_where_they_are_dense():
    head = ANNSoftmax(N, D, sparse=False)
    head(*data()).backward()
    assert torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1) > 0.1
    assert torch.isclose(head.weight.grad.norm(), torch.tensor(0.1))


@pytest.mark.parametrize("selector", SELECTORS)
def test_what_is_done_in_inference_mode_does_not_spoil_training(selector):
    head = made(selector)
    train(head)
    head.load_state_dict(copy.deepcopy(head.state_dict()))
    x, labels = data()
    with torch.inference_mode():
        head(x, labels)
        head.diagnose(torch.randn(4, D), labels[:4].clone())
        head.topk(x), head.logits(x), head.prototypes(), head.state_dict(), head.sync()
    train(head)
    fresh = made(selector)
    with torch.inference_mode():
        fresh(x, labels)
    train(fresh)


def test_several_processes_without_a_group_are_told_of_once(monkeypatch):
    """What it is told by and asks is set here, so that nothing is left to what other tests did to loggers or DDP."""
    said = []
    monkeypatch.setattr(device.logger, "warning", lambda text, *values: said.append(text % values))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    head = made()
    for active, times in ((head, 0), (None, 1)):  # inside DDP its gradients will be averaged
        monkeypatch.setattr(torch.nn.parallel.DistributedDataParallel, "_active_ddp_module", active)
        device._warn_of_processes.cache_clear()
        for seed in range(3):
            head(*data(seed))
        assert len(said) == times, (said, device._warn_of_processes.cache_info())
    device._warn_of_processes.cache_clear()
    assert said[0].startswith("there are 2 processes, and each trains this head by itself")
