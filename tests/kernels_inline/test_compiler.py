"""What users saw of the build: bus errors of half a library, and compilers and folders of other names than expected."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from annsoftmax_ref import backend
from kernels_inline import build, compiler, dispatch
from kernels_inline.cuda import emulator
from kernels_inline.rerank_ops import rerank

ROOT = Path(__file__).parents[2]
CXX = shutil.which("c++")
ANSWER = '#include <cstdint>\nextern "C" int64_t answer(int64_t x) { return x + 2; }'

pytestmark = pytest.mark.skipif(CXX is None, reason="there is no C++ compiler")


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The place of built libraries, with nothing in it and nothing remembered; the source is one small function."""
    monkeypatch.setenv("ANNSOFTMAX_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(build, "source", lambda: ANSWER)
    monkeypatch.setattr(build, "_outcomes", {})
    dispatch._can_be_had.cache_clear()
    dispatch._say_once.cache_clear()
    yield tmp_path / "build"
    dispatch._can_be_had.cache_clear()
    dispatch._say_once.cache_clear()


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# ---------------------------------------------------------------------------------------------------- half a library


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_library_cut_off_in_the_cache_is_built_again_where_it_was_a_bus_error(folder, kept):
    made = []

    def compile(name, text, flags, workplace):
        made.append(name)
        main, library = Path(workplace, "main.cpp"), Path(workplace, "any.so")
        main.write_text(text)
        subprocess.run([CXX, "-shared", "-fPIC", main, "-o", library], check=True)
        return library

    def answer():
        return compiler.cached_library("small", ANSWER, "", compile).answer(ctypes.c_int64(40))

    assert [answer(), answer()] == [42, 42] and len(made) == 1
    (path,) = folder.glob("*/*.so")
    whole = path.read_bytes()
    path.unlink()  # this process has it in its memory: another file comes in its place, not the same one shortened
    path.write_bytes(whole[: int(kept * len(whole))])
    assert [answer(), answer()] == [42, 42] and len(made) == 2


def test_the_name_of_a_library_is_that_of_its_bytes(folder):
    build.load()
    (path,) = folder.glob("*/*.so")
    assert path.stem == f"{path.parent.name}-{compiler._digest(path)}"


# ---------------------------------------------------------------------------------------------------------- compilers


@pytest.mark.parametrize("form", ["ccache c++", "c++ -m64", "'my compilers/c++' -O1", "my compilers/c++", ""])
def test_cxx_may_be_a_command_of_several_words(folder, monkeypatch, tmp_path, form):
    """It was "not on PATH", and plain torch ran."""
    script(tmp_path / "bin" / "ccache", 'exec "$@"')
    script(tmp_path / "my compilers" / "c++", f'exec {CXX} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CXX", form.replace("my compilers", str(tmp_path / "my compilers")))
    assert build.why_not() is None and dispatch.call("answer", 40) == 42
    assert emulator.load('extern "C" __global__ void f(int* x) { *x = 1; }')
    assert os.environ["CXX"] == form.replace("my compilers", str(tmp_path / "my compilers"))


@pytest.mark.parametrize(
    "text, words",
    [
        ("exit 1", "the kernels cannot be compiled"),
        ("echo no licence >&2; exit 3", "the kernels cannot be compiled"),
        ("kill -9 $$", "the kernels cannot be compiled"),
    ],
)
def test_a_cxx_that_fails_even_at_its_version_is_one_sentence_and_torch_runs(
    folder, monkeypatch, tmp_path, caplog, text, words
):
    monkeypatch.setenv("CXX", str(script(tmp_path / "cxx", text)))
    with caplog.at_level(logging.WARNING, "kernels_inline.dispatch"):
        for _ in range(2):
            assert not backend.runs(rerank, torch.zeros(1))
    (sentence,) = [r.getMessage() for r in caplog.records if r.name == "kernels_inline.dispatch"]
    assert sentence.startswith("plain torch runs instead of the C++ kernels: ") and words in sentence
    assert "\n" not in sentence and all(record.exc_info is None for record in caplog.records)


@pytest.mark.parametrize("given", ["/", "{folder}", "no-such-compiler -O2", "'", "  "])
def test_a_cxx_that_is_no_program_is_one_sentence(folder, monkeypatch, tmp_path, given):
    given = given.format(folder=tmp_path)
    monkeypatch.setenv("CXX", given)
    wanted = "is no command" if given == "'" else "is not on PATH: install one"
    assert given in build.why_not() and wanted in build.why_not() and "\n" not in build.why_not()


# ------------------------------------------------------------------------------------------------------------- folders

TRAINS = (
    "import torch; from annsoftmax_ref import NearestClasses, SoftmaxHead\n"
    "loss = SoftmaxHead(60, 8, NearestClasses(0.5))(torch.ones(4, 8), torch.arange(4)); print(loss.isfinite().item())"
)


# Torch writes the folder's name into a file of the locale's encoding; the compiler's it need not know.
@pytest.mark.parametrize("part, sentences", [("ANNSOFTMAX_BUILD", 1), ("CXX", 0)])
def test_a_path_outside_ascii_under_an_ascii_locale_is_one_sentence_and_no_traceback(tmp_path, part, sentences):
    path = tmp_path / "bücher"
    value = path if part == "ANNSOFTMAX_BUILD" else script(path / "c++", f'exec {CXX} "$@"')
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    variables |= {"ANNSOFTMAX_BUILD": str(tmp_path / "build"), "ANNSOFTMAX_CPU_FLAGS": "-O0", part: str(value)}
    run = subprocess.run([sys.executable, "-c", TRAINS], env=variables, capture_output=True)
    errors = run.stderr.decode(errors="replace")
    assert run.returncode == 0 and run.stdout.split() == [b"True"], errors
    assert "Traceback" not in errors and errors.count("plain torch runs instead") == sentences


def test_without_a_home_the_reason_is_one_sentence(folder, monkeypatch):
    monkeypatch.delenv("ANNSOFTMAX_BUILD")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert build.why_not() == "this user has no home folder to keep the kernels in; set ANNSOFTMAX_BUILD"


@pytest.mark.parametrize("failing", ["mkdir", "glob", "read_bytes"])
def test_a_cache_that_may_not_be_read_or_written_is_one_sentence(folder, monkeypatch, failing):
    (folder / "any").mkdir(parents=True)

    def refuses(*arguments, **options):
        raise PermissionError(13, "Permission denied", "the cache")

    build.load()
    build._outcomes.clear()
    if failing == "mkdir":
        shutil.rmtree(folder)
    monkeypatch.setattr(Path, failing, refuses)
    assert "cannot be written or loaded: [Errno 13] Permission denied" in build.why_not()


# -------------------------------------------------------------------------------------------------- lines and headers


@pytest.mark.parametrize("first", [1, 2, 100])
def test_lines_behind_a_header_keep_their_numbers(tmp_path, first):
    (tmp_path / "inner.h").write_text("#pragma once\nint inner();\n")
    (tmp_path / "outer.h").write_text('#pragma once\n#include "inner.h"\nint outer_line = __LINE__;\n')
    text = '#include "outer.h"\n#include "inner.h"  // again\n\nint here = __LINE__;\n'
    whole = compiler.with_headers(text, "cell", tmp_path, set(), first)
    call = [*compiler.cxx(), "-E", "-P", "-x", "c++", "-"]
    seen = subprocess.run(call, input=whole, capture_output=True, text=True, check=True).stdout
    assert seen.split("\n")[:3] == ["int inner();", "int outer_line = 3;", f"int here = {first + 3};"]
