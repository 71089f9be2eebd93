"""§ 4.1.2: Eq. 11-13 against plain float64 formulas; partial labels to the bit."""

import pytest
import torch
from torch.nn import functional

from dsmseg.model.losses import (
    SMOOTHING,
    MaskLossTerms,
    PartialLabels,
    mask_loss,
    presence_loss,
    response_loss,
    soft_dice,
)


@pytest.fixture
def case() -> tuple[torch.Tensor, PartialLabels]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 4, 4), generator=generator, dtype=torch.float64)
    masks = torch.rand((2, 3, 4, 4, 4), generator=generator) < 0.3
    annotated = torch.tensor([[True, True, False], [True, False, True]])
    return logits, PartialLabels(masks, annotated)


def plain_terms(logit: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Eq. 11 (over the volume) plus Eq. 12 of one class."""
    probability, target = logit.sigmoid(), mask.double()
    dice = 1 - (2 * (probability * target).sum() + SMOOTHING) / (probability.sum() + target.sum() + SMOOTHING)
    cross_entropy = -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()
    return dice + cross_entropy


def test_the_loss_is_dice_plus_cross_entropy_over_annotated_classes(case) -> None:
    logits, labels = case
    pairs = labels.annotated.nonzero().tolist()
    expected = torch.stack([plain_terms(logits[pair[0], pair[1]], labels.masks[pair[0], pair[1]]) for pair in pairs])
    torch.testing.assert_close(mask_loss(logits, labels), expected.mean())


def test_the_analytic_gradient_is_the_derivative(case) -> None:
    logits, labels = case
    certainty = torch.rand(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda logits, certainty: MaskLossTerms.apply(logits, labels.masks, labels.annotated, certainty),
        (logits.requires_grad_(), certainty.requires_grad_()),
    )


@pytest.mark.parametrize("loss", [mask_loss, lambda logits, labels: response_loss([logits], labels)])
def test_what_is_not_annotated_has_no_influence_to_the_bit(case, loss) -> None:
    logits, labels = case
    logits = logits.float().requires_grad_()
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.all(gradient[~labels.annotated] == 0)
    other_masks = labels.masks ^ ~labels.annotated[:, :, None, None, None]
    other_logits = torch.where(labels.annotated[:, :, None, None, None], logits, 7.0)
    assert torch.equal(loss(other_logits, PartialLabels(other_masks, labels.annotated)), value)


def test_a_merged_pair_is_judged_by_the_stronger_side_against_the_union(case) -> None:
    logits, labels = case
    union = labels.masks[0, 0] | labels.masks[0, 1]
    masks = labels.masks.clone()
    masks[0, 0] = masks[0, 1] = union
    merged = PartialLabels(masks, labels.annotated, merged=((0, 0, 1),))
    expected = torch.stack(
        [
            plain_terms(torch.maximum(logits[0, 0], logits[0, 1]), union),
            plain_terms(logits[1, 0], masks[1, 0]),
            plain_terms(logits[1, 2], masks[1, 2]),
        ]
    )
    torch.testing.assert_close(mask_loss(logits, merged), expected.mean())


def test_a_merged_pair_learns_on_its_stronger_side_at_each_voxel(case) -> None:
    logits, labels = case
    merged = PartialLabels(labels.masks, labels.annotated, merged=((0, 0, 1),))
    assert torch.autograd.gradcheck(lambda logits: mask_loss(logits, merged), logits.requires_grad_())
    (gradient,) = torch.autograd.grad(mask_loss(logits, merged), logits)
    stronger = logits[0, 0] > logits[0, 1]
    assert torch.equal(gradient[0, 0] != 0, stronger)
    assert torch.equal(gradient[0, 1] != 0, ~stronger)


def test_one_side_of_a_merged_pair_is_enough() -> None:
    masks = torch.ones(1, 2, 2, 2, 2, dtype=torch.bool)
    labels = PartialLabels(masks, torch.ones(1, 2, dtype=torch.bool), merged=((0, 0, 1),))
    sides = torch.tensor([[-10.0, 10.0]])
    assert presence_loss(sides, labels) < 1e-3
    assert soft_dice(sides[:, :, None, None, None].expand(masks.shape), labels) > 0.999


def test_certainty_scales_the_target_of_the_cross_entropy(case) -> None:
    logits, labels = case
    certainty = torch.full((2, 3), 0.25, dtype=torch.float64)
    _, cross_entropy = MaskLossTerms.apply(logits, labels.masks, labels.annotated, certainty)
    expected = functional.binary_cross_entropy_with_logits(logits[0, 0], 0.25 * labels.masks[0, 0].double())
    torch.testing.assert_close(cross_entropy[0, 0], expected)


def test_a_perfect_answer_costs_nothing_and_the_opposite_much(case) -> None:
    _, labels = case
    perfect = torch.where(labels.masks, 40.0, -40.0)
    assert mask_loss(perfect, labels) < 1e-6
    assert mask_loss(-perfect, labels) > 10


def test_a_coarse_level_is_judged_by_the_part_that_a_class_fills(case) -> None:
    _, labels = case
    occupancy = functional.avg_pool3d(labels.masks.float(), 2).clamp(1e-6, 1 - 1e-6)
    exact = [torch.logit(occupancy)]
    shifted = [torch.logit(occupancy) + 0.5]
    assert response_loss(exact, labels) < response_loss(shifted, labels)


def test_presence_is_asked_of_annotated_classes_only(case) -> None:
    _, labels = case
    present = labels.masks.flatten(2).any(-1)
    right = torch.where(present, 20.0, -20.0)
    assert presence_loss(right, labels) < 1e-6
    assert presence_loss(torch.where(labels.annotated, right, -right), labels) < 1e-6
