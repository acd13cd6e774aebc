"""Exercises: a function to write, cases to try it on, and a checker that says what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType

import numpy as np


@dataclass(frozen=True)
class Exercise:
    """solution: a function that is right. cases: the arguments it is tried on, a tuple each, small enough to print.

    hint: a sentence for whoever has tried. without: names that the function is to do without, as in ``bin(n)``.
    """

    solution: Callable
    cases: Sequence[tuple]
    tolerance: float = 1e-9
    hint: str = ""
    without: tuple[str, ...] = ()


def check(exercise: Exercise, function: Callable) -> bool:
    """Try ``function`` on the exercise's cases; print what was expected and what came; True if all are right.

    Of the cases that are wrong the first is shown, and the hint below it. It never raises: a notebook with exercises
    that are not solved yet runs to its end.
    """
    wrong = [story for story in (_story(exercise, function, number) for number in range(len(exercise.cases))) if story]
    used = sorted(set(exercise.without) & set(_names(getattr(function, "__code__", None))))
    if not wrong and used:
        print(f"not yet. All answers are right, but the exercise asks to do without {' and '.join(used)}")
    elif not wrong:
        print(f"right, in all {len(exercise.cases)} cases")
    else:
        print(wrong[0])
        if len(wrong) < len(exercise.cases):
            print(f"  {len(exercise.cases) - len(wrong)} of {len(exercise.cases)} cases are right")
        if exercise.hint and not wrong[0].endswith(NOTHING):
            print(f"  hint     {exercise.hint}")
    return not wrong and not used


NOTHING = "the function returned None; does it end with return?"


def _story(exercise: Exercise, function: Callable, number: int) -> str:
    """What is wrong in that case; empty if nothing is."""
    case = exercise.cases[number]
    expected, beginning = exercise.solution(*_copied(case)), f"not yet. Case {number + 1}"
    try:
        came = function(*_copied(case))
    except Exception as error:  # whatever the reader's code does
        return f"{beginning}, {_called(function, case)}: {type(error).__name__}: {error}"
    if came is None and expected is not None:
        return f"{beginning}: {NOTHING}"
    if _equal(expected, came, exercise.tolerance):
        return ""
    return f"{beginning}, {_called(function, case)}\n  expected {_short(expected)}\n  came     {_short(came)}"


def _names(code: CodeType | None) -> Iterator[str]:
    """The names that a function's code uses, those of functions inside it too."""
    if code is not None:
        yield from code.co_names
        for constant in code.co_consts:
            yield from _names(constant if isinstance(constant, CodeType) else None)


def _equal(expected, came, tolerance: float) -> bool:
    if isinstance(expected, tuple | list):
        return (
            isinstance(came, tuple | list)
            and len(came) == len(expected)
            and all(_equal(e, c, tolerance) for e, c in zip(expected, came, strict=True))
        )
    try:
        expected, came = np.asarray(expected), np.asarray(came)
        if expected.shape != came.shape:
            return False
        if expected.dtype.kind in "fc" or came.dtype.kind in "fc":
            return bool(np.allclose(expected, came, rtol=tolerance, atol=tolerance, equal_nan=True))
        return bool((expected == came).all())
    except (TypeError, ValueError):
        return False


def _copied(case: tuple) -> tuple:
    """So that a function that changes its arguments spoils nobody's."""
    return tuple(value.copy() if isinstance(value, np.ndarray) else value for value in case)


def _called(function: Callable, case: tuple) -> str:
    return f"{getattr(function, '__name__', 'function')}({', '.join(_short(value) for value in case)})"


def _short(value) -> str:
    if isinstance(value, tuple | list):
        return "(" + ", ".join(_short(part) for part in value) + ")"
    text = np.array2string(np.asarray(value), precision=4, threshold=20, edgeitems=3) if value is not None else "None"
    return " ".join(text.split())
