"""torch.optim.swa_utils: averages of backbone and head, by decay (EMA) and of the last epochs (SWA)."""

from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader

from annsoftmax_ref import ANNSoftmax, CosFace, RowSGD
from annsoftmax_ref.training.integrations.points import CLASSES, DIM, network, points


def train(epochs=4, swa_from=2, decay=0.98):
    """Returns what was trained and its two averages, each a ModuleDict of backbone and head."""
    head = ANNSoftmax(CLASSES, DIM, CosFace(scale=16, margin=0.1), sample_rate=0.1)
    model = nn.ModuleDict({"backbone": network(normalised=True), "head": head})
    optimizer = RowSGD(model.parameters(), lr=0.2, momentum=0.9)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # buffers are copied, as they should be
    swa, schedule = AveragedModel(model), SWALR(optimizer, swa_lr=0.05, anneal_epochs=1)
    loader = DataLoader(points(), batch_size=50)
    for epoch in range(epochs):
        for features, labels in loader:
            model["head"](model["backbone"](features), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update_parameters(model)
        if epoch >= swa_from:
            swa.update_parameters(model)
            schedule.step()
    for average in (ema, swa):
        update_bn(loader, average.module["backbone"])
    return model, ema.module, swa.module


if __name__ == "__main__":
    features, labels = points(seed=1).tensors
    for name, model in zip(("last", "EMA", "SWA"), train(), strict=True):
        model.eval()
        found = model["head"].topk(model["backbone"](features))[1][:, 0]
        print(f"{name}: top-1 {(found == labels).float().mean():.3f}")
