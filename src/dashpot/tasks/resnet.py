"""Residual networks for 32 x 32 color images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ResNetSize:
    """Size of a residual network.

    Args:
        widths: Number of channels of each stage. Every stage after the first halves the resolution.
        blocks: Number of residual blocks per stage.
        stem: Stride of the first convolution.
    """

    widths: tuple[int, ...]
    blocks: int
    stem: int = 1


RESNET18 = ResNetSize((64, 128, 256, 512), blocks=2)
"""ResNet-18 as used for CIFAR-10: a first convolution of 3 x 3 pixels with stride 1, without pooling."""


class ResNet(nn.Module):
    """A residual network of basic blocks, with inputs of shape (N, 3, H, W) and outputs of shape (N, `classes`).

    The layers are: a convolution to the first width; the stages of residual blocks; average pooling over all pixels; a
    linear layer. Every convolution is 3 x 3, without bias, and followed by batch normalization. The weights of
    convolutions have the Kaiming normal initialization of variance 2/fan_out, and the linear layer has torch's default
    initialization. Both are drawn from torch's global generator.

    Args:
        size: Size of the network.
        classes: Number of classes.

    Source: He et al., "Deep residual learning for image recognition", arXiv:1512.03385.

    >>> model = ResNet(RESNET18)
    >>> sum(p.numel() for p in model.parameters())
    11173962
    """

    def __init__(self, size: ResNetSize, classes: int = 10) -> None:
        super().__init__()
        self.stem = _convolution(3, size.widths[0], stride=size.stem)
        blocks: list[nn.Module] = []
        for stage, (inputs, outputs) in enumerate(pairwise((size.widths[0], *size.widths))):
            blocks.append(_Block(inputs, outputs, stride=1 if stage == 0 else 2))
            blocks.extend(_Block(outputs, outputs) for _ in range(size.blocks - 1))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(size.widths[-1], classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        # Convolutions on a CPU are faster in channels-last format, which all layers keep.
        x = x.contiguous(memory_format=torch.channels_last)
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


class _Block(nn.Module):
    """Basic block: the ReLU of the sum of the shortcut and a branch with two convolutions.

    The shortcut is the identity, or a 1 x 1 convolution with normalization if the shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride)
        self.last = _convolution(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.last(self.first(x).relu()) + self.shortcut(x)).relu()


def _convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))
