"""One step of training: forward, the head by itself, backward through the backbone."""

from __future__ import annotations

import math
import time

from torch import Tensor, nn

from annsoftmax_ref.machine.device import autocast, wait_for


def train_step(model: nn.Module, head: nn.Module, optimizer, inputs, labels: Tensor) -> tuple[float, float, Tensor]:
    """One step on the inputs of B samples, as the model reads them, and labels [B]: the loss, the head's
    milliseconds, the embeddings [B, d].

    The backbone runs forward, then the head on embeddings cut from the graph (loss, backward, its rows' update), then
    the backbone backward from the embeddings' gradient. That is the same step as one backward through both, and it
    lets the head's time be measured whole and by itself. The optimizer steps twice, each time for the parameters that
    have a gradient: the head's, then the backbone's. Raises FloatingPointError if the loss is not finite.
    """
    device = labels.device
    with autocast(device):
        embeddings = model(inputs)
    leaf = embeddings.detach().float().requires_grad_()
    wait_for(device)
    start = time.perf_counter()
    loss = head(leaf, labels)
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value}: training has diverged; a smaller learning rate should help")
    loss.backward()
    optimizer.step()
    wait_for(device)
    milliseconds = (time.perf_counter() - start) * 1e3
    optimizer.zero_grad()
    embeddings.backward(leaf.grad.to(embeddings.dtype))
    optimizer.step()
    optimizer.zero_grad()
    return value, milliseconds, leaf.detach()
