"""The arguments of every launcher for a given size, for registry.py: random, but the same on every call.

Each function takes a size (a dict with the keys that its kernel's entry in the registry has) and a device. Results are
left uninitialised. N rows or classes, d numbers each, A of them chosen; W words a code, P planes a query, B queries.
"""

from __future__ import annotations

import torch

from kernels_inline.checks import ROW_KINDS, gradient_kind
from kernels_inline.head_ops import union_rows_torch

WINDOW = 64  # ages in the tables of the row optimizers
STEP = 20


def _random(device: torch.device):
    return torch.Generator(device=device).manual_seed(0)


def _normal(*shape, device, scale=1.0):
    return torch.randn(*shape, generator=_random(device), device=device) * scale


def _codes(*shape, device):
    return torch.randint(-(1 << 63), (1 << 63) - 1, shape, generator=_random(device), device=device)


def _picks(n: int, count: int, device):
    """count distinct numbers below n, ascending, spread evenly."""
    return torch.arange(count, device=device) * (n // count)


def _below(n: int, *shape, device):
    return torch.randint(n, shape, generator=_random(device), device=device)


def sign_codes(s, device):
    rows, words = _normal(s["N"], s["d"], device=device), -(-s["d"] // 64)
    codes = torch.empty(s["A"], words, dtype=torch.int64, device=device)
    return [rows, 0, _picks(s["N"], s["A"], device), None, None, s["A"], s["N"], s["d"], 0, words, codes]


def gather_unit_rows(s, device):
    rows, out = _normal(s["N"], s["d"], device=device), torch.empty(s["A"], s["d"], device=device)
    return [rows, 0, _picks(s["N"], s["A"], device), None, None, s["A"], s["N"], s["d"], 0, out]


def row_argmax(s, device):
    best = torch.empty(s["n"], dtype=torch.int64, device=device)
    return [_normal(s["n"], s["nlist"], device=device), s["n"], s["nlist"], best]


def list_sums(s, device):
    sums, counts = (
        torch.empty(s["nlist"], s["d"], device=device),
        torch.empty(s["nlist"], dtype=torch.int64, device=device),
    )
    rows, lists = _normal(s["n"], s["d"], device=device), _below(s["nlist"], s["n"], device=device)
    return [rows, lists, s["n"], s["d"], s["nlist"], sums, counts]


def _lists(s, device):
    """slots and their number of members: nlist lists of ``used`` classes each, in a random order."""
    ids = torch.randperm(s["nlist"] * s["used"], generator=_random(device), device=device).view(s["nlist"], s["used"])
    slots = torch.nn.functional.pad(ids, (0, s["capacity"] - s["used"]), value=-1)
    return slots, torch.full((s["nlist"],), s["used"], dtype=torch.int64, device=device)


def write_codes(s, device):
    slots, _ = _lists(s, device)
    n, words = s["nlist"] * s["used"], s["W"]
    assignment, place = (
        torch.empty(n, dtype=torch.int64, device=device),
        torch.empty(n, dtype=torch.int64, device=device),
    )
    where = (slots >= 0).nonzero()
    assignment[slots[slots >= 0]], place[slots[slots >= 0]] = where[:, 0], where[:, 1]
    codes = torch.zeros(n, words, dtype=torch.int64, device=device)
    slot_codes = torch.zeros(s["nlist"], words, s["capacity"], dtype=torch.int64, device=device)
    written, ids = torch.zeros(n, dtype=torch.int32, device=device), _picks(n, s["A"], device)
    fresh, clock = _codes(s["A"], words, device=device), torch.tensor(7, dtype=torch.int32, device=device)
    return [codes, slot_codes, written, assignment, place, ids, fresh, s["A"], n, words, s["capacity"], clock]


def gather_normalise(s, device):
    unit, norms = torch.empty(s["A"], s["d"], device=device), torch.empty(s["A"], device=device)
    weight = _normal(s["N"], s["d"], device=device)
    return [weight, 0, s["N"], s["d"], _picks(s["N"], s["A"], device), s["A"], 0, unit, norms]


def normalise_backward(s, device):
    weight, ids = _normal(s["N"], s["d"], device=device), _picks(s["N"], s["A"], device)
    grad = _normal(s["A"], s["d"], device=device, scale=0.1)
    return [grad, None, weight, 0, s["N"], s["d"], ids, s["A"], weight[ids].norm(dim=1)]


def merge_normalise_backward(s, device):
    """Of G groups each shares half its rows with the next one: A (G + 1) / 2 distinct rows, spread evenly."""
    distinct = s["A"] * (s["G"] + 1) // 2
    named = torch.arange(s["A"], device=device) + torch.arange(s["G"], device=device).unsqueeze(1) * (s["A"] // 2)
    classes = named * (s["N"] // distinct)
    ids, starts, places = union_rows_torch(classes, s["N"])
    weight, slope = (
        _normal(s["N"], s["d"], device=device),
        _normal(classes.numel(), s["d"], device=device, scale=0.1),
    )
    norms, grad = weight[classes.view(-1)].norm(dim=1), torch.empty(len(ids), s["d"], device=device)
    return [slope, 0, weight, 0, s["N"], s["d"], ids, len(ids), starts, places, len(places), norms, grad]


def margin_softmax(s, device):
    cosine = _normal(s["b"], s["A"], device=device, scale=0.2).clamp_(-0.99, 0.99)
    losses = torch.empty(s["b"], device=device)
    targets = _below(s["A"], s["b"], device=device)
    sizes = s["b"], s["A"]
    return [cosine, 0, *sizes, targets, None, 1, None, 0, None, 1, 20.0, 0.2, 1 / s["b"], losses]


def logit_sums(s, device):
    cosine, targets = margin_softmax(s, device)[0], _below(s["A"], s["b"], device=device)
    own, others = torch.empty(2, s["b"], device=device)
    return [cosine, 0, s["b"], s["A"], targets, None, 1, None, 0, None, 20.0, own, others]


def logit_slopes(s, device):
    """As one of four processes with as many columns has it: log 4 is added to others."""
    *columns, own, others = logit_sums(s, device)
    others = (20.0 * columns[0]).logsumexp(dim=1) + 1.4
    return [*columns, others, own.fill_(-1 / s["b"]), torch.full_like(own, 1 / s["b"])]


def ivf_scan(s, device):
    slots, ends = _lists(s, device)
    slot_codes = _codes(s["nlist"], s["W"], s["capacity"], device=device)
    queries = _codes(s["B"], 1, 1, s["W"], device=device)
    draws = torch.rand(s["B"], s["nlist"], generator=_random(device), device=device)
    probed = draws.argsort(dim=1)[:, : s["nprobe"]].contiguous()
    ids = torch.empty(s["B"], s["k"], dtype=torch.int64, device=device)
    found = torch.empty(s["B"], s["k"], dtype=torch.int32, device=device)
    sizes = s["B"], 1, s["nprobe"], 1, s["nlist"], s["capacity"], s["W"], s["nlist"] * s["used"], 64 * s["W"], s["k"]
    return [queries, probed, slots, slot_codes, ends, *sizes, ids, found]


def rerank(s, device):
    queries = torch.nn.functional.normalize(_normal(s["B"], s["d"], device=device), dim=1)
    ids = (_below(s["N"], s["B"], 1, device=device) + torch.arange(s["k"], device=device) * 7) % s["N"]
    ids_out, cosines = torch.empty_like(ids), torch.empty(s["B"], s["k"], device=device)
    return [queries, _normal(s["N"], s["d"], device=device), 0, ids, s["B"], s["k"], s["d"], ids_out, cosines]


def _flat(s, device):
    planes, codes = _codes(s["B"], s["P"], s["W"], device=device), _codes(s["N"] + 1, s["W"], device=device)[1:]
    return planes, codes.contiguous(), 64 * s["W"] * (2 ** s["P"] - 1)


def flat_thresholds(s, device):
    planes, codes, most = _flat(s, device)
    thresholds = torch.empty(s["B"], dtype=torch.int32, device=device)
    first = torch.zeros((), dtype=torch.int64, device=device)
    return [planes, codes, s["B"], s["P"], s["W"], s["N"], most, s["k"], s["stride"], first, thresholds]


def flat_map(s, device):
    planes, codes, most = _flat(s, device)
    starts = torch.tensor([0, s["B"]], device=device)
    thresholds = torch.full((s["B"],), most // 2 + 4 * s["W"], dtype=torch.int32, device=device)
    found = torch.empty(1, s["N"], dtype=torch.uint8, device=device)
    return [planes, thresholds, codes, starts, s["B"], 1, s["P"], s["W"], s["N"], most, s["P"] - 1, found]


def _chosen(s, device):
    classes = torch.empty(s["count"], dtype=torch.int64, device=device)
    return _below(s["N"], s["b"], device=device), classes, torch.empty(s["b"], dtype=torch.int64, device=device)


def union_active(s, device):
    labels, classes, targets = _chosen(s, device)
    candidates = _below(s["N"], s["b"], s["k"], device=device)
    samples = torch.arange(s["b"], device=device)  # one group
    fill = torch.randperm(s["N"], generator=_random(device), device=device)[: 2 * s["count"] + 64]
    sizes = s["b"], s["k"], 1, s["b"], len(fill), s["count"], s["N"]
    return [candidates, labels, samples, fill, *sizes, classes, targets]


def select_map(s, device):
    labels, classes, targets = _chosen(s, device)
    scores = _below(255, s["N"], device=device).to(torch.uint8)
    return [scores, labels, s["b"], s["count"], s["N"], classes, targets]


def _rows(s, device, buffers: int, dtype=torch.float32, eight: bool = False):
    """Weight, its kind, buffers, of SGD their scales, last, N, d, ids, A of a row optimizer; rows lag by 0 to 3 steps.

    eight: momentum in int8.
    """
    weight = _normal(s["N"], s["d"], device=device).to(dtype)
    first, kept = _normal(s["N"], s["d"], device=device, scale=0.01), gradient_kind(weight)
    held = [first.to(kept), (first.square() + 1e-4).to(kept)][:buffers]
    if eight:
        held = [(first * 2000).clamp(-127, 127).to(torch.int8), torch.full((s["N"],), 0.0005, device=device)]
    elif buffers == 1:
        held.append(None)
    last = STEP - 1 - torch.arange(s["N"], device=device) % 4
    ids = _picks(s["N"], s["A"], device)
    return [weight, ROW_KINDS.index(dtype), *held, last, s["N"], s["d"], ids, s["A"]]


def _table(columns: int, device):
    age = torch.arange(WINDOW + 1, dtype=torch.float64, device=device).unsqueeze(1)
    if columns == 4:  # of SGD: ww, wv, vw, vv
        return torch.cat([1 - 0.001 * age, -0.09 * age, 0.01 * age, 0.9**age], dim=1)
    return torch.cat([0.999**age, 0.9**age, 0.999**age, 0.01 * age, 0.02 * age], dim=1)


def row_step(buffers: int, dtype, eight: bool, of_units: bool, s, device):
    """of_units: by the gradient, in bfloat16, of rows scaled to length 1."""
    rows, words = _rows(s, device, buffers, dtype, eight), -(-s["d"] // 64)
    grad = _normal(s["A"], s["d"], device=device, scale=0.1)
    grad = grad.to(torch.bfloat16 if of_units else gradient_kind(rows[0]))
    norms = torch.full((s["A"],), s["d"] ** 0.5, device=device) if of_units else None
    codes = torch.empty(s["A"], words, dtype=torch.int64, device=device)
    return [*rows, grad, int(grad.dtype == torch.bfloat16), norms, *_steps(buffers, device), codes]


def row_catch_up(buffers: int, dtype, eight: bool, s, device):
    return [*_rows(s, device, buffers, dtype, eight), *_steps(buffers, device)]


def row_gather(buffers: int, dtype, eight: bool, s, device):
    unit = torch.empty(s["A"], s["d"], dtype=torch.bfloat16, device=device)
    *steps, _ = _steps(buffers, device)
    return [*_rows(s, device, buffers, dtype, eight), *steps, 1, unit, torch.empty(s["A"], device=device)]


def _steps(buffers: int, device):
    """Table, window, numbers and seed of a row optimizer."""
    sgd = STEP, 0.1, 0.9, 0.01, 0
    adamw = STEP, 1e-8, 1 - 0.01 * 0.01, 0.01 / (1 - 0.9**STEP), (1 - 0.999**STEP) ** -0.5, 0.9, 0.1, 0.999, 0.001
    numbers = torch.tensor(sgd if buffers == 1 else adamw, dtype=torch.float64, device=device)
    return _table(3 + buffers, device), WINDOW, numbers, 11


def lag_again(arguments: list) -> None:
    arguments[4].fill_(STEP - 1)  # of both optimizers: weight, kind, momentum and scales or average and square, last
