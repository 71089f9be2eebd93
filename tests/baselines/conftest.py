"""Baselines with few channels, over both backbones."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from dsmseg import baselines
from dsmseg.baselines import Baseline
from dsmseg.model import PRESETS
from dsmseg.model.losses import PartialLabels

CONV = replace(
    PRESETS["starter"], channels=(8, 8, 16, 16, 16, 16), query_width=32, text_width=12, feed_forward_width=16
)
SWIN = replace(PRESETS["base"], feature_size=12, query_width=32, text_width=12, feed_forward_width=16)
CONFIGS = {"conv_unet": CONV, "swin_unetr": SWIN}
TRAINED = torch.zeros(45, dtype=torch.bool)
TRAINED[:20] = TRAINED[30] = TRAINED[32] = True


@pytest.fixture
def make() -> Callable[..., Baseline]:
    """Give a function that builds a method's network."""

    def build(method: str, backbone: str = "conv_unet", *, trained: torch.Tensor | None = TRAINED) -> Baseline:
        torch.manual_seed(0)
        config = CONFIGS[backbone]
        return baselines.build(method, config, torch.randn(45, config.text_width), trained)

    return build


@pytest.fixture
def image() -> Callable[..., torch.Tensor]:
    """Give a function that makes an image for a network."""

    def draw(network: Baseline, *, batch: int = 1, size: tuple[int, int, int] = (64, 32, 32)) -> torch.Tensor:
        channels = next(one for one in network.backbone.parameters() if one.ndim == 5).shape[1]
        return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(1))

    return draw


@pytest.fixture
def labels() -> Callable[..., PartialLabels]:
    """Give a function that makes labels: boxes of the trained classes, organs 0 to 9 and one tumor annotated."""

    def draw(*, batch: int = 1, size: tuple[int, int, int] = (64, 32, 32)) -> PartialLabels:
        masks = torch.zeros(batch, 45, *size, dtype=torch.bool)
        for index in range(45):
            start = 5 * index % (size[0] - 8)
            masks[:, index, start : start + 8, 4:20, 4:20] = True
        annotated = torch.zeros(batch, 45, dtype=torch.bool)
        annotated[:, :10] = annotated[:, 30] = True
        return PartialLabels(masks, annotated)

    return draw
