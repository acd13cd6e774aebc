"""Which files of the repository are pages of the site, in which order, and the pages that only the site has.

Everything is found by pattern, so that a new notebook, table or module is on the site without being named here.
"""

from __future__ import annotations

import ast
import json
import os
import re
import tomllib
from pathlib import Path

from docstrings import marked_up

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = (
    "README.md",
    "[a-z]*/README.md",
    "annsoftmax_ref/*/**/*.md",
    "CONTRIBUTING.md",
    "notebooks/*.ipynb",
    "notebooks/solutions/*.ipynb",
    "results/**/*.md",
)
PARTS = {  # the course, by the numbers at the beginning of the notebooks' names
    "The method, in NumPy and PyTorch": range(0, 11),
    "The kernels, in C++ and CUDA": range(11, 100),
}
PACKAGES = ("annsoftmax_ref", "kernels_inline")
HOME = "README.md"  # is the site's index


def repository() -> str | None:
    """The address of the repository, ``[project.urls] Repository`` in pyproject.toml; None: it has none yet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository")
    return address and address.rstrip("/").removesuffix(".git")


def pages() -> list[str]:
    """The files that are pages, as paths from the repository's root, sorted."""
    found = {path for pattern in PATTERNS for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT).as_posix() for path in found if ".ipynb_checkpoints" not in path.parts)


def staged(page: str) -> str:
    """Where a page lies among the site's sources: as in the repository, but for the first one."""
    return "index.md" if page == HOME else page


def docname(page: str) -> str:
    return os.path.splitext(staged(page))[0]


def number_of(page: str) -> int | None:
    """10 for ``notebooks/10_train_and_evaluate.ipynb``; None for one without a number."""
    found = re.match(r"(\d+)_", Path(page).name)
    return found and int(found[1])


def title(page: str) -> str:
    """A page's first heading; that of a numbered notebook after its number."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    heading = re.search(r"^# +(.*?) *$", text, re.MULTILINE)
    if heading is None:
        raise ValueError(f"{page} has no heading of the first level ('# ')")
    number = number_of(page)
    return heading[1] if number is None else f"{number:02d} {heading[1]}"


def groups() -> dict[str, list[str]]:
    """The side bar: of each group the pages that stand in it."""
    found: dict[str, list[str]] = {part: [] for part in PARTS} | {"Look up": []}
    for page in pages():
        if page == HOME or is_solution(page):
            continue
        number = number_of(page) if page.startswith("notebooks/") else None
        part = next((part for part, numbers in PARTS.items() if number is not None and number in numbers), "Look up")
        found[part].append(page)
    found["Look up"].sort(key=lambda page: (not page.startswith("notebooks/"), page == "CONTRIBUTING.md", page))
    return {name: members for name, members in found.items() if members}


def is_solution(page: str) -> bool:
    return page.startswith("notebooks/solutions/")


def toctrees() -> str:
    """The contents as hidden tables for the end of the index, where Sphinx finds them."""
    entries = {name: [f"{title(page)} <{docname(page)}>" for page in group] for name, group in groups().items()}
    entries["Look up"] += ["Solutions <solutions>", "Run the notebooks <run>"]
    entries["API"] = [f"api/{package}" for package in PACKAGES]
    return "\n".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {name}\n\n" + "\n".join(lines) + "\n```"
        for name, lines in entries.items()
    )


def solutions() -> str:
    """The page with the list of the solutions."""
    listed = [f"{title(page)} <{docname(page)}>" for page in pages() if is_solution(page)]
    text = "What the exercises of the notebooks ask for, worked out. Try first: each exercise has a checker."
    return f"# Solutions\n\n{text}\n\n```{{toctree}}\n" + "\n".join(listed) + "\n```\n"


def run_page() -> str:
    """How to run the notebooks; elsewhere than on one's own machine only where the repository has an address."""
    text = (Path(__file__).parent / "run.md").read_text(encoding="utf-8")
    here, _, elsewhere = text.partition("## Without installing anything")
    address = repository()
    return text.replace("REPOSITORY", address) if address else here


# --- the API: a page a package, with a section for each of its modules ------------------------------


def api_pages() -> dict[str, str]:
    """{"annsoftmax_ref.objectives": the page's text in reStructuredText} for every package."""
    folders = [path.parent for package in PACKAGES for path in sorted((ROOT / package).rglob("__init__.py"))]
    return {dotted(folder): package_page(folder) for folder in folders}


def dotted(path: Path) -> str:
    """The name by which a module or package is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def package_page(folder: Path) -> str:
    """A package's docstring, the packages in it, and its modules with all in them that has a docstring."""
    name = dotted(folder)
    modules = [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    packages = sorted(path.parent for path in folder.glob("*/__init__.py"))
    listed = [f"- :doc:`{path.name} <{dotted(path)}>`: {first_sentence(path)}" for path in packages]
    tree = [f"   {path.name} <{dotted(path)}>" for path in packages]
    lines = [*heading(name, "="), f".. automodule:: {name}", "   :no-members:", "", *listed, ""]
    lines += [".. toctree::", "   :hidden:", "", *tree, ""] if tree else []
    return "\n".join(lines + [line for path in modules for line in module_section(path)])


def module_section(path: Path) -> list[str]:
    """A module's docstring, and all in it that has one. Ops are objects, and are shown as the functions they call."""
    name = dotted(path)
    operations = [node.name for node in tree_of(path).body if is_op(node)]
    lines = [*heading(path.stem, "-"), f".. automodule:: {name}", "   :members:"]
    if operations:
        lines.append(f"   :exclude-members: {', '.join(operations)}")
    return [*lines, "", *(f".. autofunction:: {name}.{one}\n" for one in operations)]


def heading(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]


def is_op(node: ast.AST) -> bool:
    calls = [one for one in getattr(node, "decorator_list", []) if isinstance(one, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id == "kernel_op" for call in calls)


def first_sentence(path: Path) -> str:
    """What a module or package says of itself in its first line."""
    text = ast.get_docstring(tree_of(path / "__init__.py" if path.is_dir() else path)) or ""
    return marked_up(text.partition("\n\n")[0].replace("\n", " "))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
