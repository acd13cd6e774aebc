"""datasets/unlabelled.py: rows of files and images of folders, of which a few may be broken."""

import numpy as np
import pytest
import torch
from PIL import Image

from annsoftmax_ref.datasets.unlabelled import UnlabelledFeatures, UnlabelledImages


@pytest.fixture
def folder(tmp_path):
    for name, value in (("b/2.png", 20), ("b/1.png", 10), ("a.jpg", 200), (".hidden.png", 0)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((12, 12), value, np.uint8)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_features_are_read_where_they_are_asked_for(tmp_path, kind):
    array = np.arange(60, dtype=kind).reshape(20, 3)
    np.save(tmp_path / "f.npy", array)
    source = UnlabelledFeatures(tmp_path / "f.npy", 3)
    features, rows = source.batch(torch.tensor([4, 19]))
    assert len(source) == 20 and rows == [4, 19] and source.name(19) == (str(tmp_path / "f.npy"), 19)
    assert torch.equal(features, torch.from_numpy(array[[4, 19]].astype(np.float32)))


def test_images_come_in_the_order_of_their_names(folder):
    source = UnlabelledImages(folder, 8, True)
    names = [source.name(row)[0] for row in range(len(source))]
    assert names == [str(folder / name) for name in ("a.jpg", "b/1.png", "b/2.png")]
    images, rows = source.batch(torch.tensor([1, 2]))
    assert images.shape == (2, 8, 8) and images.dtype == torch.uint8 and rows == [1, 2]
    assert images.flatten(1).unique(dim=1).tolist() == [[10], [20]]
    colour, _ = UnlabelledImages(folder / "a.jpg", 8, False).batch(torch.tensor([0]))
    assert colour.shape == (1, 3, 8, 8)


def test_a_broken_image_is_left_out_and_named_and_one_too_many_is_an_error(folder, caplog):
    (folder / "b" / "1.png").write_bytes(b"\x89PNG nothing")
    images, rows = UnlabelledImages(folder, 8, True).batch(torch.arange(3))
    assert len(images) == 2 and rows == [0, 2] and "1.png" in caplog.text
    with pytest.raises(ValueError, match="skip is 0, but .* has more broken files than that"):
        UnlabelledImages(folder, 8, True, skip=0).batch(torch.arange(3))


def test_inputs_that_cannot_be_read_are_told(tmp_path):
    for name, array in {"wide": np.ones((2, 4), np.float32), "odd": np.full((2, 3), np.inf, np.float32)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "text.csv").write_text("1,2,3")
    (tmp_path / "empty").mkdir()
    for make, words in (
        (lambda: UnlabelledFeatures(tmp_path / "wide.npy", 3), r"an array \[2, 4\]; it should be \[n, 3\]"),
        (lambda: UnlabelledFeatures(tmp_path / "odd.npy", 3).batch(torch.arange(2)), "odd.npy, row 0, has a value"),
        (lambda: UnlabelledFeatures(tmp_path / "text.csv", 3), "should be a .npy file"),
        (lambda: UnlabelledFeatures(tmp_path / "none.npy", 3), "which is not a file"),
        (lambda: UnlabelledImages(tmp_path / "empty", 8, True), "which holds no images"),
        (lambda: UnlabelledImages(tmp_path / "none.png", 8, True), "an image, a folder of images or a .npy file"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
