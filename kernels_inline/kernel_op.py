"""An op: a function that calls kernels, registered with torch, and called without torch where nobody would notice.

Registered it takes part in ``torch.compile`` and in fake tensors, and refuses to be differentiated in silence. A call
through torch's dispatcher costs some 60 microseconds, several times the kernel's own for a few thousand classes; so
plain tensors that no gradient is wanted of go to the function itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

LAUNCHERS: dict[KernelOp, tuple[str, ...]] = {}  # of every op


class KernelOp:
    """registered: the op as torch knows it, ``torch.ops.annsoftmax.NAME`` (for ``torch.library.opcheck``)."""

    def __init__(self, name: str, function: Callable, mutates: tuple[str, ...], **options):
        self.registered = torch.library.custom_op(f"annsoftmax::{name}", function, mutates_args=mutates, **options)
        self.register_fake = self.registered.register_fake
        self.function, self.__doc__, self.__name__ = function, function.__doc__, name
        self.__signature__ = inspect.signature(function)  # what help() shows
        names = list(self.__signature__.parameters)
        self.mutated = [names.index(argument) for argument in mutates]

    def __call__(self, *arguments, **named):
        if named or not _are_plain(arguments):
            return self.registered(*arguments, **named)
        result = self.function(*arguments)
        for place in self.mutated:
            if place < len(arguments) and arguments[place] is not None:
                torch.autograd.graph.increment_version(arguments[place])
        return result

    def __repr__(self) -> str:
        return f"<op annsoftmax::{self.__name__}>"


def kernel_op(name: str, needs: tuple[str, ...], mutates: tuple[str, ...] = (), **options) -> Callable:
    """Decorator: the function becomes the op ``annsoftmax::NAME``.

    needs: the launchers without which ``dispatch.runs`` leaves it to torch, its backward pass's among them. mutates:
    arguments that it writes to. options: as of ``torch.library.custom_op``.
    """

    def register(function: Callable) -> KernelOp:
        op = KernelOp(name, function, mutates, **options)
        LAUNCHERS[op] = needs
        return op

    return register


def _are_plain(arguments) -> bool:
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    wants = torch.is_grad_enabled()
    tensors = (argument for argument in arguments if isinstance(argument, Tensor))
    # Fake tensors, and other classes that see every op, have a __torch_dispatch__ of their own.
    return not any(
        type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__ or (wants and tensor.requires_grad)
        for tensor in tensors
    )
