"""The CUDA kernels compiled for GPUs that are not here: by nvcc, by NVRTC, and the launchers' half tried out."""

import ctypes
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kernels_inline import registry
from kernels_inline.compiler import BuildError, c_value, function_of
from kernels_inline.cuda import nvcc, nvrtc, resources, sources

ROOT = Path(__file__).parents[2]
FILES = [path.name for path in sources.files()]
# Registers of a thread: above 128, fewer than half of a multiprocessor's threads fit. Spilled bytes: none is intended.
MOST_REGISTERS, MOST_SPILLED = 128, 0

needs_nvcc = pytest.mark.skipif(nvcc.find() is None, reason="there is no nvcc (conda install -c conda-forge cuda-nvcc)")
needs_nvrtc = pytest.mark.skipif(nvrtc.find() is None, reason="there is no NVRTC (pip install nvidia-cuda-nvrtc)")


def test_every_launcher_is_in_the_registry_and_every_version_in_the_index():
    names = {name for kernel in registry.KERNELS for name in (kernel.launcher, f"{kernel.launcher}_v")}
    assert set(sources.launcher_files()) == names | set(registry.CEILINGS)
    for path in sources.files():
        text = path.read_text()
        for name, parameters in sources.launchers(text).items():
            assert parameters[-1] == "void* stream", name
            if name.endswith("_v"):
                assert parameters[0] == "int64_t version"
                assert sources.launchers(text)[name[:-2]] == parameters[1:]
    for kernel in registry.KERNELS:
        assert list(kernel.versions()) == list(range(1, len(kernel.versions()) + 1)) != [1], kernel.name
        parameters = sources.launchers(kernel.file.read_text())[kernel.launcher]
        arguments = kernel.inputs(kernel.small)
        assert len(arguments) == len(parameters) - 1, kernel.name
        for argument, parameter in zip(arguments, parameters, strict=False):
            pointer = argument is None or isinstance(argument, torch.Tensor)
            assert pointer == ("*" in parameter), (kernel.name, parameter)
            assert isinstance(argument, float) == parameter.startswith("double "), (kernel.name, parameter)


@pytest.fixture(scope="module")
def compiled():
    """{file: what its kernels take}, or {file: the compiler's complaint}; for the oldest and the newest of interest."""
    if nvcc.find() is None and nvrtc.find() is None:
        pytest.skip("there is neither nvcc nor NVRTC (pip install nvidia-cuda-nvrtc)")

    def taken(path):
        try:
            if nvcc.find() is not None:
                return resources.by_nvcc(path, (75, 90))
            return [row for number in (75, 90) for row in resources.by_nvrtc(path, number)]
        except BuildError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FILES, pool.map(taken, sources.files()), strict=True))


@pytest.mark.parametrize("file", FILES)
def test_kernels_compile_and_stay_in_registers(compiled, file):
    rows = compiled[file]
    assert not isinstance(rows, str), rows
    assert {row["kernel"].split("<")[0] for row in rows} == set(
        sources.kernel_names((sources.FOLDER / file).read_text())
    )
    assert {row["architecture"] for row in rows} == {75, 90}
    for row in rows:
        assert 0 < row["registers"] <= MOST_REGISTERS and row["spill_bytes"] <= MOST_SPILLED, row


def test_the_record_is_of_all_kernels_on_all_architectures():
    record = json.loads((ROOT / "results" / "cuda" / "compile.json").read_text())
    assert {row["architecture"] for row in record["rows"]} == set(resources.ARCHITECTURES)
    for path in sources.files():
        recorded = {row["kernel"].split("<")[0] for row in record["rows"] if row["file"] == path.name}
        assert recorded == set(sources.kernel_names(path.read_text())), f"{path.name}: run annsoftmax bench compile"


def test_reports_of_the_compiler_are_read():
    report = (
        "ptxas info    : Compiling entry function '_ZN7scan_cu4scanILi4EEEvPKf' for 'sm_90a'\n"
        "ptxas info    : Function properties for _ZN7scan_cu4scanILi4EEEvPKf\n"
        "    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 128 bytes smem\n"
        "ptxas info    : Compiling entry function 'plain_1' for 'sm_75'\n"
        "ptxas info    : Function properties for plain_1\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 12 registers, 380 bytes cmem[0]\n"
    )
    plain, scan = resources.read_report(report)
    assert plain == dict(kernel="plain_1", architecture=75, registers=12, shared_bytes=0, stack_bytes=0, spill_bytes=0)
    assert (scan["registers"], scan["shared_bytes"], scan["stack_bytes"], scan["spill_bytes"]) == (40, 128, 16, 12)
    assert scan["architecture"] == 90 and scan["kernel"] in ("scan<4>", "_ZN7scan_cu4scanILi4EEEvPKf")


@needs_nvcc
def test_a_kernel_that_does_not_compile_is_one_sentence(tmp_path):
    (tmp_path / "broken.cu").write_text("__global__ void broken_1(float* x) { y = 1; }")
    with pytest.raises(BuildError, match=r"broken\.cu cannot be compiled: .*broken\.cu\(1\).*y"):
        resources.by_nvcc(tmp_path / "broken.cu", (90,))


@needs_nvcc
def test_the_whole_library_links_and_its_launchers_report_that_there_is_no_gpu(tmp_path):
    """What load_inline compiles on a machine with a GPU, by nvcc alone: all files joined, no part of torch."""
    main, library = tmp_path / "main.cu", tmp_path / "all.so"
    main.write_text(nvcc.text())
    quick = ["-gencode=arch=compute_90,code=compute_90", "-Xcicc", "-O0", "-Xcompiler", "-fPIC,-O0"]
    command = [nvcc.find(), "-std=c++20", *quick, "-shared", "-cudart", "static"]
    run = subprocess.run([*command, main, "-o", library], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = ctypes.CDLL(str(library))
    if torch.cuda.is_available():
        return  # the rest is about machines without a GPU
    for kernel in registry.KERNELS:
        launcher = function_of(loaded, kernel.launcher)
        code = launcher(*map(c_value, kernel.inputs(kernel.small)), ctypes.c_void_p(None))
        assert code in (-35, -100), f"{kernel.name} returned {code}"  # no driver, or no device
    loaded.cuda_error_text.restype = ctypes.c_char_p
    assert b"driver" in loaded.cuda_error_text(ctypes.c_int64(35))


class FakeDriver:
    """Stands for libcuda: hands out numbers as handles, and writes down what is launched."""

    def __init__(self):
        self.handles, self.launched, self.freed = {}, [], []
        self.rooms = []
        p, i = ctypes.c_void_p, ctypes.c_int
        u = ctypes.c_uint
        types = {
            "cuLaunchKernel": (p, u, u, u, u, u, u, u, p, ctypes.POINTER(p), p),
            "cuKernelSetAttribute": (i, i, p, i),
            "cuCtxGetDevice": (ctypes.POINTER(i),),
            "cuDeviceGetAttribute": (ctypes.POINTER(i), i, i),
            "cuMemAllocAsync": (ctypes.POINTER(p), ctypes.c_size_t, p),
            "cuMemFreeAsync": (p, p),
            "cuMemsetD8Async": (p, ctypes.c_ubyte, ctypes.c_size_t, p),
            "cuGetErrorString": (i, ctypes.POINTER(ctypes.c_char_p)),
        }
        for name, arguments in types.items():
            setattr(self, name, ctypes.CFUNCTYPE(i, *arguments)(getattr(self, "_" + name)))

    def cuLibraryLoadData(self, loaded, cubin, *rest):
        assert ctypes.string_at(cubin.value, 4) == b"\x7fELF"
        return 0

    def cuLibraryGetKernel(self, kernel, loaded, name):
        self.handles[len(self.handles) + 1] = name.decode()
        kernel._obj.value = len(self.handles)
        return 0

    def _cuLaunchKernel(self, kernel, gx, gy, gz, bx, by, bz, shared, stream, arguments, extra):
        self.launched.append((self.handles[kernel], (gx, gy, gz), (bx, by, bz), shared, stream))
        self.first = [ctypes.string_at(arguments[i], 8) for i in range(2)]
        return 0

    def _cuKernelSetAttribute(self, *arguments):
        return 0

    def _cuCtxGetDevice(self, device):
        device[0] = 0
        return 0

    def _cuDeviceGetAttribute(self, value, attribute, device):
        assert attribute == 75
        value[0] = 9
        return 0

    def _cuMemAllocAsync(self, memory, size, stream):
        self.rooms.append(ctypes.create_string_buffer(max(1, size)))
        memory[0] = ctypes.addressof(self.rooms[-1])
        return 0

    def _cuMemFreeAsync(self, memory, stream):
        self.freed.append(memory)
        return 0

    def _cuMemsetD8Async(self, memory, value, size, stream):
        return 0

    def _cuGetErrorString(self, code, text):
        text[0] = b"what it means"
        return 0


@needs_nvrtc
def test_nvrtc_compiles_all_kernels_and_the_launchers_reach_the_driver():
    library, driver = nvrtc.make_library(90), FakeDriver()
    nvrtc.connect(library, driver)
    assert all(hasattr(library, name) for name in sources.launcher_files())
    stream = 0x1234
    for kernel in registry.KERNELS:
        names = set(sources.kernel_names(kernel.file.read_text()))
        for version in kernel.versions():
            driver.launched.clear(), driver.freed.clear(), driver.rooms.clear()
            launcher = function_of(library, f"{kernel.launcher}_v")
            arguments = kernel.inputs(kernel.small)
            code = launcher(ctypes.c_int64(version), *map(c_value, arguments), ctypes.c_void_p(stream))
            assert code == 0 and driver.launched, kernel.name
            for name, grid, block, _, given in driver.launched:
                assert any(known in name for known in names), name
                assert given == stream and min(*grid, *block) >= 1 and block[0] % 32 == 0
            wanted = f"{kernel.index or kernel.launcher}_{version}"
            near = f"{kernel.index or kernel.launcher}_{version - 1}"  # versions may share a kernel
            launched = " ".join(name for name, *_ in driver.launched)
            assert wanted in launched or near in launched or "_2" in launched, (wanted, launched)
            assert sorted(driver.freed) == sorted(ctypes.addressof(room) for room in driver.rooms), kernel.name
    # Arguments arrive as they are: the pointer first, then the number of rows.
    sums = torch.zeros(256, dtype=torch.int32)
    function_of(library, "popcount_rate")(ctypes.c_int64(3), ctypes.c_int64(77), c_value(sums), None)
    assert driver.launched[-1][:3] == ("popcount_rate_1", (3, 1, 1), (256, 1, 1))
    assert driver.first == [(77).to_bytes(8, "little"), sums.data_ptr().to_bytes(8, "little")]


@needs_nvrtc
def test_an_error_of_the_driver_comes_back_as_a_code_with_a_meaning():
    library, driver = nvrtc.make_library(90), FakeDriver()
    driver.cuLaunchKernel = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 700)
    nvrtc.connect(library, driver)
    sums = torch.zeros(256, dtype=torch.int32)
    arguments = ctypes.c_int64(1), ctypes.c_int64(1), c_value(sums), ctypes.c_void_p(None)
    assert function_of(library, "popcount_rate")(*arguments) == -700
    library.cuda_error_text.restype = ctypes.c_char_p
    assert library.cuda_error_text(ctypes.c_int64(700)) == b"what it means"


@needs_nvrtc
def test_nvrtcs_errors_are_one_sentence():
    with pytest.raises(BuildError, match=r"NVRTC cannot compile them: kernels\.cu\(1\): error"):
        nvrtc.compile_device("__global__ void f() { y = 1; }", 90)


@needs_nvrtc
@needs_nvcc
def test_both_compilers_report_the_same_kernels():
    path = sources.FOLDER / "flat.cu"
    ours = {row["kernel"] for row in resources.by_nvrtc(path, 90)}
    assert ours == {row["kernel"] for row in resources.by_nvcc(path, (90,))}
