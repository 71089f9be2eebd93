import itertools
import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsmseg.model.kernels import plain
from dsmseg.model.semantic_diffusion import SemanticDiffusion, diffuse

pytestmark = pytest.mark.equation(16, 17)

NEIGHBORS = [offset for offset in itertools.product((-1, 0, 1), repeat=3) if offset != (0, 0, 0)]
SIZES = st.tuples(*[st.integers(1, 5)] * 3)
SEEDS = st.integers(0, 1000)
both_paths = pytest.mark.parametrize("path", [plain, nullcontext], ids=["plain", "fast"])


def randomized(channels: int, seed: int = 0, spread: float = 1.0) -> SemanticDiffusion:
    generator = torch.Generator().manual_seed(seed)
    module = SemanticDiffusion(channels)
    for parameter in module.parameters():
        parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return module


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def weight_and_sharpness(module: SemanticDiffusion, kind: int, channel: int) -> tuple[float, float]:
    """Give the learned parts of g for neighbors that share a face (0), an edge (1) or a corner (2).

    A channel's share of one is parted among faces, edges, corners and the voxel itself, and then among the neighbors.
    """
    shares = [math.exp(logit) for logit in module.share_logits[:, channel].tolist()]
    weight = shares[kind] / sum(shares) / (6, 12, 8)[kind]
    return weight, math.log1p(math.exp(module.raw_sharpness[kind].item()))


def eq_17(module: SemanticDiffusion, feature: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
    """Sum g(|D[q] - D[p]|^2) (F[q] - F[p]) over the 26 neighbors q of each p, in float64, a number at a time."""
    result = torch.zeros_like(feature, dtype=torch.float64)
    (batches, channels, *size), guides = feature.shape, guidance.shape[1]
    parts = {(kind, c): weight_and_sharpness(module, kind, c) for kind in range(3) for c in range(channels)}
    features, guidances = feature.double().tolist(), guidance.double().tolist()
    for b, x, y, z in itertools.product(range(batches), *map(range, size)):
        for offset in NEIGHBORS:
            i, j, k = x + offset[0], y + offset[1], z + offset[2]
            if not (0 <= i < size[0] and 0 <= j < size[1] and 0 <= k < size[2]):
                i, j, k = x, y, z  # at the border, the voxel itself is replicated
            distance = sum((guidances[b][d][i][j][k] - guidances[b][d][x][y][z]) ** 2 for d in range(guides)) / guides
            for c in range(channels):
                weight, sharpness = parts[sum(map(abs, offset)) - 1, c]
                difference = features[b][c][i][j][k] - features[b][c][x][y][z]
                result[b, c, x, y, z] += weight * math.exp(-sharpness * distance) * difference
    return result


@pytest.mark.parametrize("size", [(4, 3, 5), (1, 3, 2), (3, 1, 1)])
def test_equals_eq_17_computed_voxel_by_voxel(size):
    module = randomized(3)
    feature, guidance = maps((2, 3, *size), (2, 2, *size))
    expected = eq_17(module, feature, guidance)
    found = module.double()(feature.double(), guidance.double())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)  # the parameters are those of float32
    for path in (plain, nullcontext):
        with path():
            torch.testing.assert_close(module.float()(feature, guidance).double(), expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_the_plain_twin_match_finite_differences():
    shapes = [(2, 2, 2, 3, 2), (2, 3, 2, 3, 2), (3, 2), (3,)]
    inputs = [values.double().requires_grad_() for values in maps(*shapes)]
    assert torch.autograd.gradcheck(diffuse, inputs)


@both_paths
def test_gradients_of_the_module_match_those_of_eq_17(path):
    module = randomized(2)
    feature, guidance, gradient = (values.requires_grad_() for values in maps(*[(1, 2, 3, 2, 2)] * 3))
    step = 1e-6

    def loss(shifted_feature: torch.Tensor, shifted_guidance: torch.Tensor) -> float:
        return (eq_17(module, shifted_feature, shifted_guidance) * gradient).sum().item()

    with path():
        found = torch.autograd.grad((module(feature, guidance) * gradient.detach()).sum(), [feature, guidance])
    for index, place in itertools.product(range(2), [(0, 0, 0, 0, 0), (0, 1, 1, 1, 0), (0, 0, 2, 0, 1)]):
        inputs = [feature.detach().double(), guidance.detach().double()]
        below, above = inputs[index].clone(), inputs[index].clone()
        below[place] -= step
        above[place] += step
        losses = [loss(*inputs[:index], shifted, *inputs[index + 1 :]) for shifted in (below, above)]
        assert found[index][place].item() == pytest.approx((losses[1] - losses[0]) / (2 * step), rel=1e-3, abs=1e-4)


@both_paths
@given(seed=SEEDS, size=SIZES, value=st.floats(-1e3, 1e3, width=32))
def test_constant_map_does_not_change(path, seed, size, value):
    feature = torch.full((1, 4, *size), value)
    (guidance,) = maps((1, 2, *size), seed=seed)
    with path():
        assert torch.equal(randomized(4, seed)(feature, guidance), torch.zeros_like(feature))


@both_paths
@given(seed=SEEDS, size=SIZES)
def test_what_a_voxel_gains_others_lose(path, seed, size):
    feature, guidance = maps((2, 3, *size), (2, 2, *size), seed=seed)
    with path():
        change = randomized(3, seed)(feature, guidance).detach()
    assert change.double().sum(dim=(2, 3, 4)).abs().max() < 2e-6 * feature[0, 0].numel()


@both_paths
@given(seed=SEEDS, size=SIZES, spread=st.sampled_from([1.0, 10.0]))
def test_one_step_never_leaves_the_range_of_the_map(path, seed, size, spread):
    feature, guidance = maps((2, 3, *size), (2, 2, *size), seed=seed)
    with path():
        after = (feature + randomized(3, seed, spread)(feature, guidance)).flatten(2)
    before = feature.flatten(2)
    assert bool((after.amax(-1) <= before.amax(-1) + 1e-5).all())
    assert bool((after.amin(-1) >= before.amin(-1) - 1e-5).all())


@both_paths
@given(seed=SEEDS, place=st.tuples(*[st.integers(0, 4)] * 3))
def test_a_voxel_has_influence_on_its_neighbors_alone_to_the_bit(path, seed, place):
    module = randomized(2, seed)
    feature, guidance = maps((1, 2, 5, 5, 5), (1, 2, 5, 5, 5), seed=seed)
    moved_feature, moved_guidance = feature.clone(), guidance.clone()
    moved_feature[:, :, *place] += 1
    moved_guidance[:, :, *place] += 1
    with path():
        changed = (module(feature, guidance) != module(moved_feature, moved_guidance)).any(dim=(0, 1))
    near = torch.ones(5, 5, 5, dtype=torch.bool)
    for axis, at in enumerate(place):
        near &= ((torch.arange(5) - at).abs() <= 1).view([-1 if a == axis else 1 for a in range(3)])
    assert not bool((changed & ~near).any())


@both_paths
def test_an_impulse_spreads_to_exactly_26_neighbors_by_what_they_share(path):
    module = randomized(2)
    impulse = torch.zeros(1, 2, 5, 5, 5)
    impulse[:, :, 2, 2, 2] = 1
    with path():
        change = module(impulse, torch.zeros(1, 1, 5, 5, 5))[0].detach()
    expected = torch.zeros(2, 5, 5, 5)
    for offset, channel in itertools.product(NEIGHBORS, range(2)):
        weight, _ = weight_and_sharpness(module, sum(map(abs, offset)) - 1, channel)
        expected[channel, *(2 + step for step in offset)] = weight
        expected[channel, 2, 2, 2] -= weight
    assert int((change != 0).sum()) == 2 * 27
    torch.testing.assert_close(change, expected)


@both_paths
@pytest.mark.parametrize("offset", NEIGHBORS)
def test_each_neighbor_is_held_back_by_its_own_guidance(path, offset):
    module = randomized(1)
    feature, guidance = torch.zeros(2, 1, 1, 3, 3, 3)
    feature[0, 0, *(1 + step for step in offset)] = 1
    guidance[0, 0, *(1 + step for step in offset)] = 0.7
    with path():
        gained = module(feature, guidance)[0, 0, 1, 1, 1].item()
    weight, sharpness = weight_and_sharpness(module, sum(map(abs, offset)) - 1, 0)
    assert gained == pytest.approx(weight * math.exp(-sharpness * 0.7**2), rel=1e-5)


@both_paths
@given(seed=SEEDS, contrasts=st.lists(st.integers(0, 200), min_size=2, max_size=6, unique=True))
def test_flux_falls_as_the_guidance_differs_more(path, seed, contrasts):
    module = randomized(1, seed)
    for size in [(2, 1, 1), (1, 2, 2), (2, 2, 2)]:
        feature = torch.zeros(1, 1, *size)
        feature[:, :, -1, -1, -1] = 1
        with path():
            fluxes = [module(feature, c / 100 * feature)[0, 0, 0, 0, 0].item() for c in sorted(contrasts)]
        assert all(more > less > 0 for more, less in itertools.pairwise(fluxes))


@both_paths
@given(seed=SEEDS, axes=st.permutations(range(3)), contrast=st.floats(0.1, 3))
def test_an_impulse_beside_a_guidance_edge_spreads_less_across_it_than_along_it(path, seed, axes, contrast):
    feature, guidance = torch.zeros(2, 1, 2, 6, 6, 6)
    feature[:, :, 2, 2, 2] = 1
    guidance.narrow(2 + axes[0], 3, 3).fill_(contrast)
    with path():
        change = randomized(2, seed)(feature, guidance)[0]
    across, along, backwards = [2, 2, 2], [2, 2, 2], [2, 2, 2]
    across[axes[0]], along[axes[1]], backwards[axes[0]] = 3, 3, 1
    assert bool((change[:, *across] >= 0).all())
    assert bool((change[:, *across] < change[:, *along]).all())
    torch.testing.assert_close(change[:, *backwards], change[:, *along])


@both_paths
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_smooths_noise_along_a_guidance_edge_more_than_across_it(path, axis):
    (feature,) = maps((1, 1, 12, 12, 12))
    guidance = torch.zeros_like(feature)
    guidance.narrow(axis, 6, 6).fill_(10)
    module = SemanticDiffusion(1)
    with path():
        after, leak = feature + module(feature, guidance), module(guidance, guidance)

    def roughness(values: torch.Tensor, direction: int) -> float:
        return values.narrow(axis, 5, 2).diff(dim=direction).square().mean().item()

    ratios = {direction: roughness(after, direction) / roughness(feature, direction) for direction in (2, 3, 4)}
    across = ratios.pop(axis)
    assert max(ratios.values()) < across
    assert leak.abs().max() < 1e-6


@given(seed=SEEDS)
def test_the_26_weights_and_what_a_voxel_keeps_sum_to_one_for_each_channel(seed):
    module = randomized(5, seed)
    weights = module.neighbor_weights()
    expected = [[weight_and_sharpness(module, kind, c)[0] for c in range(5)] for kind in range(3)]
    torch.testing.assert_close(weights, torch.tensor(expected))
    kept = module.share_logits.softmax(dim=0)[-1]
    torch.testing.assert_close(6 * weights[0] + 12 * weights[1] + 8 * weights[2] + kept, torch.ones(5))
    assert bool((weights > 0).all())


@both_paths
def test_each_channel_has_weights_of_its_own(path):
    module = SemanticDiffusion(2)
    module.share_logits.data[-1, 1] = 30.0
    feature, guidance = maps((1, 1, 4, 4, 4), (1, 1, 4, 4, 4))
    with path():
        change = module(feature.expand(-1, 2, -1, -1, -1), guidance)[0]
    assert change[0].abs().max() > 0.1
    assert change[1].abs().max() < 1e-9


@both_paths
def test_every_parameter_and_both_maps_get_a_gradient(path):
    module = randomized(3)
    feature, guidance = (values.requires_grad_() for values in maps((1, 3, 3, 3, 3), (1, 2, 3, 3, 3)))
    with path():
        module(feature, guidance).square().sum().backward()
    for tensor in (feature, guidance, *module.parameters()):
        assert tensor.grad is not None
        assert bool((tensor.grad != 0).all())


@both_paths
def test_gradients_of_the_parameters_equal_those_in_double_precision(path):
    module = randomized(3)
    feature, guidance, gradient = maps((2, 3, 3, 2, 4), (2, 2, 3, 2, 4), (2, 3, 3, 2, 4))
    with path():
        found = torch.autograd.grad(module(feature, guidance), list(module.parameters()), gradient)
    module.double()
    result = module(feature.double(), guidance.double())
    wanted = torch.autograd.grad(result, list(module.parameters()), gradient.double())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


@both_paths
def test_cases_of_a_batch_do_not_influence_each_other(path):
    module = randomized(2)
    feature, guidance = maps((3, 2, 3, 4, 2), (3, 1, 3, 4, 2))
    with path():
        together = module(feature, guidance)
        alone = [module(feature[[case]], guidance[[case]]) for case in range(3)]
    assert torch.equal(together, torch.cat(alone))


@both_paths
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_small_differences(path, dtype):
    feature, guidance = (values.to(dtype) for values in maps((1, 3, 5, 5, 5), (1, 3, 5, 5, 5)))
    module = SemanticDiffusion(3)
    with path():
        result = module(feature, guidance)
        assert result.dtype == dtype
        assert torch.equal(result, module(feature.float(), guidance.float()).to(dtype))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(module(feature, guidance), result)


@both_paths
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_result_has_the_features_memory_format(path, layout):
    feature, guidance = maps((2, 3, 4, 3, 5), (2, 3, 4, 3, 5))
    with path():
        result = SemanticDiffusion(3)(feature.to(memory_format=layout), guidance)
    assert result.is_contiguous(memory_format=layout)


@both_paths
@pytest.mark.parametrize(
    ("feature", "guidance", "message"),
    [
        ((1, 2, 3, 3, 3), (1, 3, 3, 3, 3), "2 channels, not 3"),
        ((1, 3, 3, 3, 3), (1, 3, 3, 3, 2), "differ in more than their channels"),
        ((2, 3, 3, 3, 3), (1, 3, 3, 3, 3), "differ in more than their channels"),
    ],
)
def test_maps_that_do_not_fit_are_refused(path, feature, guidance, message):
    with path(), pytest.raises(ValueError, match=message):
        SemanticDiffusion(3)(*maps(feature, guidance))
