"""The light backbone keeps the interface of § 4.1."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dsmseg.model.conv_unet import ConvUNet, ResidualBlock

CHANNELS = (16, 16, 16, 32, 32, 32)


def test_levels_lie_at_strides_32_16_8_4_and_the_embedding_at_1() -> None:
    features = ConvUNet(channels=CHANNELS)(torch.rand(1, 2, 64, 32, 64))
    assert [tuple(level.shape[1:]) for level in features.levels] == [
        (32, 2, 1, 2),
        (32, 4, 2, 4),
        (32, 8, 4, 8),
        (16, 16, 8, 16),
    ]
    assert features.embedding.shape == (1, 16, 64, 32, 64)


def test_in_use_a_window_is_seen_the_same_whatever_lies_beside_it_in_the_batch() -> None:
    torch.manual_seed(0)
    network = ConvUNet(channels=CHANNELS).eval()
    images = torch.rand(2, 2, 32, 32, 32)
    together, alone = network(images).embedding[1:], network(images[1:]).embedding
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    not getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16"),
    reason="bfloat16 is emulated here, for minutes",
)
def test_bfloat16_training_has_finite_gradients_down_to_the_smallest_grid() -> None:
    torch.manual_seed(0)
    network = ConvUNet(channels=CHANNELS)
    for _ in range(5):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            features = network(torch.rand(1, 2, 64, 64, 64))
        sum(level.float().square().mean() for level in (*features.levels, features.embedding)).backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def plain_norm(feature: Tensor, norm: torch.nn.BatchNorm3d) -> Tensor:
    mean, variance, weight, bias = (
        part[:, None, None, None] for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (feature - mean) / (variance + 1e-5).sqrt() * weight + bias


def plain_block(block: ResidualBlock, feature: Tensor) -> Tensor:
    inner = plain_norm(block.convolution_1(feature), block.norm_1).clamp(min=0)
    outer = plain_norm(functional.conv3d(inner, block.convolution_2.weight, padding=1), block.norm_2)
    shortcut = feature if isinstance(block.shortcut, torch.nn.Identity) else block.shortcut(feature)
    return (outer + shortcut).clamp(min=0)


def doubled(feature: Tensor) -> Tensor:
    for axis in (2, 3, 4):
        feature = feature.repeat_interleave(2, dim=axis)
    return feature


def randomized() -> ConvUNet:
    """An untrained network whose batch normalization does something at inference."""
    torch.manual_seed(0)
    network = ConvUNet(input_channels=1, channels=(4, 4, 6, 6, 8, 8)).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return network


def plain_unet(network: ConvUNet, image: Tensor) -> list[Tensor]:
    """F_1..F_4 and the embedding: a stem, five encoders, additive skips, five decoders, a head."""
    skips = [plain_norm(network.stem(image), network.stem_norm).clamp(min=0)]
    for encoder in network.encoders:
        feature = skips[-1]
        for block in encoder:
            feature = plain_block(block, feature)
        skips.append(feature)
    feature, maps = skips[5], [skips[5]]
    for depth in (4, 3, 2, 1):
        merged = skips[depth] + doubled(network.lateral[depth](feature))
        feature = plain_block(network.decoders[depth - 1], merged)
        maps.append(feature)
    merged = (skips[0] + doubled(network.lateral[0](feature))).clamp(min=0)
    return [*maps[:4], plain_norm(network.head(merged), network.head_norm).clamp(min=0)]


def test_the_network_is_a_residual_u_net_with_additive_skips() -> None:
    network, image = randomized(), torch.rand(1, 1, 32, 64, 32)
    features = network(image)
    for mine, expected in zip((*features.levels, features.embedding), plain_unet(network, image), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_the_gradient_of_the_plain_network() -> None:
    network, image = randomized(), torch.rand(1, 1, 32, 64, 32).requires_grad_()
    features = network(image)
    maps = (*features.levels, features.embedding)
    weights = [torch.randn_like(one) for one in maps]
    inputs = {"image": image, **dict(network.named_parameters())}
    found, expected = (
        torch.autograd.grad(sum((m * w).sum() for m, w in zip(run, weights, strict=True)), list(inputs.values()))
        for run in (maps, plain_unet(network, image))
    )
    for name, mine, other in zip(inputs, found, expected, strict=True):
        assert (mine - other).norm() <= 1e-3 * other.norm(), name
