import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.model.anomaly_prompt import anomaly_score, mask_prompt, min_max


def test_score_is_the_negative_of_the_strongest_organ_response():
    response = torch.tensor([[[0.2, -3.0], [0.7, -1.0]]])
    assert torch.equal(anomaly_score(response), torch.tensor([[-0.7, 1.0]]))


def test_mask_opens_exactly_the_voxels_whose_scaled_score_exceeds_one_half():
    score = torch.tensor([-4.0, -3.0, -2.0, -1.0, 0.0]).view(1, 5, 1, 1)
    closed = -torch.inf
    # The third voxel scales to exactly 0.5, which Eq. 15 masks.
    assert mask_prompt(score).tolist() == [[closed, closed, closed, 0.0, 0.0]]


@settings(deadline=None)
@given(scale=st.floats(1e-2, 1e3), shift=st.floats(-100, 100), seed=st.integers(0, 99))
def test_min_max_spans_zero_to_one_whatever_the_scale_and_offset(scale, shift, seed):
    score = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scaled = min_max(score * scale + shift)
    assert torch.allclose(scaled, min_max(score), atol=1e-9)
    assert torch.equal(scaled.flatten(1).amin(1), torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(scaled.flatten(1).amax(1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, -0.9, 50.0])
def test_constant_map_scales_to_zeros_and_masks_nothing(value):
    score = torch.full((1, 2, 2, 2), value)
    assert torch.equal(min_max(score), torch.zeros_like(score))
    assert torch.equal(mask_prompt(score), torch.zeros(1, 8))


def test_a_case_is_scaled_by_its_own_range_only():
    score = torch.randn(2, 4, 4, 4)
    loud = torch.stack([score[0], 1000 * score[1]])
    assert torch.equal(mask_prompt(loud)[0], mask_prompt(score)[0])
    assert torch.equal(mask_prompt(loud)[0], mask_prompt(score[:1])[0])


@settings(deadline=None)
@given(seed=st.integers(0, 99), voxels=st.integers(1, 30))
def test_no_case_is_masked_everywhere(seed, voxels):
    score = torch.randn(3, voxels, generator=torch.Generator().manual_seed(seed))
    assert bool((mask_prompt(score) == 0).any(dim=1).all())


def test_half_precision_scores_are_scaled_in_single_precision():
    assert min_max(torch.randn(1, 3, 3, 3).bfloat16()).dtype == torch.float32
