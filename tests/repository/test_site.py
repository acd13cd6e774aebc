"""`make site`, as far as it shows without a build: its contents, links, docstrings and the files for Binder.

The build itself, with warnings for errors, is `make site`, which .ci/run calls.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools" / "website"))

import contents
from dead_links import dead_links
from docstrings import restructured
from links import Links, slug

from annsoftmax_ref.lessons import kernel_page

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BINDER = ROOT / ".binder"


def notebook(*sources, outputs=()):
    cells = [{"cell_type": "markdown", "metadata": {}, "source": source} for source in sources]
    cells += [{"cell_type": "code", "metadata": {}, "source": "f()", "outputs": [one]} for one in outputs]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A small repository in place of this one; returns its root."""
    files = {
        "README.md": "# The project\n",
        "pyproject.toml": "[project]\nname = 'course'\n",
        "notebooks/02_second.ipynb": notebook("# Come second\n\ntext"),
        "notebooks/10_last.ipynb": notebook("# Come last"),
        "notebooks/11_kernel.ipynb": notebook("# Write a kernel"),
        "notebooks/words.ipynb": notebook("# Look up"),
        "notebooks/solutions/02_second.ipynb": notebook("# Solve the second"),
        "results/tables/README.md": "# All tables\n",
        "results/run.json": "{}",
        "annsoftmax_ref/__init__.py": '"""The package: all of it."""',
        "kernels_inline/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(contents, "ROOT", tmp_path)
    return tmp_path


# --- contents ----------------------------------------------------------------------------------


def test_every_notebook_and_table_stands_in_the_contents_once():
    listed = re.findall(r"<(\S+)>$", contents.toctrees() + contents.solutions(), re.MULTILINE)
    files = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/solutions/*.ipynb"), *ROOT.glob("results/**/*.md")]
    wanted = [path.relative_to(ROOT).with_suffix("").as_posix() for path in files]
    assert len(wanted) > 20
    assert [name for name in wanted if listed.count(name) != 1] == []


def test_contents_follow_the_numbers_and_part_where_the_kernels_begin(course):
    method, kernels = contents.PARTS
    assert contents.groups() == {
        method: ["notebooks/02_second.ipynb", "notebooks/10_last.ipynb"],
        kernels: ["notebooks/11_kernel.ipynb"],
        "Look up": ["notebooks/words.ipynb", "results/tables/README.md"],
    }
    assert "\n02 Come second <notebooks/02_second>\n10 Come last <notebooks/10_last>\n" in contents.toctrees()
    assert "02 Solve the second <notebooks/solutions/02_second>" in contents.solutions()


def test_a_page_without_a_title_is_named(course):
    (course / "notebooks/03_mute.ipynb").write_text(notebook("text, and no heading"))
    with pytest.raises(ValueError, match="notebooks/03_mute.ipynb has no heading"):
        contents.toctrees()


def test_every_module_is_in_the_api_and_ops_are_shown_as_functions():
    pages = contents.api_pages()
    text = "\n".join(pages.values())
    for package in contents.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = contents.dotted(path.parent if path.name == "__init__.py" else path)
            assert path.stem == "__main__" or f".. automodule:: {name}\n" in text, name
    assert ".. autofunction:: kernels_inline.scan_ops.ivf_scan\n" in pages["kernels_inline"]
    assert "- :doc:`rivals <annsoftmax_ref.rivals>`: " in pages["annsoftmax_ref"]


# --- links -------------------------------------------------------------------------------------

HERE = "notebooks/02_second.ipynb"


@pytest.mark.parametrize(
    "target, leads_to",
    [
        ("10_last.ipynb", "10_last.ipynb"),
        ("10_last.ipynb#Why-so-late?", "10_last.ipynb#why-so-late"),
        ("#A:-b", "#a-b"),
        ("../README.md#what-it-costs", "../index.md#what-it-costs"),
        ("../results/tables", "../results/tables/README.md"),
        ("../annsoftmax_ref/", "../api/annsoftmax_ref.rst"),
        ("https://example.org/a.ipynb", "https://example.org/a.ipynb"),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(course, target, leads_to):
    assert Links(None).target(target, HERE) == leads_to


def test_a_link_to_another_file_leads_to_a_copy_or_to_the_repository(course):
    links = Links(None)
    assert links.target("../results/run.json", HERE) == "../results/run.json"
    assert links.copied == {"results/run.json"}
    links = Links("https://example.org/us/course")
    assert links.target("../results/run.json", HERE) == "https://example.org/us/course/blob/HEAD/results/run.json"
    assert links.target("solutions", HERE) == "https://example.org/us/course/tree/HEAD/notebooks/solutions"
    assert links.copied == set()


def test_links_are_found_in_text_and_in_stored_tables_but_not_in_code(course):
    text = "[`a`](../README.md), `[b](../README.md)`, <a href='10_last.ipynb'>c</a> and [d](solutions)"
    assert Links(None).rewritten(text, HERE) == (
        "[`a`](../index.md), `[b](../README.md)`, <a href='10_last.html'>c</a> and d"
    )
    assert Links(None).rewritten("```\n[b](../README.md)\n```", HERE) == "```\n[b](../README.md)\n```"
    table = {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": ["[e](../README.md)"]}}
    read = json.loads(Links(None).of_page(notebook("[a](../README.md)", outputs=[table]), HERE))
    assert read["cells"][0]["source"] == "[a](../index.md)"
    assert read["cells"][1]["outputs"][0]["data"]["text/markdown"] == "[e](../index.md)"


def test_an_image_with_a_link_is_shown_from_a_copy(course):
    (course / "results/curve.png").write_bytes(b"")
    links = Links("https://example.org/us/course")
    assert links.rewritten("[![a curve](results/curve.png)](results/run.json)", "README.md") == (
        "[![a curve](results/curve.png)](https://example.org/us/course/blob/HEAD/results/run.json)"
    )
    assert links.copied == {"results/curve.png"}


def test_anchors_of_jupyterlab_and_github_come_out_the_same():
    heading = "Rotate first? (A, B): `bits`"
    assert slug(heading.replace(" ", "-")) == slug(heading) == "rotate-first-a-b-bits"


def test_dead_links_are_told(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text("<a href='a/b.html#there'>1</a><a href='https://example.org/no'>2</a>")
    (tmp_path / "a/b.html").write_text("<p id='there'><img src='../c.png'><a href='../index.html?q=1'>3</a></p>")
    (tmp_path / "c.png").write_bytes(b"")
    assert dead_links(tmp_path) == []
    (tmp_path / "c.png").unlink()
    (tmp_path / "a/b.html").write_text("<p id='moved'><img src='../c.png'></p>")
    assert dead_links(tmp_path) == [
        "a/b.html: ../c.png is not there",
        "index.html: a/b.html#there names no part of that page",
    ]


# --- docstrings --------------------------------------------------------------------------------


def test_docstrings_become_restructured_text():
    docstring = """Scale ``x_`` by *one* factor: a*b and write_ -> x.

x [B, d]: rows that
may be long.
scale: a number. Returns x.
Raises ValueError.

    x    ``literal``

- a list
  of |x|
"""
    assert restructured(docstring, ["x", "scale"]) == [
        "Scale ``x_`` by *one* factor: a\\*b and write\\_ → x.",
        "",
        "x [B, d]: rows that",
        "may be long.",
        "",
        "scale: a number. Returns x.",
        "",
        "Raises ValueError.",
        "",
        "::",
        "",
        "        x    literal",
        "",
        "- a list",
        "  of \\|x\\|",
        "",
    ]


# --- outputs and formulas: what needs the packages of `make site` --------------------------------


def test_controls_are_replaced_by_a_line_and_pictures_keep_their_words():
    nodes = pytest.importorskip("docutils.nodes", reason="the packages of make site are not installed")
    outputs = pytest.importorskip("outputs", reason="the packages of make site are not installed")
    texts = ("VBox(children=(…", "%%cuda_kernel f", "%%cpp twice", "1")
    tree = nodes.section("", *(nodes.literal_block(text, text) for text in texts))
    outputs.for_a_page(None, tree)
    note, cuda, cpp, plain = tree.children
    assert "run the notebook" in note.astext()
    assert cuda["language"] == "cuda" and cpp["language"] == "cpp" and "language" not in plain
    for page, outputs_left in (("<pre>f</pre>", 1), (kernel_page.page("f"), 0), (f"<style>{kernel_page.STYLE}", 0)):
        shown = {"output_type": "display_data", "metadata": {}, "data": {"text/html": [page]}}
        (cell,) = json.loads(outputs.prepare_notebook(notebook(outputs=[shown])))["cells"]
        assert len(cell["outputs"]) == outputs_left
    picture = {"output_type": "display_data", "metadata": {"image/png": {"alt": "a curve"}}, "data": {"image/png": ""}}
    (cell,) = json.loads(outputs.prepare_notebook(notebook(outputs=[picture])))["cells"]
    assert cell["metadata"]["mystnb"]["image"]["alt"] == "a curve"


def test_a_formula_that_is_none_is_told(monkeypatch):
    nodes = pytest.importorskip("docutils.nodes", reason="the packages of make site are not installed")
    mathml = pytest.importorskip("mathml", reason="the packages of make site are not installed")
    told = []
    monkeypatch.setattr(mathml.LOG, "warning", lambda text, formula, location: told.append(formula))
    assert mathml.markup(nodes.math(text=r"\frac{1}{2}"), "inline").startswith("<math")
    assert "<mtr>" in mathml.markup(nodes.math(text=r"\begin{aligned} a &= b \\ c &= d \end{aligned}"), "block")
    assert told == []
    for wrong in (r"\nocommand x", r"\begin{cases} 1", r"\left( x", r"a & b"):
        mathml.markup(nodes.math(text=wrong), "inline")
    assert told == [r"\nocommand x", r"\begin{cases} 1", r"\left( x", r"a & b"]


# --- the repository's address, Binder, and who builds ----------------------------------------------


def test_only_a_repository_with_an_address_has_the_way_to_binder_and_colab(course):
    assert contents.repository() is None
    assert "Colab" not in contents.run_page()
    with open(course / "pyproject.toml", "a") as file:
        file.write("[project.urls]\nRepository = 'https://github.com/us/course.git'\n")
    assert contents.repository() == "https://github.com/us/course"
    assert "git clone --quiet https://github.com/us/course annsoftmax" in contents.run_page()


def test_binder_installs_this_package_with_the_versions_that_were_tested():
    lines = [line for line in (BINDER / "requirements.txt").read_text().splitlines() if line[:1] != "#"]
    options = dict(line.split(" ", 1) for line in lines)
    assert (BINDER / options["-c"]).resolve() == ROOT / "constraints.txt"  # pip reads it from the file's own folder
    folder, extra = re.fullmatch(r"(\S+)\[(\w+)\]", options["-e"]).groups()  # and this from the repository's root
    assert (ROOT / folder / "pyproject.toml").samefile(ROOT / "pyproject.toml")
    assert extra in PROJECT["optional-dependencies"]
    assert set(options) == {"--extra-index-url", "-c", "-e"}
    assert {path.name for path in BINDER.iterdir()} <= {"requirements.txt", "runtime.txt", "apt.txt"}


def test_binder_and_conda_agree():
    specifications = [
        re.fullmatch(r"([a-z0-9_-]+)\s*(.*)", entry).groups()
        for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
        if isinstance(entry, str)
    ]
    conda = {{"pytorch": "torch"}.get(name, name): SpecifierSet(bounds) for name, bounds in specifications}
    python = Version((BINDER / "runtime.txt").read_text().strip().removeprefix("python-"))
    assert python in conda["python"] and python in SpecifierSet(PROJECT["requires-python"])
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {one.name: one for one in (Requirement(line) for line in lines if line and line[0] != "#")}
    names = [Requirement(line).name for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["notebooks"]]
    assert [name for name in names if next(iter(pins[name].specifier)).version not in conda[name]] == []


def test_the_site_is_built_for_every_change_and_is_not_kept():
    assert re.search(r"^make site$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    made = subprocess.run(["git", "check-ignore", "build/site/index.html"], cwd=ROOT, capture_output=True)
    if made.returncode == 128:
        pytest.skip("not a git checkout")
    assert made.returncode == 0
