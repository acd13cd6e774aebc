"""What the tests of several kernels share: examples of arguments, and twins in plain torch."""

import numpy as np
import torch
import torch.nn.functional as F

from annsoftmax_ref import RowAdamW, RowSGD, make_objective
from kernels_inline.bits import pack_bits
from kernels_inline.checks import gradient_kind
from kernels_inline.rows_ops import row_adamw_, row_adamw_catch_up_, row_sgd_, row_sgd_catch_up_

# ------------------------------------------------------------------------------------------------------------ nearness


def error(x, exact):
    return float((x.double() - exact).norm())


def assert_not_worse(ours, torchs, exact, size=None):
    """Ours is as near to float64 as plain torch is, or within the rounding of results of this size."""
    size = float(exact.norm()) if size is None else size
    assert error(ours, exact) <= max(error(torchs, exact), 2e-7 * size) + 1e-12


def assert_rounded_once(ours, exact, nothing=1e-37):
    """bfloat16 has 8 bits, so rounding is 2^-8 of an element at most; float32's error decides where two are near.
    nothing: what may as well be 0."""
    assert ((ours.double() - exact).abs() <= exact.abs() * (2**-8 + 2e-5) + nothing).all()


# --------------------------------------------------------------------------------------------------------------- codes


def random_words(*shape, generator):
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)


def integers(*shape, low=-9, high=10, seed=0):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def unpack(codes, dim):
    """codes [n, W] -> bits [n, dim] bool."""
    return ((codes.unsqueeze(-1) >> torch.arange(64)) & 1).flatten(1)[:, :dim].bool()


def encode_torch(rows, ids, rotation=None, centroids=None, lists=None):
    """The op ``encode`` in plain torch."""
    unit = F.normalize(rows[ids], dim=1)
    if centroids is not None:
        unit = unit - centroids[lists]
    if rotation is not None:
        unit = unit @ rotation
    return pack_bits(unit > 0)


def assign_torch(rows, centroids):
    """The op ``assign`` in plain torch."""
    return (rows @ centroids.T).argmax(dim=1)


def kmeans_sums_torch(rows, lists, nlist):
    """The op ``kmeans_sums`` in plain torch."""
    sums = rows.new_zeros(nlist, rows.shape[1]).index_add_(0, lists, rows)
    return sums, torch.bincount(lists, minlength=nlist)


# -------------------------------------------------------------------------------------------------------------- search


def make_lists(num_rows, dim, nlist, *, seed=0, holes=0.2, kinds=None, slack=8):
    """Lists of num_rows ids with holes between them. kinds: how many different codes there are (None: all)."""
    generator = torch.Generator().manual_seed(seed)
    words = -(-dim // 64)
    last = (1 << (dim - 64 * (words - 1))) - 1 if dim % 64 else -1
    codes = random_words(kinds or num_rows, words, generator=generator)
    codes[:, -1] &= last
    codes = codes[torch.randint(len(codes), (num_rows,), generator=generator)]
    lists = torch.randint(nlist, (num_rows,), generator=generator)
    used = torch.rand(num_rows, generator=generator) >= holes
    ends = torch.bincount(lists, minlength=nlist)
    capacity = int(ends.max()) + slack
    slots = torch.full((nlist, capacity), -1)
    slot_codes = random_words(nlist, words, capacity, generator=generator)  # free slots hold anything
    for one in range(nlist):
        ids = (lists == one).nonzero().squeeze(1)
        slots[one, : len(ids)] = torch.where(used[ids], ids, -1)
        slot_codes[one, :, : len(ids)] = codes[ids].T
    return dict(slots=slots, slot_codes=slot_codes, ends=ends), generator


def make_probes(batch, nlist, nprobe, generator):
    return torch.rand(batch, nlist, generator=generator).argsort(dim=1)[:, :nprobe]


def rerank_example(n, d, b, k, seed=0):
    """queries, rows and ids, -1 among them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator) * (0.1 + 3 * torch.rand(n, 1, generator=generator))
    queries = F.normalize(torch.randn(b, d, generator=generator), dim=1)
    return queries, rows, torch.randint(-1, n, (b, k), generator=generator)


def make_flat(batch, count, num_rows, dim, *, seed=0, kinds=None):
    """planes [batch, count, W] and codes [num_rows, W]; kinds: how many different codes there are (None: all)."""
    generator = torch.Generator().manual_seed(seed)
    words = -(-dim // 64)
    planes = random_words(batch, count, words, generator=generator)
    codes = random_words(kinds or num_rows, words, generator=generator)
    for x in (planes, codes):
        if dim % 64:
            x[..., -1] &= (1 << dim % 64) - 1
    return planes, codes[torch.randint(len(codes), (num_rows,), generator=generator)], generator


def make_starts(batch, groups, generator):
    """groups of random sizes, empty ones among them."""
    cuts = torch.randint(batch + 1, (groups - 1,), generator=generator).sort().values
    return torch.cat([torch.tensor([0]), cuts, torch.tensor([batch])])


def members(starts):
    ends = starts.tolist()
    return [np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]


# -------------------------------------------------------------------------------------------------------- head and rows

MARGINS = {"cross_entropy": None, "cosface": 0.2, "arcface": 0.5, "dsoftmax": 0.9}


def sampled(b, count, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    cosine = (torch.rand(b, count, generator=generator) * 2 - 1).to(dtype)
    return cosine, torch.randint(count, (b,), generator=generator)


def by_autograd(cosine, target, name, scale, share, offset=None):
    """Losses and gradient by annsoftmax_ref.objectives, in the precision of the cosines."""
    cosine = cosine.clone().requires_grad_()
    losses = make_objective(name, scale, MARGINS[name])(cosine, target, offset)
    (share * losses.sum()).backward()
    return losses.detach(), cosine.grad


WINDOW = 40
SGD = [
    dict(lr=0.3),
    dict(lr=0.3, momentum=0.9),
    dict(lr=0.1, momentum=0.9, weight_decay=0.01),
    dict(lr=0.1, momentum=0.8, weight_decay=0.01, nesterov=True),
]
ADAMW = [
    dict(lr=0.01),
    dict(lr=0.1, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
    dict(lr=0.01, betas=(0.0, 0.99), eps=0.0),
]
CASES = [(RowSGD, o) for o in SGD] + [(RowAdamW, o) for o in ADAMW]


class Rows:
    """A weight with its optimizer's state; steps by the twin, in any precision, or by the kernel."""

    def __init__(self, optimizer, options, weight, dtype=torch.float32):
        self.weight = weight.to(dtype)
        self.twin = optimizer([torch.nn.Parameter(torch.zeros(1))], **options)
        self.group = self.twin.param_groups[0]
        self.buffers = [torch.zeros_like(self.weight) for name in self.twin.buffers if name != "momentum_scale"]
        self.scales = [None] if optimizer is RowSGD else []  # of momentum in int8
        self.last = torch.zeros(len(weight), dtype=torch.int64)
        self.table = self.twin.identity().repeat(WINDOW + 1, 1)
        self.step_number = 0

    def step(self, ids, grad):
        self.catch_up(ids)
        self.step_number += 1
        parts = [x[ids] for x in (self.weight, *self.buffers)]
        self.twin.move(parts[0], grad.to(self.weight.dtype), [*parts[1:], *self.scales], self.group, self.step_number)
        self.write(ids, parts)
        self.advance()

    def catch_up(self, ids):
        parts = [x[ids] for x in (self.weight, *self.buffers)]
        self.twin.apply(self.table[self.step_number - self.last[ids]], parts[0], [*parts[1:], *self.scales], self.group)
        self.write(ids, parts)

    def write(self, ids, parts):
        for whole, part in zip((self.weight, *self.buffers), parts, strict=True):
            whole[ids] = part
        self.last[ids] = self.step_number

    def advance(self):
        self.table = self.twin.advanced(self.table, self.group, self.step_number)

    def numbers(self):
        return torch.tensor(self.twin.numbers(self.group, self.step_number), dtype=torch.float64)

    def kernel_step(self, ids, grad, with_codes=True):
        self.step_number += 1
        step = row_sgd_ if isinstance(self.twin, RowSGD) else row_adamw_
        state = self.weight, *self.buffers, *self.scales, self.last, ids, grad, None, self.table, self.numbers()
        codes = step(*state, 0, with_codes)
        self.advance()
        return codes

    def held_as(self, kind, eight):
        """Weight, buffers and scales as kernels take them: the weight in this kind; eight: momentum in int8."""
        weight = self.weight.to(kind)
        if not eight:
            return [weight, *(x.to(gradient_kind(weight)) for x in self.buffers), *self.scales]
        largest = self.buffers[0].abs().amax(1).clamp_min(1e-9)
        return [weight, (self.buffers[0] / largest[:, None] * 127).round().to(torch.int8), largest / 127]

    def of_units(self, ids, slope):
        """slope [n, d], the gradient of unit rows -> that of rows, by torch, from rows that are up to date; norms."""
        rows = self.weight[ids].detach().requires_grad_()
        norms = rows.detach().norm(dim=1).clamp_min(1e-12)
        (grad,) = torch.autograd.grad(torch.nn.functional.normalize(rows, dim=1), rows, slope.to(rows.dtype))
        return grad, norms

    def kernel_catch_up(self, ids):
        catch_up = row_sgd_catch_up_ if isinstance(self.twin, RowSGD) else row_adamw_catch_up_
        catch_up(self.weight, *self.buffers, *self.scales, self.last, ids, self.table, self.numbers(), 0)


def draw_rows(n, d, generator):
    count = int(torch.randint(0, n + 1, (), generator=generator))
    ids = torch.randperm(n, generator=generator)[:count].sort().values
    return ids, torch.randn(count, d, generator=generator)


def assert_rows_not_worse(ours, plain, exact):
    """Every array is as near to float64 as plain torch's in float32 is, give or take a tenth."""
    for a, b, c in zip(
        (ours.weight, *ours.buffers), (plain.weight, *plain.buffers), (exact.weight, *exact.buffers), strict=True
    ):
        assert error(a, c) <= 1.1 * error(b, c) + 1e-7 * float(c.norm())
    assert torch.equal(ours.last, exact.last)


def step_both(ours, exact, ids, grad):
    """A step of rows ids [n] by the kernel and in float64; its codes are of the rows, other rows stay as they were."""
    untouched = ours.weight.clone()
    codes = ours.kernel_step(ids, grad)
    exact.step(ids, grad)
    assert torch.equal(codes, pack_bits(ours.weight[ids] > 0))
    rest = torch.ones(len(untouched), dtype=torch.bool).index_fill(0, ids, False)
    assert torch.equal(ours.weight[rest], untouched[rest])
