"""Heads and selectors by the names that they have in tables and on the command line; ``ANNSoftmax``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from annsoftmax_ref.checks import check_new_name
from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.nearest import NearestClasses
from annsoftmax_ref.objectives import CosFace, Objective, make_objective
from annsoftmax_ref.rivals import ForestClasses, LabelGraphClasses, LogQClasses, LSHClasses
from annsoftmax_ref.selectors import AllClasses, RandomClasses, Selector

DEFAULT_HEADS = ("full", "random", "ann")  # those that a comparison trains unless told otherwise
Maker = Callable[..., Selector]  # of a selector, from its rate and further options

HEADS: dict[str, Maker] = {}  # by name
DENSE: set[str] = set()  # names of heads whose gradients are dense, where their selector's could be row-sparse


def register_head(name: str, sparse: bool = True) -> Callable[[Maker], Maker]:
    """Decorator of a selector's class: it is known by ``name`` to ``make_head``, ``compare`` and the command line.

    Or of a function that makes the selector. Either is called with the rate, and with the options that are given.
    Raises ValueError for a name that is taken.
    """

    def register(maker: Maker) -> Maker:
        HEADS[check_new_name("name", name, HEADS, maker)] = maker
        (DENSE.discard if sparse else DENSE.add)(name)
        return maker

    return register


@register_head("full")
def _all_classes(rate: float) -> AllClasses:
    return AllClasses()  # whatever the rate


register_head("random")(RandomClasses)
register_head("ann")(NearestClasses)
register_head("lsh")(LSHClasses)
register_head("forest")(ForestClasses)
register_head("knn")(LabelGraphClasses)
register_head("logq")(LogQClasses)
register_head("random_dense", sparse=False)(RandomClasses)


def make_selector(name: str, rate: float = 0.1, groups: int | str | None = None, **options) -> Selector:
    """The selector behind a head's name in tables and on the command line (one of ``HEADS``).

    groups: active sets per batch, "rule": ``grouping.groups_by_rule``, None: the selector's own default (ann: the rule,
    the others: one). options: the selector's further arguments. Raises ValueError for a name that does not exist,
    TypeError for an option that the selector does not take, and what the selector raises.
    """
    maker = _maker(name)
    if groups is not None and "groups" in inspect.signature(maker).parameters:
        options["groups"] = None if groups == "rule" else groups
    return maker(rate, **options)


def options_by_head(options: dict, heads: Iterable[str]) -> dict[str, dict]:
    """What each of the heads (of ``HEADS``) takes of the options of selectors, beside rate and groups.

    Raises ValueError for an option that none of them has; one that some have is theirs alone.
    """
    known = {head: _option_names(head) for head in heads}
    for name in options:
        if not any(name in names for names in known.values()):
            has = ", ".join(f"the head {head} has {', '.join(names) or 'none'}" for head, names in known.items())
            raise ValueError(f"options has {name!r}, and {has}")
    return {head: {name: value for name, value in options.items() if name in names} for head, names in known.items()}


def _option_names(head: str) -> list[str]:
    _, *names = (name for name in inspect.signature(_maker(head)).parameters if name != "groups")
    return names


def _maker(head: str) -> Maker:
    if head not in HEADS:
        raise ValueError(f"head is {head!r}; it should be one of {', '.join(HEADS)}")
    return HEADS[head]


def make_head(
    name: str,
    num_classes: int,
    embedding_size: int,
    objective: str | Objective = "cosface",
    rate: float = 0.1,
    groups: int | str | None = None,
    seed: int = 0,
    bias: bool = False,
    class_weights: Tensor | None = None,
    ignore_index: int | None = None,
    dtype: torch.dtype = torch.float32,
    process_group: ProcessGroup | None = None,
    averaged: bool = True,
    **options,
) -> SoftmaxHead:
    """A head by its name (one of ``HEADS``) and its objective's name (or an objective).

    groups and options are the selector's, the others SoftmaxHead's. ``random_dense`` is the random head with a dense
    gradient, as PartialFC's first version has it, for comparisons. Raises what ``make_selector``, ``make_objective``
    and SoftmaxHead raise.
    """
    return SoftmaxHead(
        num_classes,
        embedding_size,
        make_selector(name, rate, groups, **options),
        make_objective(objective) if isinstance(objective, str) else objective,
        bias=bias,
        class_weights=class_weights,
        ignore_index=ignore_index,
        sparse=name not in DENSE,
        seed=seed,
        dtype=dtype,
        process_group=process_group,
        averaged=averaged,
    )


class ANNSoftmax(SoftmaxHead):
    """The head with ``NearestClasses``: ``ANNSoftmax(num_classes, embedding_size, sample_rate=0.1)``.

    Further keyword arguments (groups, nlist, nprobe, candidates, ...) go to ``NearestClasses``.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        objective: Objective | None = None,
        *,
        sample_rate: float = 0.1,
        bias: bool = False,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        sparse: bool = True,
        seed: int = 0,
        device=None,
        dtype=torch.float32,
        process_group: ProcessGroup | None = None,
        averaged: bool = True,
        **nearest,
    ):
        super().__init__(
            num_classes,
            embedding_size,
            NearestClasses(sample_rate, **nearest),
            CosFace() if objective is None else objective,
            bias=bias,
            class_weights=class_weights,
            ignore_index=ignore_index,
            sparse=sparse,
            seed=seed,
            device=device,
            dtype=dtype,
            process_group=process_group,
            averaged=averaged,
        )
