"""Anomaly mask visual prompt (§ 4.2.1): where no organ query responds, tumor queries look."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

SCORE_EPSILON = 1e-6
"""A map whose scores span less than this is constant to float32's precision: it marks nothing."""

ANOMALY_THRESHOLD = 0.5
"""Scores above this, after min-max, are anomalous (Eq. 15)."""


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


def _closing(masked: Bool[Tensor, "batch voxel"]) -> Float[Tensor, "batch voxel"]:
    """Give what attention adds: -inf where ``masked``, else 0."""
    return torch.zeros_like(masked, dtype=torch.float32).masked_fill(masked, -torch.inf)
