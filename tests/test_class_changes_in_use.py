"""class_changes.py: ids and labels, saved heads, what is refused, and what a change that fails leaves behind."""

import copy
import io
import pickle

import pytest
import torch
from small_heads import assert_same_state, losses_of
from test_class_changes import DENSE, ROWS, B, D, N, batches, directions, few_objects, made, states  # noqa: F401

from annsoftmax_ref import ANNSoftmax, CosFace, NearestClasses, RandomClasses, RowSGD, SoftmaxHead
from annsoftmax_ref.captured import Setting
from annsoftmax_ref.row_parameter import RowState


def trained(*arguments, **options):
    head, optimizer = made(*arguments, **options)
    losses_of(head, optimizer, batches(3))
    return head, optimizer


def test_labels_are_rows_and_ids_are_for_good():
    head, optimizer = made(ignore_index=-1)
    assert head.class_ids is None and "class_ids" not in head.state_dict()
    assert head.rows_of([0, N - 1]).tolist() == head.ids_of([0, N - 1]).tolist() == [0, N - 1]
    places = head.remove_classes([5, N - 1])
    assert places[[4, 5, 6, N - 1]].tolist() == [4, -1, 5, -1]
    assert head.add_classes(1).tolist() == [N]  # not that of the class that was the last
    assert head.ids_of(torch.tensor([[4, 5], [N - 3, N - 2]])).tolist() == [[4, 6], [N - 2, N]]
    assert head.rows_of([4, 5, 6, N - 1, N]).tolist() == [4, -1, 5, -1, N - 2]
    x, labels = torch.randn(4, D, dtype=torch.float64), torch.tensor([4, 5, N, N - 1])
    with_removed = head.eval()(x, head.rows_of(labels))
    assert with_removed.item() == head(x[[0, 2]], torch.tensor([4, N - 2])).item()
    nearest = head.topk(head.prototypes()[[5, N - 2]], 1)[1]
    assert head.ids_of(nearest).tolist() == [[6], [N]]


def test_a_class_from_samples_is_found_at_once_and_trained():
    head, optimizer = trained("residual codes", lambda p: RowSGD(p, lr=0.01), bias=False, weighted=False)
    far = -head.prototypes().mean(dim=0)
    (new,) = head.add_classes(1, 1e-30 * far[None])  # lengths do not matter
    x = (far + 0.01 * torch.randn(B, D, dtype=torch.float64)).repeat(2, 1)
    assert (head.topk(x, 1)[1] == new).all()
    labels = torch.full((2 * B,), int(new))
    before = head.eval()(x, labels).item()  # over all classes: no draw has a part in it
    losses_of(head.train(), optimizer, [(x, labels)] * 10)
    assert head.eval()(x, labels).item() < before


def test_an_index_made_for_prediction_is_to_be_made_anew():
    """Its rows are those of the classes before."""
    head, _ = trained("random", bias=False)
    head.build_index(nlist=4)
    x = head.prototypes()[:3]
    assert head.topk(x, 1, approximate=True, nprobe=4)[1].flatten().tolist() == [0, 1, 2]
    head.remove_classes([0])
    with pytest.raises(ValueError, match="call head.build_index"):
        head.topk(x, 1, approximate=True)
    head.build_index(nlist=4)
    assert head.topk(x[1:], 1, approximate=True, nprobe=4)[1].flatten().tolist() == [0, 1]


def saved(head):
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_ids_are_loaded_with_the_weight_they_belong_to():
    head, _ = trained("ann")
    before = saved(head)
    head.remove_classes([2, 3])
    after = saved(head)
    other, _ = made("ann", num_classes=N - 2)
    other.load_state_dict({name: t for name, t in after.items() if "selector" in name}, strict=False)
    assert other.class_ids is None
    other.load_state_dict(after)
    assert other.rows_of([1, 2, 3, 4]).tolist() == [1, -1, -1, 2]
    assert_same_state(saved(other), after)
    for copied in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert copied.add_classes(1).tolist() == [N]
    whole, _ = made("ann")
    whole.remove_classes([9])
    whole.add_classes(1)
    whole.load_state_dict(before)  # as all heads' were before there were ids
    assert whole.class_ids is None and whole.rows_of([9]).tolist() == [9]
    assert_same_state(saved(whole), before)
    with pytest.raises(RuntimeError, match="size mismatch"):
        whole.load_state_dict(after)


def test_lists_that_were_asked_for_are_not_those_of_a_file():
    head, _ = made("ann")
    losses_of(head, RowSGD(head.parameters(), lr=0.1), batches(1))
    asked = SoftmaxHead(N, D, NearestClasses(0.5, nlist=5), bias=True, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="size mismatch for selector.index.centroids"):
        asked.load_state_dict({name: t for name, t in head.state_dict().items() if name != "class_weights"})


def test_a_gradient_not_used_yet_is_dropped_and_an_earlier_loss_refused():
    for selector, options in (("random", {}), ("all", {}), ("random", {"sparse": False})):
        head, optimizer = trained(selector, **options)
        ((x, labels),) = batches(1)
        kept = head(x, labels)
        head(x, labels).backward()
        head.remove_classes([0])
        head.add_classes(1)  # as many as before: no shape tells
        assert head.weight.grad is None and head.bias.grad is None
        before = states(head, optimizer)
        optimizer.step()
        for ours, theirs in zip(states(head, optimizer), before, strict=True):
            assert_same_state(ours, theirs)
        with pytest.raises(ValueError, match="^loss is of classes as they were before"):
            kept.backward()
        assert head.weight.grad is None
        losses_of(head, optimizer, batches(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_weights_in_few_bits_change_like_others(dtype):
    head = ANNSoftmax(N, 8, sample_rate=0.5, dtype=dtype, seed=1)
    optimizer = ROWS["RowSGD"](head.parameters())
    losses_of(head, optimizer, ((x.float(), y) for x, y in batches(3)))
    bits = head.weight.detach().view(torch.uint8).clone()
    with torch.inference_mode():
        head.remove_classes(head.add_classes(4))
    assert torch.equal(head.weight.detach().view(torch.uint8), bits) and head.weight.dtype == dtype
    losses_of(head, optimizer, ((x.float(), y) for x, y in batches(3)))


def test_a_recorded_step_is_of_the_classes_that_there_were():
    head = ANNSoftmax(N, D, CosFace(), sample_rate=0.5)
    optimizer = RowSGD(head.parameters(), lr=0.1)
    step, x = head.captured_step(optimizer), torch.randn(B, D, requires_grad=True)
    step(x, torch.arange(B)).backward()
    before = Setting.of(x, head, optimizer)
    head.remove_classes(head.add_classes(3))
    assert Setting.of(x, head, optimizer)._replace(places=()) != before._replace(places=())
    step(x, torch.arange(B)).backward()


def test_what_others_wrote_before_a_change_is_still_noticed():
    head, optimizer = trained("ann")
    with torch.no_grad():
        head.weight.copy_(directions(N))
    head.add_classes(2, directions(2, seed=6))
    head.sync()
    assert head.selector.index.stale_bits(head.weight) == 0


REFUSED = {
    "none": (lambda h: h.add_classes(0), ValueError, "n is 0; it should be at least 1"),
    "no number": (lambda h: h.add_classes(2.0), TypeError, "n is 2.0; it should be a whole number"),
    "shape": (lambda h: h.add_classes(2, directions(3)), ValueError, r"directions has shape \[3, 8\]; .* \[2, 8\]"),
    "kind": (lambda h: h.add_classes(1, torch.ones(1, D).long()), TypeError, "directions is of type torch.int64"),
    "zeros": (
        lambda h: h.add_classes(1, torch.zeros(1, D)),
        ValueError,
        r"directions has a row \(row 0\) that is zero",
    ),
    "NaN": (
        lambda h: h.add_classes(2, directions(2) / torch.tensor([[1], [0]])),
        ValueError,
        "row 1. that is zero, NaN",
    ),
    "weights": (lambda h: h.add_classes(2, class_weights=torch.ones(3)), ValueError, r"class_weights has shape \[3\]"),
    "id": (lambda h: h.remove_classes([3, N]), ValueError, f"ids holds {N}; it should hold numbers from 0 to {N - 1}"),
    "negative": (lambda h: h.remove_classes([-1]), ValueError, "ids holds -1"),
    "twice": (lambda h: h.remove_classes([3, 4, 3]), ValueError, "ids holds a class more than once"),
    "all": (lambda h: h.remove_classes(range(N)), ValueError, f"ids holds all {N} classes"),
    "no ids": (lambda h: h.remove_classes([]), ValueError, r"ids has shape \[0\]; it should be \[n\], n >= 1"),
    "no whole ids": (lambda h: h.remove_classes(torch.ones(2)), TypeError, "ids is of type torch.float32"),
    "lists": (lambda h: h.remove_classes(range(N - 3)), ValueError, "leaves 3 classes, fewer than the 4 lists"),
    "row": (lambda h: h.ids_of([N]), ValueError, f"classes holds {N}"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_a_sentence_with_nothing_changed(case):
    call, kind, sentence = REFUSED[case]
    head, optimizer = trained("ann")
    before = states(head, optimizer)
    with pytest.raises(kind, match=sentence) as refused:
        call(head)
    assert "\n" not in str(refused.value)
    check_unchanged(head, optimizer, before)


def check_unchanged(head, optimizer, before):
    assert head.num_classes == head.selector.num_classes == N
    for ours, theirs in zip(states(head, optimizer), before, strict=True):
        assert_same_state(ours, theirs)
    losses_of(head, optimizer, batches(2))


def test_other_refusals():
    head, optimizer = trained(weighted=False)
    with pytest.raises(ValueError, match="class_weights is given, and the head has none"):
        head.add_classes(1, class_weights=torch.ones(1))
    head.remove_classes([7])
    with pytest.raises(ValueError, match="ids holds 7, which is removed already"):
        head.remove_classes([6, 7])
    adafactor, lbfgs = torch.optim.Adafactor, torch.optim.LBFGS
    for make, sentence in ((adafactor, r"Adafactor keeps row_var of shape"), (lbfgs, "LBFGS keeps")):
        head, optimizer = made("all", make)
        for x, labels in batches(2):
            optimizer.step(lambda: backward(head, x, labels))  # noqa: B023
        with pytest.raises(ValueError, match=sentence):
            head.add_classes(1)
        assert head.num_classes == N and len(head.weight) == N


def backward(head, x, labels):
    loss = head(x, labels)
    loss.backward()
    return loss


@pytest.mark.parametrize("optimizer", [ROWS["RowAdamW"], DENSE["AdamW"]])
def test_an_error_on_the_way_leaves_all_as_it_was(optimizer, monkeypatch):
    head, own = trained("ann", optimizer, sparse=optimizer is ROWS["RowAdamW"])
    before = states(head, own)

    def fails(*_):
        raise MemoryError("no room for a copy")

    monkeypatch.setattr(RowState, "changing", fails)  # made last
    for change in (lambda: head.add_classes(3), lambda: head.remove_classes([1])):
        with pytest.raises(MemoryError):
            change()
        check_unchanged_but_for_steps(head, own, before)


def check_unchanged_but_for_steps(head, optimizer, before):
    assert len(head.weight) == len(head.bias) == len(head.class_weights) == head.num_classes == N
    for ours, theirs in zip(states(head, optimizer), before, strict=True):
        assert_same_state(ours, theirs)


def test_a_backbone_in_the_same_optimizer_is_left_alone():
    backbone, head = torch.nn.Linear(D, D), SoftmaxHead(N, D, RandomClasses(0.5))
    optimizer = torch.optim.Adagrad([*backbone.parameters(), *head.parameters()], lr=0.1)
    head(backbone(torch.randn(B, D)), torch.arange(B)).backward()
    optimizer.step()
    before = copy.deepcopy(backbone.state_dict()), copy.deepcopy(optimizer.state[backbone.weight])
    head.add_classes(5)
    assert_same_state(backbone.state_dict(), before[0])
    assert_same_state(optimizer.state[backbone.weight], before[1])
    assert optimizer.state[head.weight]["sum"].shape == head.weight.shape


@pytest.mark.gpu
@pytest.mark.parametrize("selector", ["all", "random", "ann", "ann by default"])
def test_on_a_gpu_it_is_the_same(selector):
    def on(device):
        return [(x.float().to(device), y.to(device)) for x, y in batches(4)]

    changed, plain = (made(selector, ROWS["RowAdamW"], dtype=torch.float32, device="cuda") for _ in range(2))
    for pair in (changed, plain):
        losses_of(*pair, on("cuda"))
    changed[0].remove_classes(changed[0].add_classes(9, directions(9)))
    for ours, theirs in zip(states(*changed), states(*plain), strict=True):
        assert_same_state(ours, theirs)
    changed[0].remove_classes(torch.tensor([3, 4], device="cuda"))
    assert changed[0].class_ids.is_cuda and torch.isfinite(changed[0](*on("cuda")[0][:1], torch.arange(B).cuda()))
