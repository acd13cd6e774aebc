"""Files that are not what their endings say: one sentence says what each is, and what it should be."""

import re

import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont
from matplotlib import get_data_path
from written import png, write_faces

from annsoftmax_ref.datasets import (
    ImageFolder,
    RecordSet,
    VerificationPairs,
    load_fonts,
    load_items,
    load_memmap,
    load_record_io,
    load_words,
    load_xmc,
)

HTML = b"\n<!DOCTYPE html>\n<html><head><title>Virus scan warning</title></head></html>\n"
KINDS = {
    "an HTML page": HTML,
    "an XML document": b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
    "a JSON text": b'{"error": "not found"}',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    "a zip archive": b"PK\x03\x04\x14\x00" + bytes(60),
    "packed by gzip": b"\x1f\x8b\x08\x00" + bytes(60),
    "a tar archive": b"lfw.bin".ljust(257, b"\0") + b"ustar\x0000" + bytes(248),
    "a PDF document": b"%PDF-1.4\n",
    "empty": b"",
}


def read_bin(folder, content):
    (folder / "lfw.bin").write_bytes(content)
    VerificationPairs(folder / "lfw.bin")


def read_records(name):
    def read(folder, content):
        write_faces(folder)
        np.savetxt(folder / "train.lst", [(key, (key - 1) // 3) for key in range(1, 13)], "%d", "\t")
        (folder / name).write_bytes(content)
        if name == "train.lst":
            RecordSet(folder / "train.rec", lst_path=folder / name)
        load_record_io(folder)

    return read


def read_features(which, ending):
    def read(folder, content):
        np.save(folder / "features.npy", np.ones((4, 2), np.float32))
        np.save(folder / "labels.npy", np.arange(4))
        paths = {name: folder / f"{name}.npy" for name in ("features", "labels")}
        paths[which] = folder / f"{which}.{ending}"
        paths[which].write_bytes(content)
        settings = {"width": 2, "dtype": "float32"} if which == "features" and ending == "raw" else {}
        load_memmap(**paths, num_classes=4, **settings)

    return read


def read_text(folder, content):
    (folder / "train.txt").write_bytes(content)
    load_xmc(folder / "train.txt")


def read_book(folder, content):
    (folder / "book.txt").write_bytes(content)
    load_words(folder / "book.txt")


def read_log(folder, content):
    (folder / "log.csv").write_bytes(content)
    load_items(folder / "log.csv")


def read_image(folder, content):
    for name in "ab":
        (folder / name).mkdir()
        (folder / name / "0.png").write_bytes(content)
    ImageFolder(folder, skip=0).batch(torch.tensor([0]))


def read_font(ending):
    def read(folder, content):
        (folder / f"a.{ending}").write_bytes(content)
        load_fonts(folder)

    return read


READERS = {
    "lfw.bin": (read_bin, "a .bin file"),
    **{name: (read_records(name), f"a {name[-4:]} file") for name in ("train.rec", "train.idx", "train.lst")},
    "property": (read_records("property"), "numbers with commas"),
    **{
        f"{which}.{ending}": (read_features(which, ending), which)
        for which in ("features", "labels")
        for ending in ("npy", "raw")
    },
    "train.txt": (read_text, "a text of points"),
    "book.txt": (read_book, "a text in UTF-8"),
    "log.csv": (read_log, "a text with user"),
    "a/0.png": (read_image, "one of JPEG, PNG"),
    **{f"a.{ending}": (read_font(ending), "a .ttf, .otf or .ttc font") for ending in ("ttf", "otf", "ttc")},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_a_page_or_pointer_or_archive_is_called_by_its_name(tmp_path, name, kind):
    read, wanted = READERS[name]
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is {kind}|{re.escape(name)}, which is {kind}") as error:
        read(tmp_path, KINDS[kind])
    assert re.search(f"; it should (be|start as) {wanted}", str(error.value)) and "\n" not in str(error.value)


def test_an_html_page_named_bin_gave_60_near_byte_1(tmp_path):
    with pytest.raises(ValueError, match="path is .*lfw.bin, which is an HTML page, as .*; it should be a .bin file"):
        read_bin(tmp_path, HTML)
    with pytest.raises(ValueError, match="lfw.bin is not a whole pickle .* no part of a pickle .* the byte 60"):
        read_bin(tmp_path, b"<other> markup")


def test_a_filtered_idx_without_header_gave_does_not_end_padded_with_zeros(tmp_path):
    path = write_faces(tmp_path)
    lines = path.with_suffix(".idx").read_text().splitlines(keepends=True)
    path.with_suffix(".idx").write_text("".join(lines[1:13]))
    with pytest.raises(ValueError, match="train.idx starts at offset 40 and leaves out .* should list all records of"):
        load_record_io(path)
    path.with_suffix(".idx").write_text(lines[0] + "".join(lines[2::2]))
    with pytest.raises(ValueError, match="record 0 at byte 0, is followed by a record that .*train.idx leaves out"):
        load_record_io(path)
    path.with_suffix(".idx").write_text("".join(lines[1::2]))
    path.write_bytes(path.read_bytes()[40:])  # packed without a header
    shifted = [line.split() for line in lines[1::2]]
    path.with_suffix(".idx").write_text("".join(f"{key}\t{int(offset) - 40}\n" for key, offset in shifted))
    with pytest.raises(ValueError, match="record 1 at byte 0, is followed by a record that .*train.idx leaves out"):
        RecordSet(path, num_classes=4).batch(torch.tensor([0]))


def test_a_file_of_another_kind_named_rec(tmp_path):
    path = write_faces(tmp_path)
    path.write_bytes(png(3) * 40)
    with pytest.raises(ValueError, match="train.rec starts with the bytes 89504e47; a .rec file should with 0a23d7ce"):
        load_record_io(path)


def test_one_bitmap_font_in_a_folder_is_named_and_skipped_or_what_to_do_about_it(tmp_path, caplog):
    font = TTFont(f"{get_data_path()}/fonts/ttf/DejaVuSansMono.ttf")
    for name in ("good", "too"):
        font.save(tmp_path / f"{name}.ttf")
    for table in ("glyf", "loca"):
        del font[table]
    font.save(tmp_path / "bitmaps.ttf")
    with pytest.raises(
        ValueError, match=r"skip is 0.*bitmaps\.ttf is one of bitmaps; it should hold outlines.*move it"
    ):
        load_fonts(tmp_path, skip=0)
    data = load_fonts(tmp_path, cache_dir=tmp_path / "cache", progress=False)
    assert data.face_names == ["good", "too"] and data.num_classes > 1000
    assert len(caplog.messages) == 1 and "bitmaps.ttf is one of bitmaps" in caplog.messages[0]
