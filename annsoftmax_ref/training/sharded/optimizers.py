"""The state of an optimizer as tensors by names of its parameters, and numbers: no order of parameters is relied on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

NUMBERS = (bool, int, float, str, type(None))
OWN = ("cursor",)  # of a row optimizer's sweep over the rows of its process


def optimizer_numbers(optimizer: Optimizer, names: dict[Tensor, str]) -> dict:
    """kind, parameters: the names of each group's; groups: their numbers, rates among them."""
    return {
        "kind": type(optimizer).__name__,
        "parameters": [[_name_of(p, names) for p in group["params"]] for group in optimizer.param_groups],
        "groups": [
            {key: _plain(value) for key, value in group.items() if key != "params" and _is_number(value)}
            for group in optimizer.param_groups
        ],
    }


def optimizer_tensors(
    optimizer: Optimizer, names: dict[Tensor, str], rows: set[Tensor]
) -> Iterator[tuple[str, str, Tensor]]:
    """(rows, same or own; PARAMETER.ENTRY; tensor) of all its state.

    Whole numbers become int64 tensors of no dimension. rows: the parameters that have a row a class.
    """
    saved = optimizer.state_dict()
    for parameter, key in _keys(optimizer, saved):
        for entry, value in saved["state"].get(key, {}).items():
            name = f"{_name_of(parameter, names)}.{entry}"
            if isinstance(value, Tensor):
                kind = "rows" if parameter in rows and value.shape[:1] == parameter.shape[:1] else "same"
                yield kind, name, value
            elif isinstance(value, int):
                yield "own" if entry in OWN else "same", name, torch.tensor(value)
            elif value is not None:
                raise ValueError(f"an optimizer's state {name} is {value!r}; it should be a tensor or a whole number")


def put_optimizer(optimizer: Optimizer, names: dict[Tensor, str], numbers: dict, read: dict[str, Tensor]) -> None:
    """numbers, read: of ``optimizer_numbers`` and ``optimizer_tensors``, the latter by PARAMETER.ENTRY."""
    saved, state = optimizer.state_dict(), {}
    for parameter, key in _keys(optimizer, saved):
        if parameter.numel() == 0:  # of a process without classes: it has taken no step
            continue
        prefix = f"{_name_of(parameter, names)}."
        entries = {
            name.removeprefix(prefix): _number_or_tensor(value)
            for name, value in read.items()
            if name.startswith(prefix) and "." not in name.removeprefix(prefix)
        }
        if entries.keys() - set(OWN):
            state[key] = entries
    groups = [
        live | {key: _like(live.get(key), value) for key, value in group.items()}
        for live, group in zip(saved["param_groups"], numbers["groups"], strict=True)
    ]
    optimizer.load_state_dict(saved | {"state": state, "param_groups": groups})


def _keys(optimizer: Optimizer, saved: dict) -> Iterator[tuple[Tensor, int]]:
    for group, saved_group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        yield from zip(group["params"], saved_group["params"], strict=True)


def _name_of(parameter: Tensor, names: dict[Tensor, str]) -> str:
    if parameter not in names:
        raise ValueError(
            f"an optimizer has a parameter of shape {tuple(parameter.shape)} that is neither the model's nor the "
            "head's; a checkpoint should hold all that is trained"
        )
    return names[parameter]


def _is_number(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_number, value))
    return isinstance(value, NUMBERS) or (isinstance(value, Tensor) and value.dim() == 0)


def _plain(value):
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, Tensor) else value


def _like(live, value):
    """A value that JSON gave back, as the kind that the optimizer has."""
    if isinstance(live, Tensor):
        return torch.full_like(live, value)
    return tuple(value) if isinstance(value, list) else value


def _number_or_tensor(value: Tensor):
    return value.item() if value.dim() == 0 and value.dtype == torch.int64 else value
