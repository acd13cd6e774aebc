"""Cosine logits and the four objectives, each with its gradient written by hand (NumPy, float64).

One batch is x [B, d], the class weights are w [N, d]. Everything starts from cosines,

    z = x_hat @ w_hat.T   [B, N],     x_hat = x / |x|,   w_hat = w / |w|   (row by row)

An objective maps (z, target) to the loss, a mean over the batch, and to dz = d loss / d z. It never asks
how many classes there are: given the columns of an active set it is the sampled loss, given all of them
it is the full one. Options and further objectives are in `variants`.
"""

import numpy as np

NORM_FLOOR = 1e-12  # |x| is clamped below at this, so that a zero row stays zero instead of becoming NaN
SINE_FLOOR = 1e-12  # 1 - z^2 is clamped below at this: the slope of arccos is infinite at z = +-1


# ---------------------------------------------------------------------------------------- checks


def check_matrix(name, a, columns=None):
    """Return `a` as a float64 matrix with at least one row; ValueError if it cannot be one."""
    a = np.asarray(a, dtype=np.float64)
    if a.ndim != 2 or a.size == 0:
        raise ValueError(f"{name} has shape {a.shape}; it should be a matrix that is not empty")
    if columns is not None and a.shape[1] != columns:
        raise ValueError(f"{name} has {a.shape[1]} columns; it should have {columns}")
    if not np.isfinite(a).all():
        raise ValueError(f"{name} contains NaN or infinity; every entry should be finite")
    return a


def check_ids(name, ids, upper, length=None, lower=0):
    """Return `ids` as an int64 vector with every entry in lower..upper-1; ValueError otherwise."""
    ids = np.asarray(ids)
    if ids.size and ids.dtype.kind not in "iu":
        raise TypeError(f"{name} has type {ids.dtype}; it should hold integers")
    if ids.ndim != 1 or (length is not None and len(ids) != length):
        expected = "one-dimensional" if length is None else f"({length},)"
        raise ValueError(f"{name} has shape {ids.shape}; it should be {expected}")
    if ids.size and (ids.min() < lower or ids.max() >= upper):
        raise ValueError(f"{name} spans {ids.min()}..{ids.max()}; it should lie in {lower}..{upper - 1}")
    return ids.astype(np.int64)


# ---------------------------------------------------------------------------------------- cosines


def normalize(x):
    """Rows scaled to unit length: x_hat = x / max(|x|, 1e-12).   x [..., d] -> [..., d]"""
    x = np.asarray(x, dtype=np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), NORM_FLOOR)


def normalize_backward(x, grad):
    """Gradient through `normalize`: from d loss / d x_hat [..., d] to d loss / d x [..., d].

    The length of x does not matter to x_hat, so the part of the gradient along x_hat is removed:
        dx = (g - x_hat (x_hat . g)) / |x|
    Below the clamp x_hat = x / 1e-12 is linear and dx = g / 1e-12.
    """
    x = np.asarray(x, dtype=np.float64)
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    x_hat = normalize(x)
    along = np.sum(x_hat * grad, axis=-1, keepdims=True)
    return np.where(norm > NORM_FLOOR, grad - x_hat * along, grad) / np.maximum(norm, NORM_FLOOR)


def cosine_logits(x, w):
    """Cosine of every sample with every class.   x [B, d], w [N, d] -> z [B, N] in [-1, 1]"""
    return normalize(x) @ normalize(w).T


# ---------------------------------------------------------------------------------------- softmax


def log_sum_exp(a):
    """log sum_k e^{a_k} over the last axis, with the largest term factored out.   [B, A] -> [B]"""
    top = np.max(a, axis=-1, keepdims=True)
    return (top + np.log(np.sum(np.exp(a - top), axis=-1, keepdims=True)))[..., 0]


def softmax_loss(logits, target):
    """Softmax cross entropy of ready-made logits [B, A].   -> loss (float), d loss / d logits [B, A]

    loss = mean_i( log sum_k e^{l_ik} - l_iy ),     d loss / d l_ik = (p_ik - [k = y]) / B
    """
    rows = np.arange(len(logits))
    total = log_sum_exp(logits)
    loss = np.mean(total - logits[rows, target])
    grad = np.exp(logits - total[:, None])
    grad[rows, target] -= 1.0
    return float(loss), grad / len(logits)


def cross_entropy(z, target, scale):
    """Softmax cross entropy on s z.   z [B, A], target [B] columns of z -> loss, dz [B, A]"""
    loss, dlogits = softmax_loss(scale * z, target)
    return loss, scale * dlogits


def cosface(z, target, scale, margin):
    """CosFace (Wang et al., CVPR 2018): the target's logit is s (z_y - m).   -> loss, dz [B, A]

    Derived in notebook 07, section CosFace.
    """
    logits = scale * z
    logits[np.arange(len(z)), target] -= scale * margin
    loss, dlogits = softmax_loss(logits, target)
    return loss, scale * dlogits  # a constant shift leaves the slope alone


def arcface(z, target, scale, margin):
    """ArcFace (Deng et al., CVPR 2019): the target's logit is s cos(theta + m), theta = arccos z_y.

        cos(theta + m) = z cos m - sqrt(1 - z^2) sin m              while theta + m <= pi
    Past pi that cosine would rise again and reward a worse angle. There we use -2 - cos(theta + m), its
    mirror image in the line -1: same value and slope (-1 and 0) where they meet, and falling all the way.
    The slope used for the gradient is the true one:
        d cos(theta + m) / dz = cos m + z sin m / sqrt(1 - z^2)
    z [B, A], target [B] -> loss, dz [B, A]. Derived in notebook 07, section ArcFace.
    """
    rows = np.arange(len(z))
    zy = z[rows, target]  # [B]
    sine = np.sqrt(np.maximum(1.0 - zy**2, SINE_FLOOR))
    clamped = 1.0 - zy**2 < SINE_FLOOR  # there the sine is held constant
    shifted = zy * np.cos(margin) - sine * np.sin(margin)
    slope = np.cos(margin) + np.where(clamped, 0.0, zy / sine) * np.sin(margin)
    beyond = zy < np.cos(np.pi - margin)
    logits = scale * z
    logits[rows, target] = scale * np.where(beyond, -2.0 - shifted, shifted)
    loss, dlogits = softmax_loss(logits, target)
    dz = scale * dlogits
    dz[rows, target] *= np.where(beyond, -slope, slope)  # chain rule, target column only
    return loss, dz


def dsoftmax(z, target, scale, margin=0.9):
    """D-Softmax (He et al., AAAI 2020): the pull to the target and the push from the rest, uncoupled.

        loss = mean( log(1 + e^{s (d - z_y)}) + log(1 + sum_{k != y} e^{s z_k}) )
    `margin` is the paper's d. Writing a = s (d - z_y) and b = log sum_{k != y} e^{s z_k},
        d/dz_y = -s sigmoid(a),      d/dz_k = s e^{s z_k} / (1 + sum_{j != y} e^{s z_j})
    z [B, A], target [B] -> loss, dz [B, A]. Derived in notebook 07, section D-Softmax.
    """
    rows = np.arange(len(z))
    intra = np.logaddexp(0.0, scale * (margin - z[rows, target]))  # [B]
    others = scale * z
    others[rows, target] = 0.0  # its e^0 is the 1 of log(1 + ...)
    inter = log_sum_exp(others)  # [B]
    dz = scale * np.exp(others - inter[:, None])
    dz[rows, target] = -scale * (1.0 - np.exp(-intra))  # sigmoid(a) = 1 - 1 / (1 + e^a)
    return float(np.mean(intra + inter)), dz / len(z)


# ---------------------------------------------------------------------------------------- whole head


def active_loss(x, w, labels_as_targets, active, objective):
    """Loss and gradients when only the classes in `active` are scored.

    x [B, d], w [N, d], active [A] distinct class ids, labels_as_targets [B]: where each sample's label sits
    in `active`, objective: (z, target) -> (loss, dz). Returns loss, dx [B, d], dw_rows [A, d] (the gradient
    of w[active]; every other row of w has gradient zero).

        forward    z = x_hat @ w_hat[active].T
        backward   dx_hat = dz @ w_hat[active],   dw_hat = dz.T @ x_hat,   then through both normalisations
    """
    x = check_matrix("x", x)
    w = check_matrix("w", w, columns=x.shape[1])
    active = check_ids("active", active, len(w))
    if len(active) == 0 or len(np.unique(active)) != len(active):
        raise ValueError(f"active holds {len(active)} ids; they should be distinct, and at least one")
    target = check_ids("labels_as_targets", labels_as_targets, len(active), length=len(x))
    rows = w[active]  # [A, d]
    x_hat, w_hat = normalize(x), normalize(rows)
    loss, dz = objective(x_hat @ w_hat.T, target)  # dz [B, A]
    dx = normalize_backward(x, dz @ w_hat)
    dw_rows = normalize_backward(rows, dz.T @ x_hat)
    return loss, dx, dw_rows


def full_loss(x, w, labels, objective):
    """Full softmax: every class is active.   x [B, d], w [N, d], labels [B] -> loss, dx [B, d], dw [N, d]"""
    labels = check_ids("labels", labels, len(w), length=len(x))
    return active_loss(x, w, labels, np.arange(len(w)), objective)
