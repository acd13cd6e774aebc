"""Weights in and out: round trips keep the logits, and files that are broken change nothing."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import on_ranks
from torch import nn

from annsoftmax_ref import (
    AllClasses,
    CosFace,
    CrossEntropy,
    InsightFaceArcFace,
    NearestClasses,
    RandomClasses,
    RowSGD,
    SoftmaxHead,
    every_row,
    load_linear,
    load_numpy,
    load_partial_fc,
    load_safetensors,
    to_faiss,
    to_linear,
    to_numpy,
    to_safetensors,
)
from annsoftmax_ref.list_sizes import default_nlist, default_nprobe
from annsoftmax_ref.row_parameter import unwatched

N, D, B = 53, 8, 16
KINDS = [torch.float32, torch.bfloat16, torch.float64]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, generator=generator), torch.randint(N, (B,), generator=generator)


def head_of(selector=None, seed=0, **options):
    return SoftmaxHead(N, D, selector or AllClasses(), seed=seed, **options)


def lagging(dtype=torch.float32):
    """A head of which an optimizer holds rows back."""
    head = head_of(RandomClasses(0.3), dtype=dtype)
    optimizer = RowSGD(head.parameters(), lr=0.5, momentum=0.9)
    for step in range(4):
        head(*batch(step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head


@pytest.fixture(params=[1 << 24, 160], ids=["at once", "in parts"], autouse=True)
def part(request, monkeypatch):
    monkeypatch.setattr(every_row, "PART", request.param)


def to_file(head, way, tmp_path):
    """What ``way`` writes of head, read into a new one."""
    other = head_of(seed=1, dtype=head.weight.dtype, bias=head.bias is not None)
    if way == "linear":
        load_linear(other, to_linear(head))
    elif way == "numpy":
        to_numpy(head, tmp_path / "rows.npy")
        load_numpy(other, tmp_path / "rows.npy")
    else:
        pytest.importorskip("safetensors")
        to_safetensors(head, tmp_path / "head.safetensors")
        load_safetensors(other, tmp_path / "head.safetensors")
    return other


@pytest.mark.parametrize("way", ["linear", "numpy", "safetensors"])
def test_a_round_trip_of_a_lagging_head_keeps_the_logits(way, tmp_path):
    x, _ = batch(9)
    stale = lagging()
    with unwatched():
        before = stale.weight.detach().clone()
    other = to_file(stale, way, tmp_path)
    assert not torch.equal(before, stale.weight)
    torch.testing.assert_close(other.logits(x), lagging().logits(x), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", KINDS)
def test_a_linear_layer_gives_the_logits_with_scale_and_bias(dtype):
    head = head_of(objective=CrossEntropy(scale=30.0), bias=True, dtype=dtype)
    with torch.no_grad():
        head.bias.normal_()
    linear, x = to_linear(head), batch()[0]
    torch.testing.assert_close(linear(F.normalize(x.to(linear.weight.dtype))), head.logits(x.to(linear.weight.dtype)))
    other = head_of(objective=CrossEntropy(scale=30.0), bias=True, seed=1, dtype=dtype)
    load_linear(other, linear)
    assert torch.equal(other.bias, head.bias)


@pytest.mark.parametrize("dtype", KINDS)
def test_unit_rows_are_written_and_a_failed_write_leaves_the_old_file(dtype, tmp_path):
    head = lagging(dtype)
    to_numpy(head, tmp_path / "rows.npy")
    rows = np.load(tmp_path / "rows.npy")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, head.prototypes().numpy(), rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]
    with pytest.raises(ValueError, match="^path is .* cannot be written"):
        to_numpy(head, tmp_path)


def checkpoints(folder, weight, ranks):
    """As train_v2.py writes them, other entries with them."""
    sizes = [len(weight) // ranks + int(rank < len(weight) % ranks) for rank in range(ranks)]
    for rank, shard in enumerate(weight.split(sizes)):
        state = {"epoch": 1, "global_step": 7, "state_dict_softmax_fc": {"weight": shard.clone()}}
        torch.save(state, folder / f"checkpoint_gpu_{rank}.pt")


def theirs(x, labels, weight, objective):
    """PartialFC's loss at rate 1, in plain torch."""
    cosine = F.linear(F.normalize(x), F.normalize(weight)).clamp(-1, 1)
    rows = torch.arange(len(x))
    own = cosine[rows, labels]
    with torch.no_grad():
        changed = (own.acos() + objective.margin).cos() if "Arc" in type(objective).__name__ else own - objective.margin
    return F.cross_entropy(64 * cosine.index_put((rows, labels), own + (changed - own).detach()), labels)


@pytest.mark.parametrize("ranks", [1, 3, 11])
@pytest.mark.parametrize("objective", [CosFace(64.0, 0.4), InsightFaceArcFace(64.0, 0.5)])
def test_a_partial_fc_checkpoint_opens_and_the_next_steps_have_their_losses(objective, ranks, tmp_path):
    weight = nn.Parameter(torch.normal(0, 0.01, (N, D), generator=torch.Generator().manual_seed(5)))
    checkpoints(tmp_path, weight.detach(), ranks)
    head = head_of(objective=objective)
    load_partial_fc(head, tmp_path if ranks < 11 else reversed(sorted(tmp_path.iterdir())))
    assert torch.equal(head.weight, weight)
    ours, other = RowSGD(head.parameters(), lr=1e-5, momentum=0.9), torch.optim.SGD([weight], lr=1e-5, momentum=0.9)
    for step in range(3):
        x, labels = batch(step)
        loss, reference = head(x, labels), theirs(x, labels, weight, objective)
        assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
        for value, optimizer in ((loss, ours), (reference, other)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()


def test_each_process_of_a_split_head_takes_its_own_rows_and_all_refuse_what_one_refuses(tmp_path):
    weight = torch.randn(N, D)
    checkpoints(tmp_path, weight, 3)
    np.save(tmp_path / "bad.npy", np.vstack([weight[:-1].numpy(), np.zeros((1, D), np.float32)]))

    def of_rank(rank, group):
        head = head_of(process_group=group)
        load_partial_fc(head, tmp_path)
        with pytest.raises(ValueError, match="row 52|another process"):
            load_numpy(head, tmp_path / "bad.npy")
        return head.weight.detach()

    assert torch.equal(torch.cat(on_ranks(4, of_rank)), weight)


def test_a_split_head_takes_its_biases_and_gives_nothing_out():
    linear = nn.Linear(D, N)

    def of_rank(rank, group):
        head = head_of(process_group=group, bias=True)
        load_linear(head, linear)
        with pytest.raises(ValueError, match="^to_linear needs all classes in one process"):
            to_linear(head)
        return head.bias.detach()

    assert torch.equal(torch.cat(on_ranks(3, of_rank)), linear.bias)


def test_a_safetensors_file_comes_back_to_the_last_bit_and_a_broken_one_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    head = head_of(bias=True, dtype=torch.bfloat16)
    with torch.no_grad():
        head.bias.normal_()
    other = to_file(head, "safetensors", tmp_path)
    assert torch.equal(other.weight, head.weight) and torch.equal(other.bias, head.bias)
    with pytest.raises(ValueError, match="^path is .*, which is broken"):
        load_safetensors(other, written(tmp_path / "b.safetensors", b"{}"))
    assert torch.equal(other.weight, head.weight)


def test_a_head_in_8_bits_takes_rows_of_any_length_by_their_direction():
    rows = torch.randn(N, D)
    head = head_of(RandomClasses(0.3), dtype=torch.float8_e4m3fn)
    load_numpy(head, 1e-4 * rows.numpy())
    assert F.cosine_similarity(head.prototypes(), rows).min() > 0.99
    assert F.cosine_similarity(to_linear(head).weight, rows).min() > 0.99


def written(path, content):
    path.write_bytes(content)
    return path


def missing_rank(folder):
    checkpoints(folder, torch.ones(N, D), 3)
    (folder / "checkpoint_gpu_1.pt").unlink()
    return folder


def broken_rank(folder):
    checkpoints(folder, torch.ones(N, D), 3)
    written(folder / "checkpoint_gpu_1.pt", b"PK")
    return folder


def unlike_ranks(folder):
    checkpoints(folder, torch.ones(N, D), 3)
    torch.save({"state_dict_softmax_fc": {"weight": torch.ones(3, D)}}, folder / "checkpoint_gpu_0.pt")
    return folder


@pytest.mark.parametrize(
    "load, make, sentence",
    [
        (load_numpy, lambda f: f / "none.npy", "array is .*, which is not a file that is there"),
        (load_numpy, lambda f: written(f / "a.npy", b"\x93NUMPY"), "array is .*, which is broken"),
        (load_numpy, lambda f: np.ones((N, D + 1)), r"array has shape \[53, 9\]; it should be \[53, 8\]"),
        (load_numpy, lambda f: np.ones((N, D), int), "array is of type int64"),
        (load_numpy, lambda f: np.diag(np.ones(N))[:, :D], "array has a row .row 8. that is zero"),
        (load_numpy, lambda f: torch.ones(N, D), "array is tensor"),
        (load_linear, lambda f: nn.Linear(D, N), "linear.weight comes with a bias"),
        (load_linear, lambda f: nn.Linear(N, D, bias=False), "linear.weight has shape"),
        (load_partial_fc, lambda f: f, r"files are \[\]"),
        (load_partial_fc, missing_rank, "files are .*each rank once"),
        (load_partial_fc, broken_rank, "files is .*gpu_1.pt, which is broken"),
        (load_partial_fc, unlike_ranks, "files have weights of shapes"),
    ],
)
def test_what_is_broken_or_of_another_shape_is_refused_and_nothing_changes(load, make, sentence, tmp_path):
    head, given = head_of(), make(tmp_path)
    before = head.weight.detach().clone()
    with pytest.raises((ValueError, TypeError), match=f"^{sentence}"):
        load(head, given)
    assert torch.equal(head.weight, before)


def test_what_is_loaded_is_found_by_the_index():
    head = head_of(NearestClasses(0.3, groups=1), seed=0)
    optimizer, (x, labels) = RowSGD(head.parameters(), lr=0.1), batch()
    head(x, labels).backward()
    optimizer.step()
    rows = torch.randn(N, D, dtype=torch.float64).numpy()
    load_numpy(head, rows)
    fresh = head_of(NearestClasses(0.3, groups=1), seed=0)
    load_numpy(fresh, rows)
    fresh(x, labels)  # which makes its index
    assert torch.equal(head.weight, fresh.weight)
    head.sync(), fresh.sync()
    assert torch.equal(head.selector.index.codes, fresh.selector.index.codes)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_faiss_index_finds_the_head_s_nearest(kind):
    pytest.importorskip("faiss")
    head = lagging(torch.bfloat16)
    index, x = to_faiss(head, kind, *([1] if kind == "ivf" else [])), batch()[0]
    cosines, classes = index.search(F.normalize(x).numpy(), 5)
    expected, nearest = head.topk(x, 5)
    np.testing.assert_allclose(cosines, expected.numpy(), atol=1e-6)
    assert (classes == nearest.numpy()).all()


def test_what_faiss_cannot_be_given_is_refused():
    for head, kind, nlist, sentence in (
        (head_of(), "hnsw", None, "kind is 'hnsw'"),
        (head_of(bias=True), "flat", None, "head has a bias"),
        (nn.Linear(D, N), "flat", None, "head is Linear"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"^{sentence}"):
            to_faiss(head, kind, nlist)


def test_lists_of_faiss_have_the_number_that_ours_have_where_nobody_says():
    pytest.importorskip("faiss")
    index = to_faiss(head_of(), "ivf")
    assert index.nlist == default_nlist(N) and index.nprobe == default_nprobe(index.nlist) and index.ntotal == N


@pytest.mark.parametrize("package, export", [("faiss", to_faiss), ("safetensors.torch", None)])
def test_a_package_that_is_not_there_is_named(package, export, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="^this needs the package (faiss-cpu|safetensors); install it with"):
        export(head_of()) if export else to_safetensors(head_of(), tmp_path / "a.safetensors")
