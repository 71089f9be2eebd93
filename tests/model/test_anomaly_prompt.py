"""§ 4.2.1: Eq. 14 and 15 against their formulas, voxel by voxel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dsmseg.model.anomaly_prompt import (
    UNLIKE_ITSELF,
    anomaly_score,
    deviation_prompt,
    deviation_scores,
    mask_prompt,
    min_max,
    organ_prompt,
)
from dsmseg.model.attention import masked_attention

SEEDS = st.integers(0, 999)


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_mask(score: torch.Tensor) -> list[float]:
    """Eq. 15 of one case, after min-max."""
    values = score.flatten().tolist()
    low, high = min(values), max(values)
    return [0.0 if (value - low) / (high - low) > 0.5 else -torch.inf for value in values]


@pytest.mark.equation(14)
@settings(max_examples=20)
@given(seed=SEEDS)
def test_score_is_the_negative_of_the_strongest_organ_response_of_each_voxel(seed):
    response = random(2, 4, 2, 3, 2, seed=seed)
    score = anomaly_score(response)
    assert score.shape == (2, 2, 3, 2)
    for item, x, y, z in torch.ones(2, 2, 3, 2).nonzero().tolist():
        assert score[item, x, y, z].item() == -max(response[item, :, x, y, z].tolist())


@pytest.mark.equation(15)
@settings(max_examples=30)
@given(seed=SEEDS, scale=st.floats(1e-2, 1e3), shift=st.floats(-10, 10))
def test_mask_opens_exactly_the_voxels_of_eq_15_in_flattened_order(seed, scale, shift):
    score = scale * random(2, 2, 3, 4, seed=seed) + shift
    mask = mask_prompt(score)
    assert [mask[0].tolist(), mask[1].tolist()] == [plain_mask(score[0]), plain_mask(score[1])]


@pytest.mark.equation(15)
def test_a_score_of_exactly_one_half_is_masked():
    score = torch.tensor([-4.0, -3.0, -2.0, -1.0, 0.0]).view(1, 5, 1, 1)
    closed = -torch.inf
    assert mask_prompt(score).tolist() == [[closed, closed, closed, 0.0, 0.0]]


@settings(max_examples=30)
@given(scale=st.floats(1e-2, 1e3), shift=st.floats(-100, 100), seed=SEEDS)
def test_min_max_spans_zero_to_one_whatever_the_scale_and_offset(scale, shift, seed):
    score = random(2, 3, 4, 2, seed=seed)
    scaled = min_max(score * scale + shift)
    assert torch.allclose(scaled, min_max(score), atol=1e-9)
    assert torch.equal(scaled.flatten(1).amin(1), torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(scaled.flatten(1).amax(1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, -0.9, 50.0])
def test_constant_map_scales_to_zeros_and_masks_nothing(value):
    score = torch.full((1, 2, 2, 2), value)
    assert torch.equal(min_max(score), torch.zeros_like(score))
    assert torch.equal(mask_prompt(score), torch.zeros(1, 8))


@pytest.mark.equation(15)
@settings(max_examples=20)
@given(value=st.floats(-100, 100), seed=SEEDS)
def test_a_row_that_would_be_masked_everywhere_attends_everywhere_and_stays_finite(value, seed):
    score = random(2, 2, 2, 2, seed=seed)
    score[0] = value  # Eq. 15 would mask every voxel of this case
    mask = mask_prompt(score)[:, None, None]
    query, key, tokens = (random(2, 1, n, 4, seed=seed + n).requires_grad_() for n in (3, 8, 8))
    read = masked_attention(query, key, tokens, mask)
    gradients = torch.autograd.grad(read.square().sum(), (query, key, tokens))
    torch.testing.assert_close(read[:1], masked_attention(query[:1], key[:1], tokens[:1]))
    assert all(bool(tensor.isfinite().all()) for tensor in (read, *gradients))
    assert bool((gradients[2][0] != 0).all())


def test_no_gradient_comes_back_through_the_mask():
    assert not mask_prompt(random(1, 2, 2, 2, seed=0).requires_grad_()).requires_grad


def test_a_case_is_scaled_by_its_own_range_only():
    score = random(2, 4, 4, 4, seed=0)
    loud = torch.stack([score[0], 1000 * score[1]])
    assert torch.equal(mask_prompt(loud)[0], mask_prompt(score)[0])
    assert torch.equal(mask_prompt(loud)[0], mask_prompt(score[:1])[0])


@settings(max_examples=30)
@given(seed=SEEDS, voxels=st.integers(1, 30))
def test_no_case_is_masked_everywhere(seed, voxels):
    assert bool((mask_prompt(random(3, voxels, seed=seed)) == 0).any(dim=1).all())


def test_half_precision_scores_are_scaled_in_single_precision():
    assert min_max(torch.randn(1, 3, 3, 3).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("span", "scaled"), [(1e-5, True), (1e-7, False)])
def test_a_range_within_float32_s_rounding_marks_nothing_and_a_wider_one_is_scaled(span, scaled):
    score = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64).mul(span).sub(0.5).view(1, 3, 1, 1)
    expected = [0.0, 0.2, 1.0] if scaled else [0.0] * 3
    assert min_max(score).flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.equation(15)
def test_the_organ_prompt_marks_organs_and_a_voxel_around_them() -> None:
    score = torch.zeros(2, 6, 6, 6)
    score[0, 3, 3, 3] = -1.0  # an organ of one voxel; the other case says nothing
    mask = organ_prompt(score).view(score.shape)
    expected = torch.full((6, 6, 6), -torch.inf)
    expected[2:5, 2:5, 2:5] = 0
    torch.testing.assert_close(mask[0], expected)
    assert not mask[1].any()


@pytest.mark.equation(15)
def test_a_tumor_within_an_organ_is_in_the_organ_prompt_whether_or_not_its_organ_answers_for_it() -> None:
    score = torch.zeros(2, 9, 9, 9)
    score[:, 1:8, 1:8, 1:8] = -1.0
    score[1, 3:5, 3:5, 3:5] = 0.0  # a tumor that no query answers for
    prompts = organ_prompt(score).view(score.shape), mask_prompt(score).view(score.shape)
    assert [bool((one[0, 3:5, 3:5, 3:5] == 0).all()) for one in prompts] == [True, False]
    assert [bool((one[1, 3:5, 3:5, 3:5] == 0).all()) for one in prompts] == [True, True]


def a_scan_and_its_responses(*, tumor: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A liver with a cube of ``tumor`` in it that no query answers for, and nothing around."""
    noise = 0.01 * torch.randn(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    image, response = torch.zeros(1, 1, 64, 64, 64), torch.full((1, 3, 16, 16, 16), -5.0)
    image[..., 8:56, 8:56, 8:56] = 0.5
    image[..., 28:36, 28:36, 28:36] = tumor
    response[:, 1, 2:14, 2:14, 2:14] = 5.0
    response[:, 1, 7:9, 7:9, 7:9] = -5.0
    coarser = [functional.avg_pool3d(response, factor) for factor in (8, 4, 2)]
    return image + noise, [*coarser, response]


@pytest.mark.parametrize("tumor", [0.3, 0.7])
def test_the_deviation_is_high_in_a_dark_or_bright_tumor_low_in_its_organ_and_zero_outside(tumor: float) -> None:
    image, responses = a_scan_and_its_responses(tumor=tumor)
    score = deviation_scores(image, responses)[-1][0]
    inside = torch.zeros(16, 16, 16, dtype=torch.bool)
    inside[2:14, 2:14, 2:14] = True
    lesion = torch.zeros_like(inside)
    lesion[7:9, 7:9, 7:9] = True
    assert score[lesion].min() > 0.9
    assert score[inside & ~lesion].max() < UNLIKE_ITSELF
    assert not score[~inside].any()


def test_the_deviation_prompt_opens_the_tumor_alone_at_every_level_that_can_tell_it_apart() -> None:
    image, responses = a_scan_and_its_responses(tumor=0.3)
    scores = deviation_scores(image, responses)
    assert [score.shape for score in scores] == [(1, size, size, size) for size in (2, 4, 8, 16)]
    opened = [int((deviation_prompt(score) == 0).sum()) for score in scores]
    assert opened == [8, 8, 8, 8]


def test_where_nothing_deviates_the_deviation_prompt_opens_everything() -> None:
    image, responses = a_scan_and_its_responses(tumor=0.5)
    assert not deviation_prompt(deviation_scores(image, responses)[-1]).any()
    assert not deviation_prompt(torch.zeros(1, 4, 4, 4)).any()


def test_without_any_organ_nothing_deviates() -> None:
    image, responses = a_scan_and_its_responses(tumor=0.3)
    scores = deviation_scores(image, [torch.full_like(one, -5.0) for one in responses])
    assert not any(bool(score.any()) for score in scores)


def test_a_voxel_in_two_hulls_counts_by_the_organ_that_explains_it_best() -> None:
    image, responses = a_scan_and_its_responses(tumor=0.3)
    responses[-1][:, 2, 7:9, 7:9, 7:9] = 5.0  # another organ, of just these voxels
    assert deviation_scores(image, responses)[-1].max() < UNLIKE_ITSELF


def test_no_gradient_comes_back_through_the_deviation() -> None:
    image, responses = a_scan_and_its_responses(tumor=0.3)
    assert not deviation_scores(image.requires_grad_(), [one.requires_grad_() for one in responses])[-1].requires_grad
