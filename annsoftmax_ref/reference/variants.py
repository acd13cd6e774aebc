"""Further objectives and options, each with its gradient written by hand (NumPy, float64).

Cross entropy with label smoothing and a bias, insightface's ArcFace, the combined margin, D-Softmax on a random subset
of samples or classes, and class weights. Like the four of `objectives` they map (z, target) to the loss, a mean over
the batch, and dz = d loss / d z. What is drawn at random comes in as an argument: `chosen`.
"""

import inspect
from functools import partial

import numpy as np

from .objectives import (
    SINE_FLOOR,
    arcface,
    cosface,
    cross_entropy,
    dsoftmax,
    log_sum_exp,
    softmax_loss,
)


def smoothed_cross_entropy(z, target, scale, label_smoothing=0.0, bias=None):
    """Cross entropy of logits l = s z + b with the target distribution q = (1 - e) [k = y] + e / A.

        loss = mean_i( log sum_k e^{l_ik} - sum_k q_ik l_ik ),     d loss / d l_ik = (p_ik - q_ik) / B
    z [B, A], target [B], bias b [A] -> loss, dz [B, A], dbias [A] (the sum of d loss / d l over the samples)
    """
    logits = scale * z + (0.0 if bias is None else np.asarray(bias, dtype=np.float64))
    q = np.full(z.shape, label_smoothing / z.shape[1])
    q[np.arange(len(z)), target] += 1.0 - label_smoothing
    total = log_sum_exp(logits)
    loss = np.mean(total - np.sum(q * logits, axis=1))
    dlogits = (np.exp(logits - total[:, None]) - q) / len(z)
    return float(loss), scale * dlogits, dlogits.sum(axis=0)


def arcface_insightface(z, target, scale, margin):
    """insightface's ArcFace: the value s cos(theta + m), past pi too, with a gradient that passes straight through.

    The margin is applied where no gradient is recorded, so d logit_y / d z_y is taken to be s, where it would be
    s sin(theta + m) / sin(theta). The dz given here is therefore not the slope of the loss.
    z [B, A], target [B] -> loss, dz [B, A]
    Derived in notebook 07, section "A gradient that is not the slope of its loss".
    """
    rows = np.arange(len(z))
    zy = z[rows, target]
    logits = scale * z
    sine = np.sqrt(np.maximum(1.0 - zy**2, SINE_FLOOR))
    logits[rows, target] = scale * (zy * np.cos(margin) - sine * np.sin(margin))
    loss, dlogits = softmax_loss(logits, target)
    return loss, scale * dlogits


def combined(z, target, scale, margin):
    """Combined margin: the target's logit is s psi(theta), margin = (m1, m2, m3).

        psi = (-1)^k cos(a) - 2 k - m3,     a = m1 theta + m2,   k = floor(a / pi)
    falls all the way: where cos(a) would rise, its mirror image goes on, one step of 2 lower a piece. Its slope is
        d psi / d z = (-1)^k sin(a) m1 / sin(theta)
    z [B, A], target [B] -> loss, dz [B, A]. Derived in notebook 07, section "The combined margin".
    """
    m1, m2, m3 = margin
    rows = np.arange(len(z))
    zy = z[rows, target]
    sine = np.sqrt(np.maximum(1.0 - zy**2, SINE_FLOOR))
    clamped = 1.0 - zy**2 < SINE_FLOOR  # there the sine is held constant, and d theta / d z = -sine
    a = m1 * np.arctan2(sine, zy) + m2
    piece = np.floor(a / np.pi)
    sign = 1.0 - 2.0 * (piece % 2)
    slope = sign * np.sin(a) * m1 * np.where(clamped, sine / (sine**2 + zy**2), 1.0 / sine)
    logits = scale * z
    logits[rows, target] = scale * (sign * np.cos(a) - 2.0 * piece - m3)
    loss, dlogits = softmax_loss(logits, target)
    dz = scale * dlogits
    dz[rows, target] *= slope
    return loss, dz


def dsoftmax_b(z, target, scale, margin=0.9, chosen=None):
    """D-Softmax-B: the pull of all samples, the push of the samples `chosen` [m] only; both are means.

        loss = mean_i log(1 + e^{s (d - z_iy)}) + mean_{i in chosen} log(1 + sum_{k != y} e^{s z_ik})
    chosen None: all samples, which is D-Softmax.   z [B, A], target [B] -> loss, dz [B, A]
    """
    rows = np.arange(len(z))
    chosen = rows if chosen is None else np.asarray(chosen)
    pull, dz = _intra(z, target, scale, margin)
    others = scale * z[chosen]
    others[np.arange(len(chosen)), target[chosen]] = 0.0  # its e^0 is the 1 of log(1 + ...)
    push = log_sum_exp(others)  # [m]
    slope = scale * np.exp(others - push[:, None]) / len(chosen)
    slope[np.arange(len(chosen)), target[chosen]] = 0.0
    dz[chosen] += slope
    return float(pull + np.mean(push)), dz


def dsoftmax_k(z, target, scale, margin=0.9, chosen=None):
    """D-Softmax-K: the pull of all samples, the push of the classes `chosen` [m] (columns of z) only.

        loss = mean_i( log(1 + e^{s (d - z_iy)}) + log(1 + sum_{k in chosen, k != y} e^{s z_ik}) )
    chosen None: all classes, which is D-Softmax.   z [B, A], target [B] -> loss, dz [B, A]
    """
    pull, dz = _intra(z, target, scale, margin)
    pushing = np.zeros(z.shape, dtype=bool)
    pushing[:, slice(None) if chosen is None else chosen] = True
    pushing[np.arange(len(z)), target] = False
    terms = np.where(pushing, scale * z, -np.inf)
    push = log_sum_exp(np.concatenate([np.zeros((len(z), 1)), terms], axis=1))  # [B]; e^0 is the 1
    dz += scale * np.exp(terms - push[:, None]) / len(z)
    return float(pull + np.mean(push)), dz


def _intra(z, target, scale, margin):
    """mean log(1 + e^a), a = s (d - z_y), and its slope -s sigmoid(a) / B in the target's place of dz [B, A]."""
    rows = np.arange(len(z))
    pull = np.logaddexp(0.0, scale * (margin - z[rows, target]))
    dz = np.zeros(z.shape)
    dz[rows, target] = -scale * (1.0 - np.exp(-pull)) / len(z)
    return np.mean(pull), dz


def weighted(objective, weights):
    """`objective` with weights [B] of the samples: loss = sum_i w_i L_i / sum_i w_i, and dz to match.

    Class weights are w_i = weight of sample i's own class; an ignored sample has w_i = 0. Where all weights are 0 the
    loss is 0. A sample's own loss L_i is what the objective gives for a batch of it alone.
    """
    weights = np.asarray(weights, dtype=np.float64)
    total = weights.sum()

    def mean(z, target):
        loss, dz = 0.0, np.zeros(z.shape)
        for i in np.flatnonzero(weights):
            own, slope = objective(z[i : i + 1], target[i : i + 1])[:2]
            loss += own * weights[i] / total
            dz[i] = slope[0] * weights[i] / total
        return loss, dz

    return mean


OBJECTIVES = {
    objective.__name__: objective
    for objective in (
        cross_entropy,
        cosface,
        arcface,
        dsoftmax,
        arcface_insightface,
        combined,
        dsoftmax_b,
        dsoftmax_k,
    )
}


def make_objective(name, scale, margin=None, **options):
    """The objective `name` with scale and margin filled in: a function (z, target) -> (loss, dz).

    margin: for those that take one, and needed where they have no default; combined takes three, (m1, m2, m3).
    options: `chosen`, of dsoftmax_b and dsoftmax_k.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}; it should be one of {', '.join(OBJECTIVES)}")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; it should be a positive number")
    taken = inspect.signature(OBJECTIVES[name]).parameters
    if margin is not None:
        if "margin" not in taken:
            raise ValueError(f"margin is {margin}; {name} takes none")
        options["margin"] = margin
    elif "margin" in taken and taken["margin"].default is inspect.Parameter.empty:
        raise ValueError(f"margin is missing; {name} needs one")
    return partial(OBJECTIVES[name], scale=scale, **options)
