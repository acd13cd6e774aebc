"""Lightning itself runs the script: the losses of the plain loop, and a run that goes on from a checkpoint."""

import logging
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from annsoftmax_ref import RowSGD, clip_grad_norm_
from annsoftmax_ref.training.integrations import plain_loop
from annsoftmax_ref.training.integrations.points import points

lightning = pytest.importorskip("lightning", reason="lightning is not installed: pip install -e '.[integrations]'")
with_lightning = pytest.importorskip("annsoftmax_ref.training.integrations.with_lightning")

QUIET = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_its_losses_are_those_of_the_plain_loop(tmp_path):
    module, _ = with_lightning.train(tmp_path, epochs=1, enable_checkpointing=False, **QUIET)
    expected = plain_loop.train(torch.float32, epochs=1)[2]
    assert len(module.losses) == len(expected) and module.losses == pytest.approx(expected, rel=1e-6)


def test_mixed_precision_trains_and_a_run_goes_on_from_its_checkpoint(tmp_path):
    options = dict(precision="bf16-mixed", limit_train_batches=20, **QUIET)
    whole, _ = with_lightning.train(tmp_path, epochs=4, **options)
    assert sum(whole.losses[-10:]) < 0.8 * sum(whole.losses[:10])
    _, trainer = with_lightning.train(tmp_path, epochs=2, **options)
    rest, _ = with_lightning.train(tmp_path, 4, trainer.checkpoint_callback.best_model_path, **options)
    assert rest.losses == pytest.approx(whole.losses[40:], rel=1e-4)


def test_two_optimizers_step_by_hand(tmp_path):
    """AdamW for the backbone, rows for the head: Lightning wants manual optimization for two."""

    class ByHand(with_lightning.PointClassifier):
        automatic_optimization = False

        def configure_optimizers(self):
            return torch.optim.AdamW(self.backbone.parameters(), lr=3e-3), RowSGD(self.head.parameters(), lr=0.2)

        def training_step(self, batch, number):
            loss = super().training_step(batch, number)
            self.manual_backward(loss)
            clip_grad_norm_(self.backbone.parameters(), self.head, 5.0)
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    module = ByHand()
    trainer = lightning.Trainer(max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=False, **QUIET)
    trainer.fit(module, DataLoader(points(), batch_size=50))
    assert sum(module.losses[-10:]) < 0.7 * sum(module.losses[:10])
