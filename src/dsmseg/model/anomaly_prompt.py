"""Anomaly mask visual prompt (§ 4.2.1): where no organ query responds, tumor queries look.

Or, as options, where organs are, and where an organ looks unlike its own center: "out-of-distribution regions within
organs".
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

SCORE_EPSILON = 1e-6
"""A map whose scores span less than this is constant to float32's precision: it marks nothing."""

ANOMALY_THRESHOLD = 0.5
"""Scores above this, after min-max, are anomalous (Eq. 15)."""

UNLIKE_ITSELF = 0.22
"""Deviation scores above this are open in the mask prompt: 1.5 robust standard deviations, 1 - exp(-(1.5 / 3)^2)."""

_UNUSUAL = 3.0  # standard deviations at which the score is 1 - 1/e, as in `dsmseg.inference.deviation`
_MAD_TO_SD = 1.4826  # of a normal distribution
_LEAST_SPREAD = 0.01  # of a HU window: 4 HU in one of soft tissue
_LEAST_VOXELS = 4  # of stride 4, some 3 ml at 2.5 mm: of fewer, center and spread mean nothing


def anomaly_score(response: Float[Tensor, "batch organ ..."]) -> Float[Tensor, "batch ..."]:
    """Return the negative of the strongest organ response of each voxel (Eq. 14).

    Args:
        response: soft query response R_i of the organ queries, before the argmax of Eq. 9.
    """
    return -response.amax(dim=1)


def min_max(score: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Scale each case's map to [0, 1] on its own, in float32. A constant map becomes zeros."""
    flat = score.flatten(1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    low = flat.amin(dim=1, keepdim=True)
    span = flat.amax(dim=1, keepdim=True) - low
    scaled = (flat - low) / span.clamp_min(SCORE_EPSILON)
    return torch.where(span < SCORE_EPSILON, 0.0, scaled).view_as(score)


def organ_prompt(score: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch voxel"]:
    """Return the mask that leads to the organs instead: "out-of-distribution regions within organs" (§ 1, § 4.2.1).

    Eq. 15 to the letter marks whatever no organ query answers for, which is mostly what is no organ at all. Here what
    counts is not anomalous by Eq. 15 and, since a tumor may be what no query answers for, a voxel around it in each
    direction. The others get -inf. The least anomalous voxel always counts, so no case is masked everywhere.

    Args:
        score: anomaly score of Eq. 14, ``(batch, x, y, z)``.
    """
    organs = min_max(score.detach()) <= ANOMALY_THRESHOLD
    near = functional.max_pool3d(organs.float().unsqueeze(1), 3, stride=1, padding=1).flatten(1) > 0
    return _closing(~near)


def mask_prompt(score: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch voxel"]:
    """Return the additive attention mask M_i of an anomaly map (Eq. 15).

    The map is scaled by ``min_max`` first. Anomalous voxels get 0, the others -inf, in the map's flattened order.
    A case whose every voxel would be masked gets no mask, since a softmax over nothing is undefined.
    """
    masked = min_max(score.detach()).flatten(1) <= ANOMALY_THRESHOLD
    masked &= ~masked.all(dim=1, keepdim=True)
    return _closing(masked)


def deviation_prompt(score: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch voxel"]:
    """Return the mask that leads to where organs look unlike themselves, by the score of `deviation_scores`.

    A case in which nothing deviates gets no mask.
    """
    masked = score.detach().flatten(1) <= UNLIKE_ITSELF
    masked &= ~masked.all(dim=1, keepdim=True)
    return _closing(masked)


@torch.no_grad()
def deviation_scores(
    image: Float[Tensor, "batch window x y z"], responses: Sequence[Float[Tensor, "batch organ x_i y_i z_i"]]
) -> list[Float[Tensor, "batch x_i y_i z_i"]]:
    """Give at each level how unlike its own organ a voxel is, 0..1, within the closed hulls of organs; 0 elsewhere.

    It is 1 - exp(-(z/3)^2), z being the robust standard deviations from the organ's median in this patch, in the HU
    window in which that is most. A voxel in several hulls counts by the organ that explains it best. It is computed at
    stride 4, where gaps of two voxels (16 to 24 mm at 2 to 3 mm) are closed; coarser levels hold the highest.

    Args:
        image: the network's input, HU windows scaled to [0, 1].
        responses: logits R_1..R_4 of the organ queries; the last, of stride 4, tells where organs are.
    """
    finest = responses[-1].float()
    values = functional.interpolate(image.float(), finest.shape[2:], mode="area")
    organs = finest > 0
    organs &= organs.flatten(2).sum(2)[..., None, None, None] >= _LEAST_VOXELS
    explained = torch.full_like(finest[:, 0], torch.inf)
    for organ in range(organs.shape[1]):
        deviation = _deviation(values, organs[:, organ])
        explained = torch.minimum(explained, deviation.masked_fill(~_closed(organs[:, organ]), torch.inf))
    explained = explained.masked_fill(explained.isinf(), 0)
    score = 1 - torch.exp(-((explained / _UNUSUAL) ** 2))
    return [functional.adaptive_max_pool3d(score[:, None], response.shape[2:])[:, 0] for response in responses]


def _deviation(
    values: Float[Tensor, "batch window x y z"], organ: Bool[Tensor, "batch x y z"]
) -> Float[Tensor, "batch x y z"]:
    """Give robust standard deviations from the organ's own median, of the window in which they are most."""
    own = values.masked_fill(~organ[:, None], torch.nan).flatten(2)
    center = own.nanmedian(dim=2, keepdim=True).values
    spread = _MAD_TO_SD * (own - center).abs().nanmedian(dim=2, keepdim=True).values + _LEAST_SPREAD
    far = (values.flatten(2) - center).abs() / spread
    return far.nan_to_num(0).amax(dim=1).view_as(organ)


def _closed(mask: Bool[Tensor, "batch x y z"]) -> Bool[Tensor, "batch x y z"]:
    """Close gaps of two voxels: dilate, then erode. Beyond the patch, the hull may go on."""
    dilated = functional.max_pool3d(mask.float(), 3, stride=1, padding=1)
    return functional.max_pool3d(1 - dilated, 3, stride=1, padding=1) == 0


def _closing(masked: Bool[Tensor, "batch voxel"]) -> Float[Tensor, "batch voxel"]:
    """Give what attention adds: -inf where ``masked``, else 0."""
    return torch.zeros_like(masked, dtype=torch.float32).masked_fill(masked, -torch.inf)
