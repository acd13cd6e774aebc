"""Folders of images: which image has which label, how they are split, and what is said of broken ones."""

import io
import os
import random

import numpy as np
import pytest
import torch
from PIL import Image

from annsoftmax_ref.datasets.image_folder import ImageFolder, load_image_folder
from annsoftmax_ref.experiments import compare, tasks


def write(path, shade, mode="L", size=(40, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = shade if mode == "L" else (shade, 0, 255 - shade)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Class k's image i has the shade 10 k + i."""
    for k, name in enumerate(("apple", "pear", "zucchini")):
        for i in range(8):
            write(tmp_path / name / f"{i}.png", 10 * k + i)
    return tmp_path


def test_images_labels_and_order(folder):
    write(folder / "pear" / "below" / "deep.PNG", 99)
    write(folder / ".hidden" / "x.png", 1)
    write(folder / "pear" / ".x.png", 1)
    (folder / "pear" / "notes.txt").write_text("not an image")
    (folder / "README").write_text("not a class")
    os.mkfifo(folder / "pear" / "pipe.png")  # would be waited for without end
    images = ImageFolder(folder)
    assert images.class_names == ["apple", "pear", "zucchini"] and len(images) == 25
    pixels, labels = images.batch(torch.tensor([24, 0, 9]))
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.uint8
    assert labels.tolist() == [2, 0, 1] and labels.dtype == torch.int64
    assert pixels[:, 5, 5].tolist() == [27, 0, 11]
    assert pixels[0].unique().tolist() == [27]
    assert images.path(16) == folder / "pear" / "below" / "deep.PNG"
    assert images.batch(torch.tensor([], dtype=torch.int64))[0].shape == (0, 32, 32)


def test_colour_and_size(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name / "0.png", 200, "RGB")
        write(tmp_path / name / "1.jpg", 200, "RGB")
    images, _ = ImageFolder(tmp_path, size=16, grey=False).batch(torch.tensor([0]))
    assert images.shape == (1, 3, 16, 16) and images[0, :, 3, 3].tolist() == [200, 0, 55]


def test_held_out_share(folder):
    data = load_image_folder(folder, held_out=0.25, seed=3)
    assert (len(data.train), len(data.test), data.num_classes) == (18, 6, 3)
    again = load_image_folder(folder, held_out=0.25, seed=3)
    assert torch.equal(data.test.rows, again.test.rows)
    assert not torch.equal(data.test.rows, load_image_folder(folder, held_out=0.25, seed=4).test.rows)
    assert sorted([*data.train.rows.tolist(), *data.test.rows.tolist()]) == list(range(24))
    images, labels = data.test.batch(torch.arange(6))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(images[:, 0, 0].long() // 10, labels)


@pytest.mark.parametrize("name", ["val", "test"])
def test_separate_folders(tmp_path, name):
    for k in range(3):
        write(tmp_path / "train" / f"c{k}" / "x.png", k)
    for k in (0, 2):
        write(tmp_path / name / f"c{k}" / "y.png", 10 + k)
    data = tasks.load_task(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test), data.num_classes) == (3, 2, 3)
    assert data.test.batch(torch.arange(2))[1].tolist() == [0, 2]
    write(tmp_path / name / "new" / "y.png", 0)
    with pytest.raises(ValueError, match="new is a class that the training folder lacks"):
        load_image_folder(tmp_path)


def test_compare_trains_on_a_folder(folder):
    (row,) = compare.compare(f"folder:{folder}", ["full"], epochs=1, device="cpu", progress=False)
    assert row["num_classes"] == 3 and 0 <= row["accuracy"] <= 1


def test_clear_errors(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    for call, words in [
        (lambda: load_image_folder(folder / "none"), "none, which is not a folder"),
        (lambda: load_image_folder(empty), "0 class folders"),
        (lambda: load_image_folder(folder, held_out=1.0), "held_out is 1.0"),
        (lambda: load_image_folder(folder, held_out=0.01), "no image of any class"),
        (lambda: load_image_folder(folder, size=0), "size is 0"),
        (lambda: ImageFolder(folder).batch(torch.tensor([0.5])), "index is of shape"),
        (lambda: tasks.load_task("folder:"), "folder:PATH"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(IndexError, match="index holds -1; it should be from 0 to 23"):
        ImageFolder(folder).batch(torch.tensor([0, -1]))
    (folder / "bare").mkdir()
    with pytest.raises(ValueError, match="bare holds no images"):
        load_image_folder(folder)


def test_a_file_that_went_away_or_is_deep(folder):
    images = ImageFolder(folder, skip=0)
    images.path(1).unlink()
    with pytest.raises(ValueError, match="1.png cannot be read"):
        images.batch(torch.tensor([1]))
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(images.path(2))
    with pytest.raises(ValueError, match="not of 8 bits"):
        images.batch(torch.tensor([2]))


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL on damaged TIFF tags
@pytest.mark.parametrize("ending", ["png", "jpeg", "webp", "bmp", "gif", "tiff"])
def test_damaged_images_are_told_or_read(folder, ending):
    """Truncated and flipped: ValueError that names the file, or an image of the right shape and label."""
    rng = random.Random(ending)
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, ending)
    content = buffer.getvalue()
    path = folder / "pear" / f"damaged.{ending}"
    path.write_bytes(content)
    images = ImageFolder(folder)
    row = next(r for r in range(len(images)) if images.path(r) == path)
    told = 0
    for trial in range(40):
        damaged = bytearray(content[: rng.randrange(len(content))] if trial % 2 else content)
        for _ in range(0 if trial % 2 else 3):
            damaged[rng.randrange(min(len(damaged), 200))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        images = ImageFolder(folder, skip=0)  # which has read nothing yet
        try:
            pixels, labels = images.batch(torch.tensor([row]))
        except ValueError as error:
            told += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert pixels.shape == (1, 32, 32) and labels.tolist() == [1]
    assert told > 10


def break_(folder, *rows):
    """Rows of a folder of 24 images, 8 a class, whose files are broken from then on."""
    for row in rows:
        ImageFolder(folder).path(row).write_bytes(b"broken")


def test_a_broken_image_is_named_once_and_the_next_one_stands_in_its_place(folder, caplog):
    break_(folder, 3, 7, 23)
    images = ImageFolder(folder)
    for _ in range(2):
        pixels, labels = images.batch(torch.tensor([2, 3, 7, 23]))
        assert pixels[:, 5, 5].tolist() == [2, 4, 10, 0] and labels.tolist() == [0, 0, 1, 0]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert f"skipped (1 of at most 10): {images.path(3)} is not a whole image" in caplog.messages[0]


def test_what_stands_in_for_a_test_image_was_not_trained_on(folder):
    data = load_image_folder(folder, held_out=0.25, seed=3)
    break_(folder, *data.test.rows[:3].tolist(), *data.train.rows[-2:].tolist())
    shades = {
        name: set(part.batch(torch.arange(len(part)))[0][:, 0, 0].tolist())
        for name, part in vars(data).items()
        if name in ("train", "test")
    }
    assert len(shades["test"]) == 3 and len(shades["train"]) == 16 and not shades["test"] & shades["train"]


def test_more_broken_images_than_may_be_skipped_end_with_one_sentence(folder):
    break_(folder, 0, 1, 12)
    images = ImageFolder(folder, skip=2)
    assert images.batch(torch.tensor([0]))[0][0, 5, 5] == 2
    with pytest.raises(ValueError, match="skip is 2, but .* has more broken files .*number 3: .*pear.4.png is not"):
        images.batch(torch.tensor([12]))
    with pytest.raises(ValueError, match="skip is 0, but .*number 1: .*apple.0.png"):
        ImageFolder(folder, skip=0).batch(torch.tensor([0]))
    break_(folder, *range(24))
    with pytest.raises(ValueError, match="no whole image to stand for .*0.png; 24 skipped, the last: .*7.png"):
        ImageFolder(folder, skip=24).batch(torch.tensor([0]))
    with pytest.raises(ValueError, match="skip is -1; it should be at least 0"):
        load_image_folder(folder, skip=-1)


def test_a_training_and_a_test_folder_skip_so_many_each(tmp_path):
    for part in ("train", "val"):
        for name in "ab":
            for k in range(3):
                write(tmp_path / part / name / f"{k}.png", k)
        (tmp_path / part / "a" / "0.png").write_bytes(b"broken")
    data = load_image_folder(tmp_path, skip=1)
    assert [part.batch(torch.tensor([0]))[0][0, 5, 5].item() for part in (data.train, data.test)] == [1, 1]
