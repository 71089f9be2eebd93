"""The only door for weights: safetensors, a model card (JSON) beside them, and the sha256 that ties the two."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import safetensors
import safetensors.torch
import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from torch import Tensor, nn

from dsmseg import __version__
from dsmseg.errors import WeightsError
from dsmseg.files import replacing
from dsmseg.model import PRESETS, build
from dsmseg.taxonomy import CLASSES, ORGANS, TUMORS

_FOLDER = Path(__file__).with_name("weights")
_SUFFIX = ".safetensors"
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Hounsfield = Annotated[float, Field(allow_inf_nan=False)]
WindowSize = Annotated[int, Field(ge=32, multiple_of=32)]


class TrainingData(BaseModel):
    """One data set that the weights were trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    licence: str
    source: str


class Card(BaseModel):
    """The model card: all that is needed to use the weights, and to judge them.

    ``organs`` and ``tumors`` name the classes that the weights were trained for. ``hu_windows`` holds (low, high) in
    HU, one for each input channel, scaled to 0..1 and clipped. ``window`` is the inference tile in voxels of
    ``spacing_mm``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[\w][\w.+-]*$")
    version: str
    preset: Literal["starter", "base", "paper"]
    stage: Literal[1, 2]
    organs: tuple[str, ...]
    tumors: tuple[str, ...]
    text_encoder: str
    spacing_mm: tuple[Positive, Positive, Positive]
    hu_windows: tuple[tuple[Hounsfield, Hounsfield], ...] = Field(min_length=1)
    window: tuple[WindowSize, WindowSize, WindowSize]
    training_data: tuple[TrainingData, ...]
    licence: str
    figures: dict[str, JsonValue]
    sha256: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    dsmseg_version: str = __version__
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _refuse_strangers(self.organs, (organ.name for organ in ORGANS), "organ")
        _refuse_strangers(self.tumors, (tumor.name for tumor in TUMORS), "tumor")
        if self.stage == 1 and self.tumors:
            raise ValueError("Stage 1 has no tumors")
        if any(low >= high for low, high in self.hu_windows):
            raise ValueError("a HU window must be (low, high) with low < high")
        return self


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
    _refuse_other_formats(path)
    tensors = {name: _stored(name, tensor, path) for name, tensor in state.items()}
    content = safetensors.torch.save(tensors)
    complete = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    # Both files are complete before either gets its name, so that the moment in which they disagree is short.
    with replacing(_card_path(path)) as card_path, replacing(path) as weights_path:
        card_path.write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
        weights_path.write_bytes(content)
    return complete


def load(name_or_path: str | Path) -> Checkpoint:
    """Read packaged weights by name, or others by the path of their .safetensors file.

    Raises:
        WeightsError: there are none, they are no safetensors, or card, checksum and tensors do not agree.
    """
    path = _find(name_or_path)
    card = _read_card(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
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
    return Checkpoint(card, state, path)


def network(checkpoint: Checkpoint) -> nn.Module:
    """Build the network of the card's preset and stage, and fill in the weights: float32, in evaluation mode.

    Raises:
        WeightsError: tensors are missing, unknown, or of another shape than the preset's.
    """
    card = checkpoint.card
    config = replace(PRESETS[card.preset], stage=card.stage)
    if config.input_channels != len(card.hu_windows):
        raise WeightsError(
            f"the card has {len(card.hu_windows)} HU windows, preset {card.preset} takes {config.input_channels}",
            where=_card_path(checkpoint.path),
            mend="Get the card again.",
        )
    # The class prompts' embeddings are part of the state: the weights bring those that they were trained with.
    model = build(config, torch.zeros(len(CLASSES), config.text_width))
    _refuse_misfit(checkpoint, model.state_dict())
    model.load_state_dict(checkpoint.state, strict=True)
    return model.float().eval()


def verify(name_or_path: str | Path) -> Card:
    """Check a file from its checksum to the last tensor's shape, and return its card.

    Raises:
        WeightsError: anything that ``load`` or ``network`` would refuse.
    """
    checkpoint = load(name_or_path)
    network(checkpoint)
    return checkpoint.card


def packaged() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob(f"*{_SUFFIX}") if _card_path(path).is_file())


def _refuse_strangers(names: tuple[str, ...], known: Iterable[str], kind: str) -> None:
    if strangers := sorted(set(names) - set(known)):
        raise ValueError(f"no such {kind}: {', '.join(strangers)}")


def _card_path(weights: Path) -> Path:
    return weights.with_suffix(".json")


def _refuse_other_formats(path: Path) -> None:
    if path.suffix.lower() in _PICKLES:
        raise WeightsError(
            "is a pickle, which can run code when it is read; only safetensors are",
            where=path,
            mend=f"Name a {_SUFFIX} file.",
        )
    if path.suffix != _SUFFIX:
        raise WeightsError("is no safetensors file", where=path, mend=f"Name a {_SUFFIX} file.")


def _find(name_or_path: str | Path) -> Path:
    """The weights file that is meant: a plain name is a packaged one."""
    path = Path(name_or_path)
    is_name = path.name == str(name_or_path) and path.suffix.lower() not in (_SUFFIX, *_PICKLES)
    # Whatever lies in the working directory: the default must mean the same everywhere.
    if is_name and path.name in packaged():
        return _FOLDER / f"{path.name}{_SUFFIX}"
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        raise _unreadable(path, error) from error
    if is_name and not is_folder and not is_file:
        raise WeightsError(
            f"no packaged weights are named {path.name!r}",
            mend=f"There are: {', '.join(packaged()) or 'none'}; or name a {_SUFFIX} file.",
        )
    if is_folder:
        raise WeightsError("is a folder", where=path, mend=f"Name the {_SUFFIX} file in it.")
    _refuse_other_formats(path)
    if not is_file:
        raise WeightsError(
            "does not exist", where=path, mend=f"Name a {_SUFFIX} file, or packaged weights: {', '.join(packaged())}."
        )
    return path


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"cannot be read ({error.strerror or error})", where=path, mend=f"Name a {_SUFFIX} file that can be read."
    )


def _read_card(weights: Path) -> Card:
    path = _card_path(weights)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(
            "the model card is missing or cannot be read", where=path, mend="Put the card beside its weights."
        ) from error
    try:
        return Card.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the card"
        raise WeightsError(
            f"is no valid model card ({field}: {first['msg']})", where=path, mend="Get weights and card again."
        ) from error


def _stored(name: str, tensor: Tensor, path: Path) -> Tensor:
    stored = tensor.detach().to("cpu", torch.float16 if tensor.is_floating_point() else tensor.dtype, copy=True)
    if tensor.is_floating_point() and not bool(torch.isfinite(stored).all()):
        raise WeightsError(
            f"tensor {name} holds values that are not finite in fp16",
            where=path,
            mend="The training diverged: take an earlier state.",
        )
    return stored.contiguous()


def _refuse_misfit(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    found = checkpoint.state
    faults = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "of another shape": [name for name in expected if name in found and expected[name].shape != found[name].shape],
    }
    for fault, names in faults.items():
        if names:
            numbered = re.sub(r"^1 tensors are", "1 tensor is", f"{len(names)} tensors are")
            raise WeightsError(
                f"{numbered} {fault} for preset {checkpoint.card.preset}, stage {checkpoint.card.stage}"
                f" (first: {names[0]})",
                where=checkpoint.path,
                mend="Weights and card do not belong together, or come from another version of dsmseg.",
            )
