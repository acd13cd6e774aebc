"""The gate over the course: strict nbval fails when a stored number, the package or a line of a notebook is wrong."""

import re
import shutil

import nbformat
import pytest
from nbval.plugin import get_sanitize_patterns
from nbval_runs import ROOT, failed_cells, nbval, tool

COURSE = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))}

# notebook: file of the package, what stands there, what is put in its place
PACKAGE_FAULTS = {
    "01": ("reference/objectives.py", "grad[rows, target] -= 1.0", "grad[rows, target] += 1.0"),
    "02": ("reference/estimators.py", "np.argsort(-priorities, ", "np.argsort(priorities, "),
    "03": ("rivals/forest.py", "(projection > self.thresholds", "(projection < self.thresholds"),
    "04": ("index.py", "pack_bits(unit_rows > 0)", "pack_bits(unit_rows < 0)"),
    "05": ("shortlists.py", "clamp_min(1) - means", "clamp_min(1) + means"),
    "06": ("grouping.py", "(points - mean) * there", "(points + mean) * there"),
    "07": ("objectives/margins.py", "- _sine(cosine) * math.sin", "+ _sine(cosine) * math.sin"),
    "08": ("objectives/margins.py", "return cosine - self.margin", "return cosine + self.margin"),
    "09": ("reference/optim.py", "first = [1 - lr * weight_decay, -lr", "first = [1 - lr * weight_decay, lr"),
    "10": ("evaluation/retrieval.py", "wanted[query, column] = -score", "wanted[query, column] = score"),
    "12": ("lessons/kernel_launches.py", "(address - begin) // item", "(address + begin) // item"),
    "11": ("lessons/cpp_scan.py", "np.bitwise_count((query ^ codes)", "np.bitwise_count((query | codes)"),
    "16": ("beyond/mass_budget.py", "before + AVERAGE * (measured", "before - AVERAGE * (measured"),
    "15": ("captured.py", "ids, directions.grad, norms)", "ids, -directions.grad, norms)"),
    "13": ("lessons/counting_pictures.py", "(g, 2 * t), (g, 2 * t + 1), (g + 8", "(g, 2 * t + 1), (g, 2 * t), (g + 8"),
    "14": ("reference/flat_select.py", "key = 255 - scores", "key = 255 + scores"),
    "17": ("shards.py", ".log() + base", ".log() - base"),
    "18": ("planning/communication.py", "+ _latency(one.kind", "- _latency(one.kind"),
    "19": ("datasets/skipping.py", "max(AT_LEAST, int(SHARE", "min(AT_LEAST, int(SHARE"),
}
# notebook: a line, and what is put in its place
LINE_FAULTS = {
    "01": ("g[np.arange(len(labels)), labels] -= 1", "g[np.arange(len(labels)), labels] += 1"),
    "02": (
        "(N - len(certain)) / (A - len(certain))\n    weights",
        "(N + len(certain)) / (A - len(certain))\n    weights",
    ),
    "03": ("node = upper if direction @ query > cut", "node = upper if direction @ query < cut"),
    "04": ("((x >> np.uint64(2)) & fours)", "((x >> np.uint64(1)) & fours)"),
    "05": ("c = centroids[one] + len(some)", "c = centroids[one] - len(some)"),
    "06": ("loss += one * len(part) / B", "loss += one * len(part)"),
    "07": ("logits[np.arange(len(z)), y] -= s * m", "logits[np.arange(len(z)), y] += s * m"),
    "08": (".mean(axis=0) - index.centroids[one]", ".mean(axis=0) + index.centroids[one]"),
    "09": ("return w - lr * v, v", "return w + lr * v, v"),
    "10": ("np.flatnonzero(last) + 1 - taken", "np.flatnonzero(last) + 1 + taken"),
    "12": ("if (i < n) out[i] = x[i] / 2;", "if (i < n) out[i] = x[i] * 2;"),
    "11": ("popcount(codes[i * words + w] ^ query[w])", "popcount(codes[i * words + w] | query[w])"),
    "16": ("np.append(np.zeros(len(own)), -np.log(p))", "np.append(np.zeros(len(own)), np.log(p))"),
    "15": ("self.w.sub_(rate * self.v)", "self.w.add_(rate * self.v)"),
    "13": ("mine_b[i] = b[2 * lane_id() + i];", "mine_b[i] = b[2 * lane_id() + 1 - i];"),
    "14": ("chosen = (key < cut) | (at", "chosen = (key <= cut) | (at"),
    "17": ("log_z = largest + np.log(sums)", "log_z = largest - np.log(sums)"),
    "18": ("return 2 * (P - 1) * count // P", "return 2 * (P + 1) * count // P"),
    "19": ("(2 * dim) + scale * margin)", "(2 * dim) - scale * margin)"),
}

pytestmark = pytest.mark.slow


def those_of(numbers, here):
    """Every run of the tests plants the faults ``here``, one kernel cell among them, and `make gate` all."""
    return [pytest.param(number, marks=[] if number in here else pytest.mark.exhaustive) for number in sorted(numbers)]


@pytest.fixture
def course(tmp_path):
    """A folder laid out as the repository is, to put a changed notebook or package into."""
    (tmp_path / "notebooks").mkdir()
    for name in ("conftest.py", "sanitize.cfg"):
        shutil.copy(ROOT / "notebooks" / name, tmp_path / "notebooks")
    for name in ("results", "kernels_inline", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "annsoftmax_ref", tmp_path / "annsoftmax_ref")
    return tmp_path


def replaced(text, old, new):
    assert text.count(old) == 1, f"{old!r} stands there {text.count(old)} times"
    return text.replace(old, new)


def gate(course, notebook, *options):
    result = nbval(course / "notebooks" / notebook.name, *options, PYTHONPATH=str(course))
    assert result.returncode in (0, 1), result.stdout + result.stderr
    return failed_cells(result)


def test_every_fault_can_be_planted():
    for file, old, new in PACKAGE_FAULTS.values():
        replaced((ROOT / "annsoftmax_ref" / file).read_text(), old, new)
    for number, (old, new) in LINE_FAULTS.items():
        sources = [cell.source for cell in tool.code_cells(nbformat.read(COURSE[number], as_version=4))]
        replaced("\n".join(sources), old, new)


@pytest.mark.parametrize("number", those_of(PACKAGE_FAULTS, ["01", "09", "18"]))
def test_a_wrong_sign_in_the_package_is_found(course, number):
    file, old, new = PACKAGE_FAULTS[number]
    path = course / "annsoftmax_ref" / file
    path.write_text(replaced(path.read_text(), old, new))
    shutil.copy(COURSE[number], course / "notebooks")
    assert gate(course, COURSE[number], "-x")


@pytest.mark.parametrize("number", those_of(LINE_FAULTS, ["04", "07", "12", "17"]))
def test_a_wrong_line_in_a_notebook_is_found_at_that_cell_or_later(course, number):
    notebook = nbformat.read(COURSE[number], as_version=4)
    cells = tool.code_cells(notebook)
    (at,) = [i for i, cell in enumerate(cells) if LINE_FAULTS[number][0] in cell.source]
    cells[at].source = replaced(cells[at].source, *LINE_FAULTS[number])
    nbformat.write(notebook, course / "notebooks" / COURSE[number].name)
    failed = gate(course, COURSE[number], "-x")
    assert failed and failed[0] >= at


@pytest.mark.parametrize("number", those_of(COURSE, ["07"]))
def test_every_stored_number_is_compared(course, number):
    """All digits of all stored texts are changed: each cell that has any fails, and no other cell does."""
    notebook = nbformat.read(COURSE[number], as_version=4)
    changed = []
    for i, cell in enumerate(tool.code_cells(notebook)):
        texts = [shift_digits(output) for output in cell.outputs]
        if any(re.search(r"\d", hide_durations(text)) for text in texts) and not ignored(cell):
            changed.append(i)
    nbformat.write(notebook, course / "notebooks" / COURSE[number].name)
    assert changed and gate(course, COURSE[number]) == changed


def ignored(cell):
    return tool.is_gpu(cell) or "nbval-ignore-output" in cell.metadata.get("tags", [])


def shift_digits(output):
    """Puts the next digit for each one in what nbval compares of a stored output; -> the text as it was."""
    before = output.get("text", "") + output.get("data", {}).get("text/plain", "")
    other = str.maketrans("0123456789", "1234567890")
    if "text" in output:
        output["text"] = output["text"].translate(other)
    if "text/plain" in output.get("data", {}):
        output["data"]["text/plain"] = output["data"]["text/plain"].translate(other)
    return before


def hide_durations(text):
    """As nbval does before it compares."""
    for pattern, name in get_sanitize_patterns((ROOT / "notebooks" / "sanitize.cfg").read_text()):
        text = re.sub(pattern, name, text)
    return text
