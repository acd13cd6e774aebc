"""Weights in and out: round trips keep the logits, others' files are looked at first, what is broken changes nothing."""

import importlib

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

N, D, B = 53, 8, 16
KINDS = [torch.float32, torch.bfloat16, torch.float64]


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, generator=generator), torch.randint(N, (B,), generator=generator)


def head_of(selector=None, seed=0, **options):
    return SoftmaxHead(N, D, selector or AllClasses(), seed=seed, **options)


def lagging(dtype=torch.float32):
    """A head of which an optimizer holds rows back, and a dense one's weight that it should have."""
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
    other = to_file(stale, way, tmp_path)
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
