"""libraries.py: the losses of other packages, by stand-ins that have their interfaces; none of them runs on a CPU."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F

from annsoftmax_ref.bench import libraries

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Liger:
    """As liger_kernel.transformers.LigerFusedLinearCrossEntropyLoss."""

    def __call__(self, lin_weight, _input, target, bias=None):
        return F.cross_entropy(_input @ lin_weight.T, target)


def cut(e, c, targets, bias=None, ignore_index=-100, softcap=None, reduction="mean", shift=False):
    """As cut_cross_entropy.linear_cross_entropy."""
    assert e.dtype == c.dtype == torch.bfloat16
    return F.cross_entropy((e @ c.T).float(), targets, reduction=reduction)


@pytest.fixture
def installed(monkeypatch):
    modules = {
        "liger_kernel": types.ModuleType("liger_kernel"),
        "liger_kernel.transformers": types.SimpleNamespace(LigerFusedLinearCrossEntropyLoss=Liger),
        "cut_cross_entropy": types.SimpleNamespace(linear_cross_entropy=cut),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(libraries, "find_spec", lambda name: object())


def test_all_libraries_give_the_mean_cross_entropy(installed):
    queries, rows, labels = torch.randn(5, 8), torch.randn(30, 8), torch.arange(5)
    expected = F.cross_entropy(queries @ rows.T, labels)
    for library in libraries.LIBRARIES.values():
        if library.why_not(GPU) is None:
            torch.testing.assert_close(library.make()(queries, rows, labels).float(), expected, rtol=0.03, atol=0.03)


def test_what_is_missing_is_said(installed, monkeypatch):
    with pytest.raises(ValueError, match="head is 'liger', which needs a GPU; leave it out of --heads"):
        libraries.library_loss("liger", CPU)
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    for name, package in (("liger", "liger_kernel"), ("cut_cross_entropy", "cut_cross_entropy")):
        with pytest.raises(ValueError, match=f"head is '{name}', which needs the package {package}"):
            libraries.library_loss(name, GPU)
