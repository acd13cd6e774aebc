"""Exercises in C++: a specification in NumPy, cases, and a checker that runs the reader's function and says its faults.

The function runs in a process of its own (``cpp_child``), in which an access beyond an array's end is stopped: neither
that nor a loop without an end harms the notebook. ``check`` of ``exercises`` is the same for functions in Python.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annsoftmax_ref.lessons.cpp_cells import CppFunction

SECONDS = 10  # for all cases of an exercise
UNWRITTEN = 0x5A  # every byte of a result before the function is called
CHILD = Path(__file__).with_name("cpp_child.py")


@dataclass(frozen=True)
class CppExercise:
    """parameters: the function's, those of ``results`` among them, in order.

    specification: from the other arguments, by their names, to the arrays that the results should be, in order. cases:
    these arguments, a dict each. hints: the first says the least.
    """

    parameters: tuple[str, ...]
    results: tuple[str, ...]
    specification: Callable[..., tuple[np.ndarray, ...]]
    cases: Sequence[dict]
    hints: Sequence[str]

    def expected(self, case: dict) -> dict[str, np.ndarray]:
        return dict(zip(self.results, self.specification(**case), strict=True))


def check_cpp(exercise: CppExercise, function: CppFunction, hint: int = 0) -> bool:
    """Call ``function`` on the exercise's cases; print what was expected, what came, and where; True if all are right.

    hint: 1, 2, ... to be shown the hints up to that one.
    """
    for number, sentence in enumerate(exercise.hints[:hint], start=1):
        print(f"hint {number}: {sentence}")
    fault = _fault(exercise, function)
    if fault is None:
        print(f"right, in all {len(exercise.cases)} cases")
        return True
    print(f"not yet. {fault}")
    if hint < len(exercise.hints):
        print(f"(a hint: put hint={hint + 1} into check_cpp)")
    return False


def _fault(exercise: CppExercise, function: CppFunction) -> str | None:
    """What is wrong in the first case that comes out wrong; None: nothing."""
    names = tuple(name for _, name, _ in function.parameters)
    if names != exercise.parameters:
        return f"{function.name} takes ({', '.join(names)}); it should take ({', '.join(exercise.parameters)})"
    with tempfile.TemporaryDirectory() as folder:
        begun, end = _run(exercise, function, Path(folder))
        for number, case in enumerate(exercise.cases):
            called = f"Case {number + 1} of {len(exercise.cases)}, {_called(exercise, function, case)}"
            for name, wanted in exercise.expected(case).items():
                path = Path(folder, f"{_key(exercise, number, name)}.npy")
                if number == begun or not path.exists():
                    return f"{called}: {end}"
                came = np.load(path)
                if not np.array_equal(came, wanted):
                    return f"{called}\n{_difference(name, wanted, came)}"
    return None


def _run(exercise: CppExercise, function: CppFunction, folder: Path) -> tuple[int | None, str]:
    """Leaves the results in the folder. The number of the case in which the process ended, if it did, and how."""
    arguments = {}
    for number, case in enumerate(exercise.cases):
        results = {name: _unwritten(array) for name, array in exercise.expected(case).items()}
        for name in exercise.parameters:
            arguments[_key(exercise, number, name)] = np.asarray((case | results)[name])
    written = [key for key in arguments if exercise.parameters[int(key.partition("_")[2])] in exercise.results]
    np.savez(folder / "cases.npz", written=np.array(written), **arguments)
    call = [sys.executable, CHILD, function.library._name, function.name, folder / "cases.npz", folder]
    with open(folder / "begun", "w+") as begun:
        try:
            status = subprocess.run(call, stdout=begun, timeout=SECONDS).returncode
        except subprocess.TimeoutExpired:
            end = f"it did not end within {SECONDS} seconds"
        else:
            if status == 0:
                return None, ""
            end = f"{signal.Signals(-status).name}: something was read or written beyond the end of an array"
        begun.seek(0)
        return int(begun.read().split()[-1]), end


def _key(exercise: CppExercise, number: int, name: str) -> str:
    return f"{number}_{exercise.parameters.index(name)}"


def _unwritten(array: np.ndarray) -> np.ndarray:
    return np.full(array.nbytes, UNWRITTEN, dtype=np.uint8).view(array.dtype).reshape(array.shape)


def _called(exercise: CppExercise, function: CppFunction, case: dict) -> str:
    """The call in short: arrays by their shapes, or by their numbers where these are few."""
    words = []
    for name in exercise.parameters:
        value = case.get(name)
        if isinstance(value, np.ndarray):
            words.append(f"{name} {value.tolist() if value.size <= 6 else list(value.shape)}")
        else:
            words.append(name if value is None else f"{name}={value}")
    return f"{function.name}({', '.join(words)})"


def _difference(name: str, wanted: np.ndarray, came: np.ndarray) -> str:
    places = np.argwhere(came != wanted)
    first = tuple(places[0].tolist())
    got = "nothing was written there" if came[first] == _unwritten(came)[first] else f"came {came[first]}"
    where = ", ".join(map(str, first))
    return f"  {len(places)} of {wanted.size} are wrong; {name}[{where}]: expected {wanted[first]}, {got}"
