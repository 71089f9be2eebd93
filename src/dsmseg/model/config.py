"""The network as configuration: presets, and the switches of the ablation in Table 5."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class DSMConfig:
    """Everything that decides which parameters a network has.

    backbone: the vision encoder and decoder, ``conv_unet`` or ``swin_unetr``.
    input_channels: one a HU window.
    feature_size: channels of Swin UNETR at stride 2.
    channels: channels of conv_unet at strides 1 to 32.
    query_width: C, the width of organ and tumor queries.
    text_width: the width of the text encoder's vectors.
    stage: 1 holds organ queries alone, 2 adds tumor queries and text alignment.
    state_space, mask_prompt, diffusion: rows 2, 3 and 4 of Table 5 switch one of them off (kMM, AMVP, DQR).
    """

    backbone: Literal["conv_unet", "swin_unetr"]
    stage: Literal[1, 2] = 2
    input_channels: int = 1
    feature_size: int = 48
    channels: tuple[int, ...] = (16, 48, 96, 128, 128, 128)
    organs: int = 25
    tumors: int = 20
    query_width: int = 512
    text_width: int = 512
    heads: int = 8
    feed_forward_width: int = 1024
    state: int = 16
    state_space: bool = True
    mask_prompt: bool = True
    diffusion: bool = True


PRESETS: MappingProxyType[str, DSMConfig] = MappingProxyType(
    {
        "paper": DSMConfig(backbone="swin_unetr"),
        "base": DSMConfig(backbone="swin_unetr", feature_size=24),
        "starter": DSMConfig(
            backbone="conv_unet",
            input_channels=2,
            query_width=256,
            text_width=384,
            feed_forward_width=512,
            state=8,
        ),
    }
)
