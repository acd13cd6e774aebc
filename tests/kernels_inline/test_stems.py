"""One stem an op: whoever knows the name of one of its files knows those of all the others."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest
import torch

from kernels_inline import build, dispatch, registry
from kernels_inline.compiler import cxx
from kernels_inline.cuda import sources
from kernels_inline.kernel_op import KernelOp

HERE, SOURCES = Path(__file__).parent, build.SOURCES
STEMS = sorted(path.stem.removesuffix("_ops") for path in SOURCES.glob("*_ops.py"))


def ops_of(stem):
    """{op: the launchers that it needs} of the ops defined in STEM_ops.py."""
    module = importlib.import_module(f"kernels_inline.{stem}_ops")
    own = {value for value in vars(module).values() if isinstance(value, KernelOp)}
    return {op: launchers for op, launchers in dispatch.LAUNCHERS.items() if op in own}


def exported(path):
    """{name: types of its parameters} of the functions of a C++ file that python may call."""
    text = re.sub(r"//[^\n]*", "", path.read_text())
    found = re.findall(r'^(?:extern "C" )?int64_t (\w+)\(([^)]*)\) \{', text.split("}  // namespace")[-1], re.MULTILINE)
    return {name: types(parameters.split(",")) for name, parameters in found}


def types(parameters):
    """["const float* rows", "int64_t n"] -> ["const float*", "int64_t"]"""
    return [" ".join(re.sub(r"\w+$", "", parameter.strip()).split()) for parameter in parameters]


@pytest.mark.parametrize("stem", STEMS)
def test_an_op_has_one_stem_in_python_cpp_cuda_and_tests(stem):
    ops = ops_of(stem)
    assert ops, f"{stem}_ops.py defines no op"
    for needed in ops.values():
        for launcher in needed:
            files = [path for path in SOURCES.glob("*.cpp") if launcher in exported(path)]
            if launcher in sources.launcher_files():  # an op may be left to torch on a GPU
                files.append(registry.get(launcher).file)
            assert files and {path.stem for path in files} == {stem}, f"{launcher} is in {files}"
    assert (HERE / f"test_kernels_{stem}.py").exists()
    assert (HERE / f"test_cuda_{stem}.py").exists() == (sources.FOLDER / f"{stem}.cu").exists()


def test_there_is_no_other_stem():
    """But for cuda/ceilings.cu, which measures the machine and belongs to no op."""
    cpp = {path.stem for path in SOURCES.glob("*.cpp")}
    cuda = {path.stem for path in sources.files()} - {"ceilings"}
    tests = {path.stem.split("_", 2)[2] for kind in ("kernels", "cuda") for path in HERE.glob(f"test_{kind}_*.py")}
    assert cpp | cuda <= set(STEMS) and tests == set(STEMS)


def test_launchers_take_what_their_cpp_twins_take_and_the_stream():
    shared = 0
    for path in SOURCES.glob("*.cpp"):
        for name, there in exported(path).items():
            if name in sources.launcher_files():
                here = types(sources.launchers(sources.launcher_files()[name].read_text())[name])
                assert here == [*there, "void*"], name
                shared += 1
    assert shared >= 14


def test_every_registered_op_declares_its_launchers_in_a_file_of_ops():
    for stem in STEMS:
        importlib.import_module(f"kernels_inline.{stem}_ops")
    declared = {op.registered._qualname for op in dispatch.LAUNCHERS}
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("annsoftmax::")}
    assert registered == declared == {op.registered._qualname for stem in STEMS for op in ops_of(stem)}


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.cpp")), ids=lambda path: path.name)
def test_a_cpp_file_includes_what_it_uses(path, tmp_path):
    """It compiles by itself, whatever comes before it where all are compiled as one."""
    command = [*cxx(), "-std=c++20", "-fopenmp", "-fsyntax-only", str(path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
