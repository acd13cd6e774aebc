"""Own logit and log-sum of the others: plain torch for now."""

import torch
from torch import Tensor


def logit_sums_torch(
    cosine: Tensor,
    targets: Tensor,
    scale: float,
    offset: Tensor | None = None,
    far: Tensor | None = None,
    far_offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    logits = _logits(cosine, scale, offset)
    there = targets >= 0
    column = targets.clamp_min(0).unsqueeze(1)
    if logits.shape[1] == 0:
        own = logits.new_zeros(len(logits))
    else:
        own = torch.where(there, logits.gather(1, column).squeeze(1), 0)
        logits = logits.scatter(1, column, torch.where(there.unsqueeze(1), -torch.inf, logits.gather(1, column)))
    if far is not None:
        logits = torch.cat([logits, _logits(far, scale, far_offset)], dim=1)
    return own, logits.logsumexp(dim=1)


def logit_slopes_torch_(
    cosine: Tensor,
    targets: Tensor,
    scale: float,
    others: Tensor,
    d_own: Tensor,
    d_others: Tensor,
    offset: Tensor | None = None,
    far: Tensor | None = None,
    far_offset: Tensor | None = None,
) -> None:
    for columns, added in ((cosine, offset), (far, far_offset)):
        if columns is not None:
            share = (_logits(columns, scale, added) - others.unsqueeze(1)).exp()
            share = torch.where(others.unsqueeze(1) == -torch.inf, 0, share)
            columns.copy_(scale * d_others.unsqueeze(1) * share)
    rows = (targets >= 0).nonzero().squeeze(1)
    cosine[rows, targets[rows]] = (scale * d_own[rows]).to(cosine.dtype)


def _logits(cosine: Tensor, scale: float, offset: Tensor | None) -> Tensor:
    logits = scale * (cosine.float() if cosine.dtype == torch.bfloat16 else cosine)
    if offset is None:
        return logits
    return (logits.unflatten(0, (len(offset), -1)) + offset.unsqueeze(1)).flatten(0, 1)


logit_sums = logit_slopes_ = None  # no kernels yet
