"""Hugging Face's Trainer itself runs the script: the weights of a plain loop, and a run that goes on."""

import logging

import pytest
import torch
from torch.utils.data import DataLoader

from annsoftmax_ref import RowAdamW
from annsoftmax_ref.training.integrations.points import texts

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[integrations]'")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e '.[integrations]'")
from annsoftmax_ref.training.integrations.with_transformers import TextClassifier, train  # noqa: E402

OPTIONS = dict(
    use_cpu=True, train_sampling_strategy="sequential", lr_scheduler_type="constant", dataloader_pin_memory=False
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    # tests/ is on the path, and the folder tests/datasets passes for the package of that name.
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_its_weights_are_those_of_a_plain_loop(tmp_path):
    torch.manual_seed(0)
    model, _ = train(tmp_path, epochs=1, save_strategy="no", **OPTIONS)
    torch.manual_seed(0)
    other = TextClassifier()
    optimizer = RowAdamW(other.parameters(), lr=3e-3, weight_decay=0.0)
    for number, batch in enumerate(DataLoader(texts(), batch_size=50)):
        (other(**batch)["loss"] / 2).backward()
        if number % 2:
            torch.nn.utils.clip_grad_norm_(other.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, other.get_parameter(name), rtol=1e-5, atol=1e-5, msg=name)


def test_mixed_precision_trains_and_a_run_goes_on_from_its_checkpoint(tmp_path):
    options = OPTIONS | dict(bf16=True, save_strategy="steps", save_steps=20, max_steps=40)
    torch.manual_seed(0)
    whole, trainer = train(tmp_path, **options)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 40 and sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert trainer.evaluate()["eval_loss"] > 0
    torch.manual_seed(1)  # everything comes from the checkpoint
    rest, _ = train(tmp_path, str(tmp_path / "checkpoint-20"), **options)
    torch.testing.assert_close(rest.head.weight, whole.head.weight, rtol=1e-3, atol=1e-3)
    trainer.save_model(str(tmp_path / "model"))
    assert (tmp_path / "model" / "model.safetensors").exists()
