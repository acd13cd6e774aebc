"""The import contracts in pyproject.toml, which ``make lint`` runs: they hold, and what climbs breaks them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")

pytestmark = pytest.mark.skipif(not LINTER.exists(), reason="import-linter is not installed")


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """pyproject.toml and the Python files of both packages."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path in (path for name in ("annsoftmax_ref", "kernels_inline") for path in (ROOT / name).rglob("*.py")):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder


def broken(folder):
    """The names of the contracts that the tree breaks."""
    run = subprocess.run(
        [LINTER, "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert "Contracts: " in run.stdout, run.stdout + run.stderr
    return [line.removesuffix(" BROKEN") for line in run.stdout.splitlines() if line.endswith(" BROKEN")]


def test_the_tree_keeps_every_contract(copy):
    assert broken(copy) == []


@pytest.mark.parametrize(
    "file, line, contract",
    [
        ("annsoftmax_ref/checks.py", "from annsoftmax_ref.training import fit", "Imports go down"),
        ("annsoftmax_ref/bench/step.py", "from annsoftmax_ref import cli", "Imports go down"),
        ("annsoftmax_ref/stray.py", "", "Imports go down"),
        ("annsoftmax_ref/rows.py", "from annsoftmax_ref import loss", "No circles"),
        ("annsoftmax_ref/commands/parser.py", "from annsoftmax_ref.commands import bench", "No circles"),
        ("kernels_inline/bits.py", "import annsoftmax_ref.checks", "The kernels know nothing"),
        ("annsoftmax_ref/reference/optim.py", "import torch", "The specification is plain NumPy"),
    ],
)
def test_an_import_that_climbs_breaks_a_contract(file, line, contract, copy):
    path = copy / file
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        assert any(name.startswith(contract) for name in broken(copy))
    finally:
        path.unlink() if before is None else path.write_text(before)


@pytest.mark.parametrize("module", ["annsoftmax_ref", "annsoftmax_ref.cli"])
def test_what_only_many_processes_need_is_not_imported_at_the_start(module):
    """torch's DTensor and distributed checkpoints take a second, which every command and notebook would wait for."""
    code = f"import sys, {module}; print([n for n in sys.modules if n.startswith('torch.distributed.')])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    late = ("torch.distributed.tensor", "torch.distributed.checkpoint")
    assert "'torch.distributed.distributed_c10d'" in run.stdout and not any(name in run.stdout for name in late)
