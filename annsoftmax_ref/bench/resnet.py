"""ResNet-50 (He et al., CVPR 2016), the size of backbone that people train such heads on; its time is what counts here.

As in torchvision, whose package this project does not ask for: the stride is in the 3 x 3 convolution.
"""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS = 3, 4, 6, 3  # of each stage
EXPANSION = 4


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = EXPANSION * width
        self.body = nn.Sequential(
            *_convolution(inputs, width, 1),
            nn.ReLU(inplace=True),
            *_convolution(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_convolution(width, outputs, 1),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class ResNet50(nn.Sequential):
    """images [B, 3, h, w] -> embeddings [B, embedding_size]; 23.5 million parameters and those of the last layer."""

    def __init__(self, embedding_size: int):
        stages, inputs = [], 64
        for number, blocks in enumerate(BLOCKS):
            width = 64 * 2**number
            for block in range(blocks):
                stages.append(Bottleneck(inputs, width, 2 if number and not block else 1))
                inputs = EXPANSION * width
        stem = *_convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)
        super().__init__(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, embedding_size))
