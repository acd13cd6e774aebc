"""Cells that are C++: ``%%cpp NAME`` above a text compiles it, as the package compiles its own, and binds its function.

    %%cpp twice
    #include <cstdint>

    extern "C" int64_t twice(const int64_t* x, int64_t n, int64_t* out) {
        for (int64_t i = 0; i < n; ++i) out[i] = 2 * x[i];
        return 0;
    }

makes ``twice(x, len(x), out)`` a Python function, of arrays or tensors and numbers. Headers of ``kernels_inline`` may
be included by their names. The text is shown with colours, and errors of the
compiler come with the line of the cell. ``%load_ext annsoftmax_ref.lessons.cpp_cells`` makes the magic known.
"""

from __future__ import annotations

import ctypes
import re
import shlex
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from annsoftmax_ref.lessons.kernel_page import put_style, show
from kernels_inline import compiler
from kernels_inline.build import COMMON_FLAGS, NATIVE, SOURCES, VARIANTS
from kernels_inline.compiler import BuildError

CELL = "cell"  # the file's name in messages of the compiler
HOLDS = {  # what an array may hold where a pointer to that is asked for
    "int64_t": ("int64", "uint64"),
    "uint64_t": ("int64", "uint64"),
    "int32_t": ("int32",),
    "uint8_t": ("uint8",),
    "float": ("float32",),
    "double": ("float64",),
}
_ERROR = re.compile(rf"^{CELL}:(\d+):\d+: (?:fatal )?error: (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class CppFunction:
    """A function of a text of C++, built when it is made; called with arrays or tensors, in memory as they lie.

    name: of an ``extern "C" int64_t`` function. text: of the file. flags: of the compiler, for the CPU. first: the
    number of the text's first line in its cell. Raises ValueError where the text has no such function, BuildError
    where it cannot be compiled.
    """

    name: str
    text: str
    flags: str = NATIVE
    first: int = 1

    def __post_init__(self):
        _ = self.parameters, self.library

    @cached_property
    def parameters(self) -> list[tuple[str, str, bool]]:
        """Of each parameter its type, its name, and whether it is a pointer."""
        found = re.search(rf'extern\s+"C"\s+int64_t\s+{self.name}\s*\(([^)]*)\)', self.text)
        if found is None:
            raise ValueError(f'there is no extern "C" int64_t {self.name}(...) in the text; NAME should be its name')
        declared = re.findall(r"(?:const\s+)?(\w+)\s*(\*?)\s*(\w+)\s*(?:,|$)", found[1].strip())
        return [(kind, name, bool(star)) for kind, star, name in declared]

    @cached_property
    def library(self) -> ctypes.CDLL:
        whole = compiler.with_headers(self.text, CELL, SOURCES, set(), self.first)
        return compiler.cached_library("cell", whole, f"{COMMON_FLAGS} {self.flags}", compiler.compile_cpp)

    def built_for(self, variant: str) -> CppFunction:
        """The same text for another instruction set, one of ``kernels_inline.build.VARIANTS``."""
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; it should be one of {', '.join(VARIANTS)}")
        return CppFunction(self.name, self.text, VARIANTS[variant], self.first)

    def __call__(self, *arguments: np.ndarray | Tensor | int | float) -> int:
        """What the function returns. Raises TypeError or ValueError for arguments that it cannot take."""
        if len(arguments) != len(self.parameters):
            raise TypeError(f"{self.name} got {len(arguments)} arguments; it takes {len(self.parameters)}")
        values = [_c_value(*both) for both in zip(self.parameters, arguments, strict=True)]
        return compiler.function_of(self.library, self.name)(*values)


def _c_value(parameter: tuple[str, str, bool], value):
    kind, name, pointer = parameter
    if not pointer:
        if isinstance(value, bool) or not isinstance(value, int | np.integer | float):
            raise TypeError(f"{name} is of type {type(value).__name__}; it should be a number")
        return ctypes.c_double(value) if kind == "double" else ctypes.c_int64(int(value))
    array = value.numpy() if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is of type {type(value).__name__}; it should be an array or a tensor")
    if array.dtype.name not in HOLDS.get(kind, ()):
        raise TypeError(f"{name} holds {array.dtype}; it should hold {kind}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} has gaps or another order in memory; it should be contiguous")
    return ctypes.c_void_p(array.ctypes.data)


def explained(error: BuildError, text: str, first: int = 1) -> str:
    """The compiler's first error in the cell, with the number and the text of its line; else the error's own words."""
    found = _ERROR.search(str(error.__cause__ or error))
    if found is None:
        return str(error)
    number, lines = int(found[1]), text.splitlines()
    at = number - first
    shown = f"\n    {number} | {lines[at]}" if 0 <= at < len(lines) else ""
    return f"line {number} of the cell: {found[2]}{shown}"


def cpp(line: str, text: str) -> CppFunction:
    """What the magic does. line: NAME, or NAME and one of ``VARIANTS``."""
    words = shlex.split(line)
    if len(words) not in (1, 2):
        raise ValueError(f"{line!r} stands after %%cpp; it should be the function's name, and perhaps a variant")
    flags = VARIANTS.get(words[1]) if len(words) == 2 else NATIVE
    if flags is None:
        raise ValueError(f"variant is {words[1]!r}; it should be one of {', '.join(VARIANTS)}")
    return CppFunction(words[0], text, flags, first=2)  # the magic itself is the cell's first line


def load_ipython_extension(shell) -> None:
    """``%load_ext annsoftmax_ref.lessons.cpp_cells``."""
    from IPython.core.error import UsageError

    def magic(line: str, cell: str) -> None:
        show(cell, f"C++ function {line.strip()}")
        try:
            function = cpp(line, cell)
        except BuildError as error:  # without the traceback of our own code
            raise UsageError(explained(error, cell, first=2)) from None
        except ValueError as error:
            raise UsageError(str(error)) from None
        shell.user_ns[function.name] = function

    put_style()
    shell.register_magic_function(magic, "cell", "cpp")
