"""A loop of your own: mixed precision (float16 with a scaler), batches accumulated, gradients clipped."""

import torch
from torch.utils.data import DataLoader

from annsoftmax_ref import ANNSoftmax, CosFace, RowSGD
from annsoftmax_ref.training.integrations.points import CLASSES, DIM, network, points


def train(kind=torch.bfloat16, accumulate=2, max_norm=5.0, epochs=3, device="cpu"):
    """Returns backbone, head, and the loss of each batch."""
    backbone = network().to(device)
    head = ANNSoftmax(CLASSES, DIM, CosFace(scale=16, margin=0.1), sample_rate=0.1, device=device)
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = RowSGD(parameters, lr=0.2, momentum=0.9)  # on the backbone's dense gradients it is torch.optim.SGD
    loader = DataLoader(points(), batch_size=50)
    scaler = torch.amp.GradScaler(device, enabled=kind == torch.float16)
    losses = []
    for number, (features, labels) in enumerate(batch for _ in range(epochs) for batch in loader):
        with torch.autocast(device, kind, enabled=kind != torch.float32):
            loss = head(backbone(features.to(device)), labels.to(device))
        scaler.scale(loss / accumulate).backward()
        losses.append(loss.item())
        if (number + 1) % accumulate == 0:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return backbone, head, losses


if __name__ == "__main__":
    losses = train()[2]
    print(f"loss {losses[0]:.2f}, at the end {losses[-1]:.2f}")
