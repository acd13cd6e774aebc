"""Which library an op's call reaches: C++, CUDA (as far as that shows without a GPU) or the emulator."""

import copy
import ctypes
import logging

import pytest
import torch

from annsoftmax_ref import NearestClasses, RowAdamW, RowSGD, SoftmaxHead, backend, make_objective
from kernels_inline import build, dispatch, registry
from kernels_inline.cuda import library, nvcc, nvrtc, sources
from kernels_inline.encode_ops import assign, encode
from kernels_inline.groups_ops import similar_order
from kernels_inline.head_ops import (
    gather_normalise,
    merge_normalise_backward,
    normalise_backward,
    union_rows,
    union_rows_torch,
)
from kernels_inline.lists_ops import far_offsets, kmeans_sums
from kernels_inline.logit_sums_ops import logit_slopes_, logit_sums
from kernels_inline.rerank_ops import rerank
from kernels_inline.select_ops import union_active
from kernels_inline.softmax_ops import margin_softmax_
from kernels_inline.weighted_ops import priority_active, tail_active

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


def called(monkeypatch):
    """The names of the launchers that reach the emulator from now on."""
    names = []
    forward = library.Emulated.call

    def call(self, name, *arguments):
        names.append(name)
        return forward(self, name, *arguments)

    monkeypatch.setattr(library.Emulated, "call", call)
    return names


def test_ops_reach_the_emulator_and_return_what_cpp_returns(monkeypatch, generator):
    names = called(monkeypatch)
    rows, ids = torch.randn(50, 70, generator=generator), torch.arange(0, 50, 3)
    lists = torch.randint(6, (50,), generator=generator)
    candidates = torch.randint(-1, 50, (4, 8), generator=generator)
    cosine = torch.randn(4, 50, generator=generator).clamp(-0.9, 0.9)
    queries = torch.nn.functional.normalize(rows[:4], dim=1)
    fill = torch.randperm(50, generator=generator).repeat(2, 1)

    def results():
        unit, norms = gather_normalise(rows, ids, False)
        changed = cosine.clone()
        losses = margin_softmax_(changed, torch.arange(4), 1, 10.0, 0.2, 0.25)
        sums, of_sums = logit_sums(cosine, torch.arange(4), 10.0), cosine.clone()
        logit_slopes_(of_sums, torch.arange(4), 10.0, sums[1], -norms[:4], norms[:4])
        merged = merge_normalise_backward(unit, rows, *union_rows_torch(ids.unsqueeze(0), 50), norms)
        slope = normalise_backward(unit.bfloat16(), rows, ids, norms)
        chosen = union_active(candidates, torch.arange(4), torch.arange(4).view(2, 2), fill, 20, 50)
        found = rerank(queries, rows, candidates[:, :4].contiguous())
        return [
            *(unit, norms, changed, losses, *sums, of_sums, merged, slope, *chosen, *found),
            *(encode(rows, ids), assign(rows, rows[:6].clone()), *kmeans_sums(rows, lists, 6)),
        ]

    expected = results()
    assert names == []
    with backend.use("emulator"):
        ours = results()
    assert {"gather_normalise", "margin_softmax", "normalise_backward", "union_active"} <= set(names)
    assert {"merge_normalise_backward", "rerank", "sign_codes", "row_argmax", "list_sums"} <= set(names)
    assert {"logit_sums", "logit_slopes"} <= set(names)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# The large eps: otherwise a gradient that is nothing but rounding moves a number as far as any other.
@pytest.mark.parametrize("optimizer, options", [(RowSGD, dict(momentum=0.9)), (RowAdamW, dict(eps=1e-2))])
def test_a_head_trains_on_the_emulator_as_on_cpp(monkeypatch, optimizer, options):
    names = called(monkeypatch)
    head = SoftmaxHead(90, 40, NearestClasses(0.4, groups=2), make_objective("cosface", 12.0, 0.2))
    with backend.use("torch"):
        head.selector.prepare(head.weight, head.generator)
    results = {}
    for name in ("cpp", "emulator"):
        twin = copy.deepcopy(head)
        steps = optimizer(twin.parameters(), lr=0.01, weight_decay=0.01, **options)
        with backend.use(name):
            for seed in range(2):
                draw = torch.Generator().manual_seed(seed)
                x, labels = torch.randn(7, 40, generator=draw), torch.randint(90, (7,), generator=draw)
                twin(x, labels).backward()
                steps.step()
                steps.zero_grad()
            steps.flush()
        results[name] = twin.weight.detach()
    kind = "sgd" if optimizer is RowSGD else "adamw"
    assert {f"row_{kind}", f"row_{kind}_catch_up", "ivf_scan", "union_active", "margin_softmax"} <= set(names)
    torch.testing.assert_close(results["emulator"], results["cpp"], rtol=1e-4, atol=1e-5)


def test_too_many_labels_are_an_error_on_every_device():
    everybody = torch.arange(5).unsqueeze(0)
    arguments = torch.full((5, 1), -1), torch.arange(5), everybody, torch.arange(9).unsqueeze(0), 3, 9
    for name in ("cpp", "emulator"):
        with (
            backend.use(name),
            pytest.raises(ValueError, match="labels holds 5 distinct classes, more than the 3 active"),
        ):
            union_active(*arguments)


def test_an_op_runs_where_all_launchers_that_it_declares_are_there(monkeypatch):
    """``encode`` calls gather_unit_rows too, if there is a rotation."""
    monkeypatch.setattr(build.CppLibrary, "has", lambda self, name: name != "gather_unit_rows")
    dispatch._can_be_had.cache_clear()
    try:
        for name in ("auto", "cpp"):
            with backend.use(name):
                assert not backend.runs(encode, torch.zeros(1))
                assert backend.runs(rerank, torch.zeros(1))
    finally:
        dispatch._can_be_had.cache_clear()


def test_a_kernel_that_there_is_not_is_one_sentence():
    assert library.Emulated().has("ivf_scan") and not library.Emulated().has("nothing")
    with backend.use("emulator"):
        assert backend.runs(merge_normalise_backward) and not backend.runs(union_rows)  # which has no CUDA kernel
    with backend.use("emulator"), pytest.raises(build.BuildError, match="no .cu file has a launcher nothing"):
        dispatch.call("nothing", torch.zeros(1))
    with pytest.raises(build.BuildError, match="there is no kernel flat_map for this device"):
        dispatch.call("flat_map", torch.zeros(1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is about machines without a GPU")
def test_cuda_without_a_gpu_is_one_sentence():
    with backend.use("cuda"), pytest.raises(build.BuildError, match="sees no NVIDIA GPU here"):
        backend.runs(rerank, torch.zeros(1))
    with pytest.raises(build.BuildError, match="there are no kernels for meta"):
        dispatch.call("rerank", torch.zeros(1, device="meta"))


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="the tensors for rerank are on cpu, meta; one device is needed"):
        dispatch.call("rerank", torch.zeros(1), torch.zeros(1, device="meta"))


def test_nvcc_comes_first_then_nvrtc_then_the_reasons_of_both(monkeypatch, caplog):
    def fails(reason):
        def make(capability):
            raise build.BuildError(reason)

        return make

    made = build.load()
    monkeypatch.setattr(nvcc, "build_library", lambda capability: made)
    assert library._find_or_build((9, 0)).how == "nvcc"
    monkeypatch.setattr(nvcc, "build_library", fails("there is no nvcc"))
    monkeypatch.setattr(nvrtc, "build_library", lambda capability: made)
    with caplog.at_level(logging.WARNING):
        assert library._find_or_build((9, 0)).how == "NVRTC"
    assert "compiled by NVRTC, because of nvcc: there is no nvcc" in caplog.text
    monkeypatch.setattr(nvrtc, "build_library", fails("there is no NVRTC"))
    outcome = library._find_or_build((9, 0))
    assert str(outcome) == ("the CUDA kernels cannot be built: nvcc: there is no nvcc; NVRTC: there is no NVRTC")


def test_load_inline_is_asked_for_the_present_device_only(monkeypatch, tmp_path):
    """Up to the call: a CPU build of torch refuses to compile CUDA."""
    from torch.utils import cpp_extension

    given = {}

    def load_inline(name, cpp_sources, cuda_sources, **options):
        given.update(options, name=name, text=cuda_sources)
        path = tmp_path / f"{name}.so"
        (tmp_path / "cuda.cu").write_text(cuda_sources)
        path.write_bytes(b"")
        return str(path)

    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True), (home / "include").mkdir()
    (home / "bin" / "nvcc").touch(), (home / "include" / "cuda_runtime_api.h").touch()
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setenv("ANNSOFTMAX_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(cpp_extension, "load_inline", load_inline)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: path)
    path = nvcc.build_library((9, 0))
    assert path.endswith(".so") and "annsoftmax_cuda_" in path
    assert "-gencode=arch=compute_90,code=sm_90" in given["extra_cuda_cflags"]
    assert not any("compute_75" in flag for flag in given["extra_cuda_cflags"])
    assert given["functions"] is None and given["no_implicit_headers"] and not given["is_python_module"]
    assert "#include <torch" not in given["text"] and '#include "' not in given["text"]
    assert all(f'#line 1 "{file.name}"' in given["text"] for file in sources.files())


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_run_and_agree_with_torch():
    runs = {op for op in dispatch.LAUNCHERS if backend.runs(op, torch.zeros(1, device="cuda"))}
    by_torch = {union_rows, similar_order, far_offsets, tail_active, priority_active}
    assert set(dispatch.LAUNCHERS) - runs == by_torch
    for kernel in registry.KERNELS:
        expected = kernel.expected_outputs(kernel.inputs(kernel.small))
        arguments = [a.cuda() if isinstance(a, torch.Tensor) else a for a in kernel.inputs(kernel.small)]
        assert dispatch.call(kernel.name, *arguments) == 0
        assert kernel.wrong(arguments, expected) is None


@pytest.mark.gpu
def test_on_a_gpu_a_head_trains_as_on_the_cpu():
    start = SoftmaxHead(900, 64, NearestClasses(0.2, groups=2), make_objective("cosface", 12.0, 0.2))
    losses = {}
    for place, name in (("cpu", "torch"), ("cuda", "cuda")):
        head = copy.deepcopy(start).to(place)
        optimizer = RowSGD(head.parameters(), lr=0.1, momentum=0.9)
        losses[place] = []
        with backend.use(name):
            for seed in range(5):
                draw = torch.Generator().manual_seed(seed)
                x, labels = torch.randn(16, 64, generator=draw), torch.randint(900, (16,), generator=draw)
                loss = head(x.to(place), labels.to(place))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses[place].append(loss.item())
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.05)
