"""Swin UNETR (Hatamizadeh et al. 2022), the backbone of § 5.3.

Parameter names and arithmetic are those of ``monai.networks.nets.SwinUNETR`` 1.6, without its final ``out``
convolution: its weights load unchanged once ``out.*`` is left away.
"""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.features import PixelFeatures
from dsmseg.model.swin_transformer import SwinTransformer

DEEPEST_STRIDE = 32


def _convolution(inputs: int, outputs: int, kernel_size: int) -> nn.Sequential:
    """A convolution under the name that the published weights give it."""
    layer = nn.Conv3d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=layer))


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions with instance normalization, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build a block of ``inputs`` to ``outputs`` channels."""
        super().__init__()
        self.conv1 = _convolution(inputs, outputs, 3)
        self.conv2 = _convolution(outputs, outputs, 3)
        self.conv3 = _convolution(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, feature: Float[Tensor, "batch input x y z"]) -> Float[Tensor, "batch output x y z"]:
        """Return ``leaky_relu(f(feature) + shortcut(feature))``."""
        inner = functional.leaky_relu(functional.instance_norm(self.conv1(feature)), 0.01)
        outer = functional.instance_norm(self.conv2(inner))
        shortcut = feature if self.conv3 is None else functional.instance_norm(self.conv3(feature))
        return functional.leaky_relu(outer + shortcut, 0.01)


class UpBlock(nn.Module):
    """Double the grid, join with the skip connection, and mix by a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build a block of ``inputs`` to ``outputs`` channels; the skip connection has ``outputs``."""
        super().__init__()
        upsampling = nn.ConvTranspose3d(inputs, outputs, kernel_size=2, stride=2, bias=False)
        self.transp_conv = nn.Sequential(OrderedDict(conv=upsampling))
        self.conv_block = ResidualBlock(2 * outputs, outputs)

    def forward(
        self, deeper: Float[Tensor, "batch input x y z"], skip: Float[Tensor, "batch output x_2 y_2 z_2"]
    ) -> Float[Tensor, "batch output x_2 y_2 z_2"]:
        """Return the finer map."""
        joined: Tensor = self.conv_block(torch.cat([self.transp_conv(deeper), skip], dim=1))
        return joined


def _encoder(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layer=ResidualBlock(inputs, outputs)))


class SwinUNETR(nn.Module):
    """Swin Transformer encoder and convolutional decoder.

    Attributes:
        level_channels: channels of F_1..F_4: 16, 8, 4 and 2 times the feature size.
        embedding_channels: channels of the full-resolution embedding, the feature size.
    """

    def __init__(self, *, input_channels: int, feature_size: int) -> None:
        """Build with ``feature_size`` channels at full resolution, a multiple of 12."""
        super().__init__()
        size = feature_size
        self.level_channels: tuple[int, ...] = (16 * size, 8 * size, 4 * size, 2 * size)
        self.embedding_channels = size
        self.swinViT = SwinTransformer(input_channels, size)
        self.encoder1 = _encoder(input_channels, size)
        self.encoder2 = _encoder(size, size)
        self.encoder3 = _encoder(2 * size, 2 * size)
        self.encoder4 = _encoder(4 * size, 4 * size)
        self.encoder10 = _encoder(16 * size, 16 * size)
        self.decoder5 = UpBlock(16 * size, 8 * size)
        self.decoder4 = UpBlock(8 * size, 4 * size)
        self.decoder3 = UpBlock(4 * size, 2 * size)
        self.decoder2 = UpBlock(2 * size, size)
        self.decoder1 = UpBlock(size, size)

    def forward(self, image: Float[Tensor, "batch input x y z"]) -> PixelFeatures:
        """Return F_1..F_4 at strides 32, 16, 8, 4, and the embedding at full resolution.

        Sizes that are no multiples of 32 are padded by the border's values; the maps are cut to ceil(size / stride).
        At least one size must exceed 32: instance normalization is undefined over one voxel.
        """
        size = image.shape[2:]
        x, y, z = (-extent % DEEPEST_STRIDE for extent in size)
        if x or y or z:
            image = functional.pad(image, (0, z, 0, y, 0, x), mode="replicate")
        maps = self.swinViT(image)
        stride_32 = self.encoder10(maps[4])
        stride_16 = self.decoder5(stride_32, maps[3])
        stride_8 = self.decoder4(stride_16, self.encoder4(maps[2]))
        stride_4 = self.decoder3(stride_8, self.encoder3(maps[1]))
        stride_2 = self.decoder2(stride_4, self.encoder2(maps[0]))
        embedding = self.decoder1(stride_2, self.encoder1(image))
        levels = zip((stride_32, stride_16, stride_8, stride_4), (32, 16, 8, 4), strict=True)
        return PixelFeatures(
            levels=tuple(_crop(level, size, stride) for level, stride in levels), embedding=_crop(embedding, size, 1)
        )


def _crop(
    feature: Float[Tensor, "batch channel _ _ _"], size: tuple[int, ...], stride: int
) -> Float[Tensor, "batch channel x y z"]:
    x, y, z = (-(-extent // stride) for extent in size)
    return feature[:, :, :x, :y, :z]
