"""Classes that come and go: a head gains rows at its end, or loses some, and training goes on.

A class has an id for good, and a row for the time being. At first the two are the same, and the n-th class that is
added gets the n-th id that follows. When classes are removed, the rows of all behind them move up, so that there are
always rows 0 to N - 1; ids stay, and none is given twice. Labels that the head is called with, and classes that it
answers with, are rows: ``rows_of`` and ``ids_of`` translate.

What belongs to a class goes with it, to the last bit: its weight, bias and class weight, what optimizers keep of it,
its list and its code. A class that comes is what one would be that was there from the start and was never moved.
"""

from __future__ import annotations

import gc
import numbers
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from annsoftmax_ref.batch import ScoredBatches
from annsoftmax_ref.checks import check_class_weights, check_directions, check_ids, check_positive_int
from annsoftmax_ref.every_row import random_directions
from annsoftmax_ref.row_buffers import RowBuffers
from annsoftmax_ref.row_change import Commit, RowChange
from annsoftmax_ref.row_parameter import unwatching

# What a new class has in a state of torch's own optimizers, where that is not 0: the setting of that name.
FIRST_VALUES = {"sum": "initial_accumulator_value", "step_size": "lr"}  # of Adagrad, of Rprop


class ClassChanges(nn.Module):
    """That part of ``SoftmaxHead``.

    class_ids [N] int64: the id of each row, ascending; None as long as they are the same. ids_given: how many ids have
    been given, or None with it. Both are saved with the head.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("class_ids", None)
        self.register_buffer("ids_given", None)

    @torch.inference_mode(False)
    @torch.no_grad()
    @unwatching
    def add_classes(self, n: int, directions: Tensor | None = None, *, class_weights: Tensor | None = None) -> Tensor:
        """n new classes, at the end -> their ids [n]; they have the rows from the former N on.

        directions [n, d], whose lengths do not matter: of embeddings of a few samples each, say; None: at random, by
        the head's generator. class_weights [n], of a head that has some; None: 1 each. A bias begins with 0.

        All optimizers that have the head's parameters follow, what they keep of new classes is as at their start. Their
        momentum, codes and lists of all others stay as they are, to the last bit. A gradient that no step has used yet
        is dropped (None), and a loss from before cannot be taken back any more. Selectors that rebuild what they know
        from time to time (``rivals``) do so in the next step. While it runs, it takes as much memory again as what has
        a row for each class. ValueError or TypeError, with nothing changed, for arguments that it cannot take, where
        classes are split over processes, and for states of optimizers that it does not know.
        """
        self._check_whole("add_classes")
        n = check_positive_int("n", n)
        kind, generator = self.weight.dtype, torch.Generator()
        generator.set_state(self.generator.get_state())
        if directions is None:
            rows = random_directions(n, self.embedding_size, generator, kind, self.weight.device)
        else:
            check_directions(directions, n, self.embedding_size)
            rows = _unit(directions.to(self.weight.device), kind)
        self._change(RowChange(self.num_classes, added=n), rows, self._checked_weights(class_weights, n))
        self.generator.set_state(generator.get_state())
        return self._given_ids() - n + torch.arange(n, device=self.weight.device)

    @torch.inference_mode(False)
    @torch.no_grad()
    @unwatching
    def remove_classes(self, ids: Tensor | Sequence[int]) -> Tensor:
        """Remove the classes of these ids [n] -> the row that each of the N rows before has now [N], -1 for none.

        As ``add_classes`` says for all others. ValueError or TypeError, with nothing changed, for ids that were never
        given, are removed already or named twice, for all that there are, and as ``add_classes``.
        """
        self._check_whole("remove_classes")
        ids = check_ids("ids", ids)
        if ids.dim() != 1 or len(ids) == 0:
            raise ValueError(f"ids has shape {list(ids.shape)}; it should be [n], n >= 1")
        rows = self.rows_of(ids.to(self.weight.device))
        if (rows < 0).any():
            raise ValueError(f"ids holds {int(ids[int((rows < 0).nonzero()[0])])}, which is removed already")
        stays = torch.ones(self.num_classes, dtype=torch.bool, device=rows.device)
        stays[rows] = False
        kept = stays.nonzero().squeeze(1)
        if len(kept) > self.num_classes - len(ids):
            raise ValueError("ids holds a class more than once; each should be there once")
        if len(kept) == 0:
            raise ValueError(f"ids holds all {self.num_classes} classes; one at least should be left")
        change = RowChange(self.num_classes, kept)
        self._change(change, self.weight.detach()[:0])
        return change.places

    def rows_of(self, ids: Tensor | Sequence[int]) -> Tensor:
        """Ids of classes, int64 of any shape -> their rows, -1 where a class was removed; for labels of data.

        With ``ignore_index=-1`` the head leaves out samples of removed classes. ValueError for ids never given.
        """
        ids = check_ids("ids", ids)
        _check_range("ids", ids, self._given_ids())
        if self.class_ids is None:
            return ids.clone()
        known = self.class_ids.to(ids.device)
        rows = torch.searchsorted(known, ids).clamp_max(len(known) - 1)
        return torch.where(known[rows] == ids, rows, -1)

    def ids_of(self, classes: Tensor | Sequence[int]) -> Tensor:
        """Classes as the head gives them, rows, int64 of any shape -> their ids. ValueError for what is no row."""
        classes = check_ids("classes", classes)
        _check_range("classes", classes, self.num_classes)
        return classes.clone() if self.class_ids is None else self.class_ids.to(classes.device)[classes]

    def expect_ids(self, saved: dict, prefix: str) -> None:
        """Told before a state_dict is loaded: ids are as those of the weight in it, or the rows."""
        if prefix + "weight" not in saved:
            return
        for name in ("class_ids", "ids_given"):
            buffer = saved.get(prefix + name)
            setattr(self, name, None if buffer is None else torch.empty_like(buffer, device=self.weight.device))

    def _checked_weights(self, class_weights: Tensor | None, n: int) -> Tensor | None:
        if self.class_weights is None:
            if class_weights is not None:
                raise ValueError("class_weights is given, and the head has none; it should be left out")
            return None
        if class_weights is None:
            return self.class_weights.new_ones(n)
        return check_class_weights(class_weights, n, self.class_weights.dtype).to(self.class_weights.device)

    def _given_ids(self) -> int:
        return self.num_classes if self.ids_given is None else int(self.ids_given)

    def _change(self, change: RowChange, rows: Tensor, class_weights: Tensor | None = None) -> None:
        """rows [n, d] and class_weights [n] or None: of new classes. First all is made, then it is put in place."""
        self._check.answer()  # a batch that could not be taken is told of first
        commits = [self.selector.changing(change, rows)]
        parameters = [(self.weight, rows), *([] if self.bias is None else [(self.bias, 0.0)])]
        # Before the parameters: an optimizer may first bring rows up to date.
        commits += [_changing_state(*found, change) for found in _optimizers_of(self.parameters(recurse=False))]
        commits += [_changing_parameter(parameter, change, new) for parameter, new in parameters]
        buffers = self._buffers_after(change, class_weights)
        for commit in commits:
            commit()
        for name, buffer in buffers.items():
            setattr(self, name, buffer)
        self.num_classes, self._scored = change.after, ScoredBatches()
        self.class_index = None  # one made for prediction has rows of the classes before

    def _buffers_after(self, change: RowChange, class_weights: Tensor | None) -> dict[str, Tensor]:
        made = {}
        if self.class_weights is not None:
            made["class_weights"] = change.of(self.class_weights, class_weights)
        if self.class_ids is not None or change.kept is not None:
            device, given = self.weight.device, self._given_ids()
            ids = torch.arange(given, device=device) if self.class_ids is None else self.class_ids
            made["class_ids"] = change.of(ids, torch.arange(given, given + change.added, device=device))
            made["ids_given"] = torch.tensor(given + change.added, device=device)
        return made


def _unit(directions: Tensor, kind: torch.dtype) -> Tensor:
    """directions [n, d], rows of any length that is a number -> of length 1."""
    wide = directions.detach().to(torch.float64 if kind == torch.float64 else torch.float32)
    return F.normalize(wide / wide.abs().amax(dim=1, keepdim=True), dim=1).to(kind)


def _check_range(name: str, ids: Tensor, end: int) -> None:
    wrong = ids[(ids < 0) | (ids >= end)]
    if len(wrong):
        raise ValueError(f"{name} holds {int(wrong[0])}; it should hold numbers from 0 to {end - 1}")


def _optimizers_of(parameters: Iterator[Tensor]) -> Iterator[tuple[Optimizer, Tensor]]:
    """Each optimizer that there is with each of the parameters that it has.

    Nobody keeps a list of optimizers but the garbage collector, which knows what refers to their classes. One that was
    forgotten here would go on with the momentum of other classes; where as many come as go, no shape would tell. That
    takes some 0.1 us for each object of the program, 50 ms for 400,000; what was there at ``gc.freeze()`` is not seen.
    """
    ours = list(parameters)
    for found in gc.get_referrers(*_with_subclasses(Optimizer)):
        if isinstance(found, Optimizer):
            theirs = {id(p) for group in found.param_groups for p in group["params"]}
            yield from ((found, parameter) for parameter in ours if id(parameter) in theirs)


def _with_subclasses(kind: type) -> Iterator[type]:
    yield kind
    for own in kind.__subclasses__():
        yield from _with_subclasses(own)


def _changing_state(optimizer: Optimizer, parameter: Tensor, change: RowChange) -> Commit:
    """What the optimizer keeps of the parameter: numbers stay, and what has its shape goes row by row."""
    if isinstance(optimizer, RowBuffers):
        return optimizer.changing(parameter, change)
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    state, made = optimizer.state.get(parameter, {}), {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            made[name] = change.of(value, group.get(FIRST_VALUES.get(name), 0.0))
        elif not (value is None or isinstance(value, numbers.Number) or isinstance(value, Tensor) and value.dim() == 0):
            what = f"of shape {list(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
            raise ValueError(
                f"optimizer {type(optimizer).__name__} keeps {name} {what} for the head, of which it is not known what "
                "belongs to which class; it should keep single numbers and tensors of the parameter's shape"
            )
    return lambda: state.update(made)


def _changing_parameter(parameter: Tensor, change: RowChange, new: Tensor | float) -> Commit:
    """The parameter stays the object that it is, which optimizers and others have."""
    made, state = change.of(parameter.detach(), new), getattr(parameter, "row_state", None)
    logs = None if state is None else state.changing(change)

    def commit() -> None:
        if parameter.requires_grad:
            torch.autograd.graph.get_gradient_edge(parameter).node.register_prehook(_refuse_earlier_loss)
        parameter.grad = None
        # Losses from before may live on, and with them the place where gradients of the former shape arrive. torch
        # makes a new one where the kind of numbers changes, not where the shape does.
        parameter.data = made.new_empty(0, dtype=torch.float32 if made.dtype == torch.float64 else torch.float64)
        parameter.data = made
        if logs is not None:
            logs()

    return commit


def _refuse_earlier_loss(_) -> None:
    raise ValueError("loss is of classes as they were before add_classes or remove_classes; it should be computed anew")
