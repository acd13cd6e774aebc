"""Columns of a process, for the tests of ``logit_sums`` and ``logit_slopes_`` in C++ and in CUDA."""

import torch
from kernel_examples import assert_not_worse, assert_rounded_once

from kernels_inline.logit_sums_ops import logit_slopes_torch_, logit_sums_torch

SCALE = 20.0


def columns(rows, count, far=None, sets=None, dtype=torch.float32, seed=0):
    """cosine [rows, count] and far [rows, far], with offsets of so many sets where asked for, as the ops name them;
    every other target is -1, and so are all where there is no column."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(n):
        cosines = (torch.rand(rows, n, generator=generator) * 2 - 1).to(dtype)
        return cosines, None if sets is None else 5 * torch.randn(sets, n, generator=generator)

    cosine, offset = drawn(count)
    far, far_offset = (None, None) if far is None else drawn(far)
    targets = torch.randint(max(count, 1), (rows,), generator=generator)
    targets[1 if count else 0 :: 2 if count else 1] = -1
    return dict(cosine=cosine, targets=targets, offset=offset, far=far, far_offset=far_offset)


def exactly(given):
    """A copy in float64."""
    floating = (k for k, v in given.items() if v is not None and v.is_floating_point())
    return given | {name: given[name].double() for name in floating}


def gradients(rows, others, seed=0):
    """others [rows] with what other processes add to them, and the gradients of both numbers, for ``logit_slopes_``."""
    generator = torch.Generator().manual_seed(seed)
    more, d_own, d_others = torch.randn(3, rows, generator=generator)
    return dict(others=torch.logaddexp(others, more), d_own=d_own, d_others=d_others)


def assert_sums_are_right(sums, given, scale=SCALE):
    """own and others are as near to float64 as plain torch's, and infinite where those are."""
    exact, plain = (logit_sums_torch(**g, scale=scale) for g in (exactly(given), given))
    for ours, theirs, truth in zip(sums, plain, exact, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours.isinf(), truth.isinf())
        finite = truth.isfinite()
        assert_not_worse(ours[finite], theirs[finite], truth[finite])


def assert_slopes_are_right(slopes, given, of_rows, scale=SCALE):
    """slopes: what cosine and far, if there are any, have become."""
    # cosine + offset / scale and scale * cosine + offset are rounded in other places: logits of 32, by 2e-6.
    wide = given["offset"] is not None or given["far_offset"] is not None
    truth = {name: None if x is None else x.clone() for name, x in exactly(given).items()}
    plain = {name: None if x is None else x.clone() for name, x in given.items()}
    logit_slopes_torch_(**truth, **exactly(of_rows), scale=scale)
    logit_slopes_torch_(**plain, **of_rows, scale=scale)
    for name, ours in slopes.items():
        if ours is None:
            continue
        assert ours.dtype == given[name].dtype
        if ours.dtype == torch.bfloat16:
            assert_rounded_once(ours, truth[name], 1e-35)  # e^x is 0 below 1e-38, and then multiplied by scale
        else:
            assert_not_worse(ours, plain[name], truth[name], float(truth[name].norm()) * (10 if wide else 1))
