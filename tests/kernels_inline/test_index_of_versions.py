"""The index at the head of each .cu file names the versions that the file has: no more, and no fewer.

A version is a kernel `name_1`, or several, where the launcher `name_v` starts more than one. Then the kernels that
only help have other names; their number is that of the first version which needs them.
"""

import re

import pytest
from cuda_runners import FOLDER, index

from kernels_inline.cuda import emulator, sources

FILES = sorted(path.name for path in sources.files())
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
NO_SUCH_VERSION = 100


def code(file):
    return COMMENT.sub("", (FOLDER / file).read_text())


def versions(entries):
    """{name: its numbers, in the order of the index}"""
    found = {}
    for entry in entries:
        name, number = entry.rsplit("_", 1)
        found.setdefault(name, []).append(int(number))
    return found


def kernels(text):
    """The numbered kernels: name_1, name_2, ..."""
    return {name for name in sources.kernel_names(text) if re.search(r"_\d+$", name)}


def launched(text):
    return set(re.findall(r"\bLAUNCH\(\s*\(?\s*(\w+_\d+)\b", text))


def accepted(text):
    """The highest versions that launchers let pass."""
    return set(map(int, re.findall(r"version < 1 \|\| version > (\d+)\) return NO_SUCH_VERSION", text)))


def mistakes(entries, text):
    """What the index and the code do not agree on, as sentences."""
    named, present, launchers = versions(entries), kernels(text), sources.launchers(text)
    for name, numbers in named.items():
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"the versions of {name} are {numbers}; they should be 1, 2, ..."
        if f"{name}_v" not in launchers:  # then they are kernels that several launchers share, or that only help
            for number in numbers:
                if f"{name}_{number}" not in present:
                    yield f"the index names {name}_{number}, which is no kernel"
        elif name not in launchers:
            yield f"there is a launcher {name}_v, but none {name}"
    for kernel in present - set(entries):
        name, number = kernel.rsplit("_", 1)
        if name in named or int(number) > max(map(len, named.values()), default=0):
            yield f"{kernel} is not in the index"
    for kernel in present ^ launched(text):
        yield f"{kernel} is not launched, or is not there"
    several = {len(numbers) for name, numbers in named.items() if f"{name}_v" in launchers}
    if any(name.endswith("_v") for name in launchers) and not several:  # the launchers share the kernels
        several = {len(numbers) for numbers in named.values()}
    if accepted(text) != several:
        yield f"launchers accept versions up to {sorted(accepted(text))}, the index has {sorted(several)}"


@pytest.mark.parametrize("file", FILES)
def test_index_and_code_agree(file):
    assert index(file), "there is no index"
    assert list(mistakes(index(file), code(file))) == []


@pytest.mark.parametrize("file", FILES)
def test_launchers_take_the_versions_of_the_index_and_no_others(file):
    library, named = emulator.load(FOLDER / file), versions(index(file))
    shared = max(map(len, named.values()))  # where several launchers share the kernels
    empty = {"double": 0.0, "float": 0.0}
    launchers = sources.launchers(code(file))
    for name in launchers:
        if not name.endswith("_v"):  # without versions only where there is but one
            assert f"{name}_v" in launchers or named.get(name) == [1], f"there is no launcher {name}_v"
            continue
        parameters = launchers[name][1:]
        arguments = [None if "*" in p else empty.get(p.split()[0], 0) for p in parameters]
        beyond = len(named.get(name.removesuffix("_v"), range(shared))) + 1
        assert [emulator.call(library, name, v, *arguments) for v in (0, beyond)] == [NO_SUCH_VERSION] * 2


SOUND = """
__global__ void scan_1(int* x) {}
template <int n> __global__ void scan_2(int* x) {}
__global__ void help_2(int* x) {}
extern "C" int64_t scan_v(int64_t version, int* x, void* stream) {
    if (version < 1 || version > 2) return NO_SUCH_VERSION;
    LAUNCH(scan_1, 1, 1, 0, stream, x); LAUNCH((scan_2<4, 2>), 1, 1, 0, stream, x); LAUNCH(help_2, 1, 1, 0, stream, x);
}
extern "C" int64_t scan(int* x, void* stream) { return scan_v(2, x, stream); }
"""


def test_a_wrong_index_would_be_seen():
    assert list(mistakes(["scan_1", "scan_2"], SOUND)) == []
    for entries, text, words in (
        (["scan_1"], SOUND, "scan_2 is not in the index"),
        (["scan_1", "scan_2", "scan_3"], SOUND, "launchers accept"),
        (["scan_1", "scan_3"], SOUND, "should be 1, 2"),
        (["scan_1", "scan_2", "find_1"], SOUND, "find_1, which is no kernel"),
        (["scan_1", "scan_2"], SOUND.replace("LAUNCH(help_2,", "run("), "help_2 is not launched"),
        (["scan_1", "scan_2"], SOUND.replace("int64_t scan(", "int64_t search("), "but none scan"),
    ):
        assert any(words in sentence for sentence in mistakes(entries, text))
