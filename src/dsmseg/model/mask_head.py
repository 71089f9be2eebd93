"""Masks as dot products of queries and voxels (§ 4.1, § 4.2), read from the embedding and from the map at stride 2."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dsmseg.model.features import PixelFeatures

FIRST_BIAS = -2.0
"""Of a mask's logits before training: most voxels are not of a given class."""


class MaskHead(nn.Module):
    """Masks as the dot product of query and voxel embeddings; query k is of class k, "a fixed match" (§ 4.1.1).

    The paper reads masks from the embedding alone, 48 channels in its network. With the 16 or 8 channels of a light
    backbone that is too narrow for 45 classes: what tells a tumor from its organ is in the decoder's map at stride 2
    and mostly not in the embedding (docs/decisions/0026). So a voxel's embedding is both of them, side by side.
    """

    def __init__(self, *, width: int, embedding_channels: int, half_channels: int = 0) -> None:
        """Build a head for queries of ``width``; without ``half_channels`` it is the paper's."""
        super().__init__()
        self.embedding_channels, self.half_channels = embedding_channels, half_channels
        hidden, output = nn.Linear(width, width), nn.Linear(width, embedding_channels + half_channels + 1)
        with torch.no_grad():
            output.bias[-1] = FIRST_BIAS
        self.kernel = nn.Sequential(nn.LayerNorm(width), hidden, nn.GELU(), output)

    def forward(
        self, queries: Float[Tensor, "batch query width"], features: PixelFeatures
    ) -> Float[Tensor, "batch query x y z"]:
        """Give mask logits. The last value of a query's kernel is its bias."""
        embedding = features.embedding
        kernel = self.kernel(queries).to(embedding.dtype)
        fine, coarse, bias = kernel.split([self.embedding_channels, self.half_channels, 1], dim=-1)
        masks: Tensor = (fine @ embedding.flatten(2)).unflatten(2, embedding.shape[2:])
        if not self.half_channels:
            masks += bias[..., None, None]  # in place: at full resolution, a map of 45 masks takes 160 MB
            return masks
        half = coarse @ features.half.to(embedding.dtype).flatten(2) + bias
        return add_doubled(masks, half.unflatten(2, features.half.shape[2:]))


def add_doubled(
    fine: Float[Tensor, "batch query x y z"], coarse: Float[Tensor, "batch query x_2 y_2 z_2"]
) -> Float[Tensor, "batch query x y z"]:
    """Add a map at stride 2 to one at stride 1, in place: each of its voxels to the eight that it covers.

    Where a size of ``fine`` is odd, the last voxel of ``coarse`` covers one instead of two.
    """
    total: Tensor = _AddDoubled.apply(fine, coarse)  # type: ignore[no-untyped-call]
    return total


class _AddDoubled(torch.autograd.Function):
    """Double and add in one pass, halve in the other: PyTorch's own ways take four to eight times as long."""

    @staticmethod
    def forward(ctx: Any, fine: Tensor, coarse: Tensor) -> Tensor:
        ctx.mark_dirty(fine)
        rows = coarse.repeat_interleave(2, dim=-1)[..., : fine.shape[4]]
        for x in (0, 1):
            for y in (0, 1):
                part = fine[:, :, x::2, y::2]
                part += rows[:, :, : part.shape[2], : part.shape[3]]
        return fine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        halved = gradients[0]
        for axis in (2, 3, 4):
            halved = _halved(halved, axis)
        return gradients[0], halved


def _halved(gradient: Tensor, axis: int) -> Tensor:
    """Add each two neighbors along an axis; a last one without a neighbor stays."""
    moved = gradient.movedim(axis, 0)
    pairs = len(moved) // 2 * 2
    summed = moved[0:pairs:2] + moved[1:pairs:2]
    if pairs < len(moved):
        summed = torch.cat([summed, moved[pairs:]])
    return summed.movedim(0, axis)
