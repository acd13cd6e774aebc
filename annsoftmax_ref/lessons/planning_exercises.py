"""The exercises of notebook 18: plans for more classes than a card holds."""

from __future__ import annotations

from annsoftmax_ref.active_sets import active_count
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.planning.ranks import whole_nodes


def largest_classes(room: int, dim: int, batch: int, rate: float) -> int:
    """The most classes that one card trains: bfloat16 rows and momentum, codes, and of a step's peak unit rows, their
    gradient, and logits as on the CPU (twice). Centroids and gathered samples are too few bytes to count."""
    kept = 2 * dim + 2 * dim + dim / 8 + 8 + 4 + 8  # weights, momentum, code, its clock, its list, step of the row
    scored = 8 + 2 * 2 * dim + 2 * 2 * batch  # id; unit row and gradient; logits, and turned around
    return int(room // (kept + rate * scored))


def rate_of_share(share: float, sent_ms: float, fixed_ms: float, ms_at_one: float) -> float:
    """The rate at which what is sent is that share of a step: sent / (sent + fixed + rate ms_at_one) = share, within
    0 and 1."""
    rate = (sent_ms / share - sent_ms - fixed_ms) / ms_at_one
    return min(max(rate, 0.0), 1.0)


def storage_that_halves(fewest: dict[str, int | None]) -> str:
    """The first storage that needs at most half the machines of the first one, else "none"; eight GPUs a machine."""
    most = next(iter(fewest.values()))
    for storage, gpus in fewest.items():
        if most is not None and gpus is not None and 2 * whole_nodes(gpus) <= whole_nodes(most):
            return storage
    return "none"


def logits_of_gpu(classes: int, batch: int, rate: float, ranks: int) -> int:
    """Bytes of a GPU's logits in bfloat16: the whole batch against its own part of the active set, rounded up."""
    return 2 * batch * -(-active_count(classes, rate) // ranks)


EXERCISES = {
    "largest_classes": Exercise(
        largest_classes,
        [
            (81_604_378_624, 512, 512, 0.1),
            (81_604_378_624, 512, 16_384, 0.1),
            (81_604_378_624, 128, 512, 0.01),
            (38_654_705_664, 512, 512, 1.0),
        ],
        hint="Count the bytes of one class: what it keeps, and the rate times what it takes in a step if it is scored.",
    ),
    "rate_of_share": Exercise(
        rate_of_share,
        [(0.1, 11.0, 4.4, 148.7), (0.5, 11.0, 4.4, 148.7), (0.1, 2.0, 30.0, 1000.0), (0.01, 5.0, 1.0, 100.0)],
        hint="sent = share times all of the step. Solve for the rate; no rate is below 0 or above 1.",
    ),
    "storage_that_halves": Exercise(
        storage_that_halves,
        [
            ({"fp32": 41, "bf16": 33, "fp8": 31, "fp8_int8": 30},),
            ({"fp32": 18, "bf16": 10, "fp8": 8, "fp8_int8": 6},),
            ({"fp32": 18, "bf16": 9, "fp8": 8},),
            ({"fp32": 9, "bf16": 8},),
            ({"fp32": 33, "bf16": None, "fp8": 16},),
            ({"fp32": None, "bf16": 40},),
        ],
        hint="Nine GPUs are two machines. None: no number of GPUs is enough.",
    ),
    "logits_of_gpu": Exercise(
        logits_of_gpu,
        [(300_000_000, 16_384, 0.1, 256), (1_000_000, 512, 0.1, 1), (1_000_000, 512, 0.01, 3)],
        hint="Every GPU scores everybody's samples, because nobody else has its classes. Which of the two is divided?",
    ),
}
