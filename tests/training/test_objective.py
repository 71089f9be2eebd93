"""What a stage minimizes: which term hears of which classes, and what p of Eq. 20 does to a target."""

import pytest
import torch

from dsmseg.model import DSMOutput
from dsmseg.model.losses import (
    PartialLabels,
    background_loss,
    in_organs_loss,
    mask_loss,
    part_of,
    presence_loss,
    response_loss,
)
from dsmseg.taxonomy import CLASSES, find
from dsmseg.taxonomy import TUMORS as KINDS
from dsmseg.training.course_settings import Loss
from dsmseg.training.objective import known_counts, losses, losses_within_organs

ORGANS, TUMORS = 25, 20
_HOSTS = {CLASSES.index(kind): [CLASSES.index(find(name)) for name in kind.hosts] for kind in KINDS}
LETTER = {"dice_over": "patch", "organ_share": 0.0, "tumor_share": 0.0, "in_organs": 0.0}
TO_THE_LETTER = Loss(certainty="learned", alignment=0.0, **LETTER)


def case(*, scale: float = 1.0, seed: int = 0) -> tuple[DSMOutput, PartialLabels]:
    """One patch that tells of all organs and of one tumor, none of whose voxels is found yet."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(1, ORGANS + TUMORS, 32, 32, 32, generator=generator) < 0.02
    annotated = torch.arange(ORGANS + TUMORS)[None] <= ORGANS
    similarity = torch.randn(1, ORGANS + TUMORS, ORGANS + TUMORS, generator=generator).requires_grad_()
    output = DSMOutput(
        organ_logits=torch.randn(1, ORGANS, 32, 32, 32, generator=generator).requires_grad_(),
        presence=torch.zeros(1, ORGANS),
        responses=[torch.zeros(1, ORGANS, size, size, size) for size in (1, 2, 4, 8)],
        anomaly=torch.zeros(1, 8, 8, 8),
        background=[torch.zeros(1, 3, size, size, size) for size in (1, 2, 4, 8)],
        tumor_logits=torch.full((1, TUMORS, 32, 32, 32), -4.0 * scale).requires_grad_(),
        tumor_presence=torch.randn(1, TUMORS, generator=generator),
        tumor_responses=[torch.randn(1, TUMORS, size, size, size, generator=generator) for size in (4, 8)],
        log_probability=similarity.log_softmax(dim=-1),
    )
    return output, PartialLabels(masks, annotated)


def test_tumors_count_as_much_as_organs_however_many_a_scan_tells_of() -> None:
    output, labels = case()
    terms = losses(output, labels, Loss(certainty="none", tumor=3.0, **LETTER))
    organs, tumors = part_of(labels, 0, ORGANS), part_of(labels, ORGANS, ORGANS + TUMORS)
    expected = mask_loss(output.organ_logits, organs, cross_entropy_weight=20.0)
    torch.testing.assert_close(terms["mask"], expected)
    expected = 3.0 * mask_loss(output.tumor_logits, tumors, cross_entropy_weight=20.0)
    torch.testing.assert_close(terms["tumor_mask"], expected)
    assert known_counts(labels, ORGANS, matched=False) == {
        "mask": 25, "tumor_mask": 1, "response": 25, "presence": 25, "tumor_response": 1, "tumor_presence": 1,
        "tumor_in_organs": 1, "any_tumor": 1, "alignment": 26, "query_distribution": 1,
    }  # fmt: skip
    assert known_counts(labels, ORGANS, matched=True)["mask"] == 26


def test_the_terms_of_parts_weighted_by_what_they_know_are_those_of_the_whole_batch() -> None:
    one, all_known = case()
    other, _ = case(seed=1)
    few = torch.zeros_like(all_known.annotated)
    few[0, [1, 2, 5]] = True  # no tumor, and a merged pair
    parts = [(one, all_known), (other, PartialLabels(all_known.masks, few, ((0, 1, 2),)))]
    names = ("organ_logits", "presence", "anomaly", "tumor_logits", "tumor_presence", "log_probability")
    levels = ("responses", "tumor_responses")
    whole = DSMOutput(
        **{name: torch.cat([getattr(output, name) for output, _ in parts]) for name in names},
        **{
            name: [torch.cat(level) for level in zip(*(getattr(output, name) for output, _ in parts), strict=True)]
            for name in levels
        },
    )
    parts = [(output._replace(background=()), labels) for output, labels in parts]
    together = PartialLabels(
        torch.cat([labels.masks for _, labels in parts]),
        torch.cat([labels.annotated for _, labels in parts]),
        ((1, 1, 2),),
    )
    weights = Loss(alignment=0.1, certainty="given", **LETTER)  # Dice over the batch is no mean of those of its parts
    counts = [known_counts(labels, ORGANS, matched=False) for _, labels in parts]
    assert [one["tumor_mask"] for one in counts] == [1, 0]
    everywhere = known_counts(together, ORGANS, matched=False)
    terms = [losses(output, labels, weights) for output, labels in parts]
    for name, expected in losses(whole, together, weights).items():
        summed = sum(term[name] * count[name] / everywhere[name] for term, count in zip(terms, counts, strict=True))
        torch.testing.assert_close(summed, expected, msg=name)


def test_stage_1_has_no_term_of_tumors() -> None:
    output, labels = case()
    first = output._replace(tumor_logits=None, tumor_presence=None, tumor_responses=(), log_probability=None)
    assert set(losses(first, labels, Loss(alignment=1.0))) == {"mask", "response", "presence"}


def test_tumors_answer_by_presence_and_at_two_levels_and_background_queries_beside_organs() -> None:
    output, labels = case()
    tumors = part_of(labels, ORGANS, ORGANS + TUMORS)
    terms = losses(output, labels, Loss(tumor=2.0, presence=0.3, response=0.5))
    torch.testing.assert_close(terms["tumor_presence"], 0.6 * presence_loss(output.tumor_presence, tumors))
    assert terms["tumor_in_organs"].item() == pytest.approx(
        8 * in_organs_loss(output.tumor_logits, labels, ORGANS).item(), rel=1e-5
    )
    assert "tumor_in_organs" not in losses(output, labels, Loss(in_organs=0))
    expected = response_loss(
        output.tumor_responses, tumors, cross_entropy_weight=20.0, over_batch=True, least_share=0.1
    )
    torch.testing.assert_close(terms["tumor_response"], expected)
    without = losses(output._replace(background=()), labels, Loss(response=0.5))["response"]
    by_background = 0.5 * background_loss(output.background, part_of(labels, 0, ORGANS))
    torch.testing.assert_close(terms["response"], without + by_background)


def test_while_the_branch_learns_alone_tumors_are_judged_within_organs_alone() -> None:
    output, labels = case()
    output = output._replace(any_tumor=torch.zeros(1, 16, 16, 16))
    whole = losses(output, labels, Loss(tumor=2.0))
    terms = losses_within_organs(output, labels, Loss(tumor=2.0))
    assert set(terms) == {"tumor_in_organs", "any_tumor"}
    for name, term in terms.items():
        torch.testing.assert_close(term, whole[name])


@pytest.mark.equation(20)
def test_to_the_letter_p_falls_where_a_mask_is_still_empty() -> None:
    for scale, sign in ((1.0, 1.0), (-1.0, -1.0)):  # a mask that is empty, and one that is not
        output, labels = case(scale=scale)
        gradient = torch.autograd.grad(losses(output, labels, TO_THE_LETTER)["tumor_mask"], output.log_probability)[0]
        assert sign * gradient[0, ORGANS, ORGANS] > 0  # descent lowers p, or raises it


@pytest.mark.equation(20)
@pytest.mark.parametrize(("certainty", "like"), [("given", "learned"), ("none", None)])
def test_p_as_a_given_target_and_no_p_at_all(certainty: str, like: str | None) -> None:
    output, labels = case()
    term = losses(output, labels, Loss(certainty=certainty, **LETTER))["tumor_mask"]
    assert torch.autograd.grad(term, output.log_probability, allow_unused=True, retain_graph=True)[0] is None
    tumors = part_of(labels, ORGANS, ORGANS + TUMORS)
    if like is None:
        expected = mask_loss(output.tumor_logits, tumors, cross_entropy_weight=20.0)
    else:
        expected = losses(output, labels, Loss(certainty=like, **LETTER))["tumor_mask"]
    torch.testing.assert_close(term, expected)


@pytest.mark.equation(14)
def test_responses_can_be_asked_to_leave_out_labelled_tumors_while_masks_keep_them() -> None:
    output, labels = case()
    whole, healthy = (losses(output, labels, Loss(responds_to=one)) for one in ("organ", "healthy"))
    assert [name for name in whole if whole[name] != healthy[name]] == ["response"]
    masks = labels.masks.clone()
    masks[:, :ORGANS] &= ~masks[:, ORGANS : ORGANS + 1]  # the one tumor that the scan tells of
    expected = losses(output, PartialLabels(masks, labels.annotated), Loss())["response"]
    torch.testing.assert_close(healthy["response"], expected, rtol=0, atol=0)
