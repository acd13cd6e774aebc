"""tools/gpu.py, as far as that shows without a GPU: its sections, their limits, and that every command is one."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "gpu.py"


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_tool"] = module  # its dataclass looks for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_tool"]


def test_sections_fit_into_what_is_lent(gpu):
    assert len(gpu.SECTIONS) + 1 <= 8  # files that come back, the summary among them
    assert all(section.limit < 8 * 60 for section in gpu.SECTIONS.values())


def test_files_with_gpu_tests_import_nothing_of_jupyter(gpu):
    files = gpu.tests_with_gpu()
    assert "tests/kernels_inline/test_cuda_head.py" in files and "tests/kernels_inline/test_dispatch.py" in files
    for name in files:
        text = (ROOT / name).read_text()
        assert not any(package in text for package in ("nbformat", "ipywidgets", "nbval", "hypothesis")), name


def section(gpu, limit, *scripts):
    commands = [[sys.executable, "-c", script] for script in scripts]
    return gpu.Section("made up", limit, lambda dry: commands)


def test_a_command_that_fails_or_takes_too_long_keeps_none_from_running(gpu, monkeypatch, tmp_path, capsys):
    slow = section(gpu, 3, "import sys; print('said'); sys.exit(3)", "import time; time.sleep(60)")
    monkeypatch.setattr(gpu, "SECTIONS", {"slow": slow, "good": section(gpu, 60, "print('well')")})
    assert gpu.run_sections(["slow", "good"], dry=True, out=tmp_path) == 1
    summary = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert [(row["section"], row["status"]) for row in summary] == [("slow", 3), ("slow", "out of time"), ("good", 0)]
    assert summary[1]["seconds"] < 10
    assert json.loads((tmp_path / "slow.json").read_text())["rows"][0]["printed"] == "said\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.json", "slow.json", "summary.json"]
    assert capsys.readouterr().out.count("FAILED") == 2


def test_summary_is_written_while_a_section_goes_on(gpu, monkeypatch, tmp_path):
    looks = f"import json; print(len(json.load(open({str(tmp_path / 'summary.json')!r}))['rows']))"
    monkeypatch.setattr(gpu, "SECTIONS", {"two": section(gpu, 60, "print(1)", looks)})
    gpu.run_sections(["two"], dry=True, out=tmp_path)
    assert json.loads((tmp_path / "two.json").read_text())["rows"][1]["printed"] == "1\n"


def run(*arguments):
    return subprocess.run([sys.executable, str(TOOL), *arguments], cwd=ROOT, capture_output=True, text=True)


def test_sections_are_listed_and_others_refused():
    listed = run("--list")
    assert listed.returncode == 0 and "steps" in listed.stdout and "420 s" in listed.stdout
    wrong = run("step")
    assert wrong.returncode == 2 and "section is step; it should be one of tests, sanitizer, ladder" in wrong.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_run():
    done = run()
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "sees no GPU on this machine" in done.stderr


@pytest.mark.slow
def test_a_dry_run_runs_every_section_and_writes_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("OUT", str(tmp_path))
    done = run("--dry")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for name in ("tests", "ladder", "steps", "compare", "training"):
        assert f"gpu: {name:10} passed" in done.stdout
    assert not list(tmp_path.iterdir()) and "margin_softmax_1: right" in done.stdout
