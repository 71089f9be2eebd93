"""The 20 kinds of tumor and how they look, read from kinds.toml."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from numpy.random import Generator

from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import PHASES
from dsmseg.synthesis.tumors.draws import uniform
from dsmseg.taxonomy import ORGANS, TUMORS, StructureClass, find


@dataclass(frozen=True, slots=True)
class Variant:
    """One way a kind of tumor looks. Units and meaning of each field stand at the top of kinds.toml."""

    name: str
    weight: float
    shape: str
    place: str
    inside: float
    fill: float
    count: tuple[int, int]
    diameter: tuple[float, float, float, float]
    thickness: tuple[float, float]
    absolute: bool
    hu: Mapping[str, tuple[float, float]]
    texture: float
    edge: tuple[float, float]
    irregular: float
    aspect: tuple[float, float]
    push: float
    outside: tuple[float, float, float]
    features: Mapping[str, float]
    wall_hu: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """What may grow: its name, the organs that it grows in, and its variants. class_id: of the tumor, None of none."""

    name: str
    class_id: int | None
    hosts: tuple[str, ...]
    variants: tuple[Variant, ...]

    @classmethod
    def of(cls, kind: StructureClass, variants: tuple[Variant, ...] | None = None) -> "Growth":
        """Give a kind of tumor, with all of its variants or those given."""
        return cls(kind.name, kind.id, kind.hosts, variants or variants_of(kind))


def tumor_class(name: str) -> StructureClass:
    """Give the tumor class that ``name`` means.

    Raises:
        InputError: nothing or several classes are called so, or it is an organ.
    """
    found = find(name)
    if found.kind == "tumor":
        return found
    grow_there = ", ".join(one.name for one in TUMORS if found.name in one.hosts)
    mend = f"Tumors that grow there: {grow_there}." if grow_there else "Name a tumor, such as Liver Tumor."
    raise InputError(f"{found.name} is an organ, not a kind of tumor", mend=mend)


def draw_variant(variants: Sequence[Variant], random: Generator) -> Variant:
    """Draw one of some variants by their weights."""
    rest = uniform(random, 0.0, sum(one.weight for one in variants))
    for one in variants:
        rest -= one.weight
        if rest < 0:
            return one
    return variants[-1]


def named_variant(kind: StructureClass, name: str) -> Variant:
    """Give the variant of a kind that is called so.

    Raises:
        InputError: it has none of that name.
    """
    named = {one.name: one for one in variants_of(kind)}
    if name not in named:
        raise InputError(f"no variant of {kind.name} is called '{name}'", mend=f"There are: {', '.join(named)}.")
    return named[name]


def variants_of(kind: StructureClass) -> tuple[Variant, ...]:
    """Give all variants of a kind."""
    return _KINDS[kind.name]


def generic_lesions(kind: StructureClass) -> tuple[Variant, ...]:
    """Give the variants of the early lesion that looks alike in all solid organs; none for kinds of other organs."""
    return _GENERIC if kind.name in _DATA["generic"]["kinds"] else ()


def distractors(organ: str) -> tuple[Variant, ...]:
    """Give the variants of what looks like a tumor in an organ and is none."""
    return _DISTRACTORS[organ]


def host_intensities(organ: str) -> dict[str, float] | None:
    """Give the HU of an organ by phase, None where it tells nothing (lungs, hollow organs)."""
    row = _DATA["hosts"].get(organ)
    return None if row is None else dict(zip(PHASES, row, strict=True))


def _variant(entry: Mapping[str, Any]) -> Variant:
    merged = {"features": {}, **_DATA["defaults"], **entry}
    for key in ("count", "diameter", "thickness", "edge", "aspect", "outside", "wall_hu"):
        if key in merged:
            merged[key] = tuple(merged[key])
    merged["hu"] = {phase: tuple(merged["hu"][phase]) for phase in PHASES}
    return Variant(**merged)


_DATA = tomllib.loads(files(__package__).joinpath("kinds.toml").read_text(encoding="utf-8"))
_KINDS = {name: tuple(_variant(entry) for entry in entries) for name, entries in _DATA["kind"].items()}
_GENERIC = tuple(_variant(entry) for entry in _DATA["generic"]["variants"])
_DISTRACTORS = {
    one.name: tuple(
        _variant(entry) for group in _DATA["distractor"] if one.name in group["organs"] for entry in group["variants"]
    )
    for one in ORGANS
}
