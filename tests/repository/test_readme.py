"""The README keeps its word: its snippets run, and the files, links and make targets that it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
SUFFIXES = "py ipynb md toml txt yml yaml cfg json png svg cpp cu cuh h".split()
MADE_LATER = (".venv", "results/demo")  # by `make setup` and `make demo`

pytestmark = pytest.mark.skipif(not TEXT, reason="there is no README.md yet")


def snippets(text):
    """(line number, code) of each fenced block that is marked as python."""
    for block in re.finditer(r"^```python[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, block.start(1)) + 1, block.group(1)


def prose(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def named_files(text):
    """Backticked names that look like a file of this repository (`Makefile`, `notebooks/`, `a/b.py`)."""
    for name in re.findall(r"`([\w.-][\w./-]*)`", prose(text)):
        if name.endswith("/") or name == "Makefile" or name.rpartition(".")[2] in SUFFIXES:
            yield name


def linked(text):
    targets = re.findall(r"\]\(<?([^)\s>]+)", prose(text)) + re.findall(r"""\b(?:href|src)=["']([^"']+)""", text)
    return [target for target in targets if not re.match(r"(https?|mailto):", target)]


def headings(text):
    """GitHub's anchors of the headings."""
    for title in re.findall(r"^#+ +(.*?) *$", prose(text), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def make_targets(text):
    return sorted(set(re.findall(r"^\s*(?:\$ )?make ([a-z][a-z-]*)|`make ([a-z][a-z-]*)", text, re.MULTILINE)))


def exists(name):
    if name.startswith(MADE_LATER) or (ROOT / name).exists():
        return True
    return "/" not in name and any(ROOT.glob(f"*/**/{name}"))


def test_there_is_a_snippet():
    assert len(list(snippets(TEXT))) >= 1


@pytest.mark.parametrize(
    "line, code", list(snippets(TEXT)), ids=lambda value: f"line{value}" if type(value) is int else ""
)
def test_snippet_runs(line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what it writes does not stay
    numbered = "\n" * (line - 1) + code  # a traceback then names the README's own line
    exec(compile(numbered, str(README), "exec"), {"__name__": "readme_snippet"})


@pytest.mark.parametrize("name", sorted(set(named_files(TEXT))))
def test_named_file_exists(name):
    assert exists(name), f"README.md names {name}, which is not there"


@pytest.mark.parametrize("target", sorted(set(linked(TEXT))))
def test_link_leads_somewhere(target):
    name, _, anchor = target.partition("#")
    if name:
        assert not name.startswith("/") and exists(name), f"README.md links to {target}, which is not there"
    else:
        assert anchor in headings(TEXT), f"README.md links to #{anchor}, and has no such heading"


def test_images_have_alt_text():
    assert [target for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)", TEXT) if not alt.strip()] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {a or b for a, b in make_targets(TEXT)}
    assert {"demo", "test"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_tables_are_those_of_the_records():
    run = subprocess.run([sys.executable, "tools/readme.py", "check"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
