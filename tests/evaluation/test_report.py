"""Reports on cases with a known answer."""

import pytest
import torch
from torch import nn

from annsoftmax_ref.datasets import GlyphData, ImageSet, SparseRows
from annsoftmax_ref.datasets.files import FileData
from annsoftmax_ref.evaluation import accuracy, embed_all, evaluate, hits, recall_at_1, score
from annsoftmax_ref.evaluation import report as reports
from annsoftmax_ref.evaluation.retrieval import mean_average_precision
from annsoftmax_ref.head import SoftmaxHead


class Direction(nn.Module):
    """An image with pixel (0, k) white has the embedding e_k."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images[:, 0, 0, :8] * self.one


def drawings(columns, labels):
    images = torch.zeros(len(columns), 32, 32, dtype=torch.uint8)
    images[torch.arange(len(columns)), 0, torch.tensor(columns)] = 255
    return ImageSet(images, torch.tensor(labels), torch.zeros(len(columns), dtype=torch.int64))


def head_of_unit_vectors():
    head = SoftmaxHead(8, 8)
    with torch.no_grad():
        head.weight.copy_(torch.eye(8) + 0.1 * torch.roll(torch.eye(8), 1, dims=1))  # next: row k - 1 holds e_k too
    return head


def test_accuracy():
    data = drawings([0, 1, 2, 3], [0, 1, 2, 7])
    assert accuracy(Direction(), head_of_unit_vectors(), data) == 0.75
    data = drawings([1, 1, 1, 1], [1, 0, 5, 0])  # e_1: row 1, then row 0
    assert accuracy(Direction(), head_of_unit_vectors(), data) == 0.25
    assert accuracy(Direction(), head_of_unit_vectors(), data, k=2) == 0.75
    with pytest.raises(ValueError, match="k is 9"):
        accuracy(Direction(), head_of_unit_vectors(), data, k=9)


def test_accuracy_over_several_chunks(monkeypatch):
    monkeypatch.setattr("annsoftmax_ref.evaluation.report.CHUNK", 3)
    columns = [k % 8 for k in range(20)]
    assert accuracy(Direction(), head_of_unit_vectors(), drawings(columns, columns)) == 1
    assert recall_at_1(Direction(), drawings(columns, columns)) == 1


def test_retrieval():
    assert recall_at_1(Direction(), drawings([0, 0, 1, 1], [4, 4, 5, 5])) == 1
    # Label 5 twice, in other directions; label 6 alone: not asked for.
    assert recall_at_1(Direction(), drawings([0, 0, 1, 2, 1], [4, 4, 5, 5, 6])) == 0.5


def data_of(train, test, split="faces", num_classes=8):
    return GlyphData(train, test, num_classes, [], [], [], (), split)


def test_hits_by_rank(monkeypatch):
    monkeypatch.setattr(reports, "CHUNK", 3)
    found, labels = hits(Direction(), head_of_unit_vectors(), drawings([1, 1, 1, 2], [1, 0, 5, 2]), k=2)
    assert found.tolist() == [[True, False], [False, True], [False, False], [True, False]]
    assert labels.tolist() == [1, 0, 5, 2]


def test_a_classifier_s_report():
    test = drawings([0, 1, 2, 3], [0, 1, 2, 7])
    even = data_of(drawings([0] * 8, list(range(8))), test)
    model, head = Direction(), head_of_unit_vectors()
    report = evaluate(model, head, even)
    assert report["accuracy"] == score(model, head, even) == accuracy(model, head, test) == 0.75
    assert set(report) == {"accuracy", "top5"} and report["top5"] == accuracy(model, head, test, k=5)
    assert reports.headline(report) == "accuracy"


def test_uneven_classes_are_reported_by_frequency():
    """Counts 40, 30, 20, 1, ...: thirds of 8 classes are 0 to 2, 3 to 5 and 6, 7."""
    labels = [0] * 40 + [1] * 30 + [2] * 20 + [3, 4, 5, 6, 7]
    data = data_of(drawings(labels, labels), drawings([0, 0, 3, 1, 6], [0, 1, 3, 4, 6]))
    report = evaluate(Direction(), head_of_unit_vectors(), data)
    assert (report["head"], report["middle"], report["tail"]) == (0.5, 0.5, 1.0)
    assert report["accuracy"] == 0.6
    data.test = drawings([0], [0])
    assert evaluate(Direction(), head_of_unit_vectors(), data)["tail"] is None


def test_an_embedding_s_report_does_not_depend_on_chunks_or_global_seeds(monkeypatch):
    """6 classes in 6 directions, 12 drawings each; one drawing lies with the wrong class."""
    labels = [k % 6 for k in range(72)]
    columns = [*labels[:-1], 0]
    data = data_of(drawings([0], [0]), drawings(columns, [8 + k for k in labels]), "embedding")
    report = evaluate(Direction(), None, data)
    assert list(report)[:3] == ["recall_at_1", "recall_at_10", "map"] and len(report) == 8
    assert report["recall_at_1"] == recall_at_1(Direction(), data.test) == score(Direction(), None, data) == 71 / 72
    assert report["map"] == mean_average_precision(*embed_all(Direction(), data.test))
    # 396 same pairs, of which 11 are not alike; 2160 different pairs, of which 12 are: above 1e-4 and 1e-3.
    assert report["tar_at_far_1e-2"] == pytest.approx(385 / 396)
    assert report["tar_at_far_1e-3"] == 0 and report["tar_at_far_1e-4"] is None
    assert 0.9 < report["fold_accuracy"] < 1 and 0.5 < report["rank1"] <= 1
    assert reports.headline(report) == "recall_at_1"
    torch.manual_seed(5)
    monkeypatch.setattr(reports, "CHUNK", 7)
    assert evaluate(Direction(), None, data) == report
    assert evaluate(Direction(), None, data, seed=1) != report


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0], [0]])
def test_what_an_embedding_s_report_cannot_measure_is_none(labels):
    report = reports.embedding_report(torch.eye(8)[: len(labels)], torch.tensor(labels))
    assert report["tar_at_far_1e-2"] is report["fold_accuracy"] is report["rank1"] is None
    assert (report["map"] is None) == (len(set(labels)) == len(labels))


class Texts:
    """Point k has feature k and the labels k and k + 1."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def batch_all(self, index):
        points = SparseRows(torch.arange(len(index) + 1), index, torch.ones(len(index)))
        return points, 2 * torch.arange(len(index) + 1), torch.stack([index, index + 1], dim=1).flatten()


class Rising(nn.Module):
    """An odd point's axes in rising order, an even one's in falling."""

    def __init__(self, size):
        super().__init__()
        self.axes = nn.Parameter(torch.arange(1.0, size + 1))

    def forward(self, points):
        return torch.stack([self.axes if k % 2 else self.axes.flip(0) for k in points.features.tolist()])


@pytest.mark.parametrize("chunk", [2, 1024])
def test_precision_at_k(monkeypatch, chunk):
    monkeypatch.setattr(reports, "CHUNK", chunk)
    head = SoftmaxHead(8, 8)
    with torch.no_grad():
        head.weight.copy_(torch.eye(8))
    # Even points' classes are 0 1 2 3 4, of which 0 1 and 2 3 are right; odd ones' 7 6 5 4 3, of which none and 4 3.
    data = FileData(Texts(4), Texts(4), 8, [])
    data.split = "multilabel"
    report = evaluate(Rising(8), head, data)
    assert report == {"precision_at_1": 1 / 4, "precision_at_3": 3 / 12, "precision_at_5": 6 / 20}
    assert score(Rising(8), head, data) == 1 / 4 and reports.headline(report) == "precision_at_1"
    few = reports.precision_report(Rising(4), SoftmaxHead(4, 4), Texts(3))
    assert few["precision_at_5"] is None and 0 <= few["precision_at_3"] <= 2 / 3


class FacePairs:
    """Pairs of drawings, the same pixel or two."""

    def __init__(self, first, second):
        self.first, self.second = (drawings(c, c).images for c in (first, second))
        self.same = torch.tensor([a == b for a, b in zip(first, second, strict=True)])

    def __len__(self):
        return len(self.same)

    def batch(self, index):
        return self.first[index], self.second[index], self.same[index]


def test_verify(monkeypatch):
    monkeypatch.setattr(reports, "CHUNK", 32)
    first, second = [k % 8 for k in range(400)], [(k + k % 2) % 8 for k in range(400)]
    report = reports.verify(Direction(), FacePairs(first, second))
    assert report == {"fold_accuracy": 1, "tar_at_far_1e-2": 1, "tar_at_far_1e-3": None, "tar_at_far_1e-4": None}


@pytest.mark.gpu
def test_reports_on_a_gpu_are_those_on_the_cpu(generator):
    labels = torch.arange(400) % 50
    rows = torch.eye(50, 16)[labels] + torch.randn(400, 16, generator=generator)
    here, there = (reports.embedding_report(rows.to(place), labels.to(place)) for place in ("cpu", "cuda"))
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert there[name] == pytest.approx(value, abs=0.02), name
    data = FileData(Texts(4), Texts(4), 8, [])
    data.split = "multilabel"
    head = SoftmaxHead(8, 8)
    with torch.no_grad():
        head.weight.copy_(torch.eye(8))
    assert evaluate(Rising(8).cuda(), head.cuda(), data)["precision_at_5"] == 6 / 20
    model, head = Direction().cuda(), head_of_unit_vectors().cuda()
    data = data_of(drawings([0] * 8, list(range(8))), drawings([0, 1, 2, 3], [0, 1, 2, 7]))
    assert evaluate(model, head, data)["accuracy"] == 0.75
