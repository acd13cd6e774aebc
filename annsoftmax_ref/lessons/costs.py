"""What one training step of a softmax head costs, by counting: operations and bytes, no measurement.

The counts are those of notebook 01, "Find the cost of the last layer". They leave out what a sampling head pays for
finding its classes, which depends on the index and is measured instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from annsoftmax_ref.active_sets import active_count

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class HeadCost:
    """``operations``: multiplications and additions of the matrix products; the rest are bytes, held at once."""

    operations: int
    weights: int
    momentum: int
    unit_rows: int
    gradient: int
    logits: int

    @property
    def memory(self) -> int:
        """All bytes together."""
        return self.weights + self.momentum + self.unit_rows + self.gradient + self.logits


def head_cost(num_classes: int, embedding_size: int, batch_size: int, sample_rate: float = 1.0) -> HeadCost:
    """One step of SGD with momentum in float32, with A = sample_rate * N of the N classes scored.

    operations: three products, logits x w.T, dx = g w and dw = g.T x, of 2 B A d each.
    Weights and momentum are kept for every class; the rows of length one and the weight gradient ([A, d] each), the
    logits and their gradient (2 B A numbers) for the active ones only. One active set a batch: with several groups the
    gradient is larger.
    """
    active = active_count(num_classes, sample_rate)
    row = embedding_size * FLOAT32
    return HeadCost(
        operations=3 * 2 * batch_size * active * embedding_size,
        weights=num_classes * row,
        momentum=num_classes * row,
        unit_rows=active * row,
        gradient=active * row,
        logits=2 * batch_size * active * FLOAT32,
    )
