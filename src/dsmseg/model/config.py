"""The network as configuration: presets, and the rows of Table 5, the ablation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

Ablation = Literal["full", "without_kmm", "without_amvp", "without_dqr", "without_clip", "without_all"]
"""The rows of Table 5 by what they leave out, in the words of its columns."""

Prompt = Literal["anomalies", "organs", "deviation"]
"""Where the mask prompt lets tumor queries look: `anomaly_prompt.mask_prompt`, `organ_prompt` or `deviation_prompt`.

With "deviation" that score takes the place of Eq. 14 throughout Stage 2, also as the channel of Table 5, row 3.
"""


Response = Literal["balanced", "residual", "printed"]
"""How Eq. 9 joins the state space layer's memory with the affinity of queries and voxels: `KMaxMambaBlock.response`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Where the paper allows more than one reading, or to the letter learns little: how this network is built.

    The defaults are what measured best (docs/decisions/0026); ``LITERAL`` is the paper to the letter. A recipe names
    them, and the card of its weights keeps them.

    half_masks: masks are read from the decoder's map at stride 2 beside the embedding. The letter: the embedding alone.
    background_queries: that compete with the organ queries for voxels. The letter: none.
    response: how Eq. 9 is read. The letter: "printed".
    center_text: the mean class prompt is subtracted from the prompts (Eq. 20). The letter: it is not.
    deviation: Stage 2 also sees how far voxels are from their organ's center (`DeviationBranch`). The letter: no.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  # no field: pydantic reads it

    half_masks: bool = True
    background_queries: int = 8
    response: Response = "balanced"
    center_text: bool = True
    deviation: bool = True


LITERAL = Readings(half_masks=False, background_queries=0, response="printed", center_text=False, deviation=False)
"""The equations to the letter."""


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
    state_space, mask_prompt, diffusion, text_alignment: the columns kMM, AMVP, DQR and CLIP of Table 5. What takes the
        place of one that is off is told by the class that replaces it: ``MaskTransformerBlock``,
        ``QueryRefinementBlock``, ``ProjectedFeature``, ``QueryClassification``.
    prompt: where mask prompts point, while there are any. It changes no parameter.
    readings: of what the paper leaves open.
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
    text_alignment: bool = True
    prompt: Prompt = "anomalies"
    readings: Readings = Readings()


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
        "small": DSMConfig(
            backbone="conv_unet",
            input_channels=2,
            channels=(8, 24, 48, 64, 64, 64),
            query_width=128,
            text_width=384,
            feed_forward_width=256,
            state=8,
        ),
    }
)

TABLE_5: Mapping[int, Mapping[str, bool]] = MappingProxyType(
    {
        1: {"state_space": False, "mask_prompt": False, "diffusion": False, "text_alignment": False},
        2: {"state_space": False},
        3: {"mask_prompt": False},
        4: {"diffusion": False},
        5: {"text_alignment": False},
        6: {},
    }
)
"""The rows of Table 5 (§ 6.4) as switches: ``replace(PRESETS["paper"], **TABLE_5[3])`` is row 3, row 6 the full model.

Row 1 replaces "all the four components by cross-attention layers": with the four switches off, both decoders attend by
plain cross-attention, to the backbone's maps, their projection and the anomaly map, and nothing guides or masks it.
"""

ABLATIONS: Mapping[Ablation, int] = MappingProxyType(
    {"without_all": 1, "without_kmm": 2, "without_amvp": 3, "without_dqr": 4, "without_clip": 5, "full": 6}
)
"""The row of ``TABLE_5`` that each name means."""


def ablated(config: DSMConfig, ablation: Ablation) -> DSMConfig:
    """Give ``config`` with the switches of a row of Table 5."""
    switches: Mapping[str, Any] = TABLE_5[ABLATIONS[ablation]]
    return replace(config, **switches)
