"""The build of the C++ kernels: named by what it depends on, built once, and never a hang or a long traceback."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernels_inline import build, compiler
from kernels_inline.dispatch import call

ROOT = Path(__file__).parents[2]
SMALL = 'extern "C" int64_t answer(int64_t x, double y) { return x + int64_t(2 * y); }'


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A library of one function, in a folder of its own, and nothing remembered from before."""
    monkeypatch.setenv("ANNSOFTMAX_BUILD", str(tmp_path))
    monkeypatch.setattr(build, "source", lambda: "#include <cstdint>\n" + SMALL)
    monkeypatch.setattr(build, "_outcomes", {})
    return tmp_path


def test_builds_once_and_calls(small, caplog):
    assert build.available() and build.why_not() is None
    assert call("answer", 40, 1.0) == 42
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert str(small) in caplog.text and "about" in caplog.text
    build._outcomes.clear()
    assert call("answer", 40, 1.0) == 42
    assert len(caplog.records) == 1  # found, not built
    assert [path.suffix for path in small.glob("*/*")].count(".so") == 1
    assert not list(small.glob("unfinished-*"))


def test_a_lock_left_by_a_killed_build_stops_nothing(small):
    build.load()
    folder = next(small.iterdir())
    for file in folder.iterdir():
        file.unlink()
    (folder / "lock").touch()
    build._outcomes.clear()
    start = time.monotonic()
    assert build.available()
    assert time.monotonic() - start < 60


def test_old_remains_are_deleted_and_young_ones_are_not(small):
    for name, age in (("unfinished-old", 2 * compiler.LEFTOVERS), ("unfinished-new", 0)):
        (small / name).mkdir()
        os.utime(small / name, (time.time() - age,) * 2)
    build.load()
    assert not (small / "unfinished-old").exists() and (small / "unfinished-new").exists()


def test_a_failed_compile_is_one_sentence_and_is_not_repeated(small, monkeypatch):
    monkeypatch.setattr(build, "source", lambda: '#line 7 "stage.cpp"\nint f( { }')
    with pytest.raises(build.BuildError, match=r"cannot be compiled: stage\.cpp:7:.*error") as first:
        build.load()
    assert "\n" not in str(first.value)
    assert not build.available() and build.why_not() == str(first.value)
    with pytest.raises(build.BuildError) as second:
        build.load()
    assert second.value is first.value


def test_no_compiler_is_one_sentence_with_the_command_that_installs_it(small, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler is not on PATH: install one (apt-get install g++" in build.why_not()


def test_a_folder_that_cannot_be_written_is_one_sentence(small, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANNSOFTMAX_BUILD", str(tmp_path / "file"))
    assert "cannot be written or loaded" in build.why_not()


def test_the_name_depends_on_source_flags_and_cpu(small, monkeypatch):
    build.load("-O1")
    build.load("-O2")
    monkeypatch.setattr(build, "source", lambda: "#include <cstdint>\n// changed\n" + SMALL)
    build._outcomes.clear()
    build.load("-O1")
    monkeypatch.setattr(compiler, "_cpu_identity", lambda: "another CPU")
    build._outcomes.clear()
    build.load("-O1")
    assert len(list(small.iterdir())) == 4


def test_flags_come_from_the_block_then_the_environment(monkeypatch):
    monkeypatch.setenv("ANNSOFTMAX_CPU_FLAGS", "")
    assert build.cpu_flags() == ""
    with build.using("-mavx2"):
        assert build.cpu_flags() == "-mavx2"
    assert build.cpu_flags() == ""
    monkeypatch.delenv("ANNSOFTMAX_CPU_FLAGS")
    assert build.cpu_flags() == build.NATIVE


def test_importing_compiles_nothing_and_a_built_library_loads_at_once(tmp_path):
    build.load()
    code = (
        "import sys, time, torch\n"
        "from kernels_inline import build, encode_ops, flat_ops, scan_ops, select_ops\n"
        "assert not build._outcomes\n"
        "start = time.perf_counter(); build.load(); print(time.perf_counter() - start)\n"
        "assert 'torch.utils.cpp_extension' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    seconds = [
        float(
            subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(2)
    ]
    assert min(seconds) < 0.1


def test_every_kernel_is_exported_with_a_number_as_result():
    assert "#include <torch" not in build.source()
    library = build.load()
    for name in ("ivf_scan", "sign_codes", "gather_unit_rows", "row_argmax", "list_sums", "union_active"):
        assert getattr(library, name)
