"""How masks are read from the embedding and from the map at stride 2."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dsmseg.model.features import PixelFeatures
from dsmseg.model.mask_head import MaskHead, add_doubled
from dsmseg.model.pointwise import PointwiseConvolution

SIDES = st.tuples(*[st.integers(1, 5)] * 3)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("half_channels", [0, 3])
def test_a_mask_is_the_dot_product_of_a_querys_kernel_with_each_voxels_features_at_both_strides(half_channels) -> None:
    torch.manual_seed(0)
    head = MaskHead(width=6, embedding_channels=4, half_channels=half_channels).double()
    queries, embedding, half = random(2, 3, 6), random(2, 4, 2, 4, 6, seed=1), random(2, 3, 1, 2, 3, seed=2)
    masks, kernel = head(queries, PixelFeatures((), half, embedding)), head.kernel(queries)
    for item, query, x, y, z in torch.ones(2, 3, 2, 4, 6).nonzero().tolist():
        *weights, bias = kernel[item, query].tolist()
        voxel = [*embedding[item, :, x, y, z].tolist(), *half[item, :half_channels, x // 2, y // 2, z // 2].tolist()]
        expected = sum(weight * value for weight, value in zip(weights, voxel, strict=True)) + bias
        assert masks[item, query, x, y, z].item() == pytest.approx(expected, rel=1e-9)


def test_most_voxels_start_outside_every_mask() -> None:
    torch.manual_seed(0)
    head = MaskHead(width=64, embedding_channels=16, half_channels=8)
    features = PixelFeatures((), torch.zeros(1, 8, 1, 1, 1), torch.zeros(1, 16, 2, 2, 2))
    assert head.kernel[-1].bias[-1].item() == -2.0
    assert bool((head(torch.randn(1, 5, 64), features) < -1).all())


@settings(max_examples=30)
@given(size=SIDES)
def test_each_voxel_at_stride_2_is_added_to_all_that_it_covers_also_where_a_size_is_odd(size) -> None:
    fine, coarse = random(2, 3, *size), random(2, 3, *[-(-side // 2) for side in size], seed=1)
    doubled = functional.interpolate(coarse, scale_factor=2, mode="nearest")
    x, y, z = size
    expected = fine + doubled[:, :, :x, :y, :z]
    torch.testing.assert_close(add_doubled(fine.clone(), coarse), expected, rtol=0, atol=0)


@settings(max_examples=10, deadline=None)
@given(size=SIDES)
def test_the_gradient_of_adding_is_the_derivative(size) -> None:
    fine = random(1, 2, *size).requires_grad_()
    coarse = random(1, 2, *[-(-side // 2) for side in size], seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: add_doubled(a * 1.0, b), (fine, coarse))


@pytest.mark.parametrize(("stride", "bias"), [(1, True), (1, False), (2, False)])
def test_a_pointwise_convolution_is_torchs(stride, bias) -> None:
    torch.manual_seed(0)
    layer = PointwiseConvolution(3, 5, 1, stride=stride, bias=bias).double()
    feature = random(2, 3, 4, 6, 5)
    expected = functional.conv3d(feature, layer.weight, layer.bias, stride=stride)
    torch.testing.assert_close(layer(feature), expected)
    torch.testing.assert_close(layer(feature.contiguous(memory_format=torch.channels_last_3d)), expected)
