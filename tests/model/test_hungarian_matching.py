"""Row 5 of Table 5: the match is the cheapest of all, and the loss knows nothing that the labels do not tell."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dsmseg.model.hungarian_matching import NO_OBJECT_WEIGHT, hungarian_loss, match_queries
from dsmseg.model.losses import SMOOTHING, PartialLabels
from dsmseg.model.query_classification import Proposals

SEEDS = st.integers(0, 999)
QUERIES, CLASSES, SPACE = 4, 3, (2, 2, 3)


def case(seed: int = 0, *, annotated: list[list[bool]] | None = None) -> tuple[Proposals, PartialLabels]:
    generator = torch.Generator().manual_seed(seed)
    mask_logits = 2 * torch.randn((2, QUERIES, *SPACE), generator=generator, dtype=torch.float64)
    class_logits = 2 * torch.randn((2, QUERIES, CLASSES + 1), generator=generator, dtype=torch.float64)
    masks = torch.rand((2, CLASSES, *SPACE), generator=generator) < 0.4
    known = torch.tensor(annotated or [[True, True, True], [True, False, True]])
    return Proposals(mask_logits, class_logits), PartialLabels(masks, known)


def class_probability(logits: Tensor, known: list[int]) -> dict[int, float]:
    """A softmax over the known classes and "no object", which is the last logit."""
    answers = [*known, CLASSES]
    exponentials = {answer: math.exp(logits[answer].item()) for answer in answers}
    return {answer: value / sum(exponentials.values()) for answer, value in exponentials.items()}


def mask_term(logits: Tensor, mask: Tensor, weight: float) -> float:
    """Eq. 11 plus weighted Eq. 12 of one query's mask against one class's."""
    values = zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True)
    pairs = [(1 / (1 + math.exp(-z)), float(y)) for z, y in values]
    dice = 1 - (2 * sum(p * y for p, y in pairs) + SMOOTHING) / (sum(p + y for p, y in pairs) + SMOOTHING)
    return dice - weight * sum(y * math.log(p) + (1 - y) * math.log(1 - p) for p, y in pairs) / len(pairs)


def plain_match(proposals: Proposals, labels: PartialLabels, item: int, weight: float) -> dict[int, int]:
    """Try every way to give each known and present class a query of its own; ``{query: class}`` of the cheapest."""
    merged = {side for at, *pair in labels.merged if at == item for side in pair}
    known = [k for k in range(CLASSES) if labels.annotated[item, k] and k not in merged]
    present = [k for k in known if labels.masks[item, k].any()]
    probabilities = [class_probability(proposals.class_logits[item, q], known) for q in range(QUERIES)]

    def cost(queries: tuple[int, ...]) -> float:
        pairs = zip(queries, present, strict=True)
        masks, classes = proposals.mask_logits[item], labels.masks[item]
        return sum(mask_term(masks[q], classes[k], weight) - probabilities[q][k] for q, k in pairs)

    return dict(zip(min(itertools.permutations(range(QUERIES), len(present)), key=cost), present, strict=True))


def plain_loss(proposals: Proposals, labels: PartialLabels, weight: float) -> float:
    classification, weights, masks = 0.0, 0.0, []
    for item in range(len(labels.masks)):
        merged = {side for at, *pair in labels.merged if at == item for side in pair}
        known = [k for k in range(CLASSES) if labels.annotated[item, k] and k not in merged]
        match = plain_match(proposals, labels, item, weight)
        for query in range(QUERIES):
            share = 1.0 if query in match else NO_OBJECT_WEIGHT
            probability = class_probability(proposals.class_logits[item, query], known)
            classification -= share * math.log(probability[match.get(query, CLASSES)])
            weights += share
        pairs = match.items()
        masks += [mask_term(proposals.mask_logits[item, q], labels.masks[item, k], weight) for q, k in pairs]
    return classification / weights + sum(masks) / max(1, len(masks))


@settings(max_examples=25)
@given(seed=SEEDS, weight=st.floats(0, 20))
def test_the_match_is_the_cheapest_of_all(seed, weight):
    proposals, labels = case(seed)
    match = match_queries(proposals, labels, cross_entropy_weight=weight)
    for item in range(2):
        pairs = dict(match[item].nonzero().tolist())
        assert pairs == plain_match(proposals, labels, item, weight)


@settings(max_examples=25)
@given(seed=SEEDS, weight=st.floats(0, 20), merged=st.booleans())
def test_the_loss_is_that_of_classes_and_matched_masks(seed, weight, merged):
    proposals, labels = case(seed)
    labels = replace(labels, merged=((0, 0, 1),) if merged else ())
    loss = hungarian_loss(proposals, labels, cross_entropy_weight=weight)
    assert loss.item() == pytest.approx(plain_loss(proposals, labels, weight), rel=1e-9)


def test_each_present_class_gets_one_query_and_no_query_two_classes():
    proposals, labels = case()
    match = match_queries(proposals, labels)
    present = labels.annotated & labels.masks.flatten(2).any(-1)
    assert torch.equal(match.sum(dim=1), present.long())
    assert int(match.sum(dim=2).max()) == 1


def test_a_class_that_is_annotated_but_absent_is_matched_with_nothing():
    proposals, labels = case()
    masks = labels.masks.clone()
    masks[0, 1] = False
    match = match_queries(proposals, replace(labels, masks=masks))
    assert not bool(match[0, :, 1].any())
    assert int(match[0].sum()) == 2


def loss_and_gradients(proposals: Proposals, labels: PartialLabels) -> tuple[Tensor, Tensor, Tensor]:
    leaves = Proposals(*(part.clone().requires_grad_() for part in proposals))
    loss = hungarian_loss(leaves, labels)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("anything", [50.0, -1e30, 3e38, math.inf, math.nan])
def test_an_unannotated_class_has_no_influence_to_the_bit(anything):
    proposals, labels = case()
    expected = loss_and_gradients(proposals, labels)
    class_logits, masks = proposals.class_logits.clone(), labels.masks.clone()
    class_logits[1, :, 1] = anything
    masks[1, 1] = ~masks[1, 1]
    result = loss_and_gradients(Proposals(proposals.mask_logits, class_logits), replace(labels, masks=masks))
    assert all(torch.equal(mine, other) for mine, other in zip(result, expected, strict=True))
    assert not bool(result[2][1, :, 1].any())
    assert bool((result[2][1][:, [0, 2, 3]] != 0).all())


def test_a_merged_pair_has_no_influence_to_the_bit():
    proposals, labels = case()
    labels = replace(labels, merged=((0, 0, 1),))
    expected = loss_and_gradients(proposals, labels)
    class_logits, masks = proposals.class_logits.clone(), labels.masks.clone()
    class_logits[0, :, :2] = torch.tensor([1e30, -7.0])
    masks[0, :2] = ~masks[0, :2]
    result = loss_and_gradients(Proposals(proposals.mask_logits, class_logits), replace(labels, masks=masks))
    assert all(torch.equal(mine, other) for mine, other in zip(result, expected, strict=True))
    assert not bool(result[2][0, :, :2].any())
    assert bool((result[2][1][:, 0] != 0).all())  # the other item's pair is told apart


def test_an_unmatched_querys_mask_gets_no_gradient():
    proposals, labels = case()
    match = match_queries(proposals, labels).any(dim=2)
    _, gradient, _ = loss_and_gradients(proposals, labels)
    assert torch.equal(gradient.flatten(2).any(-1), match)


def test_without_any_annotation_nothing_is_learned():
    proposals, labels = case(annotated=[[False] * 3] * 2)
    loss, by_mask, by_class = loss_and_gradients(proposals, labels)
    assert loss == 0
    assert not bool(by_mask.any())
    assert not bool(by_class.any())


def test_the_gradient_is_the_derivative_of_the_loss():
    proposals, labels = case()
    leaves = [part.requires_grad_() for part in proposals]
    assert torch.autograd.gradcheck(lambda masks, classes: hungarian_loss(Proposals(masks, classes), labels), leaves)


def test_descent_makes_each_class_the_object_of_one_query():
    proposals, labels = case(annotated=[[True] * 3] * 2)
    leaves = Proposals(*(part.requires_grad_() for part in proposals))
    optimizer = torch.optim.Adam(leaves, lr=0.3)
    for _ in range(80):
        optimizer.zero_grad()
        hungarian_loss(leaves, labels).backward()
        optimizer.step()
    match = match_queries(leaves, labels)
    for item, query, index in match.nonzero().tolist():
        assert torch.equal(leaves.mask_logits[item, query] > 0, labels.masks[item, index])
        assert leaves.class_logits[item, query].argmax() == index
    unmatched = ~match.any(dim=2)
    assert bool((leaves.class_logits[unmatched].argmax(dim=-1) == CLASSES).all())


def test_half_precision_is_computed_in_single_precision():
    proposals, labels = case()
    half = Proposals(*(part.bfloat16() for part in proposals))
    whole = Proposals(*(part.float() for part in half))
    assert hungarian_loss(half, labels).dtype == torch.float32
    torch.testing.assert_close(hungarian_loss(half, labels), hungarian_loss(whole, labels), rtol=0, atol=0)


def test_an_unmatched_query_counts_a_tenth_of_a_matched_one():
    mask_logits = torch.tensor([5.0, -5.0], dtype=torch.float64).view(1, 2, 1, 1, 1)
    class_logits = torch.tensor([[[2.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    labels = PartialLabels(torch.ones(1, 1, 1, 1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool))
    inside = 1 / (1 + math.exp(-5))
    mask = 1 - (2 * inside + 1) / (inside + 2) - math.log(inside)
    classes = (math.log1p(math.exp(-2)) + 0.1 * math.log1p(math.exp(1))) / 1.1
    assert hungarian_loss(Proposals(mask_logits, class_logits), labels).item() == pytest.approx(mask + classes)
