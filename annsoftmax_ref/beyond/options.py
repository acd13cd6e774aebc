"""Which option makes the active sets of ``NearestClasses``, from its keyword arguments."""

from __future__ import annotations

from annsoftmax_ref.beyond.flat import Flat
from annsoftmax_ref.beyond.priority import Priority
from annsoftmax_ref.beyond.tail import Tail
from annsoftmax_ref.checks import check_share


def chosen_option(flat: int, tail: float, priority: bool, centre: bool, rerank: bool) -> Flat | Tail | Priority | None:
    """What makes the active sets, by its method ``active_sets``; None: the union of what the search found, as ever.

    Raises ValueError, or TypeError for what is of the wrong kind, where one is no option or two exclude each other.
    """
    if flat not in (0, 1, 2) or isinstance(flat, bool):
        raise ValueError(f"flat is {flat!r}; it should be 0, 1 or 2")
    check_share("tail", tail, zero=True)
    if not isinstance(priority, bool):
        raise TypeError(f"priority is {priority!r}; it should be True or False")
    if flat and (centre or tail or priority):
        raise ValueError(f"flat is {flat} with centre, tail or priority; it goes with none of them")
    if tail and priority:
        raise ValueError(f"tail is {tail} and priority is True; each corrects for the classes left out: choose one")
    if priority and centre and not rerank:
        raise ValueError("centre is True with rerank=False; priority needs scores of which all compare: set rerank")
    if flat:
        return Flat(flat)
    if tail:
        return Tail(tail)
    return Priority() if priority else None


def chosen_far(far: bool | None, option: Flat | Tail | Priority | None) -> bool:
    """Whether mean rows of lists stand for the classes left out. Raises as ``chosen_option`` does."""
    if far is None:
        return option is None  # a GPU's flat search by default aside, which is no option that was asked for
    if not isinstance(far, bool):
        raise TypeError(f"far is {far!r}; it should be True, False or None")
    if far and not (option is None or isinstance(option, Flat)):
        raise ValueError(f"far is True with {option}; it goes with neither tail nor priority")
    return far
