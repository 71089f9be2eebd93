"""Weights and card as two files that vouch for each other."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from dsmseg.checkpoint.cards import BackboneCard, Card
from dsmseg.errors import WeightsError
from dsmseg.files import replacing, write_atomically

SUFFIX = ".safetensors"

_FOLDER = Path(__file__).parents[1] / "weights"
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")

AnyCard = TypeVar("AnyCard", Card, BackboneCard)


@dataclass(frozen=True, slots=True)
class Stored:
    """Weights of either kind as read: the card, the tensors by parameter name (float32), and their file."""

    card: Card | BackboneCard
    state: dict[str, Tensor]
    path: Path


def read(name_or_path: str | Path) -> Stored:
    """Read packaged weights by name, or others by the path of their .safetensors file.

    Raises:
        WeightsError: there are none, they are no safetensors, or card and checksum do not agree.
    """
    path = _find(name_or_path)
    card = _read_card(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if hashlib.sha256(content).hexdigest() != card.sha256:
        raise WeightsError(
            "is not the file that its card describes (the sha256 differs)",
            where=path,
            mend="It is damaged or was exchanged: get weights and card again.",
        )
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"is no readable safetensors file ({error})", where=path, mend="Get the weights again."
        ) from error
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return Stored(card, state, path)


def write(path: Path, state: Mapping[str, Tensor], card: AnyCard, *, precision: torch.dtype) -> AnyCard:
    """Write ``state``, floating tensors in ``precision``, and ``card`` beside it; return the card with its sha256.

    Raises:
        WeightsError: ``path`` does not end in .safetensors, or a value is not finite in ``precision``.
        OutputError: the place cannot be written to.
    """
    refuse_other_formats(path)
    content = safetensors.torch.save({name: _stored(name, state[name], precision, path) for name in state})
    complete = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    # Both files are complete before either gets its name, so that the moment in which they disagree is short.
    with replacing(card_path(path)) as temporary_card, replacing(path) as temporary_weights:
        temporary_card.write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary_weights.write_bytes(content)
    return complete


def replace_card(weights: Path, card: Card) -> None:
    """Write the card of ``weights`` anew, which stay as they are.

    Raises:
        WeightsError: the card is of other weights.
        OutputError: the place cannot be written to.
    """
    if _read_card(weights).sha256 != card.sha256:
        raise WeightsError("has a card of other weights", where=weights, mend="Give the card that was read with them.")
    text = card.model_dump_json(indent=2) + "\n"
    write_atomically(card_path(weights), lambda path: path.write_text(text, encoding="utf-8"))


def packaged() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{SUFFIX}") if card_path(path).is_file())


def card_path(weights: Path) -> Path:
    """Give the place of the card of ``weights``."""
    return weights.with_suffix(".json")


def refuse_other_formats(path: Path) -> None:
    """Refuse a name that is not a safetensors file's."""
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            "is a pickle, which can run code when it is read; only safetensors are",
            where=path,
            mend=f"Name a {SUFFIX} file; of a MONAI Swin UNETR, `dsmseg weights import` makes one.",
        )
    if path.suffix != SUFFIX:
        raise WeightsError("is no safetensors file", where=path, mend=f"Name a {SUFFIX} file.")


def unreadable(path: Path, error: OSError) -> WeightsError:
    """Tell that the system does not let ``path`` be read."""
    return WeightsError(
        f"cannot be read ({error.strerror or error})", where=path, mend="Name a weights file that can be read."
    )


def _find(name_or_path: str | Path) -> Path:
    """The weights file that is meant: a plain name is a packaged one."""
    path = Path(name_or_path)
    is_name = path.name == str(name_or_path) and path.suffix.lower() not in (SUFFIX, *_PICKLES)
    # Whatever lies in the working directory: the default must mean the same everywhere.
    if is_name and path.name in packaged():
        return _FOLDER / f"{path.name}{SUFFIX}"
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise unreadable(path, error) from error
    if is_name and not is_folder and not is_file:
        raise WeightsError(
            f"no packaged weights are named {path.name!r}",
            mend=f"There are: {', '.join(packaged()) or 'none'}; or name a {SUFFIX} file.",
        )
    if is_folder:
        raise WeightsError("is a folder", where=path, mend=f"Name the {SUFFIX} file in it.")
    refuse_other_formats(path)
    if not is_file:
        raise WeightsError(
            "does not exist", where=path, mend=f"Name a {SUFFIX} file, or packaged weights: {', '.join(packaged())}."
        )
    return path


def _read_card(weights: Path) -> Card | BackboneCard:
    path = card_path(weights)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            "the model card is missing or cannot be read", where=path, mend="Put the card beside its weights."
        ) from error
    try:
        return _kind(text).model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the card"
        raise WeightsError(
            f"is no valid model card ({field}: {first['msg']})", where=path, mend="Get weights and card again."
        ) from error


def _kind(text: str) -> type[Card] | type[BackboneCard]:
    """Which card ``text`` claims to be; what is no JSON is left to the validation, which says so."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return Card
    return BackboneCard if isinstance(content, dict) and content.get("kind") == "backbone" else Card


def _stored(name: str, tensor: Tensor, precision: torch.dtype, path: Path) -> Tensor:
    stored = tensor.detach().to("cpu", precision if tensor.is_floating_point() else tensor.dtype, copy=True)
    if tensor.is_floating_point() and not bool(torch.isfinite(stored).all()):
        raise WeightsError(
            f"tensor {name} holds values that are not finite in {str(precision).removeprefix('torch.')}",
            where=path,
            mend="The training diverged: take an earlier state.",
        )
    return stored.contiguous()
