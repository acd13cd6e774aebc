"""The gradients that a head's weight and bias have, so that what others do with them is right, or is refused.

torch has no norm of a sparse tensor, nor ``clamp_``, so its ``clip_grad_norm_`` raises, and with it Lightning's
``gradient_clip_val``, Accelerate's ``clip_grad_norm_`` and Hugging Face's Trainer, which asks for the norm in every
step. But the rows that a row-sparse gradient leaves out are 0: its norm is that of the others, and clipping it is
clipping these.
"""

from __future__ import annotations

import torch
from torch import Tensor

# What changes numbers one by one and leaves 0 at 0: done to the rows, it is done to the gradient.
NUMBER_BY_NUMBER = {Tensor.mul_, Tensor.div_, Tensor.clamp_}


class RowGradient(Tensor):
    """A row-sparse gradient [N, d] or [N] that has a norm and can be clipped; to all else a plain sparse tensor."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            grad, *others = args or (None,)
            if isinstance(grad, RowGradient) and grad.is_sparse:
                if function in NUMBER_BY_NUMBER:
                    function(summed(grad)._values(), *others, **(kwargs or {}))
                    return grad
                if function is torch.linalg.vector_norm:
                    return function(summed(grad)._values(), *others, **(kwargs or {}))
            return function(*args, **(kwargs or {}))

    def __repr__(self, **options) -> str:
        return self.clone().__repr__(**options)

    def __deepcopy__(self, memo) -> Tensor:
        return self.clone()

    def __reduce_ex__(self, protocol):
        return self.clone().__reduce_ex__(protocol)  # torch makes no sparse tensor of a subclass


class ShardGradient(RowGradient):
    """The gradient of a head whose classes are split: that of the rows here, so a norm of it is no norm of the head."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.linalg.vector_norm, torch._foreach_norm):
            raise ValueError(
                "the head's classes are split over processes, and this norm would be that of the rows here alone; call "
                "annsoftmax_ref.clip_grad_norm_(backbone.parameters(), head, max_norm)"
            )
        return super().__torch_function__(function, types, args, kwargs)


def summed(grad: Tensor) -> Tensor:
    """The same object, with each row once: gradients that were accumulated may have one twice, each a part of it."""
    if grad.is_sparse and not grad.is_coalesced():
        grad.data = grad.coalesce()
    return grad
