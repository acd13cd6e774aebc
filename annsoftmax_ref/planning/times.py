"""The time of a step on a GPU, by stage: bytes over bandwidth, operations over rate. A model; nothing is measured.

The host's part is not in it: a step is some hundred launches, for which a slow host needs longer than a fast card.
"""

from __future__ import annotations

from dataclasses import dataclass

from annsoftmax_ref.beyond.flat import STRIDE
from annsoftmax_ref.list_sizes import default_nprobe
from annsoftmax_ref.planning.memory import BUFFERS, ID, Training

# What kernels that read rows and logits reach of a data sheet's bandwidth, and products whose inner dimension is a few
# hundred of its rate.
ROWS, PRODUCTS = 0.8, 0.6
# Pairs of 512-bit codes a second: 4,992 TOP/s of binary tensor cores, from the A100's data sheet. Those of the
# H100 and H200 do not name a rate; the instruction is the same.
PAIRS = 4.9e12


@dataclass(frozen=True)
class Card:
    """From the maker's data sheet: memory in GiB, bandwidth in TB/s, dense products in TFLOP/s."""

    memory: float
    bandwidth: float
    bfloat16: float
    float32: float  # TF32


CARDS = {
    "a100-40gb": Card(40, 1.56, 312, 156),
    "a100-80gb": Card(80, 2.04, 312, 156),
    "h100-80gb": Card(80, 3.35, 989, 495),
    "h200-141gb": Card(141, 4.8, 989, 495),
}


def room(gpu: str, beside: float) -> int:
    """Bytes of a card that are left, if something else takes so many GiB of it. Raises ValueError."""
    card = CARDS[gpu]
    if not 0 <= beside < card.memory:
        raise ValueError(f"beside is {beside:g}; it should be from 0 to below the card's {card.memory:g} GiB")
    return int((card.memory - beside) * 2**30)


def stages(job: Training, card: Card) -> dict[str, float]:
    """Milliseconds of a step with NearestClasses, by stage; every row that is read has lagged. A captured step, but of
    a head that is split, for which there is none."""
    rows, d, B = job.sets * job.active, job.dim, job.batch
    codes, kept = job.named * job.words * 8, job.width + BUFFERS[job.optimizer] * job.buffer_width
    if job.in_one_pass:  # catching up and the gradient of rows take no pass of their own
        passes = {
            "unit rows": rows * d * (kept + job.product_width),
            "update and codes": rows * d * (2 * kept + job.product_width) + codes,
        }
    else:
        each = job.width + job.gradient_width  # of a row's number, read and written
        passes = {
            "catching up": job.named * d * 2 * kept,
            "unit rows": rows * d * (job.width + job.product_width),
            "gradient of rows": rows * d * job.product_width + job.named * d * each,
            "update and codes": job.named * d * (2 * kept + job.gradient_width) + codes,
        }
    return _search(job, card) | {
        "products": _multiplied(job, card, job.active),
        "margin and softmax": _moved(card, 3 * B * job.active * job.product_width),
        **{stage: _moved(card, count) for stage, count in passes.items()},
    }


def full_stages(job: Training, card: Card) -> dict[str, float]:
    """The same of an exact softmax whose passes are fused as far as they can be: the gradient's rows are moved once."""
    N, d = job.classes, job.dim
    kept = job.width + BUFFERS[job.optimizer] * job.buffer_width
    return {
        "unit rows": _moved(card, N * d * (job.width + job.product_width)),
        "products": _multiplied(job, card, N),
        "softmax": _moved(card, 3 * job.batch * N * job.product_width),
        "update": _moved(card, N * d * (job.product_width + 2 * kept)),
    }


def _search(job: Training, card: Card) -> dict[str, float]:
    N, B = job.classes, job.batch
    if job.flat:
        pairs = B * N * (2**job.flat - 1) * job.words / 8 * (1 + 1 / STRIDE)
        return {"search": pairs / PAIRS * 1e3, "selection": _moved(card, 3 * N * job.sets)}
    nprobe = default_nprobe(job.nlist)
    # Each probed list is read twice: to count distances, and to take those below the cut.
    codes = 2 * B * nprobe * N / job.nlist * (job.words * 8 + ID)
    return {
        "search": _moved(card, codes),
        "re-ranking": _moved(card, B * job.candidates * job.dim * job.width),
        "selection": _moved(card, 4 * N * job.sets),
    }


def _moved(card: Card, count: float) -> float:
    return count / (card.bandwidth * 1e12 * ROWS) * 1e3


def _multiplied(job: Training, card: Card, classes: int) -> float:
    """Three products of a batch with so many classes a sample: logits, and the gradients of both sides."""
    rate = card.bfloat16 if job.products == "bf16" else card.float32
    return 3 * 2 * job.batch * classes * job.dim / (rate * 1e12 * PRODUCTS) * 1e3
