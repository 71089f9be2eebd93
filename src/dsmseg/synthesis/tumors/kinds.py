"""The 20 kinds of tumor and how they look, read from kinds.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from numpy.random import Generator

from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import PHASES
from dsmseg.synthesis.tumors.draws import uniform
from dsmseg.taxonomy import TUMORS, StructureClass, find

"""Phases of contrast."""


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
    margin: float
    irregular: float
    aspect: float
    push: float
    features: Mapping[str, float]
    wall_hu: tuple[float, float] | None = None


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


def draw_variant(kind: StructureClass, random: Generator) -> Variant:
    """Draw one of a kind's variants by their weights."""
    variants = _KINDS[kind.name]
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


def host_intensities(kind: StructureClass) -> dict[str, float] | None:
    """Give the HU of a kind's main host by phase, None where it tells nothing (lungs, hollow organs)."""
    row = _DATA["hosts"].get(kind.hosts[0])
    return None if row is None else dict(zip(PHASES, row, strict=True))


def _variant(entry: Mapping[str, Any]) -> Variant:
    merged = {"features": {}, **_DATA["defaults"], **entry}
    for key in ("count", "diameter", "thickness", "wall_hu"):
        if key in merged:
            merged[key] = tuple(merged[key])
    merged["hu"] = {phase: tuple(merged["hu"][phase]) for phase in PHASES}
    return Variant(**merged)


_DATA = tomllib.loads(files(__package__).joinpath("kinds.toml").read_text(encoding="utf-8"))
_KINDS = {name: tuple(_variant(entry) for entry in entries) for name, entries in _DATA["kind"].items()}
