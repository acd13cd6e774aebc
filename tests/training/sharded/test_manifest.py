"""The manifest: what it lets through, and what it refuses in one sentence."""

import json

import pytest

from annsoftmax_ref.training.sharded import manifest

RUN = {"classes": 9, "embedding_size": 4, "settings": {"lr": 0.1, "sizes": [1, 2]}}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").write_bytes(b"abc" * 100)
    files = {"data": manifest.fingerprint(tmp_path / "data")}
    manifest.write_manifest(tmp_path, RUN | {"step": 3, "position": {"epoch": 1}, "files": files})
    return tmp_path


def test_what_is_written_is_read(folder):
    content = manifest.read_manifest(folder)
    assert content["step"] == 3 and content["position"] == {"epoch": 1} and content["format"] == 1
    manifest.check_run(folder, content, RUN | {"settings": {"sizes": (1, 2), "lr": 0.1}})
    manifest.check_file(folder, "data", content["files"]["data"])
    assert content["files"]["data"][0] == 300


def test_every_bit_of_it_counts(folder):
    path = folder / manifest.NAME
    text = path.read_bytes()
    for place in range(0, len(text), 7):
        changed = bytearray(text)
        changed[place] ^= 1 << place % 7
        if json_or_none(changed) == json.loads(text):  # a blank for another: nothing is changed
            continue
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="folder is .*(missing or broken|has been changed)"):
            manifest.read_manifest(folder)


def json_or_none(text):
    try:
        return json.loads(bytes(text))
    except ValueError:
        return None


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", "null", '{"format": 1}', '{"digest": 1}', "\xff"])
def test_what_is_no_manifest_is_refused(text, folder):
    (folder / manifest.NAME).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="manifest.json is missing or broken; do not use it, take another step"):
        manifest.read_manifest(folder)
    (folder / manifest.NAME).unlink()
    with pytest.raises(ValueError, match="missing or broken"):
        manifest.read_manifest(folder)


def test_a_later_format_asks_for_a_later_version(folder):
    (folder / manifest.NAME).write_text(json.dumps({"format": 2, "digest": "of another kind"}))
    with pytest.raises(ValueError, match="of format 2, and this version reads formats up to 1; update annsoftmax"):
        manifest.read_manifest(folder)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"classes": 10}, "its classes is 9 and should be 10"),
        ({"embedding_size": 8}, "its embedding_size is 4 and should be 8"),
        ({"settings": {"lr": 0.2, "sizes": [1, 2]}}, "its lr is 0.1 and should be 0.2"),
        ({"settings": {"lr": 0.1}}, "its sizes is .1, 2. and should be 'not there'"),
        ({"settings": {"lr": 0.1, "sizes": [1, 2], "seed": 1}}, "its seed is 'not there' and should be 1"),
    ],
)
def test_another_run_is_refused_by_what_differs(change, sentence, folder):
    with pytest.raises(ValueError, match=f"of another run: {sentence}; train as before or name another folder"):
        manifest.check_run(folder, manifest.read_manifest(folder), RUN | change)


def test_a_file_that_is_not_as_it_was_is_refused(folder):
    files = manifest.read_manifest(folder)["files"]
    data = (folder / "data").read_bytes()
    for content, sentence in ((data[:-1], "has 299 bytes and should have 300"), (b"b" + data[1:], "has been changed")):
        (folder / "data").write_bytes(content)
        with pytest.raises(ValueError, match=f"whose data {sentence}"):
            manifest.check_file(folder, "data", files["data"])
    (folder / "data").unlink()
    with pytest.raises(ValueError, match="whose data cannot be read"):
        manifest.check_file(folder, "data", files["data"])


@pytest.mark.parametrize("value", [{1: 2}, {"a": [{2: 3}]}, {"a": object()}, {"a": {1, 2}}, {"a": b"x"}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ValueError, match="position should be of numbers, texts, lists and dicts"):
        manifest.check_plain("position", value)


def test_numbers_texts_lists_and_dicts_pass():
    manifest.check_plain("position", {"a": [1, (2.5, None)], "b": {"c": "d", "e": True}})
