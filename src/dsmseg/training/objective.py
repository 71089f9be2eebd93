"""What a stage minimizes: the losses of § 4.1.2 and § 4.2.4 on a batch's labels, each weighted."""

import torch
from torch import Tensor

from dsmseg.model import DSMOutput
from dsmseg.model.hungarian_matching import hungarian_loss
from dsmseg.model.losses import PartialLabels, mask_loss, presence_loss, response_loss, soft_dice
from dsmseg.training.recipe import Loss


def losses(output: DSMOutput, labels: PartialLabels, weights: Loss) -> dict[str, Tensor]:
    """Give the weighted terms of an output's stage.

    mask: Eq. 13; in Stage 2 over organs and tumors, with diag(p) Y as the target of the cross-entropy (§ 4.2.4), or
    matched queries where there is no text alignment (Table 5, rows 1 and 5). response: each level's organ response.
    presence: is the organ in the patch at all (§ 4.1.2). alignment: -log p of Eq. 20.

    Args:
        output: of the network.
        labels: of all 45 classes.
        weights: of the terms.
    """
    organs = part_of(labels, 0, output.organ_logits.shape[1])
    terms = {
        "mask": _mask_term(output, labels, organs, weights),
        "response": weights.response
        * response_loss(output.responses, organs, cross_entropy_weight=weights.cross_entropy),
        "presence": weights.presence * presence_loss(output.presence, organs),
    }
    if weights.alignment and output.log_probability is not None:
        log_p = output.log_probability.diagonal(dim1=1, dim2=2)
        known = labels.annotated
        terms["alignment"] = weights.alignment * -torch.where(known, log_p, 0.0).sum() / known.sum().clamp(min=1)
    return terms


def known_counts(labels: PartialLabels, organs: int, stage: int) -> dict[str, int]:
    """Count what each term is a mean over, so that means of parts of a batch can be put together.

    An annotated class counts, a merged pair once.
    """
    first = part_of(labels, 0, organs)
    among_organs = int(first.annotated.sum()) - len(first.merged)
    everywhere = int(labels.annotated.sum()) - len(labels.merged) if stage == 2 else among_organs
    return {
        "mask": everywhere,
        "response": among_organs,
        "presence": among_organs,
        "alignment": int(labels.annotated.sum()),
    }


@torch.no_grad()
def dice(output: DSMOutput, labels: PartialLabels) -> dict[str, float]:
    """Give the mean soft Dice of the classes in the patches, for organs and, in Stage 2, tumors; none where none is."""
    count = output.organ_logits.shape[1]
    groups = {"organs": (output.organ_logits, part_of(labels, 0, count))}
    if output.tumor_logits is not None:
        groups["tumors"] = (output.tumor_logits, part_of(labels, count, count + output.tumor_logits.shape[1]))
    return {
        f"dice of {name}": soft_dice(logits, known)
        for name, (logits, known) in groups.items()
        if (known.masks.flatten(2).any(-1) & known.annotated).any()
    }


def part_of(labels: PartialLabels, first: int, end: int) -> PartialLabels:
    """Give what is known of some classes."""
    merged = tuple(one for one in labels.merged if first <= one[1] < end and first <= one[2] < end)
    shifted = tuple((item, left - first, right - first) for item, left, right in merged)
    return PartialLabels(labels.masks[:, first:end], labels.annotated[:, first:end], shifted)


def _mask_term(output: DSMOutput, labels: PartialLabels, organs: PartialLabels, weights: Loss) -> Tensor:
    if output.tumor_logits is None:
        return mask_loss(output.organ_logits, organs, cross_entropy_weight=weights.cross_entropy)
    if output.proposals is not None:
        return hungarian_loss(output.proposals, labels, cross_entropy_weight=weights.cross_entropy)
    logits = torch.cat([output.organ_logits, output.tumor_logits], dim=1)
    certainty = None
    if output.log_probability is not None:
        certainty = output.log_probability.diagonal(dim1=1, dim2=2).exp()
    return mask_loss(logits, labels, certainty, cross_entropy_weight=weights.cross_entropy)
