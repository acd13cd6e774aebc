"""train_step(): the plain step, with the head's part of it measured."""

import torch
from training_runs import CLASSES, RECIPE, new, same

from annsoftmax_ref.machine.device import autocast
from annsoftmax_ref.training import build_optimizer, train_step


def test_the_step_equals_one_plain_backward(data):
    """Cutting the graph at the embeddings changes nothing: same gradients, same weights after the step."""
    torch.manual_seed(0)
    inputs, labels = torch.rand(20, 1, 32, 32), torch.randint(CLASSES, (20,))
    (model, head), (plain, plain_head) = (new()[:2] for _ in range(2))
    optimizer, plain_optimizer = build_optimizer(model, head, RECIPE), build_optimizer(plain, plain_head, RECIPE)
    for _ in range(3):
        loss, milliseconds, embeddings = train_step(model, head, optimizer, inputs, labels)
        assert milliseconds > 0 and embeddings.shape == (20, 32)
        with autocast(inputs.device):
            out = plain(inputs)
        expected = plain_head(out.float(), labels)
        expected.backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        assert loss == expected.item()
    assert same(model.state_dict(), plain.state_dict()) and torch.equal(head.weight, plain_head.weight)
