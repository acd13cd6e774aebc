"""Which samples of a test set are this process's, where the classes of a head are split: each embeds some of them."""

from __future__ import annotations

import torch
from torch import Tensor


class PartOf:
    """The part of samples index [n] that this process embeds: all, if the head's classes are not split.

    index: what to read, one sample at least, as nothing else needs to be able to read none; ``cut`` takes away what
    was read only for that.
    """

    def __init__(self, head, index: Tensor):
        self._head, self._shards = head, getattr(head, "shards", None)
        self.index, self._own, self._sizes = index, len(index), [len(index)]
        if self._shards is not None:
            parts = index.tensor_split(self._shards.ranks)
            self._sizes = [len(part) for part in parts]
            self._own = self._sizes[self._shards.rank]
            self.index = parts[self._shards.rank] if self._own else index[:1]

    def cut(self, values: Tensor) -> Tensor:
        """values [len(self.index), ...] -> those of this process's samples."""
        return values[: self._own]

    def of_all(self, values: Tensor) -> Tensor:
        """values of this process's samples, of the host -> [n, ...] of everybody's, in the order of the samples."""
        if self._shards is None:
            return values
        plain = values.to(self._head.weight.device, torch.uint8 if values.dtype == torch.bool else values.dtype)
        return self._shards.gather(plain, self._sizes, "evaluation").to(values)
