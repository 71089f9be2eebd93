"""The light backbone: a residual convolutional U-Net ("a CNN or a Transformer", § 4.1), made for CPUs.

Nearly all of its work lies at stride 2 and deeper, with many channels: there a CPU's matrix units are fed well. At full
resolution only the stem and one convolution run. Batch normalization keeps CT's absolute scale: a window's own mean
never enters, so a window of air stays air, and at inference the layer is one multiply-add.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.features import PixelFeatures
from dsmseg.model.pointwise import PointwiseConvolution

EXTRA_BLOCKS = (1, 1, 0, 0, 0)  # at strides 2, 4, 8, 16, 32: deeper than that parameters grow and sight does not


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut; the first one may halve the grid."""

    def __init__(self, input_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolution_1 = _convolution(input_channels, channels, stride=stride)
        self.norm_1 = nn.BatchNorm3d(channels, momentum=0.02)
        self.convolution_2 = _convolution(channels, channels)
        self.norm_2 = nn.BatchNorm3d(channels, momentum=0.02)
        same_shape = stride == 1 and input_channels == channels
        self.shortcut = nn.Identity() if same_shape else _convolution(input_channels, channels, kernel=1, stride=stride)

    def forward(self, feature: Float[Tensor, "batch input x y z"]) -> Float[Tensor, "batch channel x_s y_s z_s"]:
        """Give ``relu(f(feature) + shortcut(feature))``."""
        inner = functional.relu(self.norm_1(self.convolution_1(feature)))
        outer = self.norm_2(self.convolution_2(inner))
        return functional.relu(outer + self.shortcut(feature))


class ConvUNet(nn.Module):
    """U-Net with additive skips. ``channels`` names the width at strides 1, 2, 4, 8, 16, 32."""

    def __init__(self, *, input_channels: int = 2, channels: tuple[int, ...] = (16, 48, 96, 128, 128, 128)) -> None:
        super().__init__()
        self.level_channels = channels[:1:-1]
        self.half_channels = channels[1]
        self.embedding_channels = channels[0]
        self.stem = _convolution(input_channels, channels[0])
        self.stem_norm = nn.BatchNorm3d(channels[0], momentum=0.02)
        self.encoders = nn.ModuleList(
            nn.Sequential(ResidualBlock(upper, lower, stride=2), *(ResidualBlock(lower, lower) for _ in range(more)))
            for (upper, lower), more in zip(pairwise(channels), EXTRA_BLOCKS, strict=True)
        )
        self.lateral = nn.ModuleList(_convolution(lower, upper, kernel=1) for upper, lower in pairwise(channels))
        self.decoders = nn.ModuleList(ResidualBlock(width, width) for width in channels[1:-1])
        self.head = _convolution(channels[0], channels[0])
        self.head_norm = nn.BatchNorm3d(channels[0], momentum=0.02)

    def forward(self, image: Float[Tensor, "batch input x y z"]) -> PixelFeatures:
        """Give F_1..F_4 and the embedding. Each spatial size is a multiple of 32."""
        skips = [functional.relu(self.stem_norm(self.stem(image)))]
        for encoder in self.encoders[:-1]:
            skips.append(encoder(skips[-1]))
        # oneDNN's bfloat16 weight gradient reads uninitialized memory on grids of 2x2x2 (seen with torch 2.13), and
        # the deepest level of a 64^3 patch is one; in float32 it costs nothing that could be measured.
        with torch.autocast(image.device.type, enabled=False):
            feature = self.encoders[-1](skips[-1].float())
        levels = [feature]
        for depth in reversed(range(1, len(skips))):
            merged = skips[depth] + _upsample(self.lateral[depth](feature))
            feature = self.decoders[depth - 1](merged)
            levels.append(feature)
        merged = skips[0] + _upsample(self.lateral[0](feature))
        embedding = functional.relu(self.head_norm(self.head(functional.relu(merged))))
        return PixelFeatures(levels=tuple(levels[:4]), half=levels[4], embedding=embedding)


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv3d:
    if kernel == 1:
        return PointwiseConvolution(inputs, outputs, 1, stride=stride, bias=False)
    return nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def _upsample(feature: Float[Tensor, "batch channel x y z"]) -> Float[Tensor, "batch channel x_2 y_2 z_2"]:
    return functional.interpolate(feature, scale_factor=2.0, mode="nearest")
