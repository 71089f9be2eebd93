import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.model.semantic_diffusion import NEIGHBORS_BY_DISTANCE, SemanticDiffusion


def randomized(channels: int, seed: int = 0) -> SemanticDiffusion:
    generator = torch.Generator().manual_seed(seed)
    module = SemanticDiffusion(channels)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return module


def eq_17_voxel_by_voxel(module: SemanticDiffusion, feature: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
    weights, sharpness = module.neighbor_weights(), module.sharpness()
    result = torch.zeros_like(feature)
    batches, _, *size = feature.shape
    for batch, *p in itertools.product(range(batches), *map(range, size)):
        for offset in itertools.product((-1, 0, 1), repeat=3):
            # No flux crosses the border, so a neighbor outside the map adds nothing.
            q = [a + b for a, b in zip(p, offset, strict=True)]
            if offset == (0, 0, 0) or any(not 0 <= a < n for a, n in zip(q, size, strict=True)):
                continue
            kind = sum(map(abs, offset)) - 1
            distance = (guidance[batch, :, *q] - guidance[batch, :, *p]).square().mean()
            diffusivity = weights[kind] * torch.exp(-sharpness[kind] * distance)
            result[batch, :, *p] += diffusivity * (feature[batch, :, *q] - feature[batch, :, *p])
    return result


def test_equals_eq_17_computed_voxel_by_voxel():
    torch.manual_seed(0)
    module = randomized(3).double()
    feature = torch.randn(2, 3, 4, 3, 5, dtype=torch.float64)
    guidance = torch.randn(2, 2, 4, 3, 5, dtype=torch.float64)
    expected = eq_17_voxel_by_voxel(module, feature, guidance)
    torch.testing.assert_close(module(feature, guidance), expected, rtol=1e-10, atol=1e-12)


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    module = randomized(2).double()
    inputs = [torch.randn(1, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(module, inputs)


def test_constant_map_does_not_change():
    feature = torch.full((1, 4, 3, 4, 5), 7.3)
    assert torch.equal(randomized(4)(feature, torch.randn(1, 4, 3, 4, 5)), torch.zeros_like(feature))


def test_a_map_of_one_voxel_has_no_neighbors_and_does_not_change():
    feature = torch.randn(1, 4, 1, 1, 1)
    assert torch.equal(SemanticDiffusion(4)(feature, feature), torch.zeros_like(feature))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), size=st.tuples(*[st.integers(1, 5)] * 3))
def test_what_a_voxel_gains_others_lose_and_no_value_leaves_the_range(seed, size):
    generator = torch.Generator().manual_seed(seed)
    module = randomized(2, seed).double()
    feature = torch.randn(1, 2, *size, generator=generator, dtype=torch.float64)
    guidance = torch.randn(1, 3, *size, generator=generator, dtype=torch.float64)
    change = module(feature, guidance).detach()
    assert torch.allclose(change.sum(dim=(2, 3, 4)), torch.zeros(1, 2, dtype=torch.float64), atol=1e-10)
    after = (feature + change).flatten(2)
    assert bool((after.amax(-1) <= feature.flatten(2).amax(-1) + 1e-12).all())
    assert bool((after.amin(-1) >= feature.flatten(2).amin(-1) - 1e-12).all())


@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_26_weights_of_a_channel_are_positive_and_sum_to_less_than_one(seed):
    weights = randomized(5, seed).neighbor_weights()
    assert bool((weights > 0).all())
    assert bool(((weights * torch.tensor(NEIGHBORS_BY_DISTANCE)[:, None]).sum(0) < 1).all())


def test_smooths_along_a_guidance_edge_more_than_across_it():
    torch.manual_seed(0)
    feature = torch.randn(1, 1, 8, 8, 8)
    guidance = torch.zeros(1, 1, 8, 8, 8)
    guidance[:, :, 4:] = 10.0
    after = feature + SemanticDiffusion(1)(feature, guidance)

    def roughness(values: torch.Tensor) -> float:
        return values.diff(dim=2).square().mean().item()

    across = roughness(after[:, :, 3:5]) / roughness(feature[:, :, 3:5])
    along = roughness(after[:, :, :4]) / roughness(feature[:, :, :4])
    assert along < across
    leak = SemanticDiffusion(1)(guidance, guidance)
    assert leak.abs().max() < 1e-6


def test_flux_falls_as_the_guidance_differs_more():
    feature = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1)
    fluxes = [SemanticDiffusion(1)(feature, contrast * feature)[0, 0, 0, 0, 0].item() for contrast in (0, 1, 2, 4)]
    assert fluxes == sorted(fluxes, reverse=True)
    assert len(set(fluxes)) == 4


def test_half_precision_keeps_small_differences():
    torch.manual_seed(0)
    feature, guidance = (torch.randn(1, 3, 5, 5, 5).bfloat16() for _ in range(2))
    module = SemanticDiffusion(3)
    result = module(feature, guidance)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, module(feature.float(), guidance.float()).bfloat16(), rtol=0, atol=0)
