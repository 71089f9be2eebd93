"""The loss of rows 1 and 5 of Table 5 (§ 6.4): Hungarian matching of queries with classes, as in MaskFormer.

With partial labels, "no object" is known only as "none of the classes that this scan's data set annotates". So each
item's class probabilities are a softmax over its known classes and "no object" alone: a query that found a class which
nobody annotated is not told that nothing is there, and the logits of such classes get a gradient of exactly zero. A
merged pair counts as unknown: which of the two queries holds which side of the union, nobody can say.
"""

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dsmseg.model.losses import SMOOTHING, PartialLabels, mask_loss
from dsmseg.model.query_classification import Proposals

NO_OBJECT_WEIGHT = 0.1
"""Weight of an unmatched query's class beside a matched one's, as in MaskFormer: most queries are unmatched."""


def hungarian_loss(
    proposals: Proposals, labels: PartialLabels, *, cross_entropy_weight: float = 1.0, least_share: float = 0.0
) -> Float[Tensor, ""]:
    """Cross-entropy of each query's class, plus Eq. 13 of the matched queries' masks.

    The cross-entropy is a weighted mean over queries: a matched query's target is its class, an unmatched one's is "no
    object", at ``NO_OBJECT_WEIGHT``.

    Args:
        proposals: of a Stage 2 network without text alignment.
        labels: of organs and tumors, in the order of the class logits.
        cross_entropy_weight: weight of Eq. 12 beside Eq. 11, as in ``mask_loss``; also in the matching.
        least_share: as in ``mask_loss``. Its ``over_batch`` has no meaning here: a query may be of another class in
            every patch.
    """
    known = _known_classes(labels)
    log_probability = _known_log_probability(proposals.class_logits, known)
    match = match_queries(proposals, labels, cross_entropy_weight=cross_entropy_weight)
    item, query, matched_class = match.nonzero(as_tuple=True)
    no_object = known.shape[1]
    target = torch.full(match.shape[:2], no_object, device=match.device)
    target[item, query] = matched_class
    weight = log_probability.new_ones(no_object + 1)
    weight[no_object] = NO_OBJECT_WEIGHT
    classification = functional.nll_loss(log_probability.transpose(1, 2), target, weight)
    masks = torch.zeros(proposals.mask_logits.shape, dtype=torch.bool, device=match.device)
    masks[item, query] = labels.masks[item, matched_class]
    matched = PartialLabels(masks, match.any(dim=2), known=labels.known)
    return classification + mask_loss(
        proposals.mask_logits, matched, cross_entropy_weight=cross_entropy_weight, least_share=least_share
    )


@torch.no_grad()
def match_queries(
    proposals: Proposals, labels: PartialLabels, *, cross_entropy_weight: float = 1.0
) -> Bool[Tensor, "batch query class"]:
    """Give each known class that is in an item's patch its query, by the lowest total cost.

    The cost of a pair is minus the query's probability of the class, plus Dice (Eq. 11) and cross-entropy (Eq. 12) of
    the query's mask against the class's. No query gets two classes; one that gets none is unmatched.
    """
    known = _known_classes(labels)
    probability = _known_log_probability(proposals.class_logits, known).exp()
    match = torch.zeros((*probability.shape[:2], known.shape[1]), dtype=torch.bool, device=known.device)
    present = known & labels.masks.flatten(2).any(-1)
    for item, classes in enumerate(present):
        index = classes.nonzero().squeeze(1)
        logits, masks = proposals.mask_logits[item].flatten(1), labels.masks[item, index].flatten(1)
        if labels.known is not None:
            logits, masks = (one[:, labels.known[item].flatten()] for one in (logits, masks))
        dice, cross_entropy = _pair_terms(logits, masks)
        cost = dice + cross_entropy_weight * cross_entropy - probability[item][:, index]
        queries, columns = linear_sum_assignment(cost.cpu().numpy())
        match[item, torch.from_numpy(queries), index[torch.from_numpy(columns)]] = True
    return match


def _pair_terms(
    logits: Float[Tensor, "query voxel"], masks: Bool[Tensor, "class voxel"]
) -> tuple[Float[Tensor, "query class"], Float[Tensor, "query class"]]:
    """Give Eq. 11 and Eq. 12 of every query's mask against every class's, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target, probability = masks.to(logits.dtype), logits.sigmoid()
    overlap = 2.0 * probability @ target.T + SMOOTHING
    extent = probability.sum(1)[:, None] + target.sum(1) + SMOOTHING
    cross_entropy = functional.softplus(logits).mean(1)[:, None] - logits @ target.T / logits.shape[1]
    return 1.0 - overlap / extent, cross_entropy


def _known_classes(labels: PartialLabels) -> Bool[Tensor, "batch class"]:
    known = labels.annotated.clone()
    for item, left, right in labels.merged:
        known[item, left] = known[item, right] = False
    return known


def _known_log_probability(
    class_logits: Float[Tensor, "batch query class_or_none"], known: Bool[Tensor, "batch class"]
) -> Float[Tensor, "batch query class_or_none"]:
    """Give log p over an item's known classes and "no object"; -inf for what is not known."""
    answerable = functional.pad(known, (0, 1), value=True)[:, None]
    class_logits = class_logits.to(torch.promote_types(class_logits.dtype, torch.float32))
    return class_logits.masked_fill(~answerable, -torch.inf).log_softmax(dim=-1)
