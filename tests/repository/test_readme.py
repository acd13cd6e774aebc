"""The documents keep their word: snippets run, and the files, links and make targets that they name exist."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "annsoftmax_ref/README.md",
        *(f"annsoftmax_ref/training/{page}.md" for page in ("README", "torchrun", "slurm", "ray")),
        "annsoftmax_ref/training/integrations/README.md",
        "kernels_inline/README.md",
        "results/README.md",
        "results/tables/README.md",
    )
}
README = DOCUMENTS["README.md"]
SUFFIXES = "py ipynb md toml txt yml yaml cfg json png svg cpp cu cuh h".split()
MADE_LATER = (".venv", "results/demo")  # by `make setup` and `make demo`

each_document = pytest.mark.parametrize("document", DOCUMENTS)


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


def test_the_readme_is_one_screen_or_two():
    assert len(README.splitlines()) < 150


# Those of CONTRIBUTING.md are files of the reader's own: test_contributing.py.
SNIPPETS = [
    (name, line, code) for name, text in DOCUMENTS.items() if name != "CONTRIBUTING.md" for line, code in snippets(text)
]


def test_there_are_snippets():
    assert {"README.md", "annsoftmax_ref/README.md"} == {name for name, _, _ in SNIPPETS}


def make_photos(folder, classes=3, each=6):
    """What a snippet takes for granted: a folder a class, each of one colour with noise."""
    generator = np.random.default_rng(len(folder.name))
    for number in range(classes):
        colour = generator.integers(256, size=3)
        (folder / f"class {number}").mkdir(parents=True)
        for photo in range(each):
            pixels = (colour + generator.integers(-20, 20, size=(40, 30, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class {number}" / f"{photo}.png")


@pytest.mark.parametrize("document, line, code", SNIPPETS, ids=[f"{name}:{line}" for name, line, _ in SNIPPETS])
def test_snippet_runs(document, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what it writes does not stay
    for folder in re.findall(r'load_image_folder\("(\w+)"', code):
        make_photos(tmp_path / folder)
    numbered = "\n" * (line - 1) + code  # a traceback then names the document's own line
    exec(compile(numbered, document, "exec"), {"__name__": "readme_snippet"})


@pytest.mark.parametrize(
    "document", sorted(DOCUMENTS.keys() - {"CONTRIBUTING.md"})
)  # which names files that are to be made
def test_named_files_exist(document):
    assert [name for name in set(named_files(DOCUMENTS[document])) if not exists(name)] == []


@each_document
def test_links_lead_somewhere(document):
    folder = (ROOT / document).parent
    for target in linked(DOCUMENTS[document]):
        name, _, anchor = target.partition("#")
        there = folder / name if name else ROOT / document
        assert not name.startswith("/") and there.exists(), f"{document} links to {target}, which is not there"
        if anchor and there.suffix == ".md":
            assert anchor in headings(there.read_text()), f"{document} links to {target}: there is no such heading"


@each_document
def test_images_have_alt_text(document):
    found = re.findall(r"!\[([^\]]*)\]\(([^)]+)", DOCUMENTS[document])
    assert [target for alt, target in found if not alt.strip()] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {a or b for text in DOCUMENTS.values() for a, b in make_targets(text)}
    assert {"demo", "test"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


def test_tables_are_those_of_the_records():
    run = subprocess.run([sys.executable, "tools/readme.py", "check"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
