"""``annsoftmax bench soak``: many minutes of steps as uneven as training gets, watched for leaks, NaN and decay."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from annsoftmax_ref import ANNSoftmax, CosFace, RowSGD
from annsoftmax_ref.bench.vectors import clustered_vectors
from annsoftmax_ref.machine import memory


def bench_soak(
    minutes: float, classes: int = 100_000, dim: int = 64, seed: int = 0, every: float = 30.0, on_look=None
) -> list[dict]:
    """One row every ``every`` seconds: {"minutes", "steps", "rss_mb", "loss", "recall", "stale_bits", "finite"}.

    Batches of 1 to 512 samples, classes as frequent as Zipf's law has it, a learning rate that is drawn anew every
    hundred steps over two orders of magnitude, weight decay and momentum on. Embeddings lie near fixed directions of
    their class, so that there is something to learn and it does not run away.
    """
    targets = clustered_vectors(classes, dim, 1, seed).rows
    head = ANNSoftmax(classes, dim, CosFace(), sample_rate=0.02, groups=2, seed=seed)
    optimizer = RowSGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    frequency = 1 / torch.arange(1, classes + 1, dtype=torch.float64)
    rows, steps, start = [], 0, time.perf_counter()
    next_look = 0.0
    while (elapsed := time.perf_counter() - start) < 60 * minutes or not rows:
        if steps % 100 == 0:
            optimizer.param_groups[0]["lr"] = 10 ** float(torch.empty(()).uniform_(-2.0, 0.0, generator=generator))
        size = int(torch.randint(1, 513, (), generator=generator))
        labels = torch.multinomial(frequency, size, replacement=True, generator=generator)
        x = F.normalize(targets[labels] + 0.5 * torch.randn(size, dim, generator=generator) / dim**0.5, dim=1)
        loss = head(x, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if elapsed >= next_look:
            next_look = elapsed + every
            found = head.diagnose(x[:64], labels[:64])
            rows.append(
                {
                    "minutes": elapsed / 60,
                    "steps": steps,
                    "rss_mb": memory.resident_mb(),
                    "loss": loss.item(),
                    "recall": found["recall"],
                    "captured_mass": found["captured_mass"],
                    "stale_bits": found["stale_bits"],
                    "finite": bool(torch.isfinite(head.weight).all()) and bool(torch.isfinite(loss)),
                }
            )
            if on_look is not None:
                on_look(rows[-1])
    return rows
