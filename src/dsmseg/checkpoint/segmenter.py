"""The weights of a whole network: of a method and a preset, and of DSM's stage and row of Table 5."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dsmseg import baselines
from dsmseg.checkpoint.cards import BackboneCard, Card
from dsmseg.checkpoint.fitting import refuse_misfit
from dsmseg.checkpoint.storage import Stored, card_path, read, write
from dsmseg.errors import WeightsError
from dsmseg.model import PRESETS, ablated, build
from dsmseg.taxonomy import CLASSES


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights as read: the card, the tensors by parameter name (float32), and the file that they came from."""

    card: Card
    state: dict[str, Tensor]
    path: Path


def save(path: Path, state: Mapping[str, Tensor], card: Card) -> Card:
    """Write ``state`` to ``path`` (floating tensors as fp16) and ``card`` beside it; return the card with its sha256.

    Raises:
        WeightsError: ``path`` does not end in .safetensors, or a value is not finite in fp16.
        OutputError: the place cannot be written to.
    """
    return write(path, state, card, precision=torch.float16)


def load(name_or_path: str | Path) -> Checkpoint:
    """Read packaged weights by name, or others by the path of their .safetensors file.

    Raises:
        WeightsError: there are none, they are no safetensors or a backbone's alone, or card and checksum do not agree.
    """
    return as_segmenter(read(name_or_path))


def as_segmenter(stored: Stored) -> Checkpoint:
    """Take ``stored`` as the weights of a whole network.

    Raises:
        WeightsError: they are a backbone's alone.
    """
    if isinstance(stored.card, BackboneCard):
        raise WeightsError(
            "is a backbone alone, which segments nothing",
            where=stored.path,
            mend="Train a network from it (dsmseg train CONFIG --set backbone=PATH) and name the weights of that.",
        )
    return Checkpoint(stored.card, stored.state, stored.path)


def network(checkpoint: Checkpoint) -> nn.Module:
    """Build the network that the card names, and fill in the weights: float32, in evaluation mode.

    Raises:
        WeightsError: tensors are missing, unknown, or of another shape than the preset's.
    """
    card = checkpoint.card
    preset = replace(PRESETS[card.preset], stage=card.stage, prompt=card.prompt, readings=card.readings)
    config = ablated(preset, card.ablation)
    if config.input_channels != len(card.hu_windows):
        raise WeightsError(
            f"the card has {len(card.hu_windows)} HU windows, preset {card.preset} takes {config.input_channels}",
            where=card_path(checkpoint.path),
            mend="Get the card again.",
        )
    # The class prompts' embeddings are part of the state: the weights bring those that they were trained with.
    text = torch.zeros(len(CLASSES), config.text_width)
    model: nn.Module
    if card.method == "dsm":
        model = build(config, text)
    else:
        model = baselines.build(card.method, config, text, trained_classes(card))
    refuse_misfit(
        checkpoint.state,
        model.state_dict(),
        network=named(card),
        where=checkpoint.path,
        mend="Weights and card do not belong together, or come from another version of dsmseg.",
    )
    model.load_state_dict(checkpoint.state, strict=True)
    return model.float().eval()


def named(card: Card) -> str:
    """Name the network that weights are for."""
    if card.method != "dsm":
        return f"preset {card.preset}, method {card.method}"
    row = "" if card.ablation == "full" else f", {card.ablation.replace('_', ' ')}"
    return f"preset {card.preset}, stage {card.stage}{row}"


def trained_classes(card: Card) -> Bool[Tensor, "class"]:
    """Tell which classes of the taxonomy the weights were trained for."""
    return torch.tensor([one.name in card.organs or one.name in card.tumors for one in CLASSES])
