"""Augmentation: reproducible, and each amount does what its name says."""

import pytest
import torch

from annsoftmax_ref.datasets import Augmentation, to_float

NOTHING = dict(rotation=0.0, scale=0.0, shear=0.0, shift=0.0, noise=0.0)


@pytest.fixture
def images():
    batch = torch.zeros(64, 32, 32, dtype=torch.uint8)
    batch[:, 8:24, 14:18] = 255  # an upright bar
    return batch


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_same_generator_same_result(images):
    augment = Augmentation()
    first, again, other = augment(images, seeded()), augment(images, seeded()), augment(images, seeded(1))
    assert first.shape == (64, 1, 32, 32) and first.dtype == torch.float32
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert images.sum() == 64 * 16 * 4 * 255  # the drawings themselves stay


def test_without_amounts_it_is_only_a_conversion(images):
    torch.testing.assert_close(Augmentation(**NOTHING)(images, seeded()), to_float(images), rtol=0, atol=1e-5)


def moments(batch):
    """Mass, centre (row, column) and spread of each image, as [B] tensors."""
    image = batch[:, 0]
    mass = image.sum((1, 2))
    place = torch.arange(32.0)
    row = (image.sum(2) * place).sum(1) / mass
    column = (image.sum(1) * place).sum(1) / mass
    down, right = place[None] - row[:, None], place[None] - column[:, None]
    lean = torch.einsum("bij,bi,bj->b", image, down, right) / torch.einsum("bij,bi,bi->b", image, down, down)
    return mass, row, column, lean


def test_each_amount(images):
    def of(**amount):
        return moments(Augmentation(**{**NOTHING, **amount})(images, seeded()))

    mass, row, column, lean = of()
    moved_mass, moved_row, moved_column, moved_lean = of(shift=2.0)
    torch.testing.assert_close(moved_mass, mass, rtol=1e-3, atol=0)
    assert 1.5 < (moved_row - row).abs().max() <= 2.01 and 1.5 < (moved_column - column).abs().max() <= 2.01
    assert moved_lean.abs().max() < 1e-4

    assert 0.15 < (of(scale=0.1)[0] / mass).log().abs().max() < 0.21  # width and height add up
    slant = of(shear=0.2)[3].abs().max()
    assert 0.15 < slant < 0.21
    turned = of(rotation=10.0)[3].abs().max()
    assert 0.12 < turned < 0.18  # about tan 10 degrees = 0.176
    grain = Augmentation(**{**NOTHING, "noise": 0.1})(images, seeded()) - to_float(images)
    assert abs(grain.std() - 0.1) < 0.005


def test_any_batch_size_and_shape():
    assert Augmentation()(torch.zeros(1, 20, 28, dtype=torch.uint8), seeded()).shape == (1, 1, 20, 28)


def test_colour_moves_as_grey_does(images):
    moves = Augmentation(noise=0)
    grey = moves(images, torch.Generator().manual_seed(3))
    colour = moves(images.unsqueeze(1).expand(-1, 3, -1, -1), torch.Generator().manual_seed(3))
    assert colour.shape == (len(images), 3, *images.shape[1:])
    for channel in range(3):
        assert torch.equal(colour[:, channel], grey[:, 0])
