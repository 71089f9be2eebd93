"""Semantic diffusion (§ 4.2.2): one explicit step that smooths a map everywhere but across semantic edges."""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Slices = tuple[slice, ...]

NEIGHBORS_BY_DISTANCE = (6, 12, 8)
"""How many of the 26 neighbors share a face, an edge, a corner with the center."""


def _pair_slices(offset: tuple[int, ...]) -> tuple[Slices, Slices]:
    """Slices of a (batch, channel, x, y, z) map that hold every p, and every p + offset, inside the map."""
    here = {-1: slice(1, None), 0: slice(None), 1: slice(None, -1)}
    there = {-1: slice(None, -1), 0: slice(None), 1: slice(1, None)}
    everything = (slice(None), slice(None))
    return everything + tuple(here[step] for step in offset), everything + tuple(there[step] for step in offset)


HALF_NEIGHBORHOOD: tuple[tuple[tuple[Slices, Slices], ...], ...] = tuple(
    tuple(
        _pair_slices(offset)
        for offset in itertools.product((-1, 0, 1), repeat=3)
        if offset > (0, 0, 0) and sum(map(abs, offset)) == distance
    )
    for distance in (1, 2, 3)
)
"""The 13 unordered neighbor pairs, grouped by what the two voxels share: 3 faces, 6 edges, 4 corners."""


class SemanticDiffusion(nn.Module):
    """The diffused difference of Eq. 17, which discretizes Eq. 16 at t = 1.

    The diffusivity is g = w_c exp(-s |D[q] - D[p]|^2), with |.|^2 the mean over guidance channels. Its learnable parts
    are shared by all neighbors at one distance (face, edge, corner): a sharpness s >= 0, and a weight w_c >= 0 for
    each channel. The 26 weights of a channel sum to less than 1, so that F + F^ is a convex combination of F's values:
    the step is stable and never leaves F's range. No flux crosses the border, so the sum over the map is kept.
    """

    def __init__(self, channels: int) -> None:
        """Build for feature maps of ``channels`` channels; the guidance may have any number."""
        super().__init__()
        distances = len(NEIGHBORS_BY_DISTANCE)
        softplus_of_one = math.log(math.e - 1)
        self.raw_sharpness = nn.Parameter(torch.full((distances,), softplus_of_one))
        # The additional share is what a voxel keeps at least of its own value.
        self.share_logits = nn.Parameter(torch.zeros(distances + 1, channels))
        self.register_buffer("neighbors", torch.tensor(NEIGHBORS_BY_DISTANCE)[:, None], persistent=False)
        self.neighbors: Tensor

    def neighbor_weights(self) -> Float[Tensor, "3 channel"]:
        """Return w_c of one neighbor that shares a face, an edge, a corner."""
        return self.share_logits.softmax(dim=0)[:-1] / self.neighbors

    def sharpness(self) -> Float[Tensor, "3"]:
        """Return s of neighbors that share a face, an edge, a corner."""
        return functional.softplus(self.raw_sharpness)

    def forward(
        self,
        feature: Float[Tensor, "batch channel x y z"],
        guidance: Float[Tensor, "batch guide x y z"],
    ) -> Float[Tensor, "batch channel x y z"]:
        """Return F^ of ``feature`` under ``guidance`` (Eq. 17), in the feature's type.

        The sums run in float32 at least: F^ is a sum of small differences, which half precision would lose.
        """
        precision = torch.promote_types(feature.dtype, torch.float32)
        source, guide = feature.to(precision), guidance.to(precision)
        weights = self.neighbor_weights()[:, :, None, None, None]
        total = torch.zeros_like(source)
        for pairs, weight, sharpness in zip(HALF_NEIGHBORHOOD, weights, self.sharpness(), strict=True):
            inflow = torch.zeros_like(source)
            for here, there in pairs:
                distance = (guide[there] - guide[here]).square().mean(dim=1, keepdim=True)
                # What enters one voxel leaves the other, so each pair is computed once.
                flux = torch.exp(-sharpness * distance) * (source[there] - source[here])
                inflow[here] += flux
                inflow[there] -= flux
            total = total + weight * inflow
        return total.to(feature.dtype)
