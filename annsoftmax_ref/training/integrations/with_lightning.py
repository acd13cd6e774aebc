"""Lightning: backbone and head in one module, one row optimizer for both; everything else is the Trainer's to do."""

import lightning
from torch.utils.data import DataLoader

from annsoftmax_ref import ANNSoftmax, CosFace, RowSGD
from annsoftmax_ref.training.integrations.points import CLASSES, DIM, network, points


class PointClassifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = network()
        self.head = ANNSoftmax(CLASSES, DIM, CosFace(scale=16, margin=0.1), sample_rate=0.1)
        self.losses = []

    def training_step(self, batch, number):
        features, labels = batch
        loss = self.head(self.backbone(features), labels)
        self.log("loss", loss, prog_bar=True)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return RowSGD(self.parameters(), lr=0.2, momentum=0.9)  # on dense gradients it is torch.optim.SGD


def train(folder="runs/lightning", epochs=3, resume=None, **options):
    """options: the Trainer's, such as precision="bf16-mixed". Returns the module and the Trainer."""
    options = {"gradient_clip_val": 5.0, "accumulate_grad_batches": 2, "devices": 1} | options
    trainer = lightning.Trainer(default_root_dir=folder, max_epochs=epochs, **options)
    module = PointClassifier()
    trainer.fit(module, DataLoader(points(), batch_size=50), ckpt_path=resume)
    return module, trainer


if __name__ == "__main__":
    train(precision="bf16-mixed")
