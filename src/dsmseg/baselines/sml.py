"""Standardized max logits, SML (Table 2): a voxel is an anomaly if its class is named less surely than is usual for it.

Source: Jung et al. 2021, "Standardized Max Logits: A Simple yet Effective Approach for Identifying Unexpected Road
Obstacles in Urban-Scene Segmentation", ICCV, arXiv 2107.11264. Code of the original: shjung13/Standardized-max-logits,
Apache-2.0; this is written from the paper.

As there: on top of a trained segmentation network, each voxel's largest logit is standardized by mean and standard
deviation of the largest logits of its predicted class over the training data, s = (max logit - mean) / deviation.
Scores near boundaries between predicted classes, where logits are small everywhere, are replaced by those of
neighbors that are not (several rounds, over ever narrower boundaries), and the map is smoothed by a Gaussian. The
anomaly is -s. Nothing is trained by gradients.

Differences from the original:
- Three dimensions: boundaries of 2, then 1 voxels (L1) in the place of several pixels; means over 3x3x3; a Gaussian of
  7x7x7 with standard deviation 1 and no dilation, since a dilation of 6 would smooth over whole organs.
- The network has sigmoids and no class for the rest of the body. A voxel where no class has a positive logit is
  background, whose logit is minus the largest: the log-odds that no class is there, if the strongest is not.
- Classes without labels are left out of the largest logit. A class that fewer than 2 voxels were predicted to be has
  the mean and deviation of all voxels.
- The mapping to [0, 1] is 1 + A = sigmoid(-s), which changes no order.
- Statistics are those of the patches that training draws, without augmentation.

Organs and trained tumors are the segmentation network's. Unseen tumors: the anomaly, 1 + A, is their probability.
"""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from dsmseg.baselines.baseline import BaselineOutput, UnseenAnswer, unseen_answer
from dsmseg.baselines.swin_unetr import SwinUNETRBaseline
from dsmseg.model import DSMConfig

BOUNDARIES = (2, 1)
"""Widths in voxels of the boundaries that are suppressed, one round each."""

GAUSSIAN_SIZE, GAUSSIAN_DEVIATION = 7, 1.0
LEAST_DEVIATION = 1e-3
ENOUGH = 2
"""Voxels that a class needs for a mean and a deviation of its own."""


class MaxLogits(NamedTuple):
    """The largest logit of each voxel, and the class that has it; the last class is background."""

    value: Float[Tensor, "batch x y z"]
    predicted: Int[Tensor, "batch x y z"]


class StandardizedMaxLogits(SwinUNETRBaseline):
    """The swin_unetr baseline with the statistics of its largest logits."""

    answers_unseen_by: ClassVar[UnseenAnswer] = "anomaly"

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, config: DSMConfig, trained: Bool[Tensor, "class"] | None = None) -> None:
        """count, mean and variance are buffers, one value a class and one for background."""
        super().__init__(config, trained)
        self.register_buffer("count", torch.zeros(self.classes + 1, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(self.classes + 1))
        self.register_buffer("variance", torch.ones(self.classes + 1))

    def forward(self, image: Float[Tensor, "batch window x y z"]) -> BaselineOutput:
        """Segment ``image`` as the segmentation network does, and score it."""
        logits = self.logits(image)
        minus_score = -self.score(max_logits(logits, self.trained))
        organs, tumors = logits.tensor_split([self.organs], dim=1)
        if not self.training:
            tumors = unseen_answer(tumors, self.trained_tumors, minus_score)
        return BaselineOutput(organs, tumors, minus_score.sigmoid() - 1)

    def score(self, largest: MaxLogits) -> Float[Tensor, "batch x y z"]:
        """Give s, suppressed at boundaries and smoothed."""
        mean, deviation = self.statistics()
        score = (largest.value - mean[largest.predicted]) / deviation[largest.predicted]
        for width in BOUNDARIES:
            score = suppress_boundary(score, boundary(largest.predicted, width))
        return smooth(score)

    def statistics(self) -> tuple[Float[Tensor, "class"], Float[Tensor, "class"]]:
        """Give mean and deviation of each class; those of all voxels where a class has too few."""
        count, mean, variance = self.count.double(), self.mean.double(), self.variance.double()
        share = count / count.sum().clamp(min=1)
        of_all = (share * mean).sum()
        spread = (share * (variance + (mean - of_all) ** 2)).sum()
        enough = self.count >= ENOUGH
        deviation = torch.where(enough, variance, spread).sqrt().clamp(min=LEAST_DEVIATION)
        return torch.where(enough, mean, of_all).float(), deviation.float()

    @torch.no_grad()
    def moments(self, image: Float[Tensor, "batch window x y z"]) -> Float[Tensor, "class 3"]:
        """Give each predicted class's number of voxels, the sum of their largest logits, and that of the squares."""
        value, predicted = max_logits(self.logits(image), self.trained)
        value, index = value.double().flatten(), predicted.flatten()
        powers = torch.stack([torch.ones_like(value), value, value**2], dim=1)
        return powers.new_zeros(self.classes + 1, 3).index_add_(0, index, powers)

    @torch.no_grad()
    def add(self, moments: Float[Tensor, "class 3"]) -> None:
        """Add what ``moments`` gave, of one batch or the sum of several, to the statistics."""
        number, total, squares = moments.unbind(dim=1)
        mean = total / number.clamp(min=1)
        variance = (squares / number.clamp(min=1) - mean**2).clamp(min=0)
        weight = number / (number + self.count).clamp(min=1)
        apart = mean - self.mean
        spread = self.variance + weight * (variance - self.variance) + weight * (1 - weight) * apart**2
        self.variance.copy_(torch.where(number > 0, spread, self.variance.double()))
        self.mean.copy_(self.mean + weight * apart)
        self.count += number.long()


def max_logits(logits: Float[Tensor, "batch class x y z"], trained: Bool[Tensor, "class"]) -> MaxLogits:
    """Give the largest logit among the ``trained`` classes and background; see the module's docstring."""
    known = logits.float().masked_fill(~trained[:, None, None, None], -torch.inf)
    value, predicted = known.max(dim=1)
    return MaxLogits(value.abs(), torch.where(value > 0, predicted, logits.shape[1]))


def boundary(predicted: Int[Tensor, "batch x y z"], width: int) -> Bool[Tensor, "batch x y z"]:
    """Tell which voxels have one of another class at a distance, in L1, of at most ``width``."""
    near = torch.zeros_like(predicted, dtype=torch.bool)
    for axis in (1, 2, 3):
        differs = predicted.narrow(axis, 1, predicted.shape[axis] - 1) != predicted.narrow(
            axis, 0, predicted.shape[axis] - 1
        )
        near |= _beside(differs, axis)
    for _ in range(width - 1):
        near = near | torch.stack([_grown(near, axis) for axis in (1, 2, 3)]).any(dim=0)
    return near


def suppress_boundary(
    score: Float[Tensor, "batch x y z"], at_boundary: Bool[Tensor, "batch x y z"]
) -> Float[Tensor, "batch x y z"]:
    """Replace scores at the boundary by the mean of the 3x3x3 neighbors that are not; without any, keep them."""
    kept = (~at_boundary).to(score.dtype)[:, None]
    around = functional.avg_pool3d(kept, 3, stride=1, padding=1)
    mean = functional.avg_pool3d(kept * score[:, None], 3, stride=1, padding=1) / around.clamp(min=1e-6)
    return torch.where(at_boundary & (around[:, 0] > 1e-6), mean[:, 0], score)


def smooth(score: Float[Tensor, "batch x y z"]) -> Float[Tensor, "batch x y z"]:
    """Smooth by a Gaussian of 7x7x7 voxels; beyond the border the outermost voxel."""
    radius = GAUSSIAN_SIZE // 2
    place = torch.arange(-radius, radius + 1, device=score.device, dtype=score.dtype)
    weight = torch.exp(-0.5 * (place / GAUSSIAN_DEVIATION) ** 2)
    weight = weight / weight.sum()
    field = functional.pad(score[:, None], (radius,) * 6, mode="replicate")
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = GAUSSIAN_SIZE
        field = functional.conv3d(field, weight.view(shape))
    return field[:, 0]


def _beside(differs: Bool[Tensor, "..."], axis: int) -> Bool[Tensor, "batch x y z"]:
    """Mark the voxels on both sides of each place, along an axis, where classes differ."""
    edge = torch.zeros_like(differs.narrow(axis, 0, 1))
    return torch.cat([edge, differs], dim=axis) | torch.cat([differs, edge], dim=axis)


def _grown(mask: Bool[Tensor, "batch x y z"], axis: int) -> Bool[Tensor, "batch x y z"]:
    """Mark also the neighbors along an axis."""
    length = mask.shape[axis] - 1
    return _beside(mask.narrow(axis, 1, length) | mask.narrow(axis, 0, length), axis)
