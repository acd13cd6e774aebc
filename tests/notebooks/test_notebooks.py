"""The notebooks' form: each rule must find a planted fault. Refreshing, and strict nbval on a small notebook."""

import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval_runs import ROOT, nbval, run, tool

NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_form(path):
    assert tool.check(path) == []


# --- the rules find what they are for ----------------------------------------------------------------------


def printed(text):
    return [new_output("stream", name="stdout", text=text)]


def code(source, count, outputs=(), gpu=False):
    metadata = {"tags": ["gpu"]} if gpu else {}
    return new_code_cell(source, execution_count=count, outputs=list(outputs), metadata=metadata)


def save(folder, *cells, name="sample.ipynb", **metadata):
    path = folder / name
    nbformat.write(new_notebook(cells=list(cells), metadata=metadata), path)
    return path


GOOD = [
    new_markdown_cell("# A title\n\n[down](#The-end), [other](other.ipynb#Its-title), ![a curve](curve.png)"),
    code("x = 1\nfor i in range(3):\n    x += i\nprint(x)", 1, printed("4\n")),
    code("kernel = x + 1\ni = 5", 2, gpu=True),
    code("%%cuda_helpers rows\nint one;", 3),
    code("%%cuda_kernel add<float, 2> scale using rows\n__global__ void add() {}", 4),
    code("add, scale\nfor i in range(2):\n    x = i\n[i for i in range(x)]\ndef f(kernel):\n    return kernel", 5),
    new_markdown_cell("## The end\n\n```python\n# not a heading, nor [a link](nowhere)\n```\nand `[x](y)`, $f[k](z)$"),
]

BAD = {
    "a cell was never run": (new_code_cell("1"), "execution count None"),
    "cells ran out of order": (code("1", 9), "execution count 9"),
    "a long cell": (code("\n".join(["x = 1"] * 31), 6), "has 31 lines, and may have 30"),
    "two titles": (new_markdown_cell("# Another title"), "2 headings of level 1"),
    "a skipped heading level": (new_markdown_cell("#### Deep"), "'#### Deep' skips a level"),
    "a path in a source": (code("open('/home/ann/x.npy')", 6), "source: /home/ann"),
    "a path in an output": (code("x", 6, printed("saved /tmp/abc\n")), "output: /tmp/abc"),
    "a path in a traceback": (
        code("x", 6, [new_output("error", ename="E", evalue="", traceback=["File /work/a.py"])]),
        "output: /work/a.py",
    ),
    "a dead link": (new_markdown_cell("see [this](gone/file.md)"), "gone/file.md leads nowhere"),
    "an absolute link": (new_markdown_cell("see [this](/etc/hosts)"), "/etc/hosts leads nowhere"),
    "a dead anchor": (new_markdown_cell("see [this](#Nothing)"), "#Nothing names no heading"),
    "a dead anchor elsewhere": (
        new_markdown_cell("[this](other.ipynb#Nothing)"),
        "names no heading of other.ipynb",
    ),
    "an image without alt text": (new_markdown_cell("![](curve.png)"), "curve.png has no alt text"),
    "an img tag without alt text": (new_markdown_cell('<img src="curve.png" alt="">'), "has no alt text"),
    "a missing image": (new_markdown_cell("![a curve](gone.png)"), "gone.png leads nowhere"),
    "a use of a gpu cell's name": (code("print(kernel)", 6), "uses 'kernel', which the gpu cell 2 binds"),
    "a timed use": (code("%timeit -n 10 -r 3 kernel", 6), "uses 'kernel'"),
    "a timed cell's use": (code("%%time\nkernel", 6), "uses 'kernel'"),
    "a cell that is not Python": (code("x = = 1", 6), "is not plain Python"),
    "a use inside a function": (code("def g():\n    return kernel", 6), "uses 'kernel'"),
    "a use that also binds": (code("kernel = kernel + 1", 6), "uses 'kernel'"),
    "a use in an augmented assignment": (code("kernel += 1", 6), "uses 'kernel'"),
    "a name that no cell binds": (code("print(nobody)", 6), "code cell 6 uses 'nobody', which no cell binds"),
    "helpers that no cell has": (code("%%cuda_kernel f using some\n", 6), "uses 'some', which no cell binds"),
    "a use of a gpu cell's kernel": (code("%%cuda_kernel f using kernel\n", 6), "uses 'kernel', which the gpu cell 2"),
    "a large file": (code("x", 6, printed("9" * tool.MAX_BYTES)), "and may have 200,000"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "curve.png").touch()
    save(tmp_path, new_markdown_cell("# Its title"), name="other.ipynb")
    return tmp_path


def test_a_good_notebook_has_no_faults(folder):
    assert tool.check(save(folder, *GOOD)) == []


@pytest.mark.parametrize("fault", BAD)
def test_each_planted_fault_is_found_and_nothing_else(folder, fault):
    cell, sentence = BAD[fault]
    faults = tool.check(save(folder, *GOOD, cell))
    assert len(faults) == 1 and sentence in faults[0]


def test_widget_state_and_a_missing_title_are_found(folder):
    assert any("metadata.widgets" in fault for fault in tool.check(save(folder, *GOOD, widgets={})))
    assert any("0 headings of level 1" in fault for fault in tool.check(save(folder, *GOOD[1:])))


def test_the_command_names_the_fault_and_fails(folder, capsys):
    assert tool.main(["check", str(save(folder, *GOOD, code("1", 9)))]) == 1
    assert "sample.ipynb: code cell 6 has execution count 9" in capsys.readouterr().out
    assert tool.main(["check", str(save(folder, *GOOD))]) == 0


# --- refresh and nbval, in processes of their own ----------------------------------------------------------

CELLS = [
    new_markdown_cell("# A sample"),
    new_code_cell("import time\nstart = time.perf_counter()\nprint(f'{2 / 3:.3f}')"),
    new_code_cell("print(f'took {time.perf_counter() - start:.4f} s at {hex(id(start))}')"),
    new_code_cell("import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\nslider"),
    code("raise SystemError('a gpu cell ran')", 1, printed("7.5 on an H100\n"), gpu=True),
    new_code_cell("slider.value + 1"),
    new_code_cell("print('after')"),
]


@pytest.mark.slow
def test_refresh_is_repeatable_and_nbval_finds_a_changed_number(tmp_path):
    for name in ("conftest.py", "sanitize.cfg"):
        shutil.copy(ROOT / "notebooks" / name, tmp_path)
    path = save(tmp_path, *CELLS)
    refresh = [ROOT / "tools" / "notebooks.py", "refresh", path]

    assert run(*refresh, cwd=ROOT).returncode == 0
    first = path.read_bytes()
    assert b"0.667" in first and b"7.5 on an H100" in first  # results stored, and the GPU's kept
    assert b"widget-view" not in first and b"IntSlider(value=3)" in first
    assert [c.execution_count for c in tool.code_cells(nbformat.read(path, 4))] == [1, 2, 3, 4, 5, 6]

    result = nbval(path)
    assert result.returncode == 0, result.stdout
    assert "5 passed, 1 skipped" in result.stdout and "this cell is tagged gpu" in result.stdout

    assert run(*refresh, cwd=ROOT).returncode == 0
    timing = b"took "
    second = path.read_bytes()
    assert [a for a in first.splitlines() if timing not in a] == [b for b in second.splitlines() if timing not in b]

    wrong = first
    for true, false in ((b"0.667", b"0.677"), (b'"4"', b'"5"'), (rb'"after\n"', rb'"before\n"')):
        assert first.count(true) == 1
        wrong = wrong.replace(true, false)
    path.write_bytes(wrong)
    result = nbval(path)
    assert result.returncode == 1 and "3 failed, 2 passed, 1 skipped" in result.stdout, result.stdout


@pytest.mark.slow
def test_a_cell_that_raises_leaves_the_notebook_as_it_was(tmp_path):
    path = save(tmp_path, new_markdown_cell("# A sample"), new_code_cell("1 / 0"))
    before = path.read_bytes()
    result = run(ROOT / "tools" / "notebooks.py", "refresh", path, cwd=ROOT)
    assert result.returncode != 0 and "ZeroDivisionError" in result.stderr
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["sample.ipynb"]


def test_a_folded_cell_is_folded_in_jupyterlab_as_on_the_site():
    folded = 0
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
            assert hidden == ("hide-input" in cell.metadata.get("tags", [])), (path.name, cell.id)
            folded += hidden
    assert folded >= 20


def test_the_small_example_goes_through_the_course():
    for number in ("01", "04", "05", "06", "08", "09"):
        (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        cells = tool.code_cells(nbformat.read(path, as_version=4))
        assert any("toy.named" in cell.source or "toy.table" in cell.source for cell in cells), number


# --- the course uses what the package has ------------------------------------------------------------


def test_every_selector_and_objective_that_the_package_names_is_used_in_a_notebook():
    import annsoftmax_ref
    from annsoftmax_ref.objectives import OBJECTIVES

    named = [
        kind for kind in (getattr(annsoftmax_ref, name) for name in annsoftmax_ref.__all__) if isinstance(kind, type)
    ]
    bases = (annsoftmax_ref.Selector, annsoftmax_ref.Objective)
    kinds = [kind for kind in named if issubclass(kind, bases) and kind not in bases]
    assert len(kinds) >= 14
    cells = [cell for path in NOTEBOOKS for cell in tool.code_cells(nbformat.read(path, as_version=4))]
    text = "\n".join(cell.source for cell in cells)
    unused = [kind.__name__ for kind in kinds if kind.__name__ not in text]
    names = {kind.__name__: name for name, kind in OBJECTIVES.items()}
    unused = [name for name in unused if f'"{names.get(name, name)}"' not in text]
    assert unused == []
