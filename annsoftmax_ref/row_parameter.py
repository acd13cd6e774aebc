"""The weight: an ordinary parameter to everyone outside this package, though some of its rows may lag behind.

A head with N classes reads and moves A of its N rows in a step. An optimizer that touches only these
(``annsoftmax_ref.optim``) holds the others back, and an index over the rows (``annsoftmax_ref.index``) has to follow
those that move. What both need to know of each other stands in one object on the weight, its ``RowState``:

    who                         does                                               when
    RowOptimizer.step           becomes the owner; writes the ids, and the sign    after the rows have moved
                                codes that its kernel made on the way, to the logs
    catch_up(weight, ids)       asks the owner to bring rows up to date, which     before they are read
                                writes their ids to the logs
    NearestClasses.prepare      attaches its log, reads it and empties it: the     before each search
                                codes of these rows are written anew
    anyone else, by any call    sees rows that are up to date (``RowParameter``);  at that call
    of torch's                  what they write is found by the version counter,
                                and then every code is written anew

Code of this package that reads the weight does so inside ``unwatched()``, after asking for the rows that it reads.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from annsoftmax_ref.row_change import Commit, RowChange
from annsoftmax_ref.row_gradient import RowGradient, ShardGradient
from annsoftmax_ref.row_log import RowLog, lie_together
from kernels_inline.checks import gradient_kind

# Inside it, torch functions see a RowParameter as the plain tensor that it is.
unwatched = torch._C.DisableTorchFunctionSubclass


class RowOwner(Protocol):
    """An optimizer that may hold rows back."""

    def catch_up(self, weight: Tensor, ids: Tensor | None = None) -> None: ...


class RowState:
    """What is known of a weight's rows beside their values; see the table at the head of this file."""

    def __init__(self, weight: Tensor):
        self.owner: RowOwner | None = None
        self.logs: weakref.WeakSet[RowLog] = weakref.WeakSet()  # an index that is gone has no log
        self.version = _version(weight)
        self.steps = 0  # how often rows have moved, catching up aside
        self.changes = 0  # how often rows were added or taken out
        self.ascending: Tensor | None = None  # ids of the last gradient that was made, which are known to ascend
        self.split = False  # whether the weight is a part of one that is split over processes

    def attach(self, log: RowLog) -> None:
        """From now on, the log is told of these rows. If it was told of others before, all of these are new to it."""
        if log.source is not None and log.source() is not self:
            log.everything = True
        log.source = weakref.ref(self)
        self.logs.add(log)

    def trust(self, weight: Tensor) -> None:
        """What the logs' readers know is of the weight as it is: both were loaded together."""
        self.version = _version(weight)
        for log in self.logs:
            log.clear()

    @property
    def wants_codes(self) -> bool:
        return any(log.wants_codes for log in self.logs)

    def moved(self, weight: Tensor, ids: Tensor | None, codes: Tensor | None = None) -> None:
        """Told by the optimizer: it has moved rows ids [n] (None: all), whose signs now are codes [n, W]."""
        self.steps += 1
        self.caught_up(weight, ids, codes)

    def caught_up(self, weight: Tensor, ids: Tensor | None, codes: Tensor | None = None) -> None:
        """Told by the optimizer: rows ids [n] (None: all) have other values now, those that they should have had."""
        for log in self.logs:
            if ids is None:
                log.everything = True
            else:
                log.add(ids, codes, len(weight))

    def steps_seen(self, weight: Tensor) -> int:
        """A number that is another one if rows have moved, catching up aside."""
        self.look(weight)
        return self.steps

    def look(self, weight: Tensor) -> None:
        """If somebody has written to the weight since the last look, any row may have moved."""
        version = _version(weight)
        if version != self.version:
            self.version = version
            self.moved(weight, None)

    def changing(self, change: RowChange) -> Commit:
        """What the logs tell is of the same rows, by the numbers that they will have."""
        told = [(log, [change.of_ids(*entry) for entry in log.moved]) for log in self.logs]

        def commit() -> None:
            self.changes, self.ascending = self.changes + 1, None
            for log, moved in told:
                log.moved = moved

        return commit

    @contextlib.contextmanager
    def writing(self, weight: Tensor) -> Iterator[None]:
        """Around writes of the owner's, which says itself what it moved."""
        self.look(weight)
        try:
            yield
        finally:
            self.version = _version(weight)


def row_state(weight: Tensor) -> RowState:
    """The weight's; made at the first call, which begins to ``watch`` the weight."""
    # On the tensor itself, so that optimizer and weight live, and are collected, together: rows that lag
    # are not lost when the caller drops the optimizer first.
    state = getattr(weight, "row_state", None)
    if state is None:
        state = watch(weight).row_state = RowState(weight)
        if gradient_kind(weight) != weight.dtype:
            weight.grad_dtype = gradient_kind(weight)
        if weight.requires_grad and weight.is_leaf:
            weight.register_post_accumulate_grad_hook(_name_gradient)
    return state


def _name_gradient(weight: Tensor) -> None:
    """After a backward pass: what is done with the gradient from now on is for its class to say."""
    with unwatched():
        grad, state = weight.grad, weight.row_state
        if grad is None:
            return
        if grad.is_sparse and state.ascending is not None and lie_together(grad._indices()[0], state.ascending):
            grad._coalesced_(True)
        if state.split or grad.is_sparse:
            grad.__class__ = ShardGradient if state.split else RowGradient


def writing(weight: Tensor) -> contextlib.AbstractContextManager:
    """``RowState.writing``, if anything is known of the weight's rows."""
    state = getattr(weight, "row_state", None)
    return contextlib.nullcontext() if state is None else state.writing(weight)


def rows_moved(weight: Tensor, ids: Tensor | None, codes: Tensor | None = None) -> None:
    """``RowState.moved``, if anything is known of the weight's rows."""
    state = getattr(weight, "row_state", None)
    if state is not None:
        state.moved(weight, ids, codes)


def set_owner(weight: Tensor, owner: RowOwner) -> None:
    """From now on, ``owner`` is asked before rows of ``weight`` are read."""
    state = row_state(weight)
    if state.owner is not None and state.owner is not owner:
        state.owner.catch_up(weight)
    state.owner = owner


def catch_up(weight: Tensor, ids: Tensor | None = None) -> None:
    """Bring rows ``ids`` [n] (all rows if None) of ``weight`` up to date, if an optimizer holds them back."""
    state = getattr(weight, "row_state", None)
    if state is not None and state.owner is not None:
        state.owner.catch_up(weight, ids)


class RowParameter(nn.Parameter):
    """A parameter [N, d] or [N] whose rows an optimizer may hold back without anyone's noticing.

    Every torch function that is given it (an operator, a method, ``.data``, a list of tensors for a ``foreach``
    function) first has all rows brought up to date, but for those in ``ASIDE``, which do not look at values. So an
    average of weights, a regularizer or an export reads what a dense optimizer would have left, and what is written
    stays as it was written. Where nothing lags this costs some microseconds a call.

    What it cannot see is a tensor that shares the memory and was made earlier: of ``w = head.weight.data``, kept
    while training goes on, rows lag. Take it anew, or call ``head.sync()`` first. And torch makes no parameter of a
    parameter of another class: ``nn.Parameter(head.weight.detach())``, not ``nn.Parameter(head.weight)``.
    """

    def __deepcopy__(self, memo) -> RowParameter:
        if id(self) not in memo:
            catch_up(self)
            with unwatched():
                memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        catch_up(self)
        with unwatched():
            if self.dtype == torch.float8_e4m3fn:  # whose storage torch does not pickle
                return _of_bytes, (type(self), self.detach().view(torch.uint8), self.dtype, self.requires_grad)
            return type(self), (self.detach(), self.requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{self.detach()}"  # as any other parameter

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with unwatched():
            if function not in ASIDE:
                for weight in _weights_in((*args, *kwargs.values())):
                    catch_up(weight)
                    if function in UNCOUNTED:
                        rows_moved(weight, None)
            return function(*args, **kwargs)


def _of_bytes(kind: type, data: Tensor, dtype: torch.dtype, requires_grad: bool) -> Tensor:
    return kind(data.view(dtype), requires_grad)


def unwatching(method):
    """A method that runs ``unwatched``."""

    @functools.wraps(method)
    def wrapped(*args, **kwargs):
        with unwatched():
            return method(*args, **kwargs)

    return wrapped


def watch(parameter: Tensor) -> Tensor:
    """The same object, from now on a RowParameter; one of another class than nn.Parameter is left as it is."""
    if type(parameter) is nn.Parameter:
        parameter.__class__ = RowParameter  # as torch's UninitializedParameter becomes what it is to be
    return parameter


def _weights_in(arguments) -> Iterator[RowParameter]:
    for argument in arguments:
        if isinstance(argument, RowParameter):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _weights_in(argument)


def _version(weight: Tensor) -> int:
    with unwatched():
        return 0 if weight.is_inference() else weight._version


T = torch.Tensor
METHODS = """dim ndimension size numel nelement stride element_size is_floating_point is_complex is_contiguous
    is_inference get_device requires_grad_ retain_grad register_hook register_post_accumulate_grad_hook
    __len__ __hash__"""
ATTRIBUTES = """shape dtype device layout ndim requires_grad grad grad_fn is_leaf is_sparse is_cuda is_cpu is_meta
    is_quantized _version output_nr nbytes itemsize _backward_hooks"""
# Functions that look at no value and change none.
ASIDE = {
    *(getattr(T, name) for name in METHODS.split()),
    *(getattr(T, name).__get__ for name in ATTRIBUTES.split()),
    T.grad.__set__,
    T.grad.__delete__,
    T.requires_grad.__set__,
}
# Functions that hand out the memory, to be written to where no version counter sees it, or put other memory there.
UNCOUNTED = {T.data.__get__, T.data.__set__, T.numpy, T.data_ptr, T.untyped_storage, T.__dlpack__}
