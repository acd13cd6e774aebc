"""The course uses what the package has: every selector option, storage mode, command and version of a CUDA kernel.

A further kind of thing is one more entry of ``THINGS``: what there is, and what of it a notebook uses.
"""

import argparse
import ast
import inspect
import json
import re
from functools import cache

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbval_runs import ROOT, tool

import annsoftmax_ref
from annsoftmax_ref.cli import build_parser
from annsoftmax_ref.experiments.runs import STORAGES
from kernels_inline.registry import KERNELS

# Calls whose keywords are options of a selector, beside the selectors' own names.
MAKERS = ("make_head", "make_selector", "ANNSoftmax", "trained_head")


@cache
def trees():
    """The code of every cell of the course, solutions aside; cells of C++ are their magic's call."""
    cells = [cell for path in sorted((ROOT / "notebooks").glob("*.ipynb")) for cell in tool.code_cells(read(path))]
    return [ast.parse(TransformerManager().transform_cell(cell.source)) for cell in cells]


def read(path):
    return nbformat.read(path, as_version=4)


def nodes(*kinds):
    return [node for tree in trees() for node in ast.walk(tree) if isinstance(node, kinds)]


@cache
def strings():
    return [node.value for node in nodes(ast.Constant) if isinstance(node.value, str)]


# --- what there is -----------------------------------------------------------------------------------------


def selectors():
    kinds = [getattr(annsoftmax_ref, name) for name in annsoftmax_ref.__all__]
    base = annsoftmax_ref.Selector
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, base) and kind is not base]


def selector_options():
    return {option for kind in selectors() for option in inspect.signature(kind).parameters}


def commands(parser=None, before="annsoftmax"):
    """As they are typed: "annsoftmax plan", "annsoftmax bench step"."""
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                deeper = set(commands(inner, f"{before} {name}"))
                yield from deeper or [f"{before} {name}"]


def kernel_versions():
    """Those that the index at the head of each .cu file names: "step_rows_3"."""
    return {f"{kernel.index or kernel.launcher}_{version}" for kernel in KERNELS for version in kernel.versions()}


# --- what is used ------------------------------------------------------------------------------------------


def used_options():
    """Keywords of calls that make a selector or its head, and keys of dicts that hold nothing but options."""
    names, options = {kind.__name__ for kind in selectors()} | set(MAKERS), selector_options()
    for call in nodes(ast.Call):
        if getattr(call.func, "id", getattr(call.func, "attr", None)) in names:
            yield from (keyword.arg for keyword in call.keywords)
    for made in nodes(ast.Dict):
        keys = {key.value if isinstance(key, ast.Constant) else None for key in made.keys}
        if keys <= options:
            yield from keys


def used_commands():
    """Those that a cell names as they are typed, and those that wrote a record whose file a cell names."""
    records = {path.relative_to(ROOT / "results"): path for path in (ROOT / "results").rglob("*.json")}
    known = list(commands())
    for text in strings():
        yield from (command for command in known if re.search(rf"{command}\b", text))
        for name, path in records.items():
            if text.endswith(str(name)):
                written = json.loads(path.read_text()).get("command", "")
                yield from (command for command in known if re.match(rf"{command}\b", written))
        if text.endswith("tables/runs.json"):  # has no command of its own: ``table`` adds to it
            yield "annsoftmax table"


def launched_versions():
    """Names in cells and in what they printed."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in tool.code_cells(read(path)):
            printed = [text for output in cell.outputs for text in tool.output_texts(output)]
            yield from re.findall(r"\b[a-z]\w*_\d\b", "\n".join([cell.source, *printed]))


THINGS = {
    "selector options": (selector_options, used_options),
    "storage modes": (lambda: set(STORAGES), strings),
    "commands": (lambda: set(commands()), used_commands),
    "kernel versions": (kernel_versions, launched_versions),
}


@pytest.mark.parametrize("kind", THINGS)
def test_all_are_used_in_a_notebook(kind):
    there, used = THINGS[kind]
    assert sorted(there() - set(used())) == []


def test_the_lists_are_of_what_the_package_has():
    assert {"annsoftmax doctor", "annsoftmax bench step"} <= set(commands()) - {"annsoftmax bench"}
    assert {"nprobe", "mass_target", "rebuild_steps"} <= selector_options()
    assert len(trees()) > 400 and len(set(commands())) >= 14 and len(selector_options()) >= 20
    assert {"step_rows_3", "flat_map_4"} <= kernel_versions() and len(kernel_versions()) > 40


@pytest.mark.parametrize(
    "kind, thing",
    [
        ("selector options", "probes"),
        ("storage modes", "fp4"),
        ("commands", "annsoftmax bench speed"),
        ("kernel versions", "step_rows_9"),
    ],
)
def test_what_no_notebook_uses_would_be_found(kind, thing):
    _, used = THINGS[kind]
    assert thing not in set(used())
