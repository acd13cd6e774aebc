"""Row updates: SGD with momentum and AdamW, and catching up rows that were left alone (NumPy, float64).

A sampled step has a gradient for the active rows only. A dense optimizer would still move the others: their
momentum rolls on and weight decay shrinks them. We leave a row untouched until it is next needed and then
apply all the steps it missed at once, in closed form. Training is then the same as with the dense
optimizer given zero gradients, at the cost of the active rows alone.

Rows here are w [n, d] with state of the same shape; in a catch-up all n rows missed the same steps.
"""

import numpy as np

# ---------------------------------------------------------------------------------------- SGD


def sgd_step(w, buf, grad, lr, momentum, weight_decay=0.0, nesterov=False):
    """One step of torch.optim.SGD (dampening 0).   w, buf, grad [n, d] -> new w, new buf

        g = grad + wd w,   buf' = mu buf + g,   w' = w - lr (g + mu buf' if nesterov else buf')
    buf starts at zero.
    """
    g = grad + weight_decay * w
    buf = momentum * buf + g
    return w - lr * (g + momentum * buf if nesterov else buf), buf


def sgd_missed_matrix(lr, momentum, weight_decay=0.0, nesterov=False):
    """The 2x2 matrix of one step with zero gradient: (w', buf') = M (w, buf), for every entry alike.

    buf' = wd w + mu buf
    w'   = w - lr buf'              = (1 - lr wd) w - lr mu buf                       (plain)
    w'   = w - lr (wd w + mu buf')  = (1 - lr wd (1 + mu)) w - lr mu^2 buf            (Nesterov)
    """
    if nesterov:
        first = [1 - lr * weight_decay * (1 + momentum), -lr * momentum**2]
    else:
        first = [1 - lr * weight_decay, -lr * momentum]
    return np.array([first, [weight_decay, momentum]])


def sgd_catch_up(w, buf, history, nesterov=False):
    """Apply all missed steps at once.   history: (lr, momentum, weight_decay) of each, oldest first

        (w, buf) <- M_K ... M_2 M_1 (w, buf)
    Steps are linear in (w, buf), so their product is one 2x2 matrix whatever the schedule: exact.
    Derived in notebook 09, section "The closed form: a step is a matrix".
    """
    product = np.eye(2)
    for lr, momentum, weight_decay in history:
        product = sgd_missed_matrix(lr, momentum, weight_decay, nesterov) @ product
    return product[0, 0] * w + product[0, 1] * buf, product[1, 0] * w + product[1, 1] * buf


# ---------------------------------------------------------------------------------------- AdamW


def adamw_step(w, m, v, grad, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    """Step number `step` = 1, 2, ... of torch.optim.AdamW.   w, m, v, grad [n, d] -> new w, m, v

    m' = b1 m + (1 - b1) g,      v' = b2 v + (1 - b2) g^2
    w' = (1 - lr wd) w - lr / (1 - b1^t) * m' / ( sqrt(v') / sqrt(1 - b2^t) + eps )
    """
    if step < 1:
        raise ValueError(f"step is {step}; it should be at least 1")
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad**2
    denominator = np.sqrt(v) / np.sqrt(1 - beta2**step) + eps
    return (1 - lr * weight_decay) * w - lr / (1 - beta1**step) * m / denominator, m, v


def adamw_catch_up(w, m, v, last_step, history, beta1=0.9, beta2=0.999, eps=1e-8):
    """Apply the missed steps last_step + 1, ..., last_step + K at once.   -> new w, m, v

    w, m, v [n, d] as they stood after step `last_step`; history: (lr, weight_decay) of each missed step,
    oldest first. With zero gradients m and v only decay. For k = 1..K, t = last_step + k and u = sqrt(v):

        m_k = b1^k m,  v_k = b2^k v,  w_K = R w - m * sum_k c_k / (d_k u + eps),  R = prod_k (1 - lr_k wd_k)
        c_k = lr_k b1^k / (1 - b1^t) * prod_{j > k} (1 - lr_j wd_j),      d_k = b2^(k/2) / sqrt(1 - b2^t)

    The sum depends on u, differently for every lag. It is a weighted mean of 1 / (u + y_k), y_k = eps / d_k,
    weights c_k / d_k; we put the whole weight at the mean of the y_k (the one-node Pade form of the sum):

        sum_k c_k / (d_k u + eps)  ~  S1^2 / (S1 u + S2 eps),     S1 = sum c_k / d_k,   S2 = sum c_k / d_k^2

    Exact for eps = 0 and for one missed step. Otherwise a little low (1 / x is convex), by a share of at most
    variance(y_k) / u^2, about (eps / u)^2: nothing to see unless a gradient was as small as eps itself.
    Derived in notebook 09, section "Adam: nearly a closed form".
    """
    if last_step < 0:
        raise ValueError(f"last_step is {last_step}; it should be at least 0")
    decay, s1, s2 = 1.0, 0.0, 0.0
    for k, (lr, weight_decay) in enumerate(history, start=1):
        t = last_step + k
        keep = 1 - lr * weight_decay
        lift = np.sqrt(1 - beta2**t)
        ratio = lr / (1 - beta1**t) * lift  # c_k / d_k and c_k / d_k^2, their powers
        s1 = keep * s1 + ratio * (beta1 / np.sqrt(beta2)) ** k  # divided first: b2^k alone underflows
        s2 = keep * s2 + ratio * lift * (beta1 / beta2) ** k
        decay = decay * keep
    bottom = s1 * np.sqrt(v) + s2 * eps
    drift = np.divide(m * s1**2, bottom, out=np.zeros_like(bottom), where=bottom > 0)  # v = eps = 0: m = 0
    K = len(history)
    return decay * w - drift, beta1**K * m, beta2**K * v
