"""The heads that ``annsoftmax bench step`` times: ours, and the strongest fair forms of the others.

All of them take one whole step on embeddings [B, d] and labels [B]: loss, gradient of the embeddings, and the weights
moved by SGD with momentum 0.9. Weights are float32, of heads whose name has ``bf16`` bfloat16; the
matrix products are in bfloat16 with ``half``, for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref import AllClasses, CrossEntropy, NearestClasses, RandomClasses, RowSGD, SoftmaxHead
from annsoftmax_ref.bench.libraries import LIBRARIES, Loss, library_loss
from annsoftmax_ref.bench.stopwatch import Stopwatch, timed
from annsoftmax_ref.factory import options_by_head
from annsoftmax_ref.host_numbers import number
from annsoftmax_ref.rivals import ForestClasses, LabelGraphClasses, LSHClasses
from annsoftmax_ref.rivals.rebuilt import RebuiltClasses
from annsoftmax_ref.selectors import Selector

LR, MOMENTUM, SCALE = 0.1, 0.9, 20.0


class Step:
    """phases: milliseconds of the last step by stage, where they are known. rebuilding_ms: of what is built anew every
    so many steps, a step's share."""

    phases: dict[str, float]
    rebuilding_ms = 0.0

    def groups_for(self, batch: int) -> int | None:
        """Active sets for a batch of that many samples; None where every sample is scored against the same classes."""
        return None


class HeadStep(Step):
    """One of our heads with RowSGD; selector: of a class that is ``timed``; dtype: of its weight and momentum;
    captured: by ``captured_step``, which has one phase; group: of processes, over which its classes are split."""

    def __init__(
        self,
        selector: Selector,
        weight: Tensor,
        half: bool,
        dtype: torch.dtype = torch.float32,
        captured: bool = False,
        group=None,
    ):
        options = {"device": weight.device, "dtype": dtype, "process_group": group}
        self.head = SoftmaxHead(*weight.shape, selector, CrossEntropy(SCALE), **options)
        shards = self.head.shards
        with torch.no_grad():
            self.head.weight.copy_(weight if shards is None else weight[shards.first : shards.last])
        self.optimizer = RowSGD(self.head.parameters(), LR, MOMENTUM)
        self.half = half
        self.watch = selector.watch = Stopwatch(weight.device)
        self.captured = self.head.captured_step(self.optimizer) if captured else None

    @property
    def phases(self) -> dict[str, float]:
        found = dict(self.watch.phases)
        if self.captured is not None:
            return {"step": found["step"]}
        if "forward" in found:  # what was timed as that holds the selector's parts
            found["forward"] -= found.get("prepare", 0) + found.get("select", 0)
        return found

    def groups_for(self, batch: int) -> int | None:
        return None if self.head.selector.takes_all else self.head.selector.groups_for(batch)

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        self.watch.reset()
        x = x.clone().requires_grad_()
        autocast = torch.autocast(x.device.type, torch.bfloat16, enabled=self.half)
        if self.captured is not None:
            with autocast, self.watch.time("step"):
                self.captured(x, labels).backward()
            return x.grad
        with autocast, self.watch.time("forward"):
            loss = self.head(x, labels)
        with self.watch.time("backward"):
            loss.backward()
        with self.watch.time("update"):
            self.optimizer.step()
        self.optimizer.zero_grad()
        selector = self.head.selector
        if isinstance(selector, RebuiltClasses) and number(selector.steps_left) == selector.rebuild_steps - 1:
            self.rebuilding_ms = self.phases["prepare"] / selector.rebuild_steps
        return x.grad


class FullByHand(Step):
    """The full softmax, exact, as fast as we could write it in plain torch.

    Against ``F.normalize``, ``matmul``, ``F.cross_entropy``, autograd and ``torch.optim.SGD`` (the AllClasses head) it
    never makes unit rows [N, d] (the row lengths scale the logits instead), keeps one [B, N] matrix and changes it
    in place from cosines to the gradient, and moves the weights in place. compiled: both parts by ``torch.compile``,
    which joins the passes between the matrix products; the first step takes half a minute.
    """

    def __init__(self, weight: Tensor, half: bool, compiled: bool = False):
        self.weight, self.momentum, self.half = weight.clone(), torch.zeros_like(weight), half
        self.phases: dict[str, float] = {}
        if compiled:
            self._gradients, self._move = (torch.compile(f, dynamic=False) for f in (self._gradients, self._move))

    @torch.no_grad()
    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        dx, dw = self._gradients(x, labels)
        self._move(dw)
        return dx

    def _gradients(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        length = x.norm(dim=1, keepdim=True).clamp_min(1e-12)
        unit = x / length
        per_cosine = SCALE / self.weight.norm(dim=1).clamp_min_(1e-12)  # [N], scale / |w|
        kind = torch.bfloat16 if self.half else x.dtype
        narrow, queries = self.weight.to(kind), unit.to(kind)
        logits = (queries @ narrow.T).mul_(per_cosine.to(kind))  # [B, N]
        slope = torch.softmax(logits, dim=1, out=logits)
        own = labels.unsqueeze(1)
        slope.scatter_add_(1, own, torch.full_like(own, -1, dtype=kind))
        slope.mul_((per_cosine / len(x)).to(kind))  # dloss / d(x . w)
        dx = (slope @ narrow).float()
        dw = (slope.T @ queries).float()  # [N, d]
        # The part of dw along w only changes its length, which the loss does not see.
        along = torch.einsum("nd,nd->n", dw, self.weight) * (per_cosine / SCALE) ** 2
        dw.addcmul_(self.weight, along.unsqueeze(1), value=-1)
        return (dx - (dx * unit).sum(dim=1, keepdim=True) * unit) / length, dw

    def _move(self, dw: Tensor) -> None:
        self.momentum.mul_(MOMENTUM).add_(dw)
        self.weight.add_(self.momentum, alpha=-LR)


class LibraryStep(Step):
    """A library's loss on unit rows, with torch's dense fused SGD."""

    def __init__(self, loss: Loss, weight: Tensor, half: bool):
        self.loss, self.weight, self.half = loss, torch.nn.Parameter(weight.clone()), half
        self.optimizer = torch.optim.SGD([self.weight], LR, MOMENTUM, fused=True)
        self.phases: dict[str, float] = {}

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            self.loss(SCALE * F.normalize(x, dim=1), F.normalize(self.weight, dim=1), labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return x.grad


class RandomDense(Step):
    """Random classes as PartialFC takes them: ``weight[index]``, so a dense gradient, and a dense optimizer."""

    def __init__(self, weight: Tensor, half: bool, rate: float):
        self.head = SoftmaxHead(*weight.shape, RandomClasses(rate), CrossEntropy(SCALE), device=weight.device)
        self.weight, self.half = torch.nn.Parameter(weight.clone()), half
        self.optimizer = torch.optim.SGD([self.weight], LR, MOMENTUM, fused=True)
        self.phases: dict[str, float] = {}

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            (active,) = self.head.selector.select(x, labels, self.weight, self.head.generator)
            cosine = F.normalize(x, dim=1) @ F.normalize(self.weight[active.classes], dim=1).T
            self.head.objective(cosine, active.targets).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return x.grad


def make_step(name: str, weight: Tensor, rate: float, half: bool, groups: int | None = 1, **options) -> Step:
    """The head of that name (a key of ``STEPS``) on a copy of weight [N, d].

    groups: active sets a batch, of every head that samples, but ``random_dense``; None: by the rule. options: of its
    selector; those that it does not have are left to other heads.
    """
    if name not in STEPS:
        raise ValueError(f"head is {name!r}; it should be one of {', '.join(STEPS)}")
    variant = variant_of(name)
    if variant.of in SAMPLING:
        selector = timed(SAMPLING[variant.of])(rate, groups=groups, **own_options([name], options)[name])
        return HeadStep(selector, weight, half, variant.stored, variant.captured)
    if name in LIBRARIES:
        return LibraryStep(library_loss(name, weight.device), weight, half)
    return WHOLE[name](weight, rate, half)


def own_options(names: Iterable[str], options: dict) -> dict[str, dict]:
    """What the selector of each head takes of the options, with what its variant sets, which wins.

    Raises ValueError for an option that no selector here has.
    """
    taken = options_by_head(options, SAMPLING)
    return {name: taken.get(variant_of(name).of, {}) | variant_of(name).options for name in names}


def check_options(names: Iterable[str], rate: float, groups: int | None, options: dict) -> None:
    """Before weights are made: ValueError or TypeError for options that none of the heads has, and for wrong values."""
    names = list(names)
    sampling = [name for name in names if variant_of(name).of in SAMPLING]
    options_by_head(options, dict.fromkeys(variant_of(name).of for name in sampling) or ["full"])  # which has none
    for name, own in own_options(sampling, options).items():
        SAMPLING[variant_of(name).of](rate, groups=groups, **own)


def split_step(name: str, weight: Tensor, rate: float, half: bool, group, **options) -> HeadStep:
    """The head of that name, "full_kernels" or a key of ``SAMPLING``, with its classes split over a group's processes;
    weight [N, d] is of all of them. options: as ``make_step``'s."""
    if name == "full_kernels":
        selector = timed(EveryRow)()
    else:
        selector = timed(SAMPLING[name])(rate, groups=1, **own_options([name], options)[name])
    return HeadStep(selector, weight, half, group=group)


class EveryRow(AllClasses):
    """All classes, as rows of one active set: what samples has kernels for rows that ``AllClasses`` leaves to torch."""

    takes_all = False


@dataclass(frozen=True)
class Variant:
    """of: a key of SAMPLING. options: of its selector. stored: the weight's kind. captured: as a CUDA graph,
    whose phases are not told apart."""

    of: str
    options: dict = field(default_factory=dict)
    stored: torch.dtype = torch.float32
    captured: bool = False


SAMPLING: dict[str, type[Selector]] = {
    "random": RandomClasses,
    "lsh": LSHClasses,
    "forest": ForestClasses,
    "knn": LabelGraphClasses,
    "ann": NearestClasses,
}
VARIANTS = {
    "ann_priority": Variant("ann", {"priority": True}),
    "ann_tail": Variant("ann", {"tail": 0.1}),
    "ann_bf16": Variant("ann", stored=torch.bfloat16),
    "ann_captured": Variant("ann", captured=True),
    "ann_bf16_captured": Variant("ann", stored=torch.bfloat16, captured=True),
    "random_captured": Variant("random", captured=True),
}


def variant_of(name: str) -> Variant:
    return VARIANTS.get(name, Variant(name))


WHOLE: dict[str, Callable[[Tensor, float, bool], Step]] = {
    "full": lambda weight, rate, half: FullByHand(weight, half),
    "full_compiled": lambda weight, rate, half: FullByHand(weight, half, compiled=True),
    "full_kernels": lambda weight, rate, half: HeadStep(timed(EveryRow)(), weight, half),
    "full_kernels_bf16": lambda weight, rate, half: HeadStep(timed(EveryRow)(), weight, half, torch.bfloat16),
    "full_autograd": lambda weight, rate, half: HeadStep(timed(AllClasses)(), weight, half),
    "random_dense": lambda weight, rate, half: RandomDense(weight, half, rate),
}
STEPS = (*WHOLE, *LIBRARIES, *SAMPLING, *VARIANTS)
EXACT = tuple(name for name in (*WHOLE, *LIBRARIES) if name != "random_dense")  # heads that score all classes


def rate_of(name: str, rate: float) -> float:
    """The share of the classes that the head of that name scores."""
    return 1.0 if name in EXACT else rate


def runnable(names: Iterable[str], device: torch.device) -> list[str]:
    """Those of the heads that need nothing that is missing here."""
    return [name for name in names if name not in LIBRARIES or LIBRARIES[name].why_not(device) is None]
