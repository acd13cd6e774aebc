"""The objectives by their names: where they are registered, and made."""

from __future__ import annotations

from annsoftmax_ref.checks import check_new_name
from annsoftmax_ref.objectives.base import Objective

OBJECTIVES: dict[str, type[Objective]] = {}


def register_objective(kind: type[Objective]) -> type[Objective]:
    """Class decorator: ``kind`` is known by its ``name`` to ``make_objective``, ``compare`` and the command line.

    All else that they ask of it stands on the class: ``recipe_margin``, ``kernel``, ``from_margin``. Raises TypeError
    if it is no Objective, ValueError if it has no name or another's.
    """
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise TypeError(f"kind is {kind!r}; it should be a subclass of Objective")
    OBJECTIVES[check_new_name("name", kind.name, OBJECTIVES, kind)] = kind
    return kind


def make_objective(
    name: str, scale: float | None = None, margin: float | tuple[float, float, float] | None = None, **options
) -> Objective:
    """The objective of that name (a key of ``OBJECTIVES``); ``None`` takes its default scale or margin.

    margin: one number; for ``combined`` the three (m1, m2, m3). options: what else that class takes, such as
    ``label_smoothing`` or ``share``. ValueError or TypeError for what it does not take.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}; it should be one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name].from_margin(scale, margin, **options)
