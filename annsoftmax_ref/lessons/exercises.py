"""Exercises: a function to write, cases to try it on, and a checker that says what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exercise:
    """solution: a function that is right. cases: the arguments it is tried on, a tuple each, small enough to print."""

    solution: Callable
    cases: Sequence[tuple]
    tolerance: float = 1e-9


def check(exercise: Exercise, function: Callable) -> bool:
    """Try ``function`` on the exercise's cases; print what was expected and what came; True if all are right.

    It never raises: a notebook with exercises that are not solved yet runs to its end.
    """
    for number, case in enumerate(exercise.cases, start=1):
        expected = exercise.solution(*_copied(case))
        try:
            came = function(*_copied(case))
        except Exception as error:  # whatever the reader's code does
            print(f"not yet. Case {number}, {_called(function, case)}: {type(error).__name__}: {error}")
            return False
        if came is None and expected is not None:
            print(f"not yet. Case {number}: the function returned None; does it end with return?")
            return False
        if not _equal(expected, came, exercise.tolerance):
            print(f"not yet. Case {number}, {_called(function, case)}\n  expected {_short(expected)}")
            print(f"  came     {_short(came)}")
            return False
    print(f"right, in all {len(exercise.cases)} cases")
    return True


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
