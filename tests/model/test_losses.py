"""§ 4.1.2: Eq. 11-13 against plain float64 formulas; partial labels to the bit."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dsmseg.model.losses import (
    NEARLY_ALL,
    SMALL_LESION,
    SMOOTHING,
    MaskLossTerms,
    PartialLabels,
    _balanced_cross_entropy,
    any_tumor_loss,
    background_loss,
    batch_dice_loss,
    cross_entropy_loss,
    dice_loss,
    in_organs_loss,
    mask_loss,
    presence_loss,
    response_loss,
    soft_dice,
    weighted_cross_entropy_loss,
)

SEEDS = st.integers(0, 999)
SPACE = (4, 4, 2)


def case(seed: int = 0) -> tuple[Tensor, PartialLabels]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((2, 3, *SPACE), generator=generator, dtype=torch.float64)
    masks = torch.rand((2, 3, *SPACE), generator=generator) < 0.3
    return logits, PartialLabels(masks, torch.tensor([[True, True, False], [True, False, True]]))


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def plain_dice(logits: Tensor, target: Tensor) -> float:
    """Eq. 11 of one class, with its sums over the volume."""
    pairs = list(zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True))
    overlap = sum(2 * y * sigmoid(logit) for logit, y in pairs)
    extent = sum(y + sigmoid(logit) for logit, y in pairs)
    return 1 - (overlap + SMOOTHING) / (extent + SMOOTHING)


def plain_cross_entropy(logits: Tensor, target: Tensor) -> float:
    """Eq. 12 of one class, as a mean over voxels."""
    pairs = list(zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True))
    return -sum(y * math.log(sigmoid(z)) + (1 - y) * math.log(1 - sigmoid(z)) for z, y in pairs) / len(pairs)


def plain_mask_loss(logits: Tensor, labels: PartialLabels, *, weight: float = 1.0, certainty: Tensor | None = None):
    terms = []
    for item, index in labels.annotated.nonzero().tolist():
        logit, mask = logits[item, index], labels.masks[item, index].double()
        p = 1.0 if certainty is None else certainty[item, index].item()
        terms.append(plain_dice(logit, mask) + weight * plain_cross_entropy(logit, p * mask))
    return torch.tensor(sum(terms) / len(terms), dtype=torch.float64)


@pytest.mark.equation(11)
@settings(max_examples=20)
@given(seed=SEEDS)
def test_dice_loss_is_eq_11_over_the_volume_of_each_class(seed):
    logits, labels = case(seed)
    loss = dice_loss(logits, labels.masks.double())
    for item, index in [(0, 0), (0, 2), (1, 1)]:
        expected = plain_dice(logits[item, index], labels.masks[item, index].double())
        assert loss[item, index].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.equation(12)
@settings(max_examples=20)
@given(seed=SEEDS, certainty=st.floats(0, 1))
def test_cross_entropy_loss_is_the_mean_of_eq_12_over_the_voxels_of_each_class(seed, certainty):
    logits, labels = case(seed)
    target = certainty * labels.masks.double()
    loss = cross_entropy_loss(logits, target)
    for item, index in [(0, 0), (0, 2), (1, 1)]:
        expected = plain_cross_entropy(logits[item, index], target[item, index])
        assert loss[item, index].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.equation(13)
@settings(max_examples=20)
@given(seed=SEEDS, weight=st.floats(0, 30))
def test_the_loss_is_dice_plus_weighted_cross_entropy_over_annotated_classes(seed, weight):
    logits, labels = case(seed)
    expected = plain_mask_loss(logits, labels, weight=weight)
    torch.testing.assert_close(mask_loss(logits, labels, cross_entropy_weight=weight), expected)


@pytest.mark.equation(12, 13)
@settings(max_examples=20)
@given(seed=SEEDS)
def test_in_stage_2_the_target_of_the_cross_entropy_is_scaled_by_certainty(seed):
    logits, labels = case(seed)
    certainty = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = plain_mask_loss(logits, labels, certainty=certainty)
    torch.testing.assert_close(mask_loss(logits, labels, certainty), expected)


@pytest.mark.equation(11, 12)
@settings(max_examples=20)
@given(seed=SEEDS)
def test_the_fast_terms_and_their_gradients_are_those_of_the_plain_losses(seed):
    logits, labels = case(seed)
    generator = torch.Generator().manual_seed(seed)
    certainty = torch.rand(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    upstream = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    fast = torch.stack(MaskLossTerms.apply(logits, labels.masks, labels.annotated, certainty)[:2])
    target = certainty[..., None, None, None] * labels.masks
    plain = torch.stack([dice_loss(logits, labels.masks.double()), cross_entropy_loss(logits, target)])
    plain = torch.where(labels.annotated, plain, 0.0)
    torch.testing.assert_close(fast, plain)
    gradients = (torch.autograd.grad((terms * upstream).sum(), (logits, certainty)) for terms in (fast, plain))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("least_share", [0.0, 0.4])
def test_the_analytic_gradient_is_the_derivative_by_logits_and_by_certainty(over_batch, least_share) -> None:
    logits, labels = case()
    certainty = torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(
        lambda logits, certainty: MaskLossTerms.apply(
            logits, labels.masks, labels.annotated, certainty, over_batch, least_share
        )[:2],
        (logits.requires_grad_(), certainty.requires_grad_()),
    )


def test_the_loss_of_half_precision_logits_is_computed_in_single_precision() -> None:
    logits, labels = case()
    half = logits.bfloat16()
    assert mask_loss(half, labels).dtype == torch.float32
    torch.testing.assert_close(mask_loss(half, labels), mask_loss(half.float(), labels), rtol=0, atol=0)
    (half_gradient,) = torch.autograd.grad(mask_loss(half.requires_grad_(), labels), half)
    whole = half.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(mask_loss(whole, labels), whole)
    torch.testing.assert_close(half_gradient, gradient.bfloat16(), rtol=0, atol=0)


def influence(loss, logits: Tensor, labels: PartialLabels) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


LOSSES = {
    "mask": lambda logits, labels: mask_loss(logits, labels, torch.full((2, 3), 0.5)),
    "response": lambda logits, labels: response_loss([logits[..., ::2, ::2, :1], logits], labels),
    "presence": lambda logits, labels: presence_loss(logits[..., 0, 0, 0], labels),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("anything", [7.0, -1e30, 3e38, math.inf, math.nan])
def test_what_is_not_annotated_has_no_influence_to_the_bit(name, anything) -> None:
    logits, labels = case()
    unknown = ~labels.annotated[:, :, None, None, None]
    value, gradient = influence(LOSSES[name], logits.float(), labels)
    assert torch.all(gradient[~labels.annotated] == 0)
    assert bool(gradient[labels.annotated].any())
    other_labels = PartialLabels(labels.masks ^ unknown, labels.annotated)
    other_value, other = influence(LOSSES[name], logits.float().masked_fill(unknown, anything), other_labels)
    assert torch.equal(other_value, value)
    assert torch.equal(other, gradient)


def test_the_certainty_of_what_is_not_annotated_has_no_influence_and_gets_no_gradient() -> None:
    logits, labels = case()
    certainty = torch.full((2, 3), 0.5, dtype=torch.float64, requires_grad=True)
    value = mask_loss(logits, labels, certainty)
    (gradient,) = torch.autograd.grad(value, certainty)
    assert torch.all(gradient[~labels.annotated] == 0)
    assert torch.all(gradient[labels.annotated] != 0)
    assert torch.equal(mask_loss(logits, labels, torch.where(labels.annotated, 0.5, 1e9)), value)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_any_annotation_costs_nothing(name) -> None:
    logits, labels = case()
    labels = PartialLabels(labels.masks, torch.zeros_like(labels.annotated))
    value, gradient = influence(LOSSES[name], logits.float(), labels)
    assert value == 0
    assert not bool(gradient.any())


def merged_case() -> tuple[Tensor, PartialLabels]:
    logits, labels = case()
    masks = labels.masks.clone()
    masks[0, 0] = masks[0, 1] = masks[0, 0] | masks[0, 1]
    return logits, replace(labels, masks=masks, merged=((0, 0, 1),))


@pytest.mark.equation(13)
def test_a_merged_pair_is_judged_by_the_stronger_side_against_the_union() -> None:
    logits, labels = merged_case()
    stronger = logits.clone()
    stronger[0, 0] = torch.maximum(logits[0, 0], logits[0, 1])
    once = PartialLabels(labels.masks, torch.tensor([[True, False, False], [True, False, True]]))
    torch.testing.assert_close(mask_loss(logits, labels), plain_mask_loss(stronger, once))


def test_a_merged_pair_learns_on_its_stronger_side_at_each_voxel() -> None:
    logits, labels = merged_case()
    assert torch.autograd.gradcheck(lambda logits: mask_loss(logits, labels), logits.requires_grad_())
    (gradient,) = torch.autograd.grad(mask_loss(logits, labels), logits)
    stronger = logits[0, 0] > logits[0, 1]
    assert torch.equal(gradient[0, 0] != 0, stronger)
    assert torch.equal(gradient[0, 1] != 0, ~stronger)


def test_one_side_of_a_merged_pair_is_enough() -> None:
    masks = torch.ones(1, 2, 2, 2, 2, dtype=torch.bool)
    labels = PartialLabels(masks, torch.ones(1, 2, dtype=torch.bool), merged=((0, 0, 1),))
    sides = torch.tensor([[-10.0, 10.0]])
    assert presence_loss(sides, labels) < 1e-3
    assert soft_dice(sides[:, :, None, None, None].expand(masks.shape), labels) > 0.999


def test_a_perfect_answer_costs_nothing_and_the_opposite_much() -> None:
    _, labels = case()
    perfect = torch.where(labels.masks, 40.0, -40.0)
    assert mask_loss(perfect, labels) < 1e-6
    assert mask_loss(-perfect, labels) > 10


@pytest.mark.equation(11, 12, 13)
@pytest.mark.parametrize("merged", [(), ((0, 0, 1),)])
def test_each_level_of_the_response_is_judged_by_the_part_of_a_voxel_that_a_class_fills(merged) -> None:
    _, labels = case()
    labels = replace(labels, masks=labels.masks.repeat(1, 1, 1, 1, 2), merged=merged)  # 4 x 4 x 4
    generator = torch.Generator().manual_seed(2)
    responses = [torch.randn(2, 3, n, n, n, generator=generator) for n in (1, 2, 4)]
    annotated = labels.annotated.clone()
    levels = []
    for response in responses:
        size, stronger = response.shape[-1], response.double()
        if merged:
            annotated[0, 1] = False
            stronger[0, 0] = torch.maximum(stronger[0, 0], stronger[0, 1])
        s = 4 // size
        target = torch.zeros(2, 3, size, size, size, dtype=torch.float64)
        for x, y, z in torch.ones(size, size, size).nonzero().tolist():
            cube = labels.masks[:, :, s * x : s * x + s, s * y : s * y + s, s * z : s * z + s]
            target[:, :, x, y, z] = cube.double().flatten(2).mean(-1)
        pairs = annotated.nonzero().tolist()
        terms = [
            plain_dice(stronger[i, k], target[i, k]) + 3 * plain_cross_entropy(stronger[i, k], target[i, k])
            for i, k in pairs
        ]
        levels.append(sum(terms) / len(terms))
    loss = response_loss(responses, labels, cross_entropy_weight=3.0)
    assert loss.item() == pytest.approx(sum(levels) / len(levels), rel=1e-5)


def test_presence_is_the_cross_entropy_of_whether_an_annotated_class_is_in_the_patch() -> None:
    _, labels = case()
    masks = labels.masks.clone()
    masks[0, 1] = masks[1, 0] = False
    presence = torch.tensor([[0.3, -0.7, 9.0], [1.2, 9.0, -0.4]])
    present = {(0, 0): 1, (0, 1): 0, (1, 0): 0, (1, 2): 1}
    terms = [-math.log(sigmoid(presence[at].item() * (1 if there else -1))) for at, there in present.items()]
    loss = presence_loss(presence, replace(labels, masks=masks))
    assert loss.item() == pytest.approx(sum(terms) / 4, rel=1e-6)


def test_soft_dice_is_the_mean_over_annotated_classes_that_are_in_the_patch() -> None:
    logits, labels = case()
    masks = labels.masks.clone()
    masks[0, 1] = False
    scores = []
    for at in [(0, 0), (1, 0), (1, 2)]:
        probability, mask = logits[at].sigmoid(), masks[at].double()
        scores.append((2 * (probability * mask).sum() / (probability.sum() + mask.sum())).item())
    assert soft_dice(logits, replace(labels, masks=masks)) == pytest.approx(sum(scores) / 3, rel=1e-5)


def test_dice_is_smoothed_by_one_voxel() -> None:
    # Two voxels at 1/2 and an empty target: 1 - (0 + 1) / (1 + 0 + 1).
    assert dice_loss(torch.zeros(1, 1, 2, 1, 1), torch.zeros(1, 1, 2, 1, 1)).item() == 0.5


def test_the_certainty_of_a_merged_pair_is_the_mean_of_both_sides():
    torch.manual_seed(0)
    logits, union = torch.randn(1, 2, 3, 2, 2), torch.rand(1, 1, 3, 2, 2) < 0.5
    labels = PartialLabels(union.expand(1, 2, -1, -1, -1), torch.ones(1, 2, dtype=torch.bool), ((0, 0, 1),))
    certainty = torch.tensor([[0.3, 0.9]], requires_grad=True)
    loss = mask_loss(logits, labels, certainty)
    assert loss.item() == pytest.approx(mask_loss(logits, labels, torch.tensor([[0.6, 0.6]])).item())
    (gradient,) = torch.autograd.grad(loss, certainty)
    assert gradient[0, 0] == gradient[0, 1] != 0


def test_a_second_derivative_is_refused_rather_than_wrong():
    labels = PartialLabels(torch.ones(1, 1, 2, 1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool))
    logits = torch.zeros(1, 1, 2, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(mask_loss(logits, labels), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.equation(11, 12)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, over_batch=st.booleans(), least_share=st.sampled_from([0.0, 0.1, 0.6]))
def test_the_fast_loss_is_the_plain_one_in_every_reading(seed, over_batch, least_share):
    logits, labels = case(seed)
    target, known = labels.masks.double(), labels.annotated
    dice, judged = dice_loss(logits, target), known
    if over_batch:
        dice, judged = batch_dice_loss(logits, target, known)[0], (labels.masks.flatten(2).any(-1) & known).any(0)
    expected = torch.where(judged, dice, 0.0).sum() / judged.sum().clamp(min=1)
    cross_entropy = weighted_cross_entropy_loss(logits, target, least_share)
    expected = expected + 3.0 * torch.where(known, cross_entropy, 0.0).sum() / known.sum()
    loss = mask_loss(logits, labels, cross_entropy_weight=3.0, over_batch=over_batch, least_share=least_share)
    torch.testing.assert_close(loss, expected)


@pytest.mark.equation(11)
def test_dice_over_the_batch_is_that_of_all_patches_laid_behind_each_other() -> None:
    logits, labels = case(3)
    target, known = labels.masks.double(), torch.ones_like(labels.annotated)
    joined = dice_loss(torch.cat(list(logits), dim=1)[None], torch.cat(list(target), dim=1)[None])
    torch.testing.assert_close(batch_dice_loss(logits, target, known), joined)


def test_a_class_that_no_patch_holds_has_no_dice_over_the_batch_but_a_cross_entropy() -> None:
    logits, labels = case(1)
    empty = replace(labels, masks=torch.zeros_like(labels.masks), annotated=torch.ones_like(labels.annotated))
    loss = mask_loss(logits, empty, over_batch=True)
    torch.testing.assert_close(loss, cross_entropy_loss(logits, torch.zeros_like(logits)).mean())


@pytest.mark.equation(12)
@pytest.mark.parametrize("voxels", [1, 8, 32])
def test_a_class_weighs_in_the_cross_entropy_as_if_it_filled_at_least_the_share_that_is_asked_for(voxels) -> None:
    logits = torch.randn((1, 1, *SPACE), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.zeros_like(logits).flatten()
    target[:voxels] = 1.0
    target = target.view_as(logits)
    share = voxels / target.numel()
    inside = -functional.logsigmoid(logits)[target > 0].mean()
    outside = -functional.logsigmoid(-logits)[target == 0].sum() / target.numel()
    expected = max(share, 0.25) * inside + outside
    torch.testing.assert_close(weighted_cross_entropy_loss(logits, target, 0.25)[0, 0], expected)


def test_responses_are_judged_over_the_batch_where_that_is_asked_for() -> None:
    logits, labels = case(2)
    loss = response_loss([logits], labels, over_batch=True, least_share=0.3)
    torch.testing.assert_close(
        loss, mask_loss(logits, labels, over_batch=True, least_share=0.3).float(), rtol=1e-5, atol=1e-6
    )


def background_case(annotated: int) -> tuple[list[Tensor], PartialLabels]:
    """Two levels of background responses, and 25 organs, of which the first fills a corner of 4 x 4 x 4."""
    masks = torch.zeros(1, 25, 8, 8, 8, dtype=torch.bool)
    masks[0, 0, :4, :4, :4] = True
    known = torch.zeros(1, 25, dtype=torch.bool)
    known[0, :annotated] = True
    responses = [torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 3, 4, 4, 4)]
    return [one.requires_grad_() for one in responses], PartialLabels(masks, known)


def test_background_queries_are_to_answer_where_no_organ_is_and_not_in_organs() -> None:
    responses, labels = background_case(NEARLY_ALL)
    loss = background_loss(responses, labels)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    fine = torch.autograd.grad(loss, responses[1])[0].sum(1)[0]
    assert bool((fine[:2, :2, :2] > 0).all())  # to be lowered
    assert bool((fine[2:] < 0).all())


def test_where_many_organs_are_unknown_only_an_organ_s_voxels_are_known_not_to_be_background() -> None:
    responses, labels = background_case(NEARLY_ALL - 1)
    fine = torch.autograd.grad(background_loss(responses, labels), responses[1])[0].sum(1)[0]
    assert bool((fine[:2, :2, :2] > 0).all())
    assert not fine[2:].any()


def test_of_the_background_queries_the_strongest_learns_as_in_k_means() -> None:
    responses, labels = background_case(25)
    raised = responses[1].detach().clone()
    raised[:, 1] += 1.0
    raised.requires_grad_()
    (gradient,) = torch.autograd.grad(background_loss([responses[0], raised], labels), raised)
    assert gradient[:, 1].abs().sum() > 0
    assert not gradient[:, [0, 2]].any()


def in_two_organs() -> PartialLabels:
    """Two patches that annotate organ 0 with the tumor 2 in it, and the tumor 3 of an organ that nobody labelled."""
    masks = torch.zeros(2, 4, 8, 8, 8, dtype=torch.bool)
    masks[0, 0, :4] = True
    masks[0, 2, :2, :2, :2] = True
    masks[1, 0, 4:] = True
    annotated = torch.tensor([[True, False, True, False], [True, False, True, True]])
    return PartialLabels(masks, annotated)


def test_within_organs_a_tumor_s_voxels_count_as_much_as_all_others_and_nothing_counts_beyond() -> None:
    labels = in_two_organs()
    logits = torch.randn(2, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = in_organs_loss(logits, labels, 2)
    tumor, organ = labels.masks[:, 2], labels.masks[:, 0]
    p = logits.detach().sigmoid().double()
    first = -p[0, 0][tumor[0]].log().sum() / SMALL_LESION - (1 - p[0, 0][organ[0] & ~tumor[0]]).log().mean()
    second = -(1 - p[1, 0][organ[1]]).log().mean()  # no tumor: one side
    third = -(1 - p[1, 1][organ[1]]).log().mean()  # the other kind, in an organ that is not its host
    overlap, extent = 2 * p[:, 0][tumor].sum() + SMOOTHING, p[:, 0][organ].sum() + tumor.sum() + SMOOTHING
    assert loss.item() == pytest.approx(float((first + second + third) / 3 + 1 - overlap / extent), rel=1e-5)
    loss.backward()
    assert not logits.grad[:, 0][~organ].any()
    assert not logits.grad[0, 1].any()  # not annotated there
    assert bool((logits.grad[:, 0][tumor] < 0).all())


def test_each_voxel_of_a_small_lesion_counts_as_much_as_one_of_a_lesion_of_15_mm() -> None:
    small = _balanced_cross_entropy(torch.zeros(100), torch.arange(100) < 6)
    assert small.item() == pytest.approx(math.log(2) * (6 / SMALL_LESION + 1))
    assert _balanced_cross_entropy(torch.zeros(200), torch.arange(200) < 90).item() == pytest.approx(2 * math.log(2))


def test_where_no_tumor_is_annotated_nothing_is_learned_within_organs() -> None:
    labels = replace(in_two_organs(), annotated=torch.zeros(2, 4, dtype=torch.bool))
    assert float(in_organs_loss(torch.randn(2, 2, 8, 8, 8), labels, 2)) == 0


# --- voxels of which nothing is known --------------------------------------------------------------------------------


def half_known(seed: int = 0) -> tuple[Tensor, PartialLabels]:
    """Give logits and labels of which a half is unknown, cut so that coarse voxels are known or not."""
    logits, labels = case(seed)
    known = torch.ones(2, *SPACE, dtype=torch.bool)
    known[0, 2:] = False
    return logits, replace(labels, masks=labels.masks & known[:, None], known=known)


@pytest.mark.parametrize(
    "loss",
    [
        mask_loss,
        lambda logits, labels: mask_loss(logits, labels, over_batch=True, least_share=0.2),
        lambda logits, labels: response_loss([functional.avg_pool3d(logits, 2), logits], labels),
        lambda logits, labels: background_loss([functional.avg_pool3d(logits, 2)], labels),
        lambda logits, labels: in_organs_loss(logits[:, 2:], labels, 2),
        lambda logits, labels: any_tumor_loss(functional.avg_pool3d(logits, 2)[:, 2], labels, {2: [0]}),
    ],
)
def test_a_voxel_of_which_nothing_is_known_changes_no_loss_and_learns_nothing(loss):
    logits, labels = half_known()
    labels = replace(labels, annotated=torch.ones(2, 3, dtype=torch.bool))
    other = torch.where(labels.known[:, None], logits, 5.0 - 3.0 * logits)
    logits.requires_grad_()
    value = loss(logits, labels)
    torch.testing.assert_close(value, loss(other, labels))
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient[0, :, 2:].any()
    assert gradient[0, :, :2].any()


def test_where_all_is_known_it_is_as_if_nothing_were_said():
    logits, labels = case()
    told = replace(labels, known=torch.ones(2, *SPACE, dtype=torch.bool))
    for loss in (mask_loss, lambda logits, labels: response_loss([logits], labels)):
        torch.testing.assert_close(loss(logits, told), loss(logits, labels))


def test_a_class_that_may_lie_where_nothing_is_known_is_not_said_to_be_absent():
    _, labels = half_known()
    absent = replace(labels, masks=torch.zeros_like(labels.masks))
    presence = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(presence_loss(presence, absent), presence)
    assert not gradient[0].any()
    assert gradient[1, 0] > 0
