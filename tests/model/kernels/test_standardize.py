import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dsmseg.model.kernels.standardize import BLOCK, EPSILON, Statistics, activate, add_and_activate_

SLOPE = 0.01


def channels_last(feature: Tensor) -> Tensor:
    return torch.empty_like(feature, memory_format=torch.channels_last_3d).copy_(feature)


def draw(*size: int, seed: int = 0) -> Tensor:
    return channels_last(torch.randn(*size, generator=torch.Generator().manual_seed(seed)))


def taken_in(feature: Tensor, *planes: int) -> Statistics:
    statistics = Statistics(feature.shape[1])
    for slab in feature.split(planes or feature.shape[2], dim=2):
        statistics.add(slab)
    return statistics


def scale_and_offset(statistics: Statistics, depth: int) -> np.ndarray:
    """Give both for each channel; they hold for each of the ``depth`` voxels of a row."""
    both = np.stack(statistics.scale_and_offset()).reshape(2, depth, -1)
    assert (both == both[:, :1]).all()
    return both[:, 0]


def exact(feature: Tensor) -> np.ndarray:
    """Mean and biased variance of all voxels, in float64, as a scale and an offset."""
    values = feature.double().numpy().transpose(1, 0, 2, 3, 4).reshape(feature.shape[1], -1)
    scale = 1 / np.sqrt(((values - values.mean(1, keepdims=True)) ** 2).mean(1) + 1e-5)
    return np.stack([scale, -values.mean(1) * scale])


# Rows are x times y: one, fewer than are summed at once, exactly as many, and more.
@pytest.mark.parametrize("size", [(1, 1, 2), (2, 1, 1), (3, 5, 7), (BLOCK, 1, 3), (9, 15, 4)])
@pytest.mark.parametrize("channels", [1, 2, 12])
def test_statistics_are_those_of_instance_normalization(size, channels):
    feature = 3 * draw(1, channels, *size) + 1
    np.testing.assert_allclose(scale_and_offset(taken_in(feature), size[2]), exact(feature), rtol=2e-5, atol=1e-6)


def test_how_the_map_is_cut_into_slabs_does_not_matter():
    feature = draw(1, 5, 11, 9, 6) + torch.linspace(-2, 2, 11)[:, None, None]
    whole = scale_and_offset(taken_in(feature), 6)
    for planes in ((1,) * 11, (4, 4, 3), (10, 1)):
        np.testing.assert_allclose(scale_and_offset(taken_in(feature, *planes), 6), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mean", [1e3, -1e3, 1e5])
def test_a_mean_far_above_the_spread_costs_no_precision(mean):
    feature = draw(1, 3, 8, 30, 20) + mean
    scale, offset = scale_and_offset(taken_in(feature, 3, 3, 2), 20)
    exact_scale, exact_offset = exact(feature)
    np.testing.assert_allclose(scale, exact_scale, rtol=1e-5)
    np.testing.assert_allclose(offset, exact_offset, rtol=1e-5)


def test_a_first_row_far_from_all_others_costs_little_precision():
    feature = draw(1, 3, 90, 90, 2)
    feature[:, :, 0, 0] = 1e3
    np.testing.assert_allclose(scale_and_offset(taken_in(feature, 30, 30, 30), 2)[0], exact(feature)[0], rtol=1e-4)


def test_channels_of_very_different_means_keep_apart():
    feature = channels_last(draw(1, 3, 6, 7, 5) + torch.tensor([0.0, 1e4, -1e4]).view(3, 1, 1, 1))
    np.testing.assert_allclose(scale_and_offset(taken_in(feature), 5)[0], exact(feature)[0], rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 3.7, -1e4])
def test_a_constant_channel_has_variance_zero_and_becomes_zero(value):
    feature = channels_last(torch.full((1, 2, 3, 4, 5), value))
    statistics = taken_in(feature)
    np.testing.assert_allclose(scale_and_offset(statistics, 5)[0], EPSILON**-0.5, rtol=1e-6)
    result = torch.empty_like(feature)
    activate(feature, statistics.scale_and_offset(), 1.0, result)
    # The product is rounded at the size of value * scale.
    assert result.abs().max() <= 1.2e-7 * abs(value) / EPSILON**0.5


def test_statistics_of_bf16_are_those_of_its_values():
    feature = (draw(1, 4, 6, 7, 5) + 2).bfloat16()
    np.testing.assert_allclose(scale_and_offset(taken_in(feature, 4, 2), 5), exact(feature), rtol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_activation_is_leaky_after_scale_and_offset_of_each_channel(kind):
    feature = draw(1, 3, 4, 5, 6).to(kind)
    scale, offset = torch.tensor([0.5, -2, 3]), torch.tensor([0.1, -0.7, 0])
    result = torch.full_like(feature, torch.nan)
    activate(feature, (scale.repeat(6).numpy(), offset.repeat(6).numpy()), SLOPE, result)
    straight = feature.double() * scale.double().view(3, 1, 1, 1) + offset.double().view(3, 1, 1, 1)
    reference = torch.where(straight > 0, straight, straight * SLOPE)
    torch.testing.assert_close(result.double(), reference, rtol=1e-6 if kind == torch.float32 else 2**-8, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_norm", [False, True])
def test_the_sum_of_both_standardized_maps_overwrites_the_first_alone(kind, has_norm):
    feature, shortcut = draw(1, 3, 4, 5, 6).to(kind), draw(1, 3, 4, 5, 6, seed=1).to(kind)
    first, second = torch.tensor([[0.5, -2, 3], [0.1, -0.7, 0.2]]), torch.tensor([[1.5, 2, -1], [0.4, 0.9, -0.3]])
    rows, shortcut_rows = (tuple(part.repeat(6).numpy() for part in pair) for pair in (first, second))
    straight = feature.double() * first[0].double().view(3, 1, 1, 1) + first[1].double().view(3, 1, 1, 1)
    added = shortcut.double()
    if has_norm:
        added = added * second[0].double().view(3, 1, 1, 1) + second[1].double().view(3, 1, 1, 1)
    before = [shortcut.clone(), *(part.copy() for part in (*rows, *shortcut_rows))]
    add_and_activate_(feature, rows, shortcut, shortcut_rows if has_norm else None, SLOPE)
    reference = functional.leaky_relu(straight + added, SLOPE)
    torch.testing.assert_close(feature.double(), reference, rtol=1e-6 if kind == torch.float32 else 2**-8, atol=2e-6)
    assert torch.equal(shortcut, before[0])
    for part, copy in zip((*rows, *shortcut_rows), before[1:], strict=True):
        assert (part == copy).all()


def unchanged(source: Tensor, kind: torch.dtype) -> Tensor:
    """Pass values through the kernel with scale 1, offset 0 and slope 1: only their type changes."""
    feature = channels_last(source.view(1, 1, 1, 1, -1))
    result = torch.empty_like(feature, dtype=kind)
    activate(feature, (np.ones(source.numel(), np.float32), np.zeros(source.numel(), np.float32)), 1.0, result)
    return result.flatten()


def all_bf16() -> Tensor:
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    return values[values.isfinite()]


def test_every_finite_bf16_is_widened_exactly():
    values = all_bf16()
    assert torch.equal(unchanged(values, torch.float32), values.float())
    assert torch.equal(unchanged(values, torch.bfloat16), values)


def test_narrowing_rounds_to_the_nearest_bf16_and_ties_to_even():
    bits = all_bf16().float().view(torch.int32)
    # Each bf16, what lies just beside it, the tie with the next one, and what lies beside the tie.
    for step in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (bits + step).view(torch.float32)
        values = values[values.isfinite() & values.bfloat16().isfinite()]
        values = values[(values == 0) | (values.abs() >= 2**-126)]
        assert torch.equal(unchanged(values, torch.bfloat16), values.bfloat16()), hex(step)
