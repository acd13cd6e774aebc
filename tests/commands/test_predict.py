"""commands/predict.py: from a run's checkpoints to a table of classes with their names, and calls that are wrong."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from annsoftmax_ref import cli
from annsoftmax_ref.experiments.predictor import BATCH, load_predictor

CLASSES, WIDTH = 60, 16
COLUMNS = ["file", "row", "rank", "class", "name", "cosine"]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Files of features that a run was trained on, and its checkpoints."""
    root, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    labels = np.arange(3000) % CLASSES
    centres = rng.standard_normal((CLASSES, WIDTH), dtype=np.float32)
    np.save(root / "features.npy", centres[labels] + 0.3 * rng.standard_normal((3000, WIDTH), dtype=np.float32))
    np.save(root / "labels.npy", labels)
    numbers = {"rate": 0.6, "batch": 32, "steps": 40, "epochs": 2, "dim": 16, "lr": 0.2, "option": "nlist=8"}
    flags = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    runs = str(root / "runs")
    assert cli.main(["train", "--task", f"features:{root}", "--device", "cpu", *flags, "--checkpoints", runs]) == 0
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two classes of images, dark and bright, and the checkpoints of a run on them."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, least in (("dark cats", 0), ("bright dogs", 180)):
        (root / "train" / name).mkdir(parents=True)
        for place in range(12):
            pixels = rng.integers(least, least + 70, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "train" / name / f"{place}.png")
    shutil.copytree(root / "train", root / "new" / "deep")
    call = ["train", "--task", f"folder:{root / 'train'},size=16", "--device", "cpu", "--head", "full", "--no-augment"]
    numbers = ["--batch", "8", "--steps", "20", "--epochs", "1", "--dim", "8", "--objective", "cosface"]
    assert cli.main([*call, *numbers, "--checkpoints", str(root / "runs")]) == 0
    return root


def table(path):
    with open(path, newline="") as file:
        columns, *lines = csv.reader(file)
    assert columns == COLUMNS
    return lines


def test_features_get_their_classes_and_exact_search_has_the_largest_cosines(features, tmp_path, capsys):
    out = str(tmp_path / "out.csv")
    call = ["predict", str(features / "runs"), str(features / "features.npy"), "--out", out, "--k", "3"]
    assert cli.main([*call, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"done: 3,000 rows, 3 of 60 classes each, into {out}\n"
    lines = table(out)
    assert len(lines) == 9000 and [line[1:3] for line in lines[:4]] == [["0", "1"], ["0", "2"], ["0", "3"], ["1", "1"]]
    first = np.array([int(line[3]) for line in lines[::3]])
    assert (first == np.arange(3000) % CLASSES).mean() > 0.9 and lines[5][4] == lines[5][3]  # classes have no names
    predictor = load_predictor(features / "runs", torch.device("cpu"))
    rows = next(predictor.embedded([predictor.open(features / "features.npy", False, None)], False))
    cosines, classes = predictor.head.topk(rows.embeddings, 3)
    assert [int(line[3]) for line in lines[: 3 * BATCH]] == classes.flatten().tolist()
    assert [float(line[5]) for line in lines[: 3 * BATCH]] == pytest.approx(cosines.flatten().tolist(), abs=1e-6)


def test_approximate_search_tells_its_recall_and_takes_the_lists_that_reach_one(features, tmp_path, capsys):
    call = ["predict", str(features / "runs"), str(features / "features.npy"), "--out", str(tmp_path / "out.csv")]
    call += ["--k", "2", "--approximate", "--candidates", "20", "--device", "cpu", "--json", "-"]
    found = {}
    for name, more in {"few": ["--nprobe", "1"], "default": [], "enough": ["--recall", "0.99"]}.items():
        assert cli.main([*call, *more]) == 0
        found[name] = json.loads(capsys.readouterr().out)["rows"][0]
    assert found["few"]["nprobe"] == 1 and found["few"]["recall"] < 0.99 <= found["enough"]["recall"]
    assert found["enough"]["nprobe"] > 1 and found["default"]["nprobe"] == 6  # 2 sqrt(8)
    assert found["enough"]["recall_of_rows"] == BATCH and found["enough"]["rows"] == 3000
    assert cli.main([*call[:-2], "--nprobe", "8"]) == 0
    assert "; 8 lists and 20 candidates find " in capsys.readouterr().out
    assert cli.main([*call[:-4], "--candidates", "2", "--recall", "0.9999"]) == 2
    assert "recall is 0.9999; with all 8 lists and 2 candidates" in capsys.readouterr().err


def test_images_of_a_folder_get_names_and_broken_ones_are_left_out(images, tmp_path, capsys):
    broken = images / "new" / "deep" / "broken.png"
    broken.write_bytes(b"\x89PNG nothing")
    out, alone = str(tmp_path / "out.csv"), str(images / "new" / "deep" / "dark cats" / "3.png")
    assert cli.main(["predict", str(images / "runs"), str(images / "new"), alone, "--out", out, "--k", "2"]) == 0
    assert "done: 25 rows, 2 of 2 classes each" in (said := capsys.readouterr().out) and "; 1 left out" in said
    lines = table(out)
    assert lines[-1][0] == alone and len(lines) == 50
    right = [line[4] in line[0] for line in lines if line[2] == "1"]
    assert sum(right) > 20 and {line[4] for line in lines} == {"dark cats", "bright dogs"}
    assert (
        cli.main(["predict", str(images / "runs"), str(images / "new"), "--out", out, "--skip", "0", "--k", "1"]) == 2
    )
    assert "skip is 0" in capsys.readouterr().err
    assert table(out) == lines  # what was there before stays
    # A head without an index gets one.
    call = ["predict", str(images / "runs"), alone, "--out", out, "--k", "1", "--approximate"]
    assert cli.main(call) == 0 and "find 100.0% of what exact search finds" in capsys.readouterr().out


def test_embeddings_need_no_backbone(features, tmp_path):
    predictor = load_predictor(features / "runs", torch.device("cpu"))
    np.save(tmp_path / "own.npy", 3 * predictor.head.prototypes().numpy())
    call = ["predict", str(features / "runs"), str(tmp_path / "own.npy"), "--embeddings", "--k", "1"]
    assert cli.main([*call, "--out", str(tmp_path / "out.csv")]) == 0
    assert [(line[3], line[5]) for line in table(tmp_path / "out.csv")] == [
        (str(place), "1.000000") for place in range(CLASSES)
    ]


def test_wrong_calls_end_with_2_and_one_line_and_leave_no_file(features, images, tmp_path, capsys):
    wide, odd = tmp_path / "wide.npy", tmp_path / "odd.npy"
    np.save(wide, np.zeros((5, 9), np.float32))
    np.save(odd, np.full((2, WIDTH), np.nan, np.float32))
    (tmp_path / "empty").mkdir()
    runs, mine = str(features / "runs"), str(features / "features.npy")
    for arguments, words in (
        ([str(tmp_path / "empty"), mine], "empty, which has no whole checkpoint; name a folder that annsoftmax train"),
        ([runs, str(wide)], r"an array [5, 9]; it should be [n, 16], as in training"),
        ([runs, str(odd)], "odd.npy, row 0, has a value that is not finite"),
        ([runs, str(tmp_path / "none.npy")], "none.npy, which is not a file; it should be features [n, 16], .npy"),
        ([runs, mine, "--k", "61"], "k is 61; it should be at most the number of classes, 60"),
        ([runs, mine, "--nprobe", "3"], "nprobe is 3; it goes with --approximate alone"),
        ([runs, mine, "--recall", "0.9"], "recall is 0.9; it goes with --approximate alone"),
        ([runs, mine, "--approximate", "--nprobe", "99"], "nprobe is 99; it should be from 1 to nlist, 8"),
        ([runs, mine, "--approximate", "--recall", "2"], "recall is 2.0; it should be above 0 and below 1"),
        ([runs, mine, "--approximate", "--recall", "0.5", "--nprobe", "3"], "give one of them"),
        ([runs, mine, "--k", "5", "--approximate", "--candidates", "3"], "candidates is 3; it should be at least k, 5"),
        ([runs, mine, "--task", f"folder:{images / 'train'},size=16"], "has 2 classes now; the checkpoint"),
        ([str(images / "runs"), str(tmp_path / "empty")], "empty, which holds no images"),
    ):
        assert cli.main(["predict", *arguments, "--out", str(tmp_path / "out.csv")]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err
    assert not (tmp_path / "out.csv").exists()
    assert cli.main(["predict", runs, mine, "--out", str(tmp_path)]) == 2 and "out is " in capsys.readouterr().err


def test_data_that_have_moved_are_named_and_those_that_grew_do(features, tmp_path):
    moved = shutil.copytree(features, tmp_path / "moved")
    for name in ("features", "labels"):
        array = np.load(moved / f"{name}.npy")
        np.save(moved / f"{name}.npy", np.concatenate([array, array[:100]]))
    predictor = load_predictor(features / "runs", torch.device("cpu"), f"features:{moved}")
    again = load_predictor(features / "runs", torch.device("cpu"))
    assert predictor.step == again.step == 80 and not predictor.head.training and not predictor.model.training
    for one, other in zip(predictor.head.state_dict().values(), again.head.state_dict().values(), strict=True):
        assert torch.equal(one, other)
