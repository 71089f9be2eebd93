import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.features import PixelFeatures
from dsmseg.model.kernels import plain, residual_block, window_attention
from dsmseg.model.swin_unetr import SwinUNETR

MONAI_LEVELS = ("encoder10", "decoder5", "decoder4", "decoder3")


def make_peer(feature_size: int) -> nn.Module:
    """MONAI's network with random weights in every place, its last convolution taken away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks import nets
    torch.manual_seed(0)
    network = nets.SwinUNETR(in_channels=2, out_channels=1, feature_size=feature_size).eval()
    network.out = nn.Identity()
    for name, parameter in network.named_parameters():
        noise = torch.randn_like(parameter)
        parameter.data += (1.0 if "position_bias" in name else 0.1) * noise if parameter.ndim <= 2 else 0
    return network


def twin(peer: nn.Module, feature_size: int) -> SwinUNETR:
    """Ours with the peer's weights, in the same memory."""
    network = SwinUNETR(input_channels=2, feature_size=feature_size).eval()
    network.load_state_dict(peer.state_dict(), strict=True, assign=True)
    return network


def draw(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def peer_maps(peer: nn.Module, image: Tensor) -> list[Tensor]:
    levels: list[Tensor] = []
    hooks = [
        getattr(peer, name).register_forward_hook(lambda _module, _inputs, output: levels.append(output))
        for name in MONAI_LEVELS
    ]
    embedding = peer(image)
    for hook in hooks:
        hook.remove()
    return [*levels, embedding]


def maps(network: SwinUNETR, image: Tensor) -> list[Tensor]:
    features = network(image)
    return [*features.levels, features.embedding]


@pytest.fixture(scope="module")
def peer() -> nn.Module:
    return make_peer(12)


@pytest.fixture(scope="module")
def network(peer) -> SwinUNETR:
    return twin(peer, 12)


# The last shape has windows clamped along one axis and shifted along the others.
@pytest.mark.parametrize(
    ("feature_size", "sizes"),
    [
        (12, ((64, 64, 64), (64, 96, 32))),
        pytest.param(24, ((64, 64, 64),), marks=pytest.mark.slow),
        pytest.param(12, ((96, 96, 96),), marks=pytest.mark.slow),
        pytest.param(48, ((96, 96, 96),), marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_equals_monai_with_the_same_weights(feature_size, sizes):
    peer = make_peer(feature_size)
    network = twin(peer, feature_size)
    for size in sizes:
        image = draw(1, 2, *size)
        for ours, theirs in zip(maps(network, image), peer_maps(peer, image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(64, 64, 64), (64, 96, 32)], ids=str)
@torch.inference_mode()
def test_its_plain_twin_equals_monai_with_the_same_weights(peer, network, size):
    image = draw(1, 2, *size)
    with plain():
        ours = maps(network, image)
    for one, theirs in zip(ours, peer_maps(peer, image), strict=True):
        torch.testing.assert_close(one, theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_a_size_that_monai_refuses_equals_monai_on_the_padded_image(peer, network):
    image = draw(1, 2, 70, 50, 90)
    with pytest.raises(ValueError, match="divisible"):
        peer(image)
    padded = functional.pad(image, (0, 6, 0, 14, 0, 26), mode="replicate")
    theirs = peer_maps(peer, padded)
    for stride, ours, whole in zip((32, 16, 8, 4, 1), maps(network, image), theirs, strict=True):
        x, y, z = (-(-extent // stride) for extent in (70, 50, 90))
        assert ours.shape[2:] == (x, y, z)
        torch.testing.assert_close(ours, whole[:, :, :x, :y, :z], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_gradients_of_every_parameter_equal_monai_s():
    peer = make_peer(12).double()
    network = twin(peer, 12)
    image = draw(1, 2, 64, 32, 32).double()
    results, theirs = maps(network, image), peer_maps(peer, image)
    weights = [torch.randn_like(result) for result in results]
    theirs = dict(zip(names(peer), torch.autograd.grad(theirs, list(peer.parameters()), weights), strict=True))
    ours = dict(zip(names(network), torch.autograd.grad(results, list(network.parameters()), weights), strict=True))
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= 1e-7 * theirs[name].norm(), name
        assert gradient.norm() > 0, name


def names(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def test_gives_levels_of_the_named_channels_at_strides_32_to_4(network):
    with torch.inference_mode():
        features = network(draw(1, 2, 64, 32, 32))
    assert isinstance(features, PixelFeatures)
    for level, channels, stride in zip(features.levels, network.level_channels, (32, 16, 8, 4), strict=True):
        assert level.shape == (1, channels, 64 // stride, 32 // stride, 32 // stride)
    assert features.embedding.shape == (1, network.embedding_channels, 64, 32, 32)


def test_any_size_is_padded_by_its_border_and_cut_back(network):
    image = draw(1, 2, 41, 32, 20)
    padded = functional.pad(image, (0, 12, 0, 0, 0, 23), mode="replicate")
    with torch.inference_mode():
        features, whole = network(image), network(padded)
    assert torch.equal(features.embedding, whole.embedding[:, :, :41, :, :20])
    assert [tuple(level.shape[2:]) for level in features.levels] == [(2, 1, 1), (3, 2, 2), (6, 4, 3), (11, 8, 5)]
    assert torch.equal(features.levels[3], whole.levels[3][:, :, :11, :, :5])


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = SwinUNETR(input_channels=2, feature_size=12)
    features = network(draw(1, 2, 64, 32, 32))
    (features.embedding * torch.randn_like(features.embedding)).mean().backward()
    silent = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    assert silent == []


@pytest.mark.parametrize("is_plain", [False, True])
@torch.inference_mode()
def test_a_case_does_not_depend_on_its_neighbors_in_the_batch(network, is_plain):
    images = draw(2, 2, 64, 32, 32)
    with plain() if is_plain else torch.inference_mode():
        together, alone = maps(network, images), maps(network, images[1:])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[1:], other, rtol=0, atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_bf16_autocast_is_close_to_single_precision(network):
    image = draw(1, 2, 64, 32, 32)
    exact = network(image).embedding
    for is_plain in (False, True):
        with torch.autocast("cpu", torch.bfloat16), plain() if is_plain else torch.inference_mode():
            rough = network(image).embedding.float()
        assert (rough - exact).norm() <= 0.02 * exact.norm()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("is_autocast", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_image_is_never_changed(channels, is_autocast):
    torch.manual_seed(0)
    network = SwinUNETR(input_channels=channels, feature_size=12).eval()
    image = draw(1, channels, 64, 32, 32)
    before = image.clone()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        network(image)
    assert torch.equal(image, before)


def test_the_maps_of_two_calls_share_no_memory(network):
    image = draw(1, 2, 64, 32, 32)
    with torch.no_grad():
        first = maps(network, image)
        kept = [feature.clone() for feature in first]
        second = maps(network, -image)
    for one, copy, other in zip(first, kept, second, strict=True):
        assert torch.equal(one, copy)
        assert one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()


def test_inference_mode_and_no_grad_give_the_same(network):
    image = draw(1, 2, 64, 32, 32)
    with torch.inference_mode():
        first = maps(network, image)
    with torch.no_grad():
        second = maps(network, image)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_one_thread_gives_what_two_give(network):
    image = draw(1, 2, 64, 32, 32)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            results.append(maps(network, image))
    torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_kernels_run_in_inference_and_neither_inside_plain_nor_with_gradients(network, monkeypatch):
    calls = []

    def counted(name, kernel):
        return lambda *arguments, **options: calls.append(name) or kernel(*arguments, **options)

    for module, name in ((residual_block, "residual_block"), (window_attention, "window_attention")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    image = draw(1, 2, 64, 32, 32)
    network(image)
    with torch.no_grad(), plain():
        network(image)
    assert calls == []
    with torch.no_grad():
        network(image)
    assert calls.count("residual_block") == 10
    assert calls.count("window_attention") == 8


@pytest.mark.slow
@torch.no_grad()
def test_a_network_in_bf16_runs(network):
    image = draw(1, 2, 64, 32, 32)
    exact = network(image).embedding
    rough = SwinUNETR(input_channels=2, feature_size=12).eval()
    rough.load_state_dict(network.state_dict())
    result = rough.bfloat16()(image.bfloat16()).embedding
    assert result.dtype == torch.bfloat16
    assert (result.float() - exact).norm() <= 0.1 * exact.norm()
