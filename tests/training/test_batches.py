"""training/batches.py: an epoch's order and a batch follow from a seed."""

import dataclasses

import torch

from annsoftmax_ref.training.batches import epoch_generator, make_batch, order_of_epoch, steps_of
from annsoftmax_ref.training.recipe import default_recipe


def test_an_epoch_shows_each_sample_at_most_once_and_the_next_one_in_another_order(data):
    recipe = dataclasses.replace(default_recipe(), batch_size=64)
    first, again, second = (torch.cat(order_of_epoch(data, recipe, epoch_generator(3, epoch))) for epoch in (0, 0, 1))
    assert len(first) == 64 * steps_of(data, recipe) == len(first.unique())
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_a_number_of_steps_draws_that_many_batches(data):
    recipe = dataclasses.replace(default_recipe(), batch_size=2 * len(data.train), steps_per_epoch=3)
    order = order_of_epoch(data, recipe, epoch_generator(0, 0))
    assert [len(index) for index in order] == [2 * len(data.train)] * 3


def test_a_batch_is_augmented_by_its_generator(data):
    recipe, index, place = default_recipe(), torch.arange(8), torch.device("cpu")
    inputs, labels = zip(
        *(make_batch(data.train, index, recipe, torch.Generator().manual_seed(s), place) for s in (0, 0, 1)),
        strict=True,
    )
    assert torch.equal(inputs[0], inputs[1]) and not torch.equal(inputs[0], inputs[2])
    assert torch.equal(labels[0], data.train.batch(index)[1])
    plain = make_batch(data.train, index, dataclasses.replace(recipe, augmentation=None), torch.Generator(), place)[0]
    assert torch.equal(plain[:, 0], data.train.batch(index)[0].float() / 255)
