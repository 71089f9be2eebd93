"""Swin UNETR (Hatamizadeh et al. 2022), the backbone of § 5.3.

Parameter names and arithmetic are those of ``monai.networks.nets.SwinUNETR`` 1.6, without its final ``out``
convolution: its weights load unchanged once ``out.*`` is left away.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.features import PixelFeatures
from dsmseg.model.kernels import use_inference
from dsmseg.model.swin_transformer import SwinTransformer

DEEPEST_STRIDE = 32
SLOPE = 0.01
"""Of the leaky rectifier."""


class Convolution(nn.Sequential):
    """A convolution without bias, under the name that the published weights give it."""

    conv: nn.Conv3d | nn.ConvTranspose3d

    def __init__(self, conv: nn.Conv3d | nn.ConvTranspose3d) -> None:
        """Hold ``conv``."""
        super().__init__(OrderedDict(conv=conv))


def _convolution(inputs: int, outputs: int, kernel_size: int) -> Convolution:
    return Convolution(nn.Conv3d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False))


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
        if use_inference(feature):
            return self.in_slabs(partial(_copy_planes, feature), feature.shape)
        inner = functional.leaky_relu(functional.instance_norm(self.conv1(feature)), SLOPE)
        outer = functional.instance_norm(self.conv2(inner))
        shortcut = feature if self.conv3 is None else functional.instance_norm(self.conv3(feature))
        return functional.leaky_relu(outer + shortcut, SLOPE)

    def in_slabs(
        self, planes: Callable[[int, int, Float[Tensor, "1 input plane y z"]], None], shape: Sequence[int]
    ) -> Float[Tensor, "batch output x y z"]:
        """Do the same by the kernel: ``planes`` writes a batch item's planes, from a first one, of the input."""
        from dsmseg.model.kernels.residual_block import Weights, residual_block

        first, second = self.conv1.conv.weight, self.conv2.conv.weight
        weights = Weights(first, second, self.conv3.conv.weight if self.conv3 is not None else None)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else first.dtype
        output = torch.empty((shape[0], len(first), *shape[2:]), dtype=dtype, memory_format=torch.channels_last_3d)
        inner = torch.empty_like(output[:1])
        for item in range(shape[0]):
            residual_block(partial(planes, item), inner, output[item : item + 1], weights, slope=SLOPE)
        return output


class UpBlock(nn.Module):
    """Double the grid, join with the skip connection, and mix by a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build a block of ``inputs`` to ``outputs`` channels; the skip connection has ``outputs``."""
        super().__init__()
        upsampling = nn.ConvTranspose3d(inputs, outputs, kernel_size=2, stride=2, bias=False)
        self.transp_conv = Convolution(upsampling)
        self.conv_block = ResidualBlock(2 * outputs, outputs)

    def forward(
        self, deeper: Float[Tensor, "batch input x y z"], skip: Float[Tensor, "batch output x_2 y_2 z_2"]
    ) -> Float[Tensor, "batch output x_2 y_2 z_2"]:
        """Return the finer map."""
        if use_inference(deeper):
            return self.conv_block.in_slabs(partial(self._join_planes, deeper, skip), skip.shape)
        joined: Tensor = self.conv_block(torch.cat([self.transp_conv(deeper), skip], dim=1))
        return joined

    def _join_planes(
        self,
        deeper: Float[Tensor, "batch input x y z"],
        skip: Float[Tensor, "batch output x_2 y_2 z_2"],
        item: int,
        start: int,
        into: Float[Tensor, "1 joined plane y_2 z_2"],
    ) -> None:
        from dsmseg.model.kernels.products import double_grid

        first, stop, half = start // 2, (start + into.shape[2]) // 2, skip.shape[1]
        double_grid(deeper[item : item + 1, :, first:stop], self.transp_conv.conv.weight, into[:, :half])
        _copy_planes(skip, item, start, into[:, half:])


def _copy_planes(
    feature: Float[Tensor, "batch channel x y z"], item: int, start: int, into: Float[Tensor, "1 channel plane y z"]
) -> None:
    into.copy_(feature[item : item + 1, :, start : start + into.shape[2]])


def _encoder(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layer=ResidualBlock(inputs, outputs)))


class SwinUNETR(nn.Module):
    """Swin Transformer encoder and convolutional decoder.

    Attributes:
        level_channels: channels of F_1..F_4: 16, 8, 4 and 2 times the feature size.
        half_channels, embedding_channels: channels at stride 2 and at full resolution, the feature size.
    """

    def __init__(self, *, input_channels: int, feature_size: int) -> None:
        """Build with ``feature_size`` channels at full resolution, a multiple of 12."""
        super().__init__()
        size = feature_size
        self.level_channels: tuple[int, ...] = (16 * size, 8 * size, 4 * size, 2 * size)
        self.half_channels = self.embedding_channels = size
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
        if image.device.type == "cpu":
            # A copy, for an image of one channel counts as both formats, and the convolutions would take the slower.
            image = torch.empty_like(image, memory_format=torch.channels_last_3d).copy_(image)
        maps = self.swinViT(image)
        stride_32 = self.encoder10(maps[4])
        stride_16 = self.decoder5(stride_32, maps[3])
        stride_8 = self.decoder4(stride_16, self.encoder4(maps[2]))
        stride_4 = self.decoder3(stride_8, self.encoder3(maps[1]))
        stride_2 = self.decoder2(stride_4, self.encoder2(maps[0]))
        embedding = self.decoder1(stride_2, self.encoder1(image))
        levels = zip((stride_32, stride_16, stride_8, stride_4), (32, 16, 8, 4), strict=True)
        return PixelFeatures(
            levels=tuple(_crop(level, size, stride) for level, stride in levels),
            half=_crop(stride_2, size, 2),
            embedding=_crop(embedding, size, 1),
        )


def _crop(
    feature: Float[Tensor, "batch channel _ _ _"], size: tuple[int, ...], stride: int
) -> Float[Tensor, "batch channel x y z"]:
    x, y, z = (-(-extent // stride) for extent in size)
    return feature[:, :, :x, :y, :z]
