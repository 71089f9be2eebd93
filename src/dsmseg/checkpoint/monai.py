"""Checkpoints of MONAI's Swin UNETR become backbones of ours: their names sorted out, each tensor checked.

A checkpoint holds the whole ``monai.networks.nets.SwinUNETR``, or the encoder that self-supervised training left
(``model_swinvit.pt``). Options of MONAI that leave no trace in the tensors (``normalize=False``,
``downsample="mergingv2"``) cannot be told: the defaults are assumed.
"""

import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from dsmseg.checkpoint.backbone import ENCODER, PATCH_EMBEDDING, part_of, save_backbone, sizes
from dsmseg.checkpoint.cards import BackboneCard, Name
from dsmseg.checkpoint.fitting import refuse_misfit
from dsmseg.checkpoint.storage import SUFFIX, card_path, refuse_other_formats, unreadable
from dsmseg.errors import OutputError, WeightsError
from dsmseg.model.swin_unetr import SwinUNETR

Holds = Literal["encoder", "encoder and decoder"]

_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "net.", "backbone.", "model.", "_orig_mod.")
# MONAI's last convolution, and what self-supervised training puts on the encoder.
_HEADS = ("out.", "norm.", "rotation_head.", "contrastive_head.", "convTrans3d.", "conv.")
_RENAMED = (
    (r"^(swin_vit\.|(?=patch_embed\.|layers[1-4]\.))", ENCODER),
    (r"\.mlp\.fc([12])\.", r".mlp.linear\1."),
)
_WHAT_FITS = "Only MONAI's SwinUNETR in 3D fits, with its default patch size, window, depths and heads, without use_v2."


def import_backbone(source: Path, target: Path, *, licence: str = "unknown") -> BackboneCard:
    """Write what the MONAI checkpoint ``source`` holds of a backbone to ``target``, and its card beside it.

    ``source`` is read without running any code that it may hold. The feature size and the number of input channels
    are those of its tensors.

    Raises:
        WeightsError: ``source`` cannot be read so, or its tensors are not exactly those of a Swin UNETR.
        OutputError: ``target`` exists, or cannot be written to.
    """
    name = _free_name(target)
    content = _content(source)
    state, left_away = _sorted(_tensors(content, source), source)
    holds: Holds = "encoder" if all(one.startswith(ENCODER) for one in state) else "encoder and decoder"
    feature_size, input_channels = _sizes(state, source)
    _refuse_other_networks(state, holds, feature_size=feature_size, input_channels=input_channels, source=source)
    card = BackboneCard(
        name=name,
        feature_size=feature_size,
        input_channels=input_channels,
        holds=holds,
        source=os.fsencode(source.name).decode("utf-8", "backslashreplace"),
        source_sha256=hashlib.sha256(content).hexdigest(),
        left_away=left_away,
        licence=licence,
    )
    return save_backbone(target, state, card)


def _free_name(target: Path) -> str:
    """Name the backbone as its file, which must not replace another: least of all the checkpoint that is imported."""
    refuse_other_formats(target)
    try:
        name = TypeAdapter(Name).validate_python(target.stem)
    except ValidationError as error:
        raise WeightsError(
            f"'{target.stem}' is no name for weights", where=target, mend="Use letters, digits and . + - _ alone."
        ) from error
    for path in (target, card_path(target)):
        if os.path.lexists(path):
            raise OutputError("exists already", where=path, mend="Remove it, or choose another name.")
    return name


def _content(source: Path) -> bytes:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise unreadable(source, error) from error
    if not content:
        raise WeightsError("is empty", where=source, mend="Get the checkpoint again.")
    return content


def _tensors(content: bytes, source: Path) -> dict[str, Tensor]:
    """The tensors by name, out of the usual wrappers."""
    found = _parsed(content, source)
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(map(_is_plain, found, found.values())):
        raise WeightsError(
            "does not hold tensors by name",
            where=source,
            mend="Save the network's state_dict(), alone or under the key 'state_dict' or 'model'.",
        )
    return dict(found)


def _is_plain(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.is_cpu and value.layout is torch.strided


def _parsed(content: bytes, source: Path) -> Any:
    if source.suffix == SUFFIX:
        try:
            return safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise WeightsError(
                f"is no readable safetensors file ({error})", where=source, mend="Get the checkpoint again."
            ) from error
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    # For bytes that are no checkpoint, torch's reader raises whatever its parts do.
    except Exception as error:
        other = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        raise WeightsError(
            f"holds {other[1]}, not tensors alone, and is not run" if other else "is no checkpoint that torch can read",
            where=source,
            mend="Save the network's state_dict() alone with torch.save, and import that.",
        ) from error


def _sorted(tensors: Mapping[str, Tensor], source: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors under the names that our Swin UNETR gives them, and the names of those that it has no place for."""
    names = {name: name for name in tensors}
    while prefix := next((one for one in _PREFIXES if all(name.startswith(one) for name in names.values())), None):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    state: dict[str, Tensor] = {}
    left_away: list[str] = []
    for name, short in names.items():
        if short.startswith(_HEADS):
            left_away.append(name)
            continue
        for pattern, replacement in _RENAMED:
            short = re.sub(pattern, replacement, short)
        if short in state:
            raise WeightsError(f"holds {short} twice", where=source, mend="Get the checkpoint again.")
        state[short] = tensors[name]
    return state, tuple(left_away)


def _sizes(state: Mapping[str, Tensor], source: Path) -> tuple[int, int]:
    """Feature size and input channels, by the patch embedding."""
    if PATCH_EMBEDDING not in state:
        raise WeightsError(f"is no Swin UNETR (there is no {PATCH_EMBEDDING})", where=source, mend=_WHAT_FITS)
    shape = tuple(state[PATCH_EMBEDDING].shape)
    if len(shape) != 5 or shape[0] == 0 or shape[0] % 12 or shape[1] == 0:
        raise WeightsError(f"{PATCH_EMBEDDING} has the shape {shape}", where=source, mend=_WHAT_FITS)
    return shape[0], shape[1]


def _refuse_other_networks(
    state: Mapping[str, Tensor], holds: Holds, *, feature_size: int, input_channels: int, source: Path
) -> None:
    # No memory is asked for by the word of a file whose tensors may not be that large.
    with torch.device("meta"):
        expected = SwinUNETR(input_channels=input_channels, feature_size=feature_size).state_dict()
    refuse_misfit(
        state, part_of(expected, holds), network=sizes(feature_size, input_channels), where=source, mend=_WHAT_FITS
    )
    # Integers are no parameters: they are the same at every size, and ours hold them as MONAI's do.
    for name, constant in SwinUNETR(input_channels=1, feature_size=12).state_dict().items():
        if not constant.is_floating_point() and not torch.equal(state[name].long(), constant):
            raise WeightsError(f"{name} has other values than MONAI 1.6 gives it", where=source, mend=_WHAT_FITS)
