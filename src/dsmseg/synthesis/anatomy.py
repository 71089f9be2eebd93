"""What the structures of a TotalSegmentator label map are made of: tissue, HU by contrast phase, organ of the paper."""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.taxonomy import find

PHASES = ("native", "arterial", "venous")
LIVER, HEPATIC_VESSEL = find("Liver").id, find("Hepatic Vessel").id  # a liver's mask holds its vessels
Range = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """HU of one tissue.

    ranges: lowest and highest mean HU, by phase. texture: standard deviation within the structure, HU.
    shell: HU of a bone's cortex. core: by phase, HU that the inside differs by (renal medulla).
    vessels: HU that vessels inside differ by. contents: how much of a hollow organ is gas, fluid, solids, positive
    contrast; the rest is wall.
    """

    ranges: tuple[Range, Range, Range]
    texture: float
    shell: Range | None = None
    core: tuple[Range, Range, Range] | None = None
    vessels: Range | None = None
    contents: tuple[float, float, float, float] | None = None

    @property
    def holds_air(self) -> bool:
        """Tell whether it is lung or airway."""
        return self.ranges[0][1] < -500


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Look-up by structure id (0 is no structure).

    structures: name of each id. organs: the paper's organ id of each id, 0 for none. tissues: by id.
    """

    structures: tuple[str, ...]
    organs: NDArray[np.uint8]
    tissues: tuple[Tissue | None, ...]

    @property
    def annotated_organs(self) -> tuple[int, ...]:
        """Ids of the organs that such label maps annotate: in all others the organ is unknown."""
        return tuple(int(organ) for organ in np.unique(self.organs) if organ)


@cache
def totalsegmentator() -> Anatomy:
    """Give the anatomy of TotalSegmentator (v2) label maps."""
    table = _read("totalsegmentator.toml")
    return _anatomy(table["structures"], table["organs"].items())


@cache
def phantom_anatomy() -> Anatomy:
    """Give the anatomy of phantoms: TotalSegmentator's structures, and behind them what those lack."""
    table = _read("totalsegmentator.toml")
    more = table["phantom"]
    return _anatomy([*table["structures"], *more["structures"]], [*table["organs"].items(), *more["organs"].items()])


def as_structures(organs: NDArray[Any]) -> NDArray[np.uint8]:
    """Give structures of `phantom_anatomy` for a label map of organs (ids of the taxonomy): the first part of each.

    Raises:
        InputError: an id is no organ's.
    """
    known = phantom_anatomy().organs
    if int(organs.max()) > int(known.max()):
        what = f"holds the id {int(organs.max())}, which is no organ of the taxonomy"
        raise InputError(what, mend="Say which ids these are: --ids totalsegmentator.")
    table = np.array([0, *(int(np.argmax(known == organ)) for organ in range(1, int(known.max()) + 1))], np.uint8)
    structures: NDArray[np.uint8] = table[organs]
    return structures


def organ_mask(structures: NDArray[np.uint8], class_id: int) -> NDArray[np.bool_]:
    """Mark an organ in structures; the liver holds the hepatic vessels."""
    organs = phantom_anatomy().organs
    chosen = organs == class_id
    if class_id == LIVER:
        chosen = chosen | (organs == HEPATIC_VESSEL)
    marked: NDArray[np.bool_] = chosen[structures]
    return marked


def _anatomy(names: Sequence[str], organs_of: Iterable[tuple[str, list[str]]]) -> Anatomy:
    structures = ("", *names)
    organs = np.zeros(len(structures), np.uint8)
    for organ, parts in organs_of:
        for part in parts:
            organs[structures.index(part)] = find(organ).id
    entries = list(_read("tissues.toml")["tissues"].values())
    tissues = [_tissue(entry) for entry in entries]
    patterns = [entry["structures"] for entry in entries]
    return Anatomy(structures, organs, (None, *(_match(name, patterns, tissues) for name in structures[1:])))


def _match(name: str, patterns: list[list[str]], tissues: list[Tissue]) -> Tissue:
    for group, tissue in zip(patterns, tissues, strict=True):
        if any(fnmatchcase(name, pattern) for pattern in group):
            return tissue
    raise LookupError(f"tissues.toml names no tissue for {name}")


def _tissue(entry: dict[str, Any]) -> Tissue:
    optional: dict[str, Any] = {key: tuple(entry[key]) for key in ("shell", "vessels", "contents") if key in entry}
    if "core" in entry:
        optional["core"] = tuple(tuple(one) for one in entry["core"])
    native, arterial, venous = (tuple(entry[phase]) for phase in PHASES)
    return Tissue(ranges=(native, arterial, venous), texture=entry["texture"], **optional)


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(files("dsmseg.synthesis").joinpath(name).read_text(encoding="utf-8"))
