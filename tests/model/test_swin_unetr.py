import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from dsmseg.model.features import PixelFeatures
from dsmseg.model.swin_unetr import SwinUNETR

FEATURE_SIZE = 12
MONAI_LEVELS = ("encoder10", "decoder5", "decoder4", "decoder3")


def permuted(feature: torch.Tensor, pattern: str) -> torch.Tensor:
    """What MONAI asks of einops: an exchange of named axes."""
    before, after = (side.split() for side in pattern.split("->"))
    return feature.permute([before.index(axis) for axis in after])


@pytest.fixture(scope="module")
def peer():
    """MONAI's network with random weights in every place, its last convolution taken away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import swin_unetr as monai
    torch.manual_seed(0)
    network = monai.SwinUNETR(in_channels=2, out_channels=1, feature_size=FEATURE_SIZE).eval()
    network.out = nn.Identity()
    for name, parameter in network.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.data += (1.0 if "position_bias" in name else 0.1) * noise if parameter.ndim <= 2 else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monai, "rearrange", permuted)
        yield network


@pytest.fixture(scope="module")
def network() -> SwinUNETR:
    torch.manual_seed(0)
    return SwinUNETR(input_channels=2, feature_size=FEATURE_SIZE).eval()


# The second shape has windows clamped along one axis and shifted along the others.
@pytest.mark.parametrize("shape", [(64, 64, 64), (64, 96, 32)])
def test_equals_monai_with_the_same_weights(peer, shape):
    network = SwinUNETR(input_channels=2, feature_size=FEATURE_SIZE).eval()
    network.load_state_dict(peer.state_dict(), strict=True)
    image = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(1))
    levels: list[torch.Tensor] = []
    hooks = [
        getattr(peer, name).register_forward_hook(lambda _module, _inputs, output: levels.append(output))
        for name in MONAI_LEVELS
    ]
    with torch.inference_mode():
        features = network(image)
        embedding = peer(image)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(features.embedding, embedding, rtol=0, atol=1e-4)
    for ours, theirs in zip(features.levels, levels, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_gives_levels_of_the_named_channels_at_strides_32_to_4(network):
    with torch.inference_mode():
        features = network(torch.randn(1, 2, 64, 32, 32))
    assert isinstance(features, PixelFeatures)
    for level, channels, stride in zip(features.levels, network.level_channels, (32, 16, 8, 4), strict=True):
        assert level.shape == (1, channels, 64 // stride, 32 // stride, 32 // stride)
    assert features.embedding.shape == (1, network.embedding_channels, 64, 32, 32)


def test_any_size_is_padded_by_its_border_and_cut_back(network):
    image = torch.randn(1, 2, 41, 32, 20)
    padded = functional.pad(image, (0, 12, 0, 0, 0, 23), mode="replicate")
    with torch.inference_mode():
        features, whole = network(image), network(padded)
    assert torch.equal(features.embedding, whole.embedding[:, :, :41, :, :20])
    assert [tuple(level.shape[2:]) for level in features.levels] == [(2, 1, 1), (3, 2, 2), (6, 4, 3), (11, 8, 5)]
    assert torch.equal(features.levels[3], whole.levels[3][:, :, :11, :, :5])


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = SwinUNETR(input_channels=2, feature_size=FEATURE_SIZE)
    features = network(torch.randn(1, 2, 64, 32, 32))
    (features.embedding * torch.randn_like(features.embedding)).mean().backward()
    silent = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    assert silent == []


def test_a_case_does_not_depend_on_its_neighbors_in_the_batch(network):
    images = torch.randn(2, 2, 64, 32, 32)
    with torch.inference_mode():
        together, alone = network(images).embedding[1:], network(images[1:]).embedding
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


def test_bf16_autocast_is_close_to_single_precision(network):
    torch.manual_seed(0)
    image = torch.randn(1, 2, 64, 32, 32)
    with torch.inference_mode():
        exact = network(image).embedding
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(image).embedding
    assert bool(rough.isfinite().all())
    assert functional.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.99
