"""Accelerate: backbone, optimizer and loader are prepared, the head stays beside them, and splits over processes."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from annsoftmax_ref import ANNSoftmax, CosFace, RowSGD, clip_grad_norm_
from annsoftmax_ref.training.integrations.points import CLASSES, DIM, network, points


def train(precision="bf16", accumulate=2, max_norm=5.0, epochs=3, cpu=False):
    """Returns Accelerator, backbone, head, and the loss of each batch."""
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=accumulate, cpu=cpu)
    group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None
    objective = CosFace(scale=16, margin=0.1)
    head = ANNSoftmax(CLASSES, DIM, objective, sample_rate=0.1, device=accelerator.device, process_group=group)
    backbone = network()
    optimizer = RowSGD([*backbone.parameters(), *head.parameters()], lr=0.2, momentum=0.9)
    backbone, optimizer, loader = accelerator.prepare(backbone, optimizer, DataLoader(points(), batch_size=50))
    if group is None:
        accelerator.register_for_checkpointing(head)  # with save_state and load_state
    losses = []
    for features, labels in (batch for _ in range(epochs) for batch in loader):
        with accelerator.accumulate(backbone):
            with accelerator.autocast():
                loss = head(backbone(features), labels)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.unscale_gradients()
                clip_grad_norm_(backbone.parameters(), head, max_norm)  # one norm, over all processes
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return accelerator, backbone, head, losses


if __name__ == "__main__":
    losses = train()[3]
    print(f"loss {losses[0]:.2f}, at the end {losses[-1]:.2f}")
