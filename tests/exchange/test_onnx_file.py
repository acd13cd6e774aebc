"""ONNX: onnxruntime gives what backbone and head give, for any batch, or the file that was there stays."""

import logging
import warnings

import pytest
import torch
from ranks import on_ranks
from torch import nn

from annsoftmax_ref import ANNSoftmax, CosFace, CrossEntropy, RandomClasses, RowSGD, SoftmaxHead, to_onnx
from annsoftmax_ref.exchange import onnx_file
from annsoftmax_ref.training.network import ConvNet

N, D = 60, 16


@pytest.fixture(autouse=True)
def quiet():
    """torch tells that there is no torchvision."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def of_runtime(path, inputs):
    runtime = pytest.importorskip(
        "onnxruntime", reason="onnxruntime is not installed: pip install -e '.[integrations]'"
    )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(part) for part in session.run(None, {"inputs": inputs.numpy()})]


def written(path, *arguments, **options):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install -e '.[integrations]'")
    to_onnx(arguments[0], path, *arguments[1:], **options)
    return path


def lagging(head, steps=4):
    optimizer = RowSGD(head.parameters(), lr=0.5, momentum=0.9)
    for _ in range(steps):
        head(torch.randn(8, D), torch.randint(N, (8,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head


def test_onnxruntime_gives_the_logits_for_any_batch(tmp_path):
    head = lagging(ANNSoftmax(N, D, CosFace(16, 0.1), sample_rate=0.2))
    backbone = nn.Sequential(ConvNet(D, width=4, size=16), nn.Dropout())
    backbone(torch.randn(32, 1, 16, 16))  # the batch statistics are no longer those of the start
    path = written(tmp_path / "model.onnx", head, backbone, torch.randn(1, 1, 16, 16))
    assert all(module.training for module in backbone.modules())
    backbone.eval()
    for batch in (1, 5, 33):
        images = torch.randn(batch, 1, 16, 16)
        (found,) = of_runtime(path, images)
        torch.testing.assert_close(found, head.logits(backbone(images)).detach(), rtol=1e-5, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_onnxruntime_gives_the_topk_of_a_head_with_bias_in_16_bits(tmp_path):
    head = SoftmaxHead(N, D, objective=CrossEntropy(8.0), bias=True, dtype=torch.bfloat16)
    with torch.no_grad():
        head.bias.normal_()
    backbone = nn.Embedding(9, D)
    path = written(tmp_path / "model.onnx", head, backbone, torch.tensor([1, 2, 3]), k=5)
    tokens = torch.arange(9)
    cosines, classes = of_runtime(path, tokens)
    expected, same = head.topk(backbone(tokens), 5)
    torch.testing.assert_close(cosines, expected.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(classes, same)


def test_large_weights_lie_beside_the_model_and_rows_of_8_bits_are_widened(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MOST", 100)
    head = lagging(SoftmaxHead(N, D, RandomClasses(0.3), dtype=torch.float8_e4m3fn))
    (tmp_path / "model.onnx").write_text("an older one")
    path = written(tmp_path / "model.onnx", head, nn.Identity(), torch.randn(2, D))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    embeddings = torch.randn(7, D)
    torch.testing.assert_close(of_runtime(path, embeddings)[0], head.logits(embeddings), rtol=1e-5, atol=1e-5)


class Broken(nn.Module):
    def forward(self, inputs):
        if torch.compiler.is_exporting() or torch.compiler.is_compiling():
            raise RuntimeError("cannot be exported")
        return inputs


@pytest.mark.parametrize(
    "backbone, example, k, kind, sentence",
    [
        (nn.Linear(4, D + 1), torch.ones(2, 4), None, ValueError, r"backbone gives embeddings \[2, 17\] of example"),
        (nn.Identity(), torch.ones(2, D), N + 1, ValueError, "k is 61"),
        ("resnet", torch.ones(2, D), None, TypeError, "backbone is 'resnet'"),
        (nn.Identity(), [1.0], None, TypeError, r"example is \[1.0\]"),
        (Broken(), torch.ones(2, D), None, Exception, "Failed to export the model"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(backbone, example, k, kind, sentence, tmp_path):
    (tmp_path / "model.onnx").write_text("an older one")
    with pytest.raises(kind, match=f"^{sentence}"):
        written(tmp_path / "model.onnx", SoftmaxHead(N, D), backbone, example, k=k)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an older one"]


def test_a_split_head_and_a_folder_are_refused(tmp_path):
    def of_rank(rank, group):
        with pytest.raises(ValueError, match="^to_onnx needs all classes in one process"):
            to_onnx(SoftmaxHead(N, D, process_group=group), tmp_path / "a.onnx", nn.Identity(), torch.ones(2, D))

    on_ranks(2, of_rank)
    with pytest.raises(ValueError, match="^path is .* cannot be written"):
        written(tmp_path, SoftmaxHead(N, D), nn.Identity(), torch.ones(2, D))
