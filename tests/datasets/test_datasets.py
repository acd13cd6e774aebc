"""Glyphs, pairs and fonts: what is drawn, how it is split, and that it is always the same."""

import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.ttLib import TTCollection, TTFont

from annsoftmax_ref.datasets import drawing, load_fonts, load_glyphs, load_pairs
from annsoftmax_ref.datasets.pairs import hashed, pair_of

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def glyphs(cache):
    return load_glyphs(cache, progress=False)


@pytest.fixture(scope="module")
def mono():
    """Two faces of Sans Mono, as (draw_classes input)."""
    return [
        face for name in ("DejaVuSansMono", "DejaVuSansMono-Bold") for face in drawing.read_faces(FONTS / f"{name}.ttf")
    ]


def test_glyphs_are_many_classes_of_real_drawings(glyphs):
    assert glyphs.num_classes == len(glyphs.class_names) > 4500
    assert len(glyphs.train) > 30_000 and len(glyphs.test) > 9_000
    images, labels = glyphs.train.batch(torch.tensor([0, 17, 1000]))
    assert images.shape == (3, 32, 32) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    # no empty drawing, and no drawing of one class twice in a face
    for part in (glyphs.train, glyphs.test):
        assert part.images.flatten(1).any(1).all()
        rows = np.concatenate([part.labels[:, None], part.faces[:, None], part.images.flatten(1)], axis=1)
        assert len({row.tobytes() for row in rows}) == len(part)


def test_held_out_faces_are_in_test_only_and_every_class_in_both(glyphs):
    held = {glyphs.face_names.index(name) for name in glyphs.held_out}
    assert len(held) == 3
    assert set(glyphs.test.faces.unique().tolist()) == held
    assert not held & set(glyphs.train.faces.unique().tolist())
    count = torch.bincount(glyphs.train.labels, minlength=glyphs.num_classes)
    assert count.min() >= 3
    assert torch.bincount(glyphs.test.labels, minlength=glyphs.num_classes).min() >= 1


def test_identical_drawings_are_one_class(glyphs):
    latin_a = next(m for m in glyphs.members if "A" in m)
    assert "Α" in latin_a and "А" in latin_a  # Greek Alpha and Cyrillic A
    assert glyphs.class_names[glyphs.members.index(latin_a)] == "A"
    # Within one face, the same pixels never have two labels.
    for part in (glyphs.train, glyphs.test):
        label_of = {}
        for face, image, label in zip(part.faces.tolist(), part.images.numpy(), part.labels.tolist(), strict=True):
            assert label_of.setdefault((face, image.tobytes()), label) == label
    assert sorted("".join(glyphs.members)) == sorted(set("".join(glyphs.members)))


def test_merging_connects_chains():
    drawings = [(0, 1, b"a"), (0, 2, b"a"), (1, 2, b"b"), (1, 3, b"b"), (0, 3, b"c"), (0, 9, b"d"), (1, 9, b"a")]
    assert drawing.merge_identical(drawings) == {1: 0, 2: 0, 3: 0, 9: 1}


def test_drawing_is_deterministic_and_the_cache_gives_the_same(glyphs, cache, mono):
    files = list(cache.glob("glyphs-*.npz"))
    assert len(files) == 1
    again = load_glyphs(cache, progress=False)
    assert torch.equal(again.train.images, glyphs.train.images) and torch.equal(again.test.labels, glyphs.test.labels)
    first, second = (drawing.draw_classes(mono, 2, progress=False) for _ in range(2))
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert not list(cache.glob(".*"))  # no temporary file stays


def test_drawings_stand_on_the_baseline_and_fit(mono):
    face = mono[0]
    upper, comma = face.draw(ord("H")), face.draw(ord(","))
    rows = np.flatnonzero(upper.any(axis=1))
    assert rows[-1] == drawing.BASELINE - 1 and rows[0] < 10
    assert np.flatnonzero(comma.any(axis=1))[0] > rows[0] + 8  # not moved up: , and ' stay different
    columns = np.flatnonzero(upper.any(axis=0))
    assert abs(columns[0] - (31 - columns[-1])) <= 1  # centred from left to right
    assert face.draw(ord(" ")) is None
    wide = drawing.read_faces(FONTS / "DejaVuSans.ttf")[0]
    assert wide.draw(0x0BF5 if 0x0BF5 in wide.code_points else 0x2A0C).shape == (32, 32)


def test_embedding_split_hides_whole_characters(cache):
    data = load_glyphs(cache, progress=False, split="embedding", seed=3)
    assert data.train.labels.unique().tolist() == list(range(data.num_classes))
    assert data.test.labels.min() == data.num_classes and data.test.labels.max() == len(data.members) - 1
    unseen = set("".join(data.members[data.num_classes :]))
    assert not unseen & set("".join(data.members[: data.num_classes]))
    assert 0.15 < len(data.members[data.num_classes :]) / len(data.members) < 0.25
    same, other = (load_glyphs(cache, progress=False, split="embedding", seed=s) for s in (3, 4))
    assert same.members == data.members and other.members != data.members
    with pytest.raises(ValueError, match="split is 'chars'"):
        load_glyphs(cache, split="chars")


def test_subset(glyphs):
    small = glyphs.subset(50)
    assert small.num_classes == 50 and small.train.labels.max() == 49 and small.test.labels.max() == 49
    assert torch.equal(small.drawing_of(7), glyphs.drawing_of(7))
    with pytest.raises(ValueError, match="num_classes is 0"):
        glyphs.subset(0)


# Pairs


def test_pairs_are_the_two_characters_side_by_side(glyphs):
    data = load_pairs(1000, drawings_per_class=2, glyphs=glyphs, seed=5)
    assert len(data.train) == 2000 and len(data.test) == 10_000
    images, labels = data.train.batch(torch.arange(2000))
    assert images.shape == (2000, 32, 32) and torch.bincount(labels).tolist() == [2] * 1000
    left, right = pair_of(labels, len(data.characters), 5)
    halves = data.train.halves
    for k in (0, 1, 999, 1234):
        for part, character in ((images[k, :, :16], left[k]), (images[k, :, 16:], right[k])):
            start = int(halves.first[character])
            mine = halves.images[start : start + int(halves.count[character])]
            assert (mine == part).flatten(1).all(1).any()
        assert data.name_of(int(labels[k])) == data.characters[left[k]] + data.characters[right[k]]
    again = load_pairs(1000, drawings_per_class=2, glyphs=glyphs, seed=5).train.batch(torch.arange(2000))
    other = load_pairs(1000, drawings_per_class=2, glyphs=glyphs, seed=6).train.batch(torch.arange(2000))
    assert torch.equal(again[0], images) and not torch.equal(other[0], images)


@pytest.mark.parametrize("characters", [1, 2, 7, 30])
def test_pair_numbers_are_a_permutation_of_all_pairs(characters):
    left, right = pair_of(torch.arange(characters**2), characters, seed=characters)
    assert len(set(zip(left.tolist(), right.tolist(), strict=True))) == characters**2


def test_pairs_reach_more_than_twenty_million_classes(glyphs):
    most = glyphs.num_classes**2
    assert most > 20_000_000
    data = load_pairs(most, glyphs=glyphs)
    images, labels = data.train.batch(torch.tensor([0, len(data.train) - 1]))
    assert labels.tolist() == [0, most - 1] and images.flatten(1).any(1).all()
    assert data.test.batch(torch.arange(10))[1].unique().numel() == 10
    with pytest.raises(ValueError, match=f"num_classes is {most + 1}; it should be at most {most}"):
        load_pairs(most + 1, glyphs=glyphs)


def test_hash_is_even_and_depends_on_its_key():
    values = hashed(torch.arange(80_000), 0)
    assert (values >= 0).all()
    counts = torch.bincount(values % 8, minlength=8)
    assert (counts - 10_000).abs().max() < 500
    assert not torch.equal(values, hashed(torch.arange(80_000), 1))


# Fonts from a folder


@pytest.fixture(scope="module")
def font_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fonts")
    (folder / "deeper").mkdir()
    shutil.copy(FONTS / "DejaVuSansMono.ttf", folder)
    shutil.copy(FONTS / "DejaVuSansMono-Bold.ttf", folder / "deeper")
    collection = TTCollection()
    collection.fonts = [TTFont(FONTS / "DejaVuSansMono-Oblique.ttf"), TTFont(FONTS / "DejaVuSansMono-BoldOblique.ttf")]
    collection.save(folder / "slanted.ttc")
    return folder


def test_fonts_from_a_folder(font_folder, tmp_path):
    data = load_fonts(font_folder, held_out=["slanted#1"], cache_dir=tmp_path, progress=False)
    assert sorted(data.face_names) == ["DejaVuSansMono", "DejaVuSansMono-Bold", "slanted#0", "slanted#1"]
    assert data.num_classes > 2000
    assert {data.face_names[k] for k in data.test.faces.unique()} == {"slanted#1"}
    assert torch.bincount(data.train.labels).min() >= 2
    again = load_fonts(font_folder, cache_dir=tmp_path, progress=False, seed=1)
    assert len(again.held_out) == 1 and len(list(tmp_path.glob("fonts-*.npz"))) == 1
    assert load_fonts(font_folder, cache_dir=tmp_path, progress=False, seed=1).held_out == again.held_out


def test_fonts_say_what_is_wrong(font_folder, tmp_path):
    with pytest.raises(ValueError, match="folder is .*missing, which is not a folder"):
        load_fonts(tmp_path / "missing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds 0 font faces"):
        load_fonts(empty)
    (empty / "text.ttf").write_text("not a font at all")
    with pytest.raises(
        ValueError, match=r"0 font faces.*; 1 skipped, the last: the font file .*text\.ttf cannot be read"
    ):
        load_fonts(empty)
    whole = (FONTS / "DejaVuSansMono.ttf").read_bytes()
    (empty / "text.ttf").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"the font file .*text\.ttf cannot be read"):
        load_fonts(empty)
    with pytest.raises(ValueError, match="held_out names 'Arial'"):
        load_fonts(font_folder, held_out=["Arial"])
    with pytest.raises(ValueError, match="held_out names 0 of the 4 faces"):
        load_fonts(font_folder, held_out=[])
    with pytest.raises(ValueError, match="min_faces is 9"):
        load_fonts(font_folder, min_faces=9)


def test_a_face_s_placeholder_boxes_are_no_classes(mono, monkeypatch):
    monkeypatch.setattr(drawing, "PLACEHOLDER", 2)
    members = drawing.draw_classes(mono, 2, progress=False)["members"].tolist()
    strict = "".join(members)
    assert "A" not in strict and "q" in strict  # A is drawn by more than two characters


def test_a_damaged_outline_leaves_its_character_out_of_the_face(tmp_path, caplog):
    path = tmp_path / "damaged.ttf"
    content = bytearray((FONTS / "DejaVuSansMono.ttf").read_bytes())
    font = TTFont(FONTS / "DejaVuSansMono.ttf")
    place = font.reader.tables["glyf"].offset + font["loca"][font.getGlyphID("A")]
    content[place + 10 : place + 14] = b"\xff\xff\x00\x00"  # where its contours end
    path.write_bytes(content)
    (face,) = drawing.read_faces(path)
    face.code_points = [ord("A"), ord("B")]
    members = drawing.draw_classes([face], 1, progress=False)["members"].tolist()
    assert members == ["B"] and caplog.messages == [f"left out of {path}: 1 characters, whose outlines are damaged"]
