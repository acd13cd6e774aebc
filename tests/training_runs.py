"""Small runs of ``fit`` for the tests to make and compare."""

import dataclasses

import torch

from annsoftmax_ref.factory import make_head
from annsoftmax_ref.training import default_recipe
from annsoftmax_ref.training.network import ConvNet

CLASSES = 150
RECIPE = dataclasses.replace(default_recipe("cosface"), batch_size=64, epochs=3, lr=0.2)


def new(head="full", rate=0.5, objective="cosface"):
    """Model, head and recipe, the same at each call."""
    recipe = dataclasses.replace(RECIPE, objective=objective, margin=default_recipe(objective).margin)
    model = ConvNet(embedding_size=32, width=8, seed=1)
    return model, make_head(head, CLASSES, 32, recipe.make_objective(), rate=rate, seed=2), recipe


def same(first, second):
    """Whether two (nested) states are equal bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def results(history):
    return [(row.epoch, row.loss, row.accuracy, row.lr) for row in history.epochs]
