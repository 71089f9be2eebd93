"""What a stage minimizes: the losses of § 4.1.2 and § 4.2.4 on a batch's labels, each weighted."""

from dataclasses import replace

import torch
from torch import Tensor

from dsmseg.baselines import BaselineOutput
from dsmseg.model import DSMOutput
from dsmseg.model.hungarian_matching import hungarian_loss
from dsmseg.model.losses import (
    MaskReadings,
    PartialLabels,
    any_tumor_loss,
    background_loss,
    in_organs_loss,
    mask_loss,
    part_of,
    presence_loss,
    response_loss,
    soft_dice,
)
from dsmseg.taxonomy import CLASSES, TUMORS, find
from dsmseg.training.course_settings import Loss

_HOSTS = {CLASSES.index(tumor): [CLASSES.index(find(name)) for name in tumor.hosts] for tumor in TUMORS}


def losses(output: DSMOutput, labels: PartialLabels, weights: Loss) -> dict[str, Tensor]:
    """Give the weighted terms of an output's stage.

    mask: Eq. 13 of organs; tumor_mask: the same of tumors, a mean of their own, since a scan tells of one or two
    tumors and of up to 25 organs. In Stage 2 the target of the cross-entropy is diag(p) Y (§ 4.2.4); where there is no
    text alignment (Table 5, rows 1 and 5), mask is that of matched queries, organs and tumors together. response: each
    level's organ response, and that of the background queries; tumor_response: the tumors' at strides 8 and 4.
    tumor_in_organs: masks of tumors within organs, where these are read from queries of their own.
    presence, tumor_presence: is the class in the patch at all (§ 4.1.2). any_tumor: what looks like a tumor of whatever
    organ. alignment: -log p of Eq. 20.

    Args:
        output: of the network.
        labels: of all 45 classes.
        weights: of the terms.
    """
    count = output.organ_logits.shape[1]
    organs = part_of(labels, 0, count)
    terms = _mask_terms(output, labels, weights)
    answering = _healthy(labels, organs) if weights.responds_to == "healthy" else organs
    response = response_loss(output.responses, answering, **readings(weights, weights.organ_share))
    if output.background:
        response = response + background_loss(output.background, organs)
    terms["response"] = weights.response * response
    terms["presence"] = weights.presence * presence_loss(output.presence, organs)
    if output.tumor_presence is not None:
        tumors = part_of(labels, count, labels.masks.shape[1])
        by_tumors = response_loss(output.tumor_responses, tumors, **readings(weights, weights.tumor_share))
        terms["tumor_response"] = weights.tumor * weights.response * by_tumors
        terms["tumor_presence"] = weights.tumor * weights.presence * presence_loss(output.tumor_presence, tumors)
    terms |= losses_within_organs(output, labels, weights)
    if weights.alignment and output.log_probability is not None:
        log_p = output.log_probability.diagonal(dim1=1, dim2=2)
        known = labels.annotated
        terms["alignment"] = weights.alignment * -torch.where(known, log_p, 0.0).sum() / known.sum().clamp(min=1)
    return terms


def losses_within_organs(output: DSMOutput, labels: PartialLabels, weights: Loss) -> dict[str, Tensor]:
    """Give the terms of tumors within organs alone: all that there is while the deviation branch learns alone."""
    terms = {}
    if weights.in_organs and output.tumor_logits is not None and output.proposals is None:
        within = in_organs_loss(output.tumor_logits, labels, output.organ_logits.shape[1])
        terms["tumor_in_organs"] = weights.tumor * weights.in_organs * within
    if output.any_tumor is not None:
        terms["any_tumor"] = weights.tumor * weights.any_tumor * any_tumor_loss(output.any_tumor, labels, _HOSTS)
    return terms


def known_counts(labels: PartialLabels, organs: int, *, matched: bool) -> dict[str, int]:
    """Count what each term is a mean over, so that means of parts of a batch can be put together.

    An annotated class counts, a merged pair once; where a baseline's term is a mean over patches, each of them.
    ``matched``: queries are matched to organs and tumors together.
    """
    everywhere = _judged(labels)
    among_organs = _judged(part_of(labels, 0, organs))
    return {
        "mask": everywhere if matched else among_organs,
        "tumor_mask": everywhere - among_organs,
        "response": among_organs,
        "presence": among_organs,
        "tumor_response": everywhere - among_organs,
        "tumor_presence": everywhere - among_organs,
        "tumor_in_organs": everywhere - among_organs,
        "any_tumor": int(labels.annotated[:, organs:].any(1).sum()),
        "alignment": int(labels.annotated.sum()),
        "query_distribution": len(labels.masks),
    }


@torch.no_grad()
def dice(output: DSMOutput | BaselineOutput, labels: PartialLabels) -> dict[str, float]:
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


def _healthy(labels: PartialLabels, organs: PartialLabels) -> PartialLabels:
    """Give the organs without the voxels of all tumors that are labelled."""
    count = organs.masks.shape[1]
    tumors = labels.masks[:, count:] & labels.annotated[:, count:, None, None, None]
    return replace(organs, masks=organs.masks & ~tumors.any(1, keepdim=True))


def _judged(labels: PartialLabels) -> int:
    """Count the classes that a loss judges, a merged pair as one."""
    return int(labels.annotated.sum()) - len(labels.merged)


def readings(weights: Loss, least_share: float) -> MaskReadings:
    """Give how a recipe wants the loss of masks to be taken."""
    return {
        "cross_entropy_weight": weights.cross_entropy,
        "over_batch": weights.dice_over == "batch",
        "least_share": least_share,
    }


def _mask_terms(output: DSMOutput, labels: PartialLabels, weights: Loss) -> dict[str, Tensor]:
    if output.proposals is not None:
        share = weights.tumor_share  # queries are of any class: the rarest need it
        loss = hungarian_loss(output.proposals, labels, cross_entropy_weight=weights.cross_entropy, least_share=share)
        return {"mask": loss}
    certainty: Tensor | None = None
    if output.log_probability is not None and weights.certainty != "none":
        certainty = output.log_probability.diagonal(dim1=1, dim2=2).exp()
        if weights.certainty == "given":
            certainty = certainty.detach()

    def judge(logits: Tensor, first: int, least_share: float) -> Tensor:
        end = first + logits.shape[1]
        p = None if certainty is None else certainty[:, first:end]
        return mask_loss(logits, part_of(labels, first, end), p, **readings(weights, least_share))

    terms = {"mask": judge(output.organ_logits, 0, weights.organ_share)}
    if output.tumor_logits is not None:
        tumors = judge(output.tumor_logits, output.organ_logits.shape[1], weights.tumor_share)
        terms["tumor_mask"] = weights.tumor * tumors
    return terms
