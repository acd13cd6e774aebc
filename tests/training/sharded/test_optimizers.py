"""Optimizers as tensors by names, and numbers."""

import json

import pytest
import torch
from torch import nn

from annsoftmax_ref import RowSGD
from annsoftmax_ref.training.sharded.optimizers import optimizer_numbers, optimizer_tensors, put_optimizer

MADE = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "adam with a tensor as rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), capturable=False, foreach=False),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "rows": lambda p: RowSGD(p, lr=0.1, momentum=0.9),
}


def new(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    return model, MADE[name](model.parameters()), {value: name for name, value in model.named_parameters()}


def step(model, optimizer, seed):
    optimizer.zero_grad()
    model(torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", MADE)
def test_it_goes_on_where_it_was(name):
    model, optimizer, names = new(name)
    for seed in range(3):
        step(model, optimizer, seed)
    optimizer.param_groups[0]["lr"] *= 0.5
    numbers = json.loads(json.dumps(optimizer_numbers(optimizer, names)))
    read = {entry: value.clone() for _, entry, value in optimizer_tensors(optimizer, names, set())}
    other, resumed, its_names = new(name)
    other.load_state_dict(model.state_dict())
    put_optimizer(resumed, its_names, numbers, read)
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert type(resumed.param_groups[0].get("betas", ())) is tuple
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, resumed, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_before_its_first_step_it_has_no_state():
    model, optimizer, names = new("adamw")
    assert list(optimizer_tensors(optimizer, names, set())) == []
    put_optimizer(optimizer, names, optimizer_numbers(optimizer, names), {})
    assert optimizer.state_dict()["state"] == {}


def test_rows_are_those_of_the_parameters_that_have_a_row_a_class():
    model, optimizer, names = new("adamw")
    step(model, optimizer, 0)
    kinds = {name: kind for kind, name, _ in optimizer_tensors(optimizer, names, {model[0].weight})}
    assert kinds["0.weight.exp_avg"] == "rows" and kinds["0.weight.step"] == kinds["1.weight.exp_avg"] == "same"


def test_a_state_that_no_checkpoint_can_hold_is_refused():
    model, optimizer, names = new("sgd")
    optimizer.state[model[0].weight]["note"] = "text"
    with pytest.raises(ValueError, match="state 0.weight.note is 'text'; it should be a tensor or a whole number"):
        list(optimizer_tensors(optimizer, names, set()))
