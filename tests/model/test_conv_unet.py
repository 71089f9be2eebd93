"""The light backbone keeps the interface of § 4.1."""

import torch

from dsmseg.model.conv_unet import ConvUNet

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


def test_bfloat16_training_has_finite_gradients_down_to_the_smallest_grid() -> None:
    torch.manual_seed(0)
    network = ConvUNet(channels=CHANNELS)
    for _ in range(5):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            features = network(torch.rand(1, 2, 64, 64, 64))
        sum(level.float().square().mean() for level in (*features.levels, features.embedding)).backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
