"""rows.py: candidates in the order of their exact cosines (what trains rows is tested where heads are)."""

import pytest
import torch
import torch.nn.functional as F

from annsoftmax_ref import backend
from annsoftmax_ref.rows import by_cosine


@pytest.mark.parametrize("name", ["torch", "cpp"])
def test_candidates_are_ordered_by_exact_cosine(name, generator):
    queries = F.normalize(torch.randn(3, 8, generator=generator), dim=1)
    rows = 3 * torch.randn(100, 8, generator=generator)
    ids = torch.stack([torch.randperm(100, generator=generator)[:20] for _ in range(3)])
    ids[:, -2:] = -1
    with backend.use(name):
        found, cosines = by_cosine(queries, rows, ids)
    for query, held, order, values in zip(queries, ids[:, :-2], found, cosines, strict=True):
        exact = F.normalize(rows[held], dim=1) @ query
        assert order.tolist() == [*held[exact.argsort(descending=True)].tolist(), -1, -1]
        torch.testing.assert_close(values[:-2], exact.sort(descending=True).values)
