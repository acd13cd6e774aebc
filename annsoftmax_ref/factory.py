"""Heads and selectors by the names that they have in tables and on the command line."""

from __future__ import annotations

from torch import Tensor

from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.nearest import NearestClasses
from annsoftmax_ref.objectives import Objective, make_objective
from annsoftmax_ref.rivals import ForestClasses, LabelGraphClasses, LSHClasses
from annsoftmax_ref.selectors import AllClasses, RandomClasses, Selector

HEADS = ("full", "random", "ann", "lsh", "forest", "knn", "random_dense")
DEFAULT_HEADS = HEADS[:3]  # those that a comparison trains unless told otherwise


def make_selector(name: str, rate: float = 0.1, groups: int | None = None, **options) -> Selector:
    """The selector behind a head's name in tables and on the command line (one of ``HEADS``).

    groups: of ann. options: the selector's further arguments.
    """
    if name == "full":
        return AllClasses()
    if name == "ann":
        return NearestClasses(rate, groups, **options)
    makers = {
        "random": RandomClasses,
        "random_dense": RandomClasses,
        "lsh": LSHClasses,
        "forest": ForestClasses,
        "knn": LabelGraphClasses,
    }
    if name in makers:
        return makers[name](rate, **options)
    raise ValueError(f"head is {name!r}; it should be one of {', '.join(HEADS)}")


def make_head(
    name: str,
    num_classes: int,
    embedding_size: int,
    objective: str | Objective = "cosface",
    rate: float = 0.1,
    groups: int | None = None,
    seed: int = 0,
    bias: bool = False,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
    **options,
) -> SoftmaxHead:
    """A head by its name (one of ``HEADS``) and its objective's name (or an objective).

    groups and options are the selector's, the others SoftmaxHead's. ``random_dense`` is the random head with a dense
    gradient, as PartialFC's first version has it, for comparisons.
    """
    return SoftmaxHead(
        num_classes,
        embedding_size,
        make_selector(name, rate, groups, **options),
        make_objective(objective) if isinstance(objective, str) else objective,
        bias=bias,
        class_weights=class_weights,
        ignore_index=ignore_index,
        sparse=name != "random_dense",
        seed=seed,
    )
