"""drawn.py: classes drawn at random, all with the same chance."""

import math

import torch

from annsoftmax_ref.beyond.drawn import draw_distinct, draw_outside


def test_distinct_draws_are_uniform_and_fall_outside(generator):
    inside = torch.tensor([True, False, False, True, True, False])
    assert draw_outside(inside, 3, generator).sort().values.tolist() == [1, 2, 5]
    seen, first = torch.zeros(40), torch.zeros(40)
    for _ in range(3000):
        drawn = draw_distinct(40, 7, generator)
        assert len(drawn) == 7 and len(drawn.unique()) == 7
        seen[drawn] += 1
        first[drawn[0]] += 1
    assert (seen / 3000 - 7 / 40).abs().max() < 4 * math.sqrt(7 / 40 * 33 / 40 / 3000)
    assert (first / 3000 - 1 / 40).abs().max() < 4 * math.sqrt(1 / 40 * 39 / 40 / 3000)
    for total in range(5):
        assert draw_distinct(total, total, generator).sort().values.tolist() == list(range(total))
    assert len(draw_distinct(5, 0, generator)) == 0
