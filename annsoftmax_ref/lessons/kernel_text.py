"""The text of a kernel cell: which kernels are in it, what they take, and the launcher that is written for them.

A kernel's arguments are those of its signature. An argument that is a struct, as the package's kernels have, is given
as a tuple of its fields; so each kernel has a flat list of ``Leaf``: pointers, whole numbers and floats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kernels_inline.cuda import sources

LAUNCHER = "launch_cell"
HEADERS = ("codes.h", "loads.h", "blocks.h")  # what launch.h brings along, and where structs may come from
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_KERNEL = re.compile(
    r'(?:template\s*<([^{};]*?)>\s*)?(?:extern\s+"C"\s+)?__global__\s+void\s+'
    r"(?:__launch_bounds__\([^;{]*?\)\s+)?(\w+)\s*\(([^;{]*)\)\s*\{"
)
_STRUCT = re.compile(r"(?:template\s*<([^{};]*?)>\s*)?struct\s+(\w+)\s*\{")
_DTYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int8: "char, signed char, int8_t",
    torch.uint8: "unsigned char, uint8_t, uchar",
    torch.int16: "short, int16_t",
    torch.uint16: "unsigned short, uint16_t, ushort",
    torch.int32: "int, int32_t",
    torch.uint32: "unsigned, unsigned int, uint32_t, uint",
    torch.int64: "long long, int64_t, longlong",
    torch.uint64: "unsigned long long, uint64_t, ulonglong",
    torch.bool: "bool",
}
_OF_TYPE = {name: dtype for dtype, names in _DTYPES.items() for name in names.split(", ")}
# Bits kept in a tensor whose type C++ has another name for.
_AS_WELL = {torch.uint8: {torch.float8_e4m3fn}, torch.uint16: {torch.bfloat16, torch.int16}}
_AS_WELL |= {torch.uint32: {torch.int32}, torch.uint64: {torch.int64}}


@dataclass(frozen=True)
class Leaf:
    """One pointer or number that a kernel is given. name: as in "rows.weight"; type: without const, * and &."""

    name: str
    type: str
    pointer: bool
    constant: bool

    @property
    def dtypes(self) -> set[torch.dtype] | None:
        """The types that a tensor for this pointer may have; None: any."""
        dtype = _OF_TYPE.get(re.sub(r"[24]$", "", self.type)) or _OF_TYPE.get(self.type)
        return None if dtype is None else {dtype} | _AS_WELL.get(dtype, set())

    @property
    def whole(self) -> bool:
        return not self.pointer and self.type not in ("float", "double")

    def declared(self, number: int) -> str:
        """As a parameter of the launcher."""
        return f"{'void*' if self.pointer else 'int64_t' if self.whole else 'double'} a{number}"

    def cast(self, number: int) -> str:
        constant = "const " if self.constant else ""
        return f"({constant}{self.type}*)a{number}" if self.pointer else f"({self.type})a{number}"


@dataclass(frozen=True)
class Parameter:
    """An argument of a kernel: a ``Leaf``, or a struct of several. type: as C++ writes it, with template arguments."""

    name: str
    type: str
    parts: tuple[Parameter | Leaf, ...]

    def leaves(self) -> Iterator[Leaf]:
        for part in self.parts:
            yield from [part] if isinstance(part, Leaf) else part.leaves()


@dataclass(frozen=True)
class Signature:
    name: str
    template: tuple[str, ...]  # the names of its template's parameters
    parameters: tuple[tuple[str, str], ...]  # (type, name), as they are written


def signatures(text: str) -> dict[str, Signature]:
    """The ``__global__`` functions of a text, in their order."""
    found: dict[str, Signature] = {}
    for template, name, parameters in _KERNEL.findall(_COMMENT.sub("", text)):
        pairs = tuple(_type_and_name(one) for one in split(parameters))
        found[name] = Signature(name, _template_names(template), pairs)
    return found


def parameters(signature: Signature, template_arguments: tuple[str, ...], text: str) -> tuple[Parameter, ...]:
    """What the kernel takes, its template's parameters replaced. text: where the structs that it names stand."""
    structs = _structs(text + "".join((sources.FOLDER / name).read_text() for name in HEADERS))
    given = dict(zip(signature.template, template_arguments, strict=True))
    return tuple(_parameter(name, _replaced(kind, given), structs) for kind, name in signature.parameters)


def launcher(name: str, template_arguments: tuple[str, ...], given: tuple[Parameter, ...]) -> str:
    """An ``extern "C"`` function that launches the kernel on a grid of any size."""
    leaves = [leaf for parameter in given for leaf in parameter.leaves()]
    numbers = iter(range(len(leaves)))
    values = [_value(parameter, numbers) for parameter in given]
    called = f"({name}<{', '.join(template_arguments)}>)" if template_arguments else name
    sizes = [f"int64_t {of}{axis}" for of in ("g", "b") for axis in "xyz"]
    taken = [*sizes, "int64_t shared", *(leaf.declared(i) for i, leaf in enumerate(leaves)), "void* stream"]
    launched = [called, "dim3(gx, gy, gz)", "dim3(bx, by, bz)", "size_t(shared)", "stream", *values]
    return (
        f'\n#line 1 "launcher.cu"\nextern "C" int64_t {LAUNCHER}({", ".join(taken)}) {{\n'
        f"    LAUNCH({', '.join(launched)});\n    return launch_error();\n}}\n"
    )


def split(text: str) -> list[str]:
    """The parts between commas that stand in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "<({[") - (letter in ">)}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _value(part: Parameter | Leaf, numbers: Iterator[int]) -> str:
    if isinstance(part, Leaf):
        return part.cast(next(numbers))
    values = ", ".join(_value(one, numbers) for one in part.parts)
    return values if len(part.parts) == 1 and part.parts[0].name == part.name else f"{part.type}{{{values}}}"


def _parameter(name: str, kind: str, structs: dict) -> Parameter:
    words = re.sub(r"\b(__restrict__|__grid_constant__|volatile)\b", " ", kind)
    constant, pointer = bool(re.search(r"\bconst\b", words)), "*" in words
    bare = " ".join(re.sub(r"\bconst\b|[*&]", " ", words).split())
    own = re.match(r"\w+", bare).group()
    if not pointer and own not in structs and bare not in _OF_TYPE:
        raise ValueError(f"{name} is a {bare}, which is no number, and no struct that stands in the cell")
    if pointer or own not in structs:
        return Parameter(name, bare, (Leaf(name, bare, pointer, constant),))
    template, body = structs[own]
    given = dict(zip(template, split(bare.partition("<")[2].rpartition(">")[0]), strict=True))
    parts = []
    for field_kind, field in _fields(body):
        part = _parameter(f"{name}.{field}", _replaced(field_kind, given), structs)
        plain = len(part.parts) == 1 and part.parts[0].name == part.name
        parts.append(part.parts[0] if plain else part)
    return Parameter(name, bare, tuple(parts))


def _structs(text: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """Each struct of a text: its template's parameters, and its body without those of its functions."""
    text = _COMMENT.sub("", text)
    return {
        match.group(2): (_template_names(match.group(1) or ""), _without_bodies(text[match.end() :]))
        for match in _STRUCT.finditer(text)
    }


def _fields(body: str) -> Iterator[tuple[str, str]]:
    """The fields of a struct as (type, name)."""
    for statement in body.split(";"):
        statement = " ".join(statement.partition("=")[0].split())
        if "(" in statement or re.match(r"(using|static|typedef|template)\b", statement) or " " not in statement:
            continue
        first, *others = split(statement)
        kind, name = _type_and_name(first)
        yield kind, name
        for other in others:  # in "int* a, b" the star is a's
            yield kind.rstrip("*& ") + "*" * other.count("*"), other.strip("* ")


def _without_bodies(text: str) -> str:
    """The text up to the brace that closes what was opened before it; what stands in braces is left out."""
    depth, kept = 0, []
    for letter in text:
        if letter == "}" and depth == 0:
            break
        depth += (letter == "{") - (letter == "}")
        kept.append(";" if letter == "}" else "" if depth else letter)
    return "".join(kept)


def _template_names(template: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", one.partition("=")[0])[-1] for one in split(template))


def _type_and_name(text: str) -> tuple[str, str]:
    """ "const float* x" -> ("const float*", "x")"""
    match = re.match(r"(.*?)(\w+)\s*$", text.strip(), re.DOTALL)
    if match is None:
        raise ValueError(
            f"{text.strip()} cannot be given to a kernel cell, which takes pointers, numbers and structs of these"
        )
    return " ".join(match.group(1).split()), match.group(2)


def _replaced(kind: str, given: dict[str, str]) -> str:
    return re.sub(r"\b\w+\b", lambda match: given.get(match.group(), match.group()), kind)
