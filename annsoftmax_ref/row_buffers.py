"""What a row optimizer keeps beside a weight: in which numbers, on which memory, and how it is saved.

It is the lower half of ``annsoftmax_ref.row_optimizer``, which moves what is kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.row_change import Commit, RowChange
from kernels_inline.checks import gradient_kind


class RowOps(NamedTuple):
    """Ops of ``kernels_inline.rows_ops`` and ``row_gather_ops``, which take a row's buffers in the order of
    ``RowBuffers.buffers``."""

    step: Callable[..., Tensor]
    catch_up: Callable[..., None]
    gather: Callable[..., tuple[Tensor, Tensor]]


class RowBuffers(torch.optim.Optimizer):
    """An optimizer with buffers as long as a weight, or of a number a row.

    The state of a weight has, beside them, `step`; `last` [N], the step that each row is up to date with, or None: all
    are; the `table` by age; whether any row is `behind`; and the `cursor` of the sweep.
    """

    # The names of a row's buffers.
    buffers: tuple[str, ...] = ()
    ops: RowOps

    def state_dict(self):
        """Flushes, then gives the state; it holds no lag, and has the names of the dense torch optimizer."""
        self.flush()
        saved = super().state_dict()
        saved["state"] = {
            key: {name: value for name, value in state.items() if not _is_our_own(name, value)}
            for key, state in saved["state"].items()
        }
        return saved

    def load_state_dict(self, state_dict) -> None:
        others = {
            key: {name: value for name, value in state.items() if name not in self.buffers}
            for key, state in state_dict["state"].items()
        }
        super().load_state_dict(state_dict | {"state": others})
        self._load_buffers(state_dict)
        for state in self.state.values():
            state["step"] = int(state.get("step", 0))
            state.update(last=None, table=None, behind=False, cursor=state.get("cursor", 0))

    def _load_buffers(self, state_dict) -> None:
        """As they were saved: torch would put them into the parameter's own kind of number, beside it."""
        saved = (state_dict["state"].get(key) for group in state_dict["param_groups"] for key in group["params"])
        for parameter, state in zip((p for g in self.param_groups for p in g["params"]), saved, strict=True):
            for name in self.buffers:
                if state and isinstance(state.get(name), Tensor):
                    self.state[parameter][name] = self._placed(state[name].detach().clone(), parameter)
                elif state:
                    self.state[parameter][name] = None

    def _placed(self, buffer: Tensor, weight: Tensor) -> Tensor:
        """Where the weight's kernels find it: beside it, or in pinned memory of the host."""
        if not (weight.is_cuda and self._group_of(weight).get("buffers_on_host")):
            return buffer.to(weight.device)
        if not self.has_kernels(weight):
            raise ValueError("buffers_on_host is True, and there are no CUDA kernels to read them; it should be False")
        return in_pinned_memory(buffer)

    def changing(self, weight: Tensor, change: RowChange) -> Commit:
        """What is kept of each row of the weight goes with it; of a new row it is 0, and up to date."""
        state = self.state.get(weight, {})
        kept = {name: state[name] for name in self.buffers if state.get(name) is not None}
        made = {name: self._placed(change.of(buffer), weight) for name, buffer in kept.items()}
        if state and state["last"] is not None:
            made["last"] = change.of(state["last"], state["step"])
        return lambda: state.update(made)

    def kept_tensors(self) -> list[Tensor]:
        """Those as long as a weight that outlive a step."""
        kept = [state[name] for state in self.state.values() for name in (*self.buffers, "last")]
        return [tensor for tensor in kept if tensor is not None]

    def has_kernels(self, weight: Tensor) -> bool:
        return has_rows(weight) and backend.runs(self.ops.step, rows=weight)

    def keeps(self, name: str, weight: Tensor, group: dict) -> bool:
        """Whether a step needs the buffer of that name; where none has, it is None."""
        return True

    def new_buffer(self, name: str, weight: Tensor) -> Tensor:
        return self.zeros(weight.shape, gradient_kind(weight), weight)

    def zeros(self, shape, dtype: torch.dtype, weight: Tensor) -> Tensor:
        """Beside the weight, or on the host."""
        on_host = self._group_of(weight).get("buffers_on_host")
        return torch.zeros(shape, dtype=dtype, device="cpu" if on_host else weight.device)

    def _group_of(self, weight: Tensor) -> dict:
        return next(g for g in self.param_groups if any(p is weight for p in g["params"]))

    def _buffers(self, state: dict) -> list[Tensor | None]:
        return [state[name] for name in self.buffers]


def in_pinned_memory(tensor: Tensor) -> Tensor:
    """The same on the host, where a GPU can read and write it."""
    return tensor.cpu().pin_memory()


def has_rows(weight: Tensor) -> bool:
    """Whether it is a matrix whose rows lie one after the other, as kernels take it."""
    return weight.dim() == 2 and weight.is_contiguous()


def _is_our_own(name: str, value) -> bool:
    """Whether it is nothing that a dense optimizer would save, or would be missed when it is loaded."""
    return name in ("last", "table", "behind") or (name == "momentum_scale" and value is None)
