"""The loss of a batch over classes that are split over processes: ``SoftmaxHead.forward`` of a head with a group.

Each process scores the whole batch against classes of its own. To an objective the others' classes are one number a
sample, the logarithm of the sum of their exponentials (``Objective.loss_of_sums``); so two numbers a sample are summed
over processes, and all go on with the same loss. Equal to one process's head on the whole batch, up to the order of
sums, for any number of processes and classes.

Groups of samples are each process's own affair: what is summed over processes is in the order of the batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from annsoftmax_ref.active_sets import ActiveSets, FarClasses
from annsoftmax_ref.agreement import Agreed
from annsoftmax_ref.batch import Scored, mean_weights, without_ignored
from annsoftmax_ref.checks import check_batch, has_overflowed
from annsoftmax_ref.every_row import is_long, own_and_others
from annsoftmax_ref.logit_sums import logit_sums
from annsoftmax_ref.loss import add_offsets
from annsoftmax_ref.rows import unit_rows
from annsoftmax_ref.splitting import refuse_running_ddp


def sharded_loss(head, embeddings: Tensor, labels: Tensor) -> Tensor:
    """embeddings [b, d], labels [b] int64 in [0, N) of this process, b >= 0 -> the mean loss of all processes' samples.

    Raises, on all processes in the same step, ValueError or TypeError for what any of them cannot take.
    """
    embeddings, labels, agreed = _agree(head, embeddings, labels)
    if agreed.overflowed or sum(agreed.sizes) == 0:
        return head._no_loss(embeddings, torch.nan if agreed.overflowed else 0.0)
    shards, objective = head.shards, head.objective
    if agreed.wants_gradient and not embeddings.requires_grad:  # in the sum of gradients every process takes part
        embeddings = embeddings.detach().requires_grad_()
    x = unit_rows(shards.gather_batch(embeddings, agreed.sizes, shards.ranks if head.averaged else 1))  # [B, d]
    labels = shards.gather(labels, agreed.sizes, "labels")  # [B]
    scored = _scored(head, x, labels)
    own, others, total = _sums_here(head, scored, x)
    losses = objective.loss_of_sums(
        shards.sum(own),
        shards.log_sum(others),
        None if total is None else shards.sum(total) / head.num_classes,
        scored.generator,
    )
    weights = _weights(head, labels)
    return losses.mean() if weights is None else (losses * weights).sum()


def _agree(head, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Agreed]:
    """The batch without samples to ignore, and what all processes agree on. Raises as ``sharded_loss``."""
    error, overflowed = None, False
    try:
        refuse_running_ddp(head)
        embeddings, labels = without_ignored(embeddings, labels, head.ignore_index)
        overflowed = head.training and has_overflowed(embeddings, head.embedding_size)
        if not overflowed:
            check_batch(embeddings, labels, head.embedding_size, head.num_classes, or_empty=True)
    except (ValueError, TypeError) as found:
        error = found
    agreed = head.agreement(embeddings, error, head.training, overflowed)
    if sum(agreed.sizes) == 0 and head.ignore_index is None:
        raise ValueError("embeddings is an empty batch on every process; one at least should have a row")
    return embeddings, labels.contiguous(), agreed


def _scored(head, x: Tensor, labels: Tensor) -> Scored:
    """The batch with its active sets here, their targets -1 where a class is another process's; None: all classes.

    A batch that ``torch.utils.checkpoint`` passes once more has the sets that it had.
    """
    if not head.training:
        return Scored(x, labels, None, head.common)
    scored = head._scored.again(x, labels)
    if scored is not None:
        return scored
    active = None
    if not head.selector.takes_all:
        head.selector.check_budget(labels)
        if head.shards.size:
            here = head.shards.here(labels)
            active = head.active_sets(x.detach(), here)
            targets = torch.where(active.of_samples(here) >= 0, active.targets, -1)
            active = replace(active, targets=targets)
        else:
            head.selector.take_part(x.detach())
    return head._scored.remember(x, labels, active, head.common)


def _sums_here(head, scored: Scored, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """x [B, d], rows of length 1 -> of each sample, over the classes here: the logit of its own class (0 where that is
    another process's), log sum e^logit of the others, and the sum of all logits, if the objective asks for it; [B]
    each."""
    shards, objective, active = head.shards, head.objective, scored.active
    sampled = head.training and not head.selector.takes_all
    pushes = objective.pushing(head.selector.active_of_all if sampled else head.num_classes, scored.generator)
    if shards.size == 0:
        nothing = 0 * x.sum(dim=1)  # with a gradient, so that this process takes part in the sum of gradients, too
        return nothing, nothing - torch.inf, nothing if objective.needs_all_classes else None
    here = shards.here(scored.labels)
    if sampled:
        directions, biases = head._read(active, x)
        offset, far = add_offsets(biases, active.log_weights), active.far
    elif is_long(head.weight) and pushes is None and not objective.needs_all_classes:
        return *own_and_others(x, head.weight, here, objective.scale, head._all_biases()), None
    else:
        active = ActiveSets(torch.arange(len(x), device=x.device)[None], here[None], here[None])
        directions, biases, far = head._all_rows().unsqueeze(0), head._all_biases(), None
        offset = None if biases is None else biases.unsqueeze(0)
    own, others = _of_sets(head, active, x, directions, offset, far, pushes)
    return own, others, _total(x, directions, offset, objective.scale) if objective.needs_all_classes else None


def _of_sets(
    head,
    active: ActiveSets,
    x: Tensor,
    directions: Tensor,
    offset: Tensor | None,
    far: FarClasses | None,
    pushes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Of the rows of active sets, directions [G, A, d]: own [B], others [B].

    pushes: which columns of all processes' sets push at all; None: all.
    """
    samples, targets, scale = active.of_samples(x), active.targets, head.objective.scale
    if pushes is None:
        own, others = logit_sums(samples, directions, targets, scale, offset, far)
    else:  # the own class pulls, whether it is among those that push or not
        first = head.shards.share_before(len(pushes))
        pushes = pushes[first : first + directions.shape[1]]
        pushes = torch.nn.functional.pad(pushes, (0, directions.shape[1] - len(pushes)))
        masked = directions.new_zeros(directions.shape[:2]).masked_fill(~pushes.to(x.device), -torch.inf)
        _, others = logit_sums(samples, directions, targets, scale, add_offsets(offset, masked), far)
        columns = targets.clamp_min(0).unsqueeze(-1).expand(*targets.shape, directions.shape[-1])
        own = scale * (samples * directions.gather(1, columns).to(samples.dtype)).sum(dim=-1)
        own = torch.where(targets >= 0, own, 0)
    return _in_batch(active, own, len(x)), _in_batch(active, others, len(x))


def _in_batch(active: ActiveSets, values: Tensor, batch: int) -> Tensor:
    """values [G, b] of the sets' samples -> [B], in the batch's order."""
    if len(active) == 1:
        return values[0]
    places = torch.where(active.samples >= 0, active.samples, batch).flatten()
    return values.new_zeros(batch + 1).scatter(0, places, values.flatten())[:batch]


def _total(x: Tensor, directions: Tensor, offset: Tensor | None, scale: float) -> Tensor:
    """The sum of a sample's logits over a single set's columns [B]: a product with one row."""
    total = scale * (x @ directions[0].sum(dim=0).to(x.dtype))
    return total if offset is None else total + offset.sum()


def _weights(head, labels: Tensor) -> Tensor | None:
    """What each sample adds to the mean [B], by the weights of the samples' own classes; None: 1 / B each."""
    if head.class_weights is None:
        return None
    here = head.shards.here(labels)
    known = head.class_weights.new_zeros(len(labels))
    known[here >= 0] = head.class_weights[here[here >= 0]]
    everybody = torch.arange(len(labels), device=labels.device)
    return mean_weights(head.shards.total(known, "weights"), everybody)
