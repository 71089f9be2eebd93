"""A backbone alone, to start a training from: written by an import, read into a Swin UNETR."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dsmseg.checkpoint.cards import BackboneCard
from dsmseg.checkpoint.fitting import refuse_misfit
from dsmseg.checkpoint.storage import Stored, read, write
from dsmseg.errors import WeightsError
from dsmseg.model.features import Backbone
from dsmseg.model.swin_unetr import SwinUNETR

ENCODER = "swinViT."
"""What the names of the encoder's tensors start with."""

PATCH_EMBEDDING = f"{ENCODER}patch_embed.proj.weight"
"""``(feature size, input channels, 2, 2, 2)``: tells the sizes of the network that it belongs to."""


def save_backbone(path: Path, state: Mapping[str, Tensor], card: BackboneCard) -> BackboneCard:
    """Write ``state`` to ``path`` as float32, so that the backbone answers as before, and ``card`` beside it.

    Raises:
        WeightsError: ``path`` does not end in .safetensors, or a value is not finite.
        OutputError: the place cannot be written to.
    """
    return write(path, state, card, precision=torch.float32)


def load_backbone(name_or_path: str | Path) -> SwinUNETR:
    """Build the Swin UNETR that the file's card describes and fill it in: float32, in evaluation mode.

    What the file does not hold, the decoder of an encoder alone, keeps its random initialization.

    Raises:
        WeightsError: the file is damaged, holds no backbone, or its tensors are not those of such a network.
    """
    return as_backbone(read(name_or_path))


def read_backbone_card(name_or_path: str | Path) -> BackboneCard:
    """Give the card of a backbone; raises as ``load_backbone``, but for the tensors, which are not looked at."""
    return _backbone_card(read(name_or_path))


def fill_backbone(network: Backbone, name_or_path: str | Path) -> None:
    """Fill ``network``, the backbone of a network to train, with what the file holds of it.

    Raises:
        WeightsError: as ``load_backbone``, or ``network`` has another architecture or other sizes.
    """
    stored = read(name_or_path)
    card = _backbone_card(stored)
    if not isinstance(network, SwinUNETR):
        raise WeightsError(
            "is a Swin UNETR, which the preset does not have", where=stored.path, mend="Train preset paper or base."
        )
    feature_size, input_channels = network.state_dict()[PATCH_EMBEDDING].shape[:2]
    if (feature_size, input_channels) != (card.feature_size, card.input_channels):
        raise WeightsError(
            f"is {sizes(card.feature_size, card.input_channels)}; the preset has {sizes(feature_size, input_channels)}",
            where=stored.path,
            mend="Choose the preset with these sizes (paper has feature size 48, base 24), or another backbone.",
        )
    _fill(network, stored, card)


def as_backbone(stored: Stored) -> SwinUNETR:
    """Build and fill the Swin UNETR that ``stored`` describes; raises as ``load_backbone``."""
    card = _backbone_card(stored)
    network = SwinUNETR(input_channels=card.input_channels, feature_size=card.feature_size)
    _fill(network, stored, card)
    return network.eval()


def sizes(feature_size: int, input_channels: int) -> str:
    """Name a Swin UNETR by what tells it from others."""
    return f"a Swin UNETR of feature size {feature_size} for {input_channels} input channel{'s'[: input_channels > 1]}"


def part_of(state: Mapping[str, Tensor], holds: str) -> dict[str, Tensor]:
    """Give the tensors of a whole network that a file which ``holds`` them fills."""
    return {name: one for name, one in state.items() if holds != "encoder" or name.startswith(ENCODER)}


def _backbone_card(stored: Stored) -> BackboneCard:
    if not isinstance(stored.card, BackboneCard):
        raise WeightsError(
            "is a whole network, not a backbone",
            where=stored.path,
            mend="Name a file that `dsmseg weights import` has written.",
        )
    return stored.card


def _fill(network: SwinUNETR, stored: Stored, card: BackboneCard) -> None:
    state = network.state_dict()
    refuse_misfit(
        stored.state,
        part_of(state, card.holds),
        network=sizes(card.feature_size, card.input_channels),
        where=stored.path,
        mend="Import the backbone again.",
    )
    network.load_state_dict({**state, **stored.state}, strict=True)
