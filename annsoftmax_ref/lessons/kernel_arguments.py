"""What a kernel of a cell is launched with: the grid, its arguments checked against the signature, and their memory."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.lessons.kernel_text import Leaf, Parameter

ALIGNED, APART = 256, 4096  # bytes: a GPU's allocations are aligned so; here a gap follows each
NEAR = 2**24  # bytes from an array: an address further away may as well be meant for other memory, a shared array's
_WHOLE = {"int": 31, "int32_t": 31, "unsigned": 32, "unsigned int": 32, "uint32_t": 32}


class KernelError(RuntimeError):
    """A kernel that cannot be compiled or launched; the message names the line of the reader's cell."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]  # the frames are ours, and of no use to the reader


class KernelArgumentError(KernelError, TypeError):
    """Arguments that are not those of the kernel's signature."""


@dataclass(frozen=True)
class Grid:
    """blocks and threads in three dimensions, and bytes of dynamic shared memory."""

    blocks: tuple[int, int, int]
    threads: tuple[int, int, int]
    shared: int

    @classmethod
    def of(cls, sizes) -> Grid:
        """From [blocks, threads] or [blocks, threads, shared bytes]; blocks, threads: numbers, or tuples of up to 3."""
        if not isinstance(sizes, tuple) or len(sizes) not in (2, 3):
            raise KernelArgumentError(
                f"a kernel is launched as kernel[blocks, threads](...) or kernel[blocks, threads, shared bytes](...); "
                f"in the brackets stands {sizes}"
            )
        blocks, threads, shared = (*sizes, 0)[:3]
        return cls(_triple("blocks", blocks), _triple("threads", threads), int(shared))

    @property
    def numbers(self) -> tuple[int, ...]:
        return (*self.blocks, *self.threads, self.shared)


def checked(kernel: str, parameters: Sequence[Parameter], arguments: Sequence) -> tuple[list[Leaf], list]:
    """The kernel's leaves, and the arguments for them. Raises KernelArgumentError."""
    names = [parameter.name for parameter in parameters]
    if len(arguments) != len(parameters):
        raise KernelArgumentError(
            f"{kernel} takes {len(parameters)} arguments ({', '.join(names)}) and was given {len(arguments)}"
        )
    pairs = [pair for one, value in zip(parameters, arguments, strict=True) for pair in _leaves(kernel, one, value)]
    return [leaf for leaf, _ in pairs], [_converted(kernel, leaf, value) for leaf, value in pairs]


class Placed:
    """Copies of a launch's tensors in memory that is laid out the same in every run.

    Each begins where a GPU's allocation would, at a multiple of 256 bytes, and a view as far behind it as it lies in
    its storage; so sectors are those of a GPU, and the same every time.
    """

    def __init__(self, leaves: Sequence[Leaf], values: Sequence):
        given = {}  # by place: a tensor that is given twice is one array
        for leaf, value in zip(leaves, values, strict=True):
            if isinstance(value, Tensor):
                given.setdefault(_place(value), (leaf.name, value))
        _refuse_overlaps(given)
        room = sum(ALIGNED + APART + x.numel() * x.element_size() for _, x in given.values())
        self._memory = torch.zeros(room + 2 * APART, dtype=torch.uint8)
        self.arrays: dict[str, Tensor] = {}  # by the argument's name: the copies
        self._copies, at = {}, APART - self._memory.data_ptr() % ALIGNED
        for place, (name, value) in given.items():
            size = value.numel() * value.element_size()
            begin = at + value.storage_offset() * value.element_size() % ALIGNED
            copy = self._memory[begin : begin + size].view(value.dtype).view(value.shape)
            copy.copy_(value)
            self.arrays[name], self._copies[place] = copy, (copy, value)
            at += -(-(ALIGNED + size) // ALIGNED) * ALIGNED + APART
        self.values = [self._copies[_place(x)][0] if isinstance(x, Tensor) else x for x in values]
        changed = [x for leaf, x in zip(leaves, values, strict=True) if isinstance(x, Tensor) and not leaf.constant]
        self._changed = {_place(x) for x in changed}

    @property
    def tensors(self) -> list[Tensor]:
        return list(self.arrays.values())

    def copy_back(self) -> None:
        """What the kernel may have written goes to the tensors that were given."""
        for place in self._changed:
            copy, value = self._copies[place]
            value.copy_(copy)

    def array_at(self, address: int) -> tuple[str, int, int]:
        """The array that an address lies in, or is nearest to: its name, its first address, bytes of an element."""
        name = min(self.arrays, key=lambda name: self._distance(name, address))
        return name, self.arrays[name].data_ptr(), self.arrays[name].element_size()

    def outside(self, address: int, size: int) -> str:
        """'element 100 of x, which has 100', of an address outside all arrays."""
        name = min(self.arrays, key=lambda name: self._distance(name, address), default="")
        if not name or self._distance(name, address) > NEAR:
            return "through a null pointer" if address < 2**30 else "memory outside of its arguments and shared arrays"
        array = self.arrays[name]
        element = (address - array.data_ptr()) // array.element_size()
        return f"element {element} of {name}, which has {array.numel()}"

    def _distance(self, name: str, address: int) -> int:
        begin = self.arrays[name].data_ptr()
        end = begin + self.arrays[name].numel() * self.arrays[name].element_size()
        return max(begin - address, address - end + 1, 0)


def _triple(name: str, sizes) -> tuple[int, int, int]:
    sizes = tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,)
    if not 1 <= len(sizes) <= 3 or not all(isinstance(size, numbers.Integral) for size in sizes):
        raise KernelArgumentError(f"{name} is {sizes}; it should be a whole number, or a tuple of up to three")
    return (*map(int, sizes), 1, 1)[:3]


def _leaves(kernel: str, parameter: Parameter | Leaf, value) -> Iterator[tuple[Leaf, object]]:
    if isinstance(parameter, Leaf):
        yield parameter, value
    elif len(parameter.parts) == 1 and parameter.parts[0].name == parameter.name:
        yield parameter.parts[0], value
    else:
        names = [part.name.rpartition(".")[2] for part in parameter.parts]
        if not isinstance(value, tuple | list) or len(value) != len(names):
            raise KernelArgumentError(
                f"{parameter.name} of {kernel} is a struct {parameter.type}: give a tuple of its {len(names)} fields, "
                f"({', '.join(names)})"
            )
        for part, one in zip(parameter.parts, value, strict=True):
            yield from _leaves(kernel, part, one)


def _converted(kernel: str, leaf: Leaf, value):
    """The value as a launcher takes it: a tensor, None, an int or a float."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    wanted = f"{'const ' * leaf.constant}{leaf.type}{'*' * leaf.pointer}"
    if leaf.pointer:
        if value is None:
            return None
        if not isinstance(value, Tensor):
            raise KernelArgumentError(f"{leaf.name} of {kernel} is {value!r}; it should be a tensor, for {wanted}")
        if leaf.dtypes is not None and value.dtype not in leaf.dtypes:
            names = " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in leaf.dtypes))
            given = str(value.dtype).removeprefix("torch.")
            raise KernelArgumentError(
                f"{leaf.name} of {kernel} is a tensor of {given}; it should be {names}, for {wanted}"
            )
        if not value.is_contiguous():
            raise KernelArgumentError(
                f"{leaf.name} of {kernel} has strides {value.stride()}; it should be contiguous: call .contiguous()"
            )
        return value
    kind = numbers.Integral if leaf.whole else numbers.Real
    if not isinstance(value, kind | np.bool_):
        what = "a tensor" if isinstance(value, Tensor) else repr(value)
        should = "a whole number" if leaf.whole else "a number"
        raise KernelArgumentError(f"{leaf.name} of {kernel} is {what}; it should be {should}, for {wanted}")
    if leaf.whole and not -(2**31) <= int(value) < 2 ** _WHOLE.get(leaf.type, 63) and leaf.type in _WHOLE:
        raise KernelArgumentError(f"{leaf.name} of {kernel} is {value}, which {leaf.type} does not hold")
    return int(value) if leaf.whole else float(value)


def _place(tensor: Tensor) -> tuple[int, int, torch.dtype]:
    return tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor.dtype


def _refuse_overlaps(given: dict) -> None:
    """Two views of one storage that share elements would come apart in their copies."""
    places = sorted(given)
    for (begin, size, _), after in zip(places, places[1:], strict=False):
        if after[1] and begin + size > after[0]:
            first, second = given[begin, size, _][0], given[after][0]
            raise KernelArgumentError(f"{first} and {second} overlap in memory; give the same tensor, or separate ones")
