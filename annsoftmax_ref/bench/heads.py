"""The heads that ``annsoftmax bench step`` times: ours, and the strongest fair forms of the others.

All of them take one whole step on embeddings [B, d] and labels [B]: loss, gradient of the embeddings, and the weights
moved by SGD with momentum 0.9. Weights are float32 (of ``ann_bf16`` bfloat16); the matrix products are in bfloat16
with ``half``, for all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref import AllClasses, CrossEntropy, NearestClasses, RandomClasses, RowSGD, SoftmaxHead
from annsoftmax_ref.host_numbers import number
from annsoftmax_ref.rivals import ForestClasses, LabelGraphClasses, LSHClasses
from annsoftmax_ref.rivals.rebuilt import RebuiltClasses
from annsoftmax_ref.selectors import Selector

LR, MOMENTUM, SCALE = 0.1, 0.9, 20.0


class Stopwatch:
    """``phases``: milliseconds of each stage since the last ``reset``; on a GPU by events, which wait for nothing until
    they are asked."""

    def __init__(self, device: torch.device | None = None):
        self.on_gpu = device is not None and device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        self._spent: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        if self.on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((stage, begin, end))
        else:
            start = time.perf_counter()
            yield
            self._add(stage, (time.perf_counter() - start) * 1e3)

    @property
    def phases(self) -> dict[str, float]:
        for stage, begin, end in self._events:
            end.synchronize()
            self._add(stage, begin.elapsed_time(end))
        self._events.clear()
        return self._spent

    def _add(self, stage: str, ms: float) -> None:
        self._spent[stage] = self._spent.get(stage, 0.0) + ms


def medians(found: list[dict[str, float]]) -> dict[str, float]:
    """The phases of some steps -> the median of each stage."""
    return {stage: median(phases[stage] for phases in found) for stage in found[0]}


class Timed:
    """Makes of a selector's class one whose two parts of a step are timed by ``watch``."""

    watch: Stopwatch

    def prepare(self, *arguments):
        with self.watch.time("prepare"):
            return super().prepare(*arguments)

    def select(self, *arguments):
        with self.watch.time("select"):
            return super().select(*arguments)


def timed(selector: type[Selector]) -> type[Selector]:
    """A class of such selectors that are timed."""
    return type(f"Timed{selector.__name__}", (Timed, selector), {})


class Step:
    """phases: milliseconds of the last step by stage, where they are known. rebuilding_ms: of what is built anew every
    so many steps, a step's share."""

    phases: dict[str, float]
    rebuilding_ms = 0.0

    def groups_for(self, batch: int) -> int | None:
        """Active sets for a batch of that many samples; None where every sample is scored against the same classes."""
        return None


class HeadStep(Step):
    """One of our heads with RowSGD; selector: of a class that is ``timed``; dtype: of its weight and momentum."""

    def __init__(self, selector: Selector, weight: Tensor, half: bool, dtype: torch.dtype = torch.float32):
        self.head = SoftmaxHead(*weight.shape, selector, CrossEntropy(SCALE), device=weight.device, dtype=dtype)
        with torch.no_grad():
            self.head.weight.copy_(weight)
        self.optimizer = RowSGD(self.head.parameters(), LR, MOMENTUM)
        self.half = half
        self.watch = selector.watch = Stopwatch(weight.device)

    @property
    def phases(self) -> dict[str, float]:
        found = dict(self.watch.phases)
        if "forward" in found:  # what was timed as that holds the selector's parts
            found["forward"] -= found.get("prepare", 0) + found.get("select", 0)
        return found

    def groups_for(self, batch: int) -> int | None:
        return None if self.head.selector.takes_all else self.head.selector.groups_for(batch)

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        self.watch.reset()
        x = x.clone().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half), self.watch.time("forward"):
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


class LinearCrossEntropy(Step):
    """``torch.nn.functional.linear_cross_entropy`` (torch >= 2.13) on unit rows, with torch's dense fused SGD."""

    def __init__(self, weight: Tensor, half: bool, chunked: bool):
        if not hasattr(F, "linear_cross_entropy"):
            raise ValueError(f"linear_cross_entropy needs torch 2.13 or later; this is {torch.__version__}")
        self.weight, self.half = torch.nn.Parameter(weight.clone()), half
        self.options = {"options": torch.nn.LinearCrossEntropyOptions()} if chunked else {}
        self.optimizer = torch.optim.SGD([self.weight], LR, MOMENTUM, fused=True)
        self.phases: dict[str, float] = {}

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            F.linear_cross_entropy(
                SCALE * F.normalize(x, dim=1), F.normalize(self.weight, dim=1), labels, **self.options
            ).backward()
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


def make_step(name: str, weight: Tensor, rate: float, half: bool, groups: int | None = 1, **nearest) -> Step:
    """The head of that name (a key of ``STEPS``) on a copy of weight [N, d].

    groups: active sets a batch, of every head that samples, but ``random_dense``; None: by the rule. nearest goes to
    NearestClasses.
    """
    if name not in STEPS:
        raise ValueError(f"head is {name!r}; it should be one of {', '.join(STEPS)}")
    kind, options = VARIANTS.get(name, (name, {}))
    if kind in SAMPLING:
        selector = timed(SAMPLING[kind])(rate, groups=groups, **(nearest | options if kind == "ann" else {}))
        return HeadStep(selector, weight, half, torch.bfloat16 if name in STORED_IN_HALF else torch.float32)
    return WHOLE[name](weight, rate, half)


SAMPLING: dict[str, type[Selector]] = {
    "random": RandomClasses,
    "lsh": LSHClasses,
    "forest": ForestClasses,
    "knn": LabelGraphClasses,
    "ann": NearestClasses,
}
VARIANTS = {"ann_priority": ("ann", {"priority": True}), "ann_tail": ("ann", {"tail": 0.1}), "ann_bf16": ("ann", {})}
STORED_IN_HALF = ("ann_bf16",)
WHOLE: dict[str, Callable[[Tensor, float, bool], Step]] = {
    "full": lambda weight, rate, half: FullByHand(weight, half),
    "full_compiled": lambda weight, rate, half: FullByHand(weight, half, compiled=True),
    "full_autograd": lambda weight, rate, half: HeadStep(timed(AllClasses)(), weight, half),
    "linear_cross_entropy": lambda weight, rate, half: LinearCrossEntropy(weight, half, chunked=False),
    "linear_cross_entropy_chunked": lambda weight, rate, half: LinearCrossEntropy(weight, half, chunked=True),
    "random_dense": lambda weight, rate, half: RandomDense(weight, half, rate),
}
STEPS = (*WHOLE, *SAMPLING, *VARIANTS)
EXACT = tuple(name for name in WHOLE if name != "random_dense")  # heads that score all classes


def rate_of(name: str, rate: float) -> float:
    """The share of the classes that the head of that name scores."""
    return rate if name in (*SAMPLING, *VARIANTS, "random_dense") else 1.0
