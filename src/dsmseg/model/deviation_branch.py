"""What Stage 2 sees beside the backbone's maps: how far each voxel is from the center of the organ that explains it.

"Out-of-distribution regions within organs" (§ 1, § 4.2.1). A tumor is told from its organ by what the organ looks like
in this very scan, which a network of convolutions would first have to gather from all of the organ. Here it is gathered
for it: organ queries say where an organ is, and its center is subtracted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.attention import START_SCALE
from dsmseg.model.mask_head import add_doubled
from dsmseg.model.pointwise import PointwiseConvolution

_MOST_SPREADS = 5.0  # of an organ's voxels; beyond that it is surely not the organ
_LEAST_SPREAD = 0.1  # units, 4 HU: less than the noise of any scan
_TO_DEVIATION = 1.4826  # of a median distance, to the standard deviation of what is spread normally
_UNIT = 0.1  # of a HU window, 42 HU in one of soft tissue: what a clearly visible tumor differs by
_MOST = 3.0  # units; beyond that it is gas, bone or metal, however far
_CLAIMS = -2.0  # logit, a probability of 0.12: a tumor is a part of its organ that the mask is less sure of
_CLAIMED = 0.6  # share of a voxel of stride 4 that an organ claims where its center is taken from: its surface is not
_DETAILS = 16
"""Channels at full resolution."""

BESIDE = 5
"""Channels of `center_deviations` beside a distance in every HU window."""

_GAIN = 3.0  # of what comes in: weights that it is read with need be a third as large, which few steps reach
_LEAK = 0.01  # of what is below zero; nnU-Net's
_LEAST_VOXELS = 4  # of stride 4, some 7 ml at 3 mm: of fewer, a center means nothing


@torch.no_grad()
def center_deviations(
    image: Float[Tensor, "batch window x y z"], organ_logits: Float[Tensor, "batch organ x y z"]
) -> Float[Tensor, "batch seen x y z"]:
    """Give each voxel's signed distance from the center of its organ, plain and smoothed, and whether it is in one.

    A voxel belongs to the organ whose mask claims it most; what none claims, even faintly, has no distance. An organ's
    center is the median of what it surely claims in this patch. Organs are taken at full resolution: a voxel of the
    surface is half fat, and with its place known it is not taken for a dark tumor.

    The channels: the distance in every HU window, in tenths of it, cut at 3; how likely the voxel is in that organ, and
    which share of its neighbors is in any. Then the first window's distance as a mean over the neighbors that are in
    organs too, which a tumor is seen by where noise hides it (docs/decisions/0042): over 3 x 3 x 3 voxels in tenths of
    the window, and over 3 x 3 x 3 and 5 x 5 x 5 voxels relative to how much the organ's voxels spread, cut at 5.

    Args:
        image: the network's input, HU windows scaled to [0, 1].
        organ_logits: of the organs' masks.
    """
    image = image.float()
    claim, owner = organ_logits.max(dim=1)
    sure = torch.where(claim > 0, owner, -1)
    centers = _centers(image, sure, organ_logits.shape[1])
    own = centers.gather(2, owner.flatten(1)[:, None].expand(-1, image.shape[1], -1)).view_as(image)
    inside = (claim > _CLAIMS)[:, None] & own.isfinite()[:, :1]
    deviation = ((image - own) / _UNIT).clamp_(-_MOST, _MOST).masked_fill_(~inside, 0.0)
    spread = _spreads(deviation[:, 0], torch.where(inside[:, 0], sure, -1), organ_logits.shape[1])
    spread = spread.gather(1, owner.flatten(1)).view_as(deviation[:, :1])
    share = inside.float()
    likely = share * claim.float().sigmoid()[:, None]
    near = _mean(share, 3)
    close, wide = (_mean_within(deviation[:, :1], share, size) for size in (3, 5))
    relative = [(mean / spread).clamp_(-_MOST_SPREADS, _MOST_SPREADS) for mean in (close, wide)]
    return torch.cat([deviation, likely, near, close, *relative], dim=1)


def _centers(
    image: Float[Tensor, "batch window x y z"], owner: Int[Tensor, "batch x y z"], organs: int
) -> Float[Tensor, "batch window organ"]:
    """Give the median, over voxels of stride 4, of what each organ claims; no number where that is too little."""
    values = functional.avg_pool3d(image, 4, ceil_mode=True).flatten(2)
    centers = image.new_full((*image.shape[:2], organs), torch.nan)
    for organ in _shown(owner, organs):
        share = functional.avg_pool3d((owner == organ).float()[:, None], 4, ceil_mode=True).flatten(2)
        core = share > _CLAIMED
        enough = core.sum(2) >= _LEAST_VOXELS
        median = values.masked_fill(~core, torch.nan).nanmedian(dim=2).values
        centers[:, :, organ] = torch.where(enough, median, torch.nan)
    return centers


def _spreads(
    deviation: Float[Tensor, "batch x y z"], owner: Int[Tensor, "batch x y z"], organs: int
) -> Float[Tensor, "batch organ"]:
    """Give how far a voxel of each organ usually is from its center: the median distance, as a standard deviation."""
    spreads = deviation.new_ones(len(deviation), organs)
    for item, (own, distance) in enumerate(zip(owner, deviation.abs(), strict=True)):
        for organ in _shown(own, organs):
            spreads[item, organ] = distance[own == organ].median() * _TO_DEVIATION
    return spreads.clamp_(min=_LEAST_SPREAD)


def _shown(owner: Int[Tensor, "*place"], organs: int) -> list[int]:
    """Give the organs that claim anything."""
    shown: list[int] = torch.bincount(owner.flatten() + 1, minlength=organs + 1)[1:].nonzero().flatten().tolist()
    return shown


def _mean_within(
    values: Float[Tensor, "batch 1 x y z"], inside: Float[Tensor, "batch 1 x y z"], size: int
) -> Float[Tensor, "batch 1 x y z"]:
    """Give the mean over the voxels of a cube that are inside, where its middle is; ``values`` are 0 outside."""
    mean, share = _mean(values, size), _mean(inside, size)
    return torch.where(inside > 0, mean / share.clamp(min=1 / size**3), 0.0)


def _mean(values: Float[Tensor, "batch 1 x y z"], size: int) -> Float[Tensor, "batch 1 x y z"]:
    """Give the mean over a cube around each voxel, axis by axis; beyond the patch there is 0."""
    for axis in range(3):
        sides = [size if one == axis else 1 for one in range(3)]
        padding = [part for one in reversed(sides) for part in (one // 2, one // 2)]
        values = functional.avg_pool3d(functional.pad(values, padding), sides, stride=1)
    return values


class DeviationBranch(nn.Module):
    """A small U-Net, of strides 2, 4 and 8, that looks at `center_deviations`.

    The masks of tumors read what comes in, its map at stride 2, and one at full resolution, which shows the outline of
    small lesions; F_3 and F_4 gain its maps at strides 8 and 4. It tells beside how much a voxel looks like a tumor, of
    whatever organ: what kinds are answered by that no label ever showed. It has no normalization: what comes in has a
    scale of its own, and a patch that shows little of an organ must look like one that shows all of it. What the levels
    gain begins near zero, so that Stage 2 begins with what Stage 1 has learned.
    """

    channels = 48
    """Of the map at stride 2; twice as many at strides 4 and 8."""

    def __init__(self, *, windows: int, level_channels: Sequence[int]) -> None:
        """Build for images of so many HU ``windows``, and for the levels, deepest first."""
        super().__init__()
        fine, coarse = self.channels, 2 * self.channels
        self.seen_channels = 2 * windows + BESIDE
        self.read_channels = self.seen_channels + _DETAILS
        self.at_2 = nn.Sequential(_Block(self.seen_channels, fine, stride=2), _Block(fine, fine))
        self.at_4 = nn.Sequential(_Block(fine, coarse, stride=2), _Block(coarse, coarse))
        self.at_8 = nn.Sequential(_Block(coarse, coarse, stride=2), _Block(coarse, coarse))
        self.up_to_4 = PointwiseConvolution(coarse, coarse, kernel_size=1)
        self.up_to_2 = PointwiseConvolution(coarse, fine, kernel_size=1)
        self.back_at_4, self.back_at_2 = _Block(coarse, coarse), _Block(fine, fine)
        self.at_1 = _convolution(self.seen_channels, _DETAILS)
        self.up_to_1 = PointwiseConvolution(fine, _DETAILS, kernel_size=1)
        self.back_at_1 = nn.Sequential(nn.LeakyReLU(_LEAK, inplace=True), _Block(_DETAILS, _DETAILS))
        self.any_tumor = PointwiseConvolution(fine + self.seen_channels, 1, kernel_size=1)
        self.to_levels = nn.ModuleList(
            PointwiseConvolution(coarse, channels, kernel_size=1) for channels in level_channels[-2:]
        )
        with torch.no_grad():
            for parameter in self.to_levels.parameters():
                parameter.mul_(START_SCALE)

    def forward(
        self,
        image: Float[Tensor, "batch window x y z"],
        organ_logits: Float[Tensor, "batch organ x y z"],
    ) -> "Deviations":
        """Return what the branch sees of an ``image`` with the masks of Stage 1's organs."""
        seen = _GAIN * torch.cat([center_deviations(image, organ_logits).to(image.dtype), image], dim=1)
        half = self.at_2(seen)
        quarter = self.at_4(half)
        eighth = self.at_8(quarter)
        quarter = self.back_at_4(quarter + _upsample(self.up_to_4(eighth), quarter))
        half = self.back_at_2(half + _upsample(self.up_to_2(quarter), half))
        coarse = functional.avg_pool3d(seen, 2, ceil_mode=True).to(half.dtype)
        any_tumor = self.any_tumor(torch.cat([half, coarse], dim=1))[:, 0]
        details = self.back_at_1(add_doubled(self.at_1(seen), self.up_to_1(half)))
        return Deviations(torch.cat([seen, details.to(seen.dtype)], dim=1), half, quarter, eighth, any_tumor)

    def added_to(
        self, levels: Sequence[Float[Tensor, "batch channel_i x_i y_i z_i"]], seen: "Deviations"
    ) -> list[Float[Tensor, "batch channel_i x_i y_i z_i"]]:
        """Return F_1..F_4 with what F_3 and F_4 gain."""
        levels = list(levels)
        for place, project, gained in zip((-2, -1), self.to_levels, (seen.eighth, seen.quarter), strict=True):
            levels[place] = levels[place] + project(gained)
        return levels


class Deviations(NamedTuple):
    """What `DeviationBranch` sees.

    read: at full resolution what comes in, `center_deviations` and the image, and its map there.
    half, quarter, eighth: its maps at strides 2, 4 and 8. any_tumor: logits at stride 2.
    """

    read: Float[Tensor, "batch read x y z"]
    half: Float[Tensor, "batch channel x_2 y_2 z_2"]
    quarter: Float[Tensor, "batch channel_4 x_4 y_4 z_4"]
    eighth: Float[Tensor, "batch channel_4 x_8 y_8 z_8"]
    any_tumor: Float[Tensor, "batch x_2 y_2 z_2"]


class _Block(nn.Sequential):
    """A convolution and a leaky ReLU, as in nnU-Net; what goes through keeps its scale at first (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__(_convolution(inputs, outputs, stride), nn.LeakyReLU(_LEAK, inplace=True))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv3d:
    convolution = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(convolution.weight, _LEAK, nonlinearity="leaky_relu")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


def _upsample(feature: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(feature, size=like.shape[2:], mode="nearest")
