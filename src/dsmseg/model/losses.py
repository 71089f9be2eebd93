"""§ 4.1.2 and § 4.2.4: Dice and binary cross-entropy for partially labelled scans, Eq. 11-13.

Unknown is not background: only classes that a scan's data set annotates enter a loss, and the others get a gradient of
exactly zero. So do voxels of which nothing is known, of all classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

SMOOTHING = 1.0  # voxels; makes Dice defined where a class is absent

SMALL_LESION = 60
"""Voxels, a ball of 15 mm at 3 mm: each voxel of a smaller one counts as much as one of this, not more."""

_SURELY_NOT = -30.0  # logit: it costs nothing where the class is not, and has no gradient

NEARLY_ALL = 20
"""Organs of 25: TotalSegmentator's label maps know 20, and what lacks fills less than a hundredth of a body."""


@dataclass(frozen=True, slots=True)
class PartialLabels:
    """What is known of a batch.

    masks: the voxels of each class, ``(batch, class, x, y, z)``; of merged classes, both hold the union.
    annotated: which classes the scan's data set annotates, ``(batch, class)``.
    merged: pairs of class indices, such as both lungs, that this batch's data sets do not tell apart, each with the
        batch items it holds for: ``(item, left, right)``.
    known: voxels of which the annotated classes are known, ``(batch, x, y, z)``; None where all are. No class's mask
        holds any other.
    """

    masks: Bool[Tensor, "batch class x y z"]
    annotated: Bool[Tensor, "batch class"]
    merged: tuple[tuple[int, int, int], ...] = ()
    known: Bool[Tensor, "batch x y z"] | None = None


class MaskReadings(TypedDict):
    """How the Dice and cross-entropy of masks are taken, see ``mask_loss``."""

    cross_entropy_weight: float
    over_batch: bool
    least_share: float


def part_of(labels: PartialLabels, first: int, end: int) -> PartialLabels:
    """Give what is known of the classes from ``first`` up to ``end``."""
    merged = tuple(one for one in labels.merged if first <= one[1] < end and first <= one[2] < end)
    shifted = tuple((item, left - first, right - first) for item, left, right in merged)
    return PartialLabels(labels.masks[:, first:end], labels.annotated[:, first:end], shifted, labels.known)


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


def batch_dice_loss(
    logits: Float[Tensor, "batch class x y z"],
    target: Float[Tensor, "batch class x y z"],
    annotated: Bool[Tensor, "batch class"],
) -> Float[Tensor, "1 class"]:
    """``dice_loss`` (Eq. 11) of each class over all patches that annotate it, as if they were one."""
    known = annotated[:, :, None, None, None]
    probability, target, space = logits.sigmoid() * known, target * known, (0, 2, 3, 4)
    overlap = 2.0 * (probability * target).sum(space) + SMOOTHING
    return (1.0 - overlap / (probability.sum(space) + target.sum(space) + SMOOTHING))[None]


def cross_entropy_loss(
    logits: Float[Tensor, "batch class x y z"], target: Float[Tensor, "batch class x y z"]
) -> Float[Tensor, "batch class"]:
    """Cross-entropy of each class, -(Y log Y^ + (1 - Y) log(1 - Y^)) (Eq. 12), with Y^ the sigmoid of ``logits``.

    Eq. 12 as printed sums over voxels, which drowns Eq. 11; this is the mean over voxels. In Stage 2 ``target`` is
    diag(p) Y (§ 4.2.4).
    """
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((2, 3, 4))


def weighted_cross_entropy_loss(
    logits: Float[Tensor, "batch class x y z"], target: Float[Tensor, "batch class x y z"], least_share: float
) -> Float[Tensor, "batch class"]:
    """``cross_entropy_loss`` (Eq. 12) with the class's part weighed as if it filled at least ``least_share``."""
    share = target.mean((2, 3, 4), keepdim=True)
    weight = _foreground_weight(share, least_share)
    terms = functional.softplus(logits) * (1.0 + (weight - 1.0) * target) - weight * target * logits
    return terms.mean((2, 3, 4))


def mask_loss(
    logits: Float[Tensor, "batch class x y z"],
    labels: PartialLabels,
    certainty: Float[Tensor, "batch class"] | None = None,
    *,
    cross_entropy_weight: float = 1.0,
    over_batch: bool = False,
    least_share: float = 0.0,
) -> Float[Tensor, ""]:
    """L = L_Dice + L_BCE of Eq. 13: Dice (Eq. 11) plus cross-entropy, mean over the annotated classes of the batch.

    The sum over K classes is a mean, and the cross-entropy counts ``cross_entropy_weight`` times. A class that fills a
    thousandth of a patch needs a weight well above 1, or it is given up early: where its soft mask is near zero, Dice
    has no gradient. A merged pair is judged as one class: max(left, right) against the union. In Stage 2
    ``certainty`` is p of Eq. 20, and the target of the cross-entropy is diag(p) Y (§ 4.2.4); of a merged pair, p is the
    mean of both sides'.

    Both readings below let a rare class move the network (docs/decisions/0027); their defaults are the letter.

    over_batch: Dice of a class is that of its voxels in all patches of the batch together, and none where no patch
        holds any. Patch by patch, a patch without the class pulls all its probabilities towards zero, the harder the
        smaller they are already.
    least_share: in the cross-entropy, a class's voxels weigh as if they filled at least this share of the patch.
    """
    logits, annotated = _merge_pairs(_where_known(logits, labels), labels)
    if certainty is None:
        certainty = logits.new_ones(annotated.shape, dtype=torch.float32)
    for item, left, right in labels.merged:
        certainty = certainty.clone()
        certainty[item, left] = (certainty[item, left] + certainty[item, right]) / 2
    terms: tuple[Tensor, Tensor, Tensor] = MaskLossTerms.apply(  # type: ignore[no-untyped-call]
        logits, labels.masks, annotated, certainty, over_batch, least_share
    )
    dice, cross_entropy, judged = terms
    by_dice = dice.sum() / judged.sum().clamp(min=1)
    return by_dice + cross_entropy_weight * cross_entropy.sum() / annotated.sum().clamp(min=1)


def response_loss(
    responses: Sequence[Float[Tensor, "batch class x_i y_i z_i"]],
    labels: PartialLabels,
    *,
    cross_entropy_weight: float = 1.0,
    over_batch: bool = False,
    least_share: float = 0.0,
) -> Float[Tensor, ""]:
    """Supervise the response of every level, as kMaX-DeepLab does: argmax passes no gradient to what lies before it.

    The target of a coarse voxel is the part of it that the class fills. ``over_batch`` and ``least_share`` as in
    ``mask_loss``. Responses come deepest first.
    """
    total = responses[0].new_zeros((), dtype=torch.float32)
    for response, occupancy in zip(responses, _occupancies(labels.masks, responses), strict=True):
        merged_response, annotated = _merge_pairs(_where_known(response, labels), labels)
        # What is not annotated is left out before the terms, not only after: 0 times its overflow would be no number.
        known = merged_response.float().masked_fill(~annotated[:, :, None, None, None], 0.0)
        judged = annotated
        if over_batch:
            judged = ((occupancy.flatten(2).amax(-1) > 0) & annotated).any(0, keepdim=True)
        dice = batch_dice_loss(known, occupancy, annotated) if over_batch else dice_loss(known, occupancy)
        cross_entropy = weighted_cross_entropy_loss(known, occupancy, least_share)
        total = total + torch.where(judged, dice, 0.0).sum() / judged.sum().clamp(min=1)
        total = total + cross_entropy_weight * torch.where(annotated, cross_entropy, 0.0).sum() / annotated.sum().clamp(
            min=1
        )
    return total / len(responses)


def background_loss(
    background: Sequence[Float[Tensor, "batch background x_i y_i z_i"]], organs: PartialLabels
) -> Float[Tensor, ""]:
    """Supervise the background queries: at every level one of them answers where no organ is, and none in an organ.

    Cross-entropy of the strongest of them. An organ's voxels are known in every scan that annotates it; that a voxel is
    of no organ is taken as known where a scan annotates at least ``NEARLY_ALL`` organs: what these leave out is little.
    """
    total = background[0].new_zeros((), dtype=torch.float32)
    annotated = organs.annotated[:, :, None, None, None]
    complete = (organs.annotated.sum(1) >= NEARLY_ALL)[:, None, None, None, None]
    for response, occupied in zip(background, _occupancies(organs.masks, background), strict=True):
        # Organs overlap where one holds another, as the liver its vessels; at their borders parts add up.
        occupancy = torch.where(annotated, occupied, 0.0).sum(1, keepdim=True).clamp(max=1.0)
        strongest = response.float().amax(1, keepdim=True)
        known = torch.where(complete, 1.0, occupancy)
        if organs.known is not None:
            known = known * _share_known(organs.known, response)
        terms = functional.binary_cross_entropy_with_logits(strongest, 1.0 - occupancy, reduction="none")
        total = total + (known * terms).sum() / known.sum().clamp(min=1.0)
    return total / len(background)


def any_tumor_loss(
    any_tumor: Float[Tensor, "batch x_2 y_2 z_2"], labels: PartialLabels, hosts: Mapping[int, Sequence[int]]
) -> Float[Tensor, ""]:
    """Supervise what looks like a tumor, of whatever organ: in hosts of annotated kinds, their tumors against the rest.

    Cross-entropy; the voxels of tumors, and those of hosts without, count alike. Elsewhere nothing is known: what lies
    in other organs may be a tumor of a kind that the scan does not annotate.

    Args:
        any_tumor: logits at stride 2.
        labels: of all classes.
        hosts: of each kind of tumor, the organs it lies in; indices of classes.
    """
    total = any_tumor.new_zeros((), dtype=torch.float32)
    count = 0
    for item, logits in enumerate(any_tumor.float()):
        kinds = [kind for kind in hosts if labels.annotated[item, kind]]
        if not kinds:
            continue
        count += 1
        organs = [organ for kind in kinds for organ in hosts[kind] if labels.annotated[item, organ]]
        tumor, host = (labels.masks[item, which].any(0)[None, None].float() for which in (kinds, kinds + organs))
        marked, known = (functional.avg_pool3d(one, 2, ceil_mode=True)[0, 0] for one in (tumor, host))
        for weight, terms in ((marked, functional.softplus(-logits)), (known - marked, functional.softplus(logits))):
            total = total + (weight * terms).sum() / weight.sum().clamp(min=1.0)
    return total / max(1, count)


def in_organs_loss(
    tumor_logits: Float[Tensor, "batch tumor x y z"], labels: PartialLabels, organs: int
) -> Float[Tensor, ""]:
    """Supervise the masks of tumors within labelled organs alone: each annotated kind against the rest of them.

    Cross-entropy, of which the voxels of a tumor and all others count alike, and Dice (Eq. 11) of a kind over all
    patches of the batch. Over a whole patch, a network lowers both by finding organs that can hold a tumor, and has
    little left to learn from the tumor in them (docs/decisions/0041).

    Args:
        tumor_logits: of all kinds of tumor, which are the last of the classes.
        labels: of all classes.
        organs: how many of the classes, the first ones, are organs.
    """
    first = labels.masks.shape[1] - tumor_logits.shape[1]
    labelled = (labels.masks[:, :organs] & labels.annotated[:, :organs, None, None, None]).any(1)
    cross_entropies, dices = [], []
    for kind in labels.annotated[:, first:].any(0).nonzero().flatten().tolist():
        found, told = [], []
        for item in labels.annotated[:, first + kind].nonzero().flatten().tolist():
            mask = labels.masks[item, first + kind]
            within = labelled[item] | mask
            if not within.any():
                continue
            logits, target = tumor_logits[item, kind][within].float(), mask[within]
            cross_entropies.append(_balanced_cross_entropy(logits, target))
            found.append(logits.sigmoid())
            told.append(target.float())
        if told and any(one.any() for one in told):
            probability, target = torch.cat(found), torch.cat(told)
            overlap = 2.0 * (probability * target).sum() + SMOOTHING
            dices.append(1.0 - overlap / (probability.sum() + target.sum() + SMOOTHING))
    terms = [torch.stack(one).mean() for one in (cross_entropies, dices) if one]
    return torch.stack(terms).sum() if terms else tumor_logits.new_zeros((), dtype=torch.float32)


def _balanced_cross_entropy(logits: Float[Tensor, "voxel"], target: Bool[Tensor, "voxel"]) -> Float[Tensor, ""]:
    """Give the mean cross-entropy of positives and that of negatives, summed; nothing of a side that is empty.

    Positives of less than a small lesion count as parts of one.
    """
    terms = functional.softplus(torch.where(target, -logits, logits))
    shares = torch.where(target, 1 / target.sum().clamp(min=SMALL_LESION), 1 / (~target).sum().clamp(min=1))
    return (terms * shares).sum()


def _occupancies(
    masks: Bool[Tensor, "batch class x y z"], maps: Sequence[Float[Tensor, "batch channel x_i y_i z_i"]]
) -> list[Float[Tensor, "batch class x_i y_i z_i"]]:
    """Give which part of each voxel of some coarser maps, deepest first, every class fills.

    The finest is counted in bytes, which a 64th of the memory of floats and no rounding speaks for.
    """
    counts = masks.view(torch.uint8)
    stride = masks.shape[-1] // maps[-1].shape[-1]
    if stride**3 > torch.iinfo(torch.uint8).max:
        counts = counts.int()
    for axis in (4, 3, 2):
        lines = counts.movedim(axis, 0)
        counts = lines[::stride].clone()
        for offset in range(1, stride):
            counts += lines[offset::stride]
        counts = counts.movedim(0, axis)
    found = [counts.float() / stride**3]
    for response in reversed(maps[:-1]):
        found.append(functional.avg_pool3d(found[-1], found[-1].shape[-1] // response.shape[-1]))
    return found[::-1]


def presence_loss(presence: Float[Tensor, "batch class"], labels: PartialLabels) -> Float[Tensor, ""]:
    """BCE on whether each annotated class is in the patch at all (§ 4.1.2, "category information")."""
    target = labels.masks.flatten(2).any(-1).to(presence.dtype)
    presence, annotated = _merge_pairs(presence, labels)
    if labels.known is not None:  # a class that is not seen may be where nothing is known
        annotated = annotated & (labels.known.flatten(1).all(1)[:, None] | target.bool())
    known = presence.masked_fill(~annotated, 0.0)
    terms = functional.binary_cross_entropy_with_logits(known, target, reduction="none")
    return torch.where(annotated, terms, 0.0).sum() / annotated.sum().clamp(min=1)


@torch.no_grad()
def soft_dice(logits: Float[Tensor, "batch class x y z"], labels: PartialLabels) -> float:
    """Give the mean soft Dice of the annotated classes that are in the patches: how well training goes."""
    scores = []
    logits, annotated = _merge_pairs(_where_known(logits, labels), labels)
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
    def forward(
        ctx: Any,
        logits: Tensor,
        masks: Tensor,
        annotated: Tensor,
        certainty: Tensor,
        over_batch: bool = False,
        least_share: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give ``(dice, cross_entropy, judged)``, each ``(batch, class)``, zero where not annotated.

        ``judged`` tells of which classes there is a Dice. With ``over_batch``, dice and judged are ``(1, class)``, and
        a class that no patch holds has none.
        """
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        sums = logits.new_zeros((*annotated.shape, 4), dtype=wide)
        weights = logits.new_ones(annotated.shape, dtype=wide)
        cross_entropy = logits.new_zeros(annotated.shape, dtype=wide)
        for item, index in annotated.nonzero().tolist():
            logit, mask = logits[item, index].to(wide), masks[item, index].to(wide)
            probability, losses, count = logit.sigmoid(), functional.softplus(logit), float(mask.sum())
            cross_entropy[item, index] = losses.mean()
            sums[item, index, 1] = probability.sum()
            if not count:
                continue
            weights[item, index] = weight = max(1.0, least_share * mask.numel() / count)
            inside = (logit * mask).mean()
            sums[item, index, 0], sums[item, index, 2:] = (probability * mask).sum(), torch.stack([mask.sum(), inside])
            cross_entropy[item, index] -= weight * certainty[item, index] * inside
            if weight > 1.0:
                cross_entropy[item, index] += (weight - 1.0) * (losses * mask).mean()
        overlap, extent = _overlap_and_extent(sums, over_batch=over_batch)
        judged = ((sums[..., 2] > 0) & annotated).any(0, keepdim=True) if over_batch else annotated
        dice = torch.where(judged, 1.0 - overlap / extent, 0.0)
        ctx.over_batch = over_batch
        ctx.save_for_backward(logits, masks, annotated, certainty, sums, weights, judged)
        ctx.mark_non_differentiable(judged)
        return dice, cross_entropy, judged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Give d terms / d logits and d terms / d certainty; classes that are not annotated get exactly zero."""
        logits, masks, annotated, certainty, sums, weights, judged = ctx.saved_tensors
        overlaps, extents = _overlap_and_extent(sums, over_batch=ctx.over_batch)
        of_dice = torch.where(judged, gradients[0], 0.0).expand(annotated.shape)
        overlaps, extents = overlaps.expand(annotated.shape), extents.expand(annotated.shape)
        of_cross_entropy = gradients[1] / masks[0, 0].numel()
        gradient = torch.empty_like(logits)
        gradient[~annotated] = 0.0
        for item, index in annotated.nonzero().tolist():
            probability = logits[item, index].to(sums.dtype).sigmoid()
            by_voxel = of_cross_entropy[item, index] * probability
            overlap, extent, weight = overlaps[item, index], extents[item, index], float(weights[item, index])
            by_dice = of_dice[item, index] * overlap / extent**2
            if sums[item, index, 2] > 0:
                mask = masks[item, index].to(sums.dtype)
                by_dice = by_dice - 2.0 * of_dice[item, index] / extent * mask
                if weight > 1.0:
                    by_voxel = by_voxel * (1.0 + (weight - 1.0) * mask)
                by_voxel = by_voxel - of_cross_entropy[item, index] * weight * certainty[item, index] * mask
            if of_dice[item, index] != 0:
                by_voxel = by_voxel + by_dice * probability * (1.0 - probability)
            gradient[item, index] = by_voxel
        of_certainty = (-gradients[1] * weights * sums[..., 3]).to(certainty.dtype)
        return gradient, None, None, of_certainty, None, None


def _overlap_and_extent(sums: Float[Tensor, "batch class 4"], *, over_batch: bool) -> tuple[Tensor, Tensor]:
    """Give numerator and denominator of Dice from the sums of p Y, p and Y of each patch, or of the whole batch."""
    if over_batch:
        sums = sums.sum(0, keepdim=True)
    return 2.0 * sums[..., 0] + SMOOTHING, sums[..., 1] + sums[..., 2] + SMOOTHING


def _foreground_weight(share: Tensor, least_share: float) -> Tensor:
    """Give by how much the voxels of classes that fill ``share`` of a patch are to count more in the cross-entropy."""
    return torch.where(share > 0, least_share / share.clamp_min(torch.finfo(torch.float32).tiny), 1.0).clamp_min(1.0)


def _where_known(
    logits: Float[Tensor, "batch class x_i y_i z_i"], labels: PartialLabels
) -> Float[Tensor, "batch class x_i y_i z_i"]:
    """Give logits that all losses may judge: where nothing is known, no class is, as its mask says, and nothing learns.

    A voxel of a coarse map counts as known where most of it is.
    """
    if labels.known is None:
        return logits
    unknown = _share_known(labels.known, logits) < 0.5
    return logits.masked_fill(unknown, _SURELY_NOT)


def _share_known(
    known: Bool[Tensor, "batch x y z"], like: Float[Tensor, "batch class x_i y_i z_i"]
) -> Float[Tensor, "batch 1 x_i y_i z_i"]:
    """Give which part of each voxel of a map is known."""
    x, y, z = like.shape[2:]
    return functional.adaptive_avg_pool3d(known[:, None].float(), (x, y, z))


def _merge_pairs(logits: Tensor, labels: PartialLabels) -> tuple[Tensor, Tensor]:
    """Put max(left, right) into the left class of each merged pair and drop the right one."""
    if not labels.merged:
        return logits, labels.annotated
    logits, annotated = logits.clone(), labels.annotated.clone()
    for item, left, right in labels.merged:
        logits[item, left] = torch.maximum(logits[item, left].clone(), logits[item, right].clone())
        annotated[item, right] = False
    return logits, annotated
