"""§ 4.1.2 and § 4.2.4: Dice and binary cross-entropy for partially labelled scans, Eq. 11-13.

Unknown is not background: only classes that a scan's data set annotates enter a loss, and the others get a gradient of
exactly zero.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

SMOOTHING = 1.0  # voxels; makes Dice defined where a class is absent


@dataclass(frozen=True, slots=True)
class PartialLabels:
    """What is known of a batch.

    masks: the voxels of each class, ``(batch, class, x, y, z)``; of merged classes, both hold the union.
    annotated: which classes the scan's data set annotates, ``(batch, class)``.
    merged: pairs of class indices, such as both lungs, that this batch's data sets do not tell apart, each with the
        batch items it holds for: ``(item, left, right)``.
    """

    masks: Bool[Tensor, "batch class x y z"]
    annotated: Bool[Tensor, "batch class"]
    merged: tuple[tuple[int, int, int], ...] = ()


def part_of(labels: PartialLabels, first: int, end: int) -> PartialLabels:
    """Give what is known of the classes from ``first`` up to ``end``."""
    merged = tuple(one for one in labels.merged if first <= one[1] < end and first <= one[2] < end)
    shifted = tuple((item, left - first, right - first) for item, left, right in merged)
    return PartialLabels(labels.masks[:, first:end], labels.annotated[:, first:end], shifted)


def dice_loss(
    logits: Float[Tensor, "batch class x y z"], target: Float[Tensor, "batch class x y z"]
) -> Float[Tensor, "batch class"]:
    """Dice loss of each class, 1 - 2 sum(Y Y^) / sum(Y + Y^) (Eq. 11), with Y^ the sigmoid of ``logits``.

    Eq. 11 as printed divides voxel by voxel, which is undefined on background; this is soft Dice over the volume.
    ``target`` is Y, or at a coarse level the part of each voxel that the class fills.
    """
    probability, space = logits.sigmoid(), (2, 3, 4)
    overlap = 2.0 * (probability * target).sum(space) + SMOOTHING
    extent = probability.sum(space) + target.sum(space) + SMOOTHING
    return 1.0 - overlap / extent


def cross_entropy_loss(
    logits: Float[Tensor, "batch class x y z"], target: Float[Tensor, "batch class x y z"]
) -> Float[Tensor, "batch class"]:
    """Cross-entropy of each class, -(Y log Y^ + (1 - Y) log(1 - Y^)) (Eq. 12), with Y^ the sigmoid of ``logits``.

    Eq. 12 as printed sums over voxels, which drowns Eq. 11; this is the mean over voxels. In Stage 2 ``target`` is
    diag(p) Y (§ 4.2.4).
    """
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3, 4))


def mask_loss(
    logits: Float[Tensor, "batch class x y z"],
    labels: PartialLabels,
    certainty: Float[Tensor, "batch class"] | None = None,
    *,
    cross_entropy_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """L = L_Dice + L_BCE of Eq. 13: Dice (Eq. 11) plus cross-entropy, mean over the annotated classes of the batch.

    The sum over K classes is a mean, and the cross-entropy counts ``cross_entropy_weight`` times. A class that fills a
    thousandth of a patch needs a weight well above 1, or it is given up early: where its soft mask is near zero, Dice
    has no gradient. A merged pair is judged as one class: max(left, right) against the union. In Stage 2
    ``certainty`` is p of Eq. 20, and the target of the cross-entropy is diag(p) Y (§ 4.2.4); of a merged pair, p is the
    mean of both sides'.
    """
    logits, annotated = _merge_pairs(logits, labels)
    if certainty is None:
        certainty = logits.new_ones(annotated.shape, dtype=torch.float32)
    for item, left, right in labels.merged:
        certainty = certainty.clone()
        certainty[item, left] = (certainty[item, left] + certainty[item, right]) / 2
    terms: tuple[Tensor, Tensor] = MaskLossTerms.apply(  # type: ignore[no-untyped-call]
        logits, labels.masks, annotated, certainty
    )
    dice, cross_entropy = terms
    return (dice + cross_entropy_weight * cross_entropy).sum() / annotated.sum().clamp(min=1)


def response_loss(
    responses: list[Float[Tensor, "batch class x_i y_i z_i"]],
    labels: PartialLabels,
    *,
    cross_entropy_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Supervise every level's response, as kMaX-DeepLab does: argmax passes no gradient to what lies before it.

    The target of a coarse voxel is the part of it that the class fills.
    """
    total = responses[0].new_zeros(())
    occupancy = labels.masks.float()
    for response in reversed(responses):
        stride = occupancy.shape[-1] // response.shape[-1]
        occupancy = functional.avg_pool3d(occupancy, stride)
        merged_response, annotated = _merge_pairs(response, labels)
        # What is not annotated is left out before the terms, not only after: 0 times its overflow would be no number.
        known = merged_response.float().masked_fill(~annotated[:, :, None, None, None], 0.0)
        terms = dice_loss(known, occupancy) + cross_entropy_weight * cross_entropy_loss(known, occupancy)
        terms = torch.where(annotated, terms, 0.0)
        total = total + terms.sum() / annotated.sum().clamp(min=1)
    return total / len(responses)


def presence_loss(presence: Float[Tensor, "batch class"], labels: PartialLabels) -> Float[Tensor, ""]:
    """BCE on whether each annotated class is in the patch at all (§ 4.1.2, "category information")."""
    target = labels.masks.flatten(2).any(-1).to(presence.dtype)
    presence, annotated = _merge_pairs(presence, labels)
    known = presence.masked_fill(~annotated, 0.0)
    terms = functional.binary_cross_entropy_with_logits(known, target, reduction="none")
    return torch.where(annotated, terms, 0.0).sum() / annotated.sum().clamp(min=1)


@torch.no_grad()
def soft_dice(logits: Float[Tensor, "batch class x y z"], labels: PartialLabels) -> float:
    """Give the mean soft Dice of the annotated classes that are in the patches: how well training goes."""
    scores = []
    logits, annotated = _merge_pairs(logits, labels)
    for item, index in annotated.nonzero().tolist():
        mask = labels.masks[item, index]
        if mask.any():
            probability = logits[item, index].float().sigmoid()
            scores.append(float(2.0 * probability[mask].sum() / (probability.sum() + mask.sum())))
    return sum(scores) / max(1, len(scores))


class MaskLossTerms(torch.autograd.Function):
    """``dice_loss`` and ``cross_entropy_loss`` of each annotated class, with their analytic gradient: the fast twin.

    Works class by class, so that what a class needs stays in the processor's cache; autograd over the whole tensor
    costs as much as a small network.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, masks: Tensor, annotated: Tensor, certainty: Tensor) -> tuple[Tensor, Tensor]:
        """Give ``(dice, cross_entropy)``, each ``(batch, class)``, zero where not annotated."""
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        sums = logits.new_zeros((*annotated.shape, 3), dtype=wide)
        terms = logits.new_zeros((*annotated.shape, 2), dtype=wide)
        for item, index in annotated.nonzero().tolist():
            logit, mask = logits[item, index].to(wide), masks[item, index].to(wide)
            probability = logit.sigmoid()
            overlap = 2.0 * (probability * mask).sum() + SMOOTHING
            extent = probability.sum() + mask.sum() + SMOOTHING
            inside = (logit * mask).mean()
            sums[item, index] = torch.stack([overlap, extent, inside])
            terms[item, index, 0] = 1.0 - overlap / extent
            terms[item, index, 1] = functional.softplus(logit).mean() - certainty[item, index] * inside
        ctx.save_for_backward(logits, masks, annotated, certainty, sums)
        return terms[..., 0], terms[..., 1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, Tensor]:
        """Give d terms / d logits and d terms / d certainty; classes that are not annotated get exactly zero."""
        logits, masks, annotated, certainty, sums = ctx.saved_tensors
        gradient = torch.zeros_like(logits)
        for item, index in annotated.nonzero().tolist():
            mask = masks[item, index].to(sums.dtype)
            probability = logits[item, index].to(sums.dtype).sigmoid()
            overlap, extent, _ = sums[item, index]
            by_dice = gradients[0][item, index] * (overlap - 2.0 * extent * mask) / extent**2
            by_cross_entropy = gradients[1][item, index] / mask.numel() * (probability - certainty[item, index] * mask)
            gradient[item, index] = by_dice * probability * (1.0 - probability) + by_cross_entropy
        return gradient, None, None, (-gradients[1] * sums[..., 2]).to(certainty.dtype)


def _merge_pairs(logits: Tensor, labels: PartialLabels) -> tuple[Tensor, Tensor]:
    """Put max(left, right) into the left class of each merged pair and drop the right one."""
    if not labels.merged:
        return logits, labels.annotated
    logits, annotated = logits.clone(), labels.annotated.clone()
    for item, left, right in labels.merged:
        logits[item, left] = torch.maximum(logits[item, left].clone(), logits[item, right].clone())
        annotated[item, right] = False
    return logits, annotated
