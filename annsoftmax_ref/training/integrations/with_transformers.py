"""The Trainer of Hugging Face: a model whose forward returns the loss, and a row optimizer that is handed to it."""

from torch import nn
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

from annsoftmax_ref import ANNSoftmax, CosFace, RowAdamW
from annsoftmax_ref.training.integrations.points import CLASSES, WORDS, texts


class TextClassifier(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        sizes = dict(vocab_size=WORDS, hidden_size=dim, num_hidden_layers=1, num_attention_heads=2)
        config = BertConfig(**sizes, intermediate_size=dim, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.head = ANNSoftmax(CLASSES, dim, CosFace(scale=16, margin=0.1), sample_rate=0.1)

    def forward(self, input_ids, labels):
        return {"loss": self.head(self.encoder(input_ids).last_hidden_state.mean(dim=1), labels)}


def train(folder="runs/trainer", resume=None, epochs=3, **options):
    """options: of TrainingArguments, such as bf16=True. Returns model and Trainer, whose state has the losses."""
    options = {"per_device_train_batch_size": 50, "gradient_accumulation_steps": 2, "max_grad_norm": 5.0} | options
    options = {"logging_steps": 1, "report_to": "none", "disable_tqdm": True} | options
    arguments = TrainingArguments(folder, num_train_epochs=epochs, **options)
    model = TextClassifier()
    optimizer = RowAdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    trainer = Trainer(model, arguments, train_dataset=texts(), eval_dataset=texts(1), optimizers=(optimizer, None))
    trainer.train(resume_from_checkpoint=resume)
    return model, trainer


if __name__ == "__main__":
    train()[1].save_model()
