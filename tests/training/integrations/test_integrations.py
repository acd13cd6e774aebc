"""The table of what goes with what is held by tests, and the scripts are short; what no script has is tested here."""

import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

from annsoftmax_ref import ANNSoftmax, CosFace, RandomClasses, RowAdamW, RowSGD, SoftmaxHead
from annsoftmax_ref.training import integrations
from annsoftmax_ref.training.integrations.points import CLASSES, DIM, WIDTH, network, points

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(integrations.__file__).parent
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "points"))
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| .*\.py::", line)]


def test_a_script_has_at_most_40_lines_and_is_on_the_page():
    assert len(SCRIPTS) >= 6
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SCRIPTS}
    assert {name: length for name, length in lengths.items() if length > 40} == {}
    assert [path.name for path in SCRIPTS if f"]({path.name})" not in PAGE] == []
    assert [path.name for path in SCRIPTS if not Path(__file__).with_name(f"test_{path.name}").exists()] == []


def test_every_row_of_the_table_names_tests_that_are_there():
    assert len(ROWS) >= 20 and {len(row) for row in ROWS} == {4}
    named = [name for row in ROWS for name in re.findall(r"`([\w/]+\.py::\w+)`", row[3])]
    assert len(named) >= len(ROWS) and all("`" in row[3] for row in ROWS)
    missing = []
    for file, test in (name.split("::") for name in named):
        path = ROOT / "tests" / file
        if not path.exists() or f"def {test}(" not in path.read_text(encoding="utf-8"):
            missing.append(f"{file}::{test}")
    assert missing == []


class Both(nn.Module):
    """Backbone and head in one module, whose forward returns the loss."""

    def __init__(self, head=None, **options):
        super().__init__()
        self.backbone = network()
        self.head = head or SoftmaxHead(CLASSES, DIM, RandomClasses(0.1), CosFace(16, 0.1), **options)

    def forward(self, features, labels):
        return self.head(self.backbone(features), labels)


def trained(model, optimizer, scheduler=None, steps=12, call=None):
    features, labels = points().tensors
    losses = []
    for step in range(steps):
        part = slice(50 * step, 50 * step + 50)
        loss = (model if call is None else call)(features[part], labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if scheduler is not None:
            scheduler.step(*losses[-1:] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else ())
    return losses


SCHEDULES = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
    "one cycle, momentum too": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=13),
    "warmup, then steps": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.StepLR(o, 3, 0.5)], [4]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
}


@pytest.mark.parametrize("row, dense", [(RowSGD, torch.optim.SGD), (RowAdamW, torch.optim.AdamW)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_under_a_schedule_rows_are_those_of_the_dense_optimizer(schedule, row, dense):
    options = dict(lr=0.2, momentum=0.9, weight_decay=1e-3) if row is RowSGD else dict(lr=0.01)
    found = []
    for kind, sparse in ((row, True), (dense, False)):
        model = Both(sparse=sparse)
        optimizer = kind(model.parameters(), **options)
        found.append(trained(model, optimizer, SCHEDULES[schedule](optimizer)))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD], ids=lambda kind: kind.__name__)
def test_fused_and_foreach_optimizers_take_the_dense_head(kind, options):
    model = Both(sparse=False)
    losses = trained(model, kind(model.parameters(), lr=0.01, weight_decay=1e-4, **options))
    assert torch.isfinite(torch.tensor(losses)).all() and losses[-1] < losses[0]


@pytest.mark.parametrize(
    "kind, sentence",
    [
        (torch.optim.AdamW, "does not support sparse gradients"),
        (lambda p, **o: torch.optim.AdamW(p, fused=True, **o), "does not support sparse gradients"),
        (lambda p, **o: torch.optim.SGD(p, fused=True, **o), "does not support sparse gradients"),
        (lambda p, **o: torch.optim.SGD(p, weight_decay=0.1, **o), "sparse"),
    ],
)
def test_what_takes_no_row_sparse_gradients_says_so(kind, sentence):
    model = Both()
    with pytest.raises(RuntimeError, match=sentence):
        trained(model, kind(model.head.parameters(), lr=0.1), steps=2)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.SparseAdam, torch.optim.Adagrad])
def test_torchs_optimizers_for_sparse_gradients_take_the_head(kind):
    model = Both()
    head = kind(model.head.parameters(), lr=0.1)
    backbone = torch.optim.AdamW(model.backbone.parameters(), lr=0.01)

    class Pair:
        def zero_grad(self):
            head.zero_grad(), backbone.zero_grad()

        def step(self):
            head.step(), backbone.step()

    losses = trained(model, Pair(), steps=60)
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_ddp_around_backbone_and_head_takes_dense_gradients_and_refuses_sparse_ones(group):
    for head in (None, ANNSoftmax(CLASSES, DIM, sample_rate=0.1)):
        with pytest.raises(ValueError, match="^head is inside Dist.* takes no row-sparse gradients; wrap"):
            DistributedDataParallel(Both(head))
    model, twin = Both(sparse=False), Both(sparse=False)
    losses = trained(model, RowSGD(model.parameters(), lr=0.2), call=DistributedDataParallel(model))
    assert losses == pytest.approx(trained(twin, RowSGD(twin.parameters(), lr=0.2)), rel=1e-6)


def test_data_parallel_goes_around_the_backbone_and_refuses_the_head():
    model, twin = Both(), Both()
    copy = model.head._replicate_for_data_parallel()  # as it does on several GPUs
    with pytest.raises(ValueError, match="head is inside DataParallel.*; wrap the backbone alone"):
        copy(torch.randn(4, DIM), torch.arange(4))
    model.backbone = nn.DataParallel(model.backbone)
    losses = [trained(m, RowSGD(m.parameters(), lr=0.2)) for m in (model, twin)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("what", ["the backbone", "backbone and head"])
def test_what_is_compiled_trains_as_it_did(what):
    model, twin = (Both(ANNSoftmax(CLASSES, DIM, CosFace(16, 0.1), sample_rate=0.1)) for _ in range(2))
    graphs = []

    def counted(graph, example):
        graphs.append(graph)
        return graph.forward

    if what == "the backbone":
        model.backbone = torch.compile(model.backbone, backend=counted)
        losses = trained(model, RowSGD(model.parameters(), lr=0.2))
    else:
        losses = trained(model, RowSGD(model.parameters(), lr=0.2), call=torch.compile(model, backend=counted))
    assert losses == pytest.approx(trained(twin, RowSGD(twin.parameters(), lr=0.2)), rel=1e-6)
    assert len(graphs) == 1  # the backbone's: the head is left as it is


def test_gradients_flow_to_a_frozen_head_and_to_a_frozen_backbone():
    for frozen in ("head", "backbone"):
        model = Both()
        model.get_submodule(frozen).requires_grad_(False)
        before = {name: p.clone() for name, p in model.named_parameters()}
        trained(model, RowSGD([p for p in model.parameters() if p.requires_grad], lr=0.2), steps=3)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == name.startswith(frozen), name


def test_points_have_one_label_each():
    features, labels = points(2).tensors
    assert features.shape == (2 * CLASSES, WIDTH) and torch.equal(labels.bincount(), torch.full((CLASSES,), 2))
