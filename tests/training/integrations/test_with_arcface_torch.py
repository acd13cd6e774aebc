"""arcface_torch's recipe with this head in PartialFC's place; at rate 1 the losses are PartialFC's own formula's.

Their code is not here: the loop below is written after train_v2.py, and what theirs would give after its formulas.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from ranks import on_ranks
from torch.utils.data import DataLoader

from annsoftmax_ref import NearestClasses, RowSGD
from annsoftmax_ref.training.integrations.points import CLASSES, DIM, network, points
from annsoftmax_ref.training.integrations.with_arcface_torch import PartialFC_V2

ARCFACE, COSFACE = (1.0, 0.5, 0.0), (1.0, 0.0, 0.4)  # their margin_list
BATCH, STEPS = 50, 6


def margin_loss_of(margins, scale=64, threshold=0):
    names = dict(zip(("m1", "m2", "m3"), margins, strict=True))
    return SimpleNamespace(s=scale, interclass_filtering_threshold=threshold, **names)


def recipe(cfg, backbone, rank=0, world_size=1):
    """The losses of train_v2.py; batches of ``cfg.batch_size`` on all processes together."""
    module_partial_fc = PartialFC_V2(
        margin_loss_of(cfg.margin_list, cfg.scale), cfg.embedding_size, cfg.num_classes, cfg.sample_rate, False
    )
    module_partial_fc.train()
    opt = RowSGD(
        params=[{"params": backbone.parameters()}, {"params": module_partial_fc.parameters()}],
        lr=cfg.lr, momentum=0.9, weight_decay=cfg.weight_decay,
    )  # fmt: skip
    amp = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses = []
    for img, labels in list(DataLoader(points(), cfg.batch_size))[: cfg.steps]:
        local_embeddings = backbone(img[rank::world_size])
        loss = module_partial_fc(local_embeddings, labels[rank::world_size].view(-1, 1))
        amp.scale(loss).backward()
        amp.unscale_(opt)
        for parameter in backbone.parameters():  # DistributedDataParallel's work
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= world_size
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 5)
        amp.step(opt)
        amp.update()
        opt.zero_grad()
        losses.append(loss.item())
    return losses, module_partial_fc


def config(**options):
    base = dict(margin_list=COSFACE, scale=64, embedding_size=DIM, num_classes=CLASSES, sample_rate=1.0, lr=0.1)
    return SimpleNamespace(**(base | dict(weight_decay=5e-4, batch_size=BATCH, steps=STEPS) | options))


def theirs(cfg, weight):
    """PartialFC_V2 at rate 1 in plain torch, with torch.optim.SGD."""
    backbone, weight = network(), torch.nn.Parameter(weight)
    opt = torch.optim.SGD([*backbone.parameters(), weight], lr=cfg.lr, momentum=0.9, weight_decay=cfg.weight_decay)
    _, m2, m3 = cfg.margin_list
    losses = []
    for img, labels in list(DataLoader(points(), cfg.batch_size))[: cfg.steps]:
        cosine = F.linear(F.normalize(backbone(img)), F.normalize(weight)).clamp(-1, 1)
        own = cosine.gather(1, labels.view(-1, 1))
        with torch.no_grad():
            change = ((own.acos() + m2).cos() if m2 else own - m3) - own
        loss = F.cross_entropy(cfg.scale * cosine.scatter_add(1, labels.view(-1, 1), change), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 5)
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("margins", [ARCFACE, COSFACE], ids=["arcface", "cosface"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_at_rate_1_the_losses_are_partial_fcs(margins, ranks):
    cfg = config(margin_list=margins)
    backbones = [network() for _ in range(ranks)]  # not in the threads, which have torch's generator in common
    untrained = on_ranks(ranks, lambda rank, group: recipe(config(steps=0), backbones[rank])[1])
    expected = theirs(cfg, torch.cat([head.weight.detach() for head in untrained]))
    for losses, _ in on_ranks(ranks, lambda rank, group: recipe(cfg, backbones[rank], rank, ranks)):
        assert losses == pytest.approx(expected, rel=1e-5)


def test_at_a_rate_below_1_the_nearest_classes_are_scored_and_it_trains():
    cfg = config(sample_rate=0.1, steps=60, scale=16, lr=0.2)
    ((losses, head),) = on_ranks(1, lambda rank, group: recipe(cfg, network()))
    assert isinstance(head.selector, NearestClasses)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@pytest.mark.parametrize("wrong", [margin_loss_of(ARCFACE, threshold=0.5), margin_loss_of((1.35, 0.5, 0.0))])
def test_what_their_loss_has_and_this_head_has_not_is_refused(wrong):
    with pytest.raises(ValueError, match="^margin_loss has an interclass_filtering_threshold or an m1"):
        PartialFC_V2(wrong, DIM, CLASSES)
