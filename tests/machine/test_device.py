"""device.py: which device, in what precision."""

import pytest
import torch
from torch import nn

from annsoftmax_ref.machine import device, find_device


def test_auto_is_the_gpu_if_there_is_one():
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "mps", "cudax", "cpu:x"])
def test_a_name_that_is_no_device_is_told(name):
    with pytest.raises(ValueError, match=f"device is '{name}'; it should be auto or cpu, or cuda where torch can use"):
        find_device(name)


def test_cuda_is_told_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda:0'; it should be auto or cpu"):
        find_device("cuda:0")
    assert find_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("fast", [True, False])
def test_the_backbone_runs_in_bfloat16_only_where_that_is_fast(monkeypatch, fast):
    monkeypatch.setattr(device, "bfloat16_is_fast", lambda place: fast)
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    place = device.device_of(layer)
    with device.autocast(place):
        assert layer(x).dtype == (torch.bfloat16 if fast else torch.float32)
    device.wait_for(place)
    assert layer(x).dtype == torch.float32


def test_a_precision_is_chosen_for_a_block():
    def kind():
        with device.autocast(torch.device("cpu")):
            return nn.Linear(2, 2)(torch.ones(1, 2)).dtype

    before = kind()
    with device.in_precision("bf16"):
        assert kind() == torch.bfloat16
        with device.in_precision("fp32"):
            assert kind() == torch.float32
    assert kind() == before
    with pytest.raises(ValueError, match="precision is 'fp16'; it should be one of auto, bf16, fp32"):
        with device.in_precision("fp16"):
            pass
