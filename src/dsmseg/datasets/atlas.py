"""Where organs lie and how dense they are: what tells a mirrored scan, or one that is not in HU, from a right one."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dsmseg.taxonomy import TUMORS, find

Range = tuple[float, float]
Classes = tuple[str, ...]  # one class, or both sides of an organ that a data set merges

# mm that two organs must lie apart in the atlas along an axis (right, front, up) to be a witness of its direction.
_WITNESS_MM = (55.0, 50.0, 45.0)
_CLEARLY_MM = 8.0
_EXCHANGED = ("left and right", "front and back", "top and bottom")
_BEYOND = (("left of", "right of"), ("behind", "in front of"), ("below", "above"))


@dataclass(frozen=True, slots=True)
class Atlas:
    """center: mm (right, front, up) of each organ; most_ml: its largest volume; hu: range of mean HU of each class."""

    center: Mapping[str, NDArray[np.float64]]
    hu: Mapping[str, Range]
    most_ml: Mapping[str, float]


@cache
def atlas() -> Atlas:
    """Give the atlas that comes with the package."""
    content = tomllib.loads(files("dsmseg.datasets").joinpath("atlas.toml").read_text(encoding="utf-8"))
    organs = content["organs"]
    tumors = dict(content["tumors"])
    low, high = tumors.pop("default")
    hu: dict[str, Range] = {one.name: (low, high) for one in TUMORS}
    hu |= {name: tuple(one) for name, one in tumors.items()}
    hu |= {name: tuple(entry["hu"]) for name, entry in organs.items()}
    center = {name: np.array(entry["center"], float) for name, entry in organs.items()}
    return Atlas(center, hu, {name: float(entry["most_ml"]) for name, entry in organs.items()})


@dataclass(frozen=True, slots=True)
class _Witness:
    """Two organs, or an organ and the body's middle, that the atlas puts ``expected`` mm apart along an axis."""

    one: Classes
    other: Classes
    expected: float
    measured: float

    @property
    def contradicts(self) -> bool:
        return self.expected * self.measured < 0 and abs(self.measured) > _CLEARLY_MM


def can_tell(centers: Mapping[Classes, NDArray[np.float64]], axis: int) -> bool:
    """Tell whether any two organs of ``centers`` lie far enough apart along an axis to show that it is mirrored."""
    return bool(_witnesses(centers, axis, None))


def misplaced(centers: Mapping[Classes, NDArray[np.float64]], middle: float | None = None) -> list[str]:
    """Say in what an order of organs contradicts the atlas: an axis that is mirrored, sides that are exchanged.

    Args:
        centers: mm RAS of each class; of both sides of an organ together where a data set merges them.
        middle: mm RAS of the body's middle between left and right, if it is known.

    Returns:
        A sentence for each contradiction, naming the organs that tell it best; none for a body as it should be.
    """
    told = []
    for axis in range(3):
        witnesses = _witnesses(centers, axis, middle if axis == 0 else None)
        against = [one for one in witnesses if one.contradicts]
        if sum(abs(one.expected) for one in against) > 0.5 * sum(abs(one.expected) for one in witnesses):
            best = max(against, key=lambda one: abs(one.expected))
            told.append(f"{_EXCHANGED[axis]} are exchanged: {_sentence(best, axis)}")
        elif axis == 0:
            told += [f"the sides of an organ are exchanged: {_sentence(one, 0)}" for one in against if _is_pair(one)]
    return told


def _witnesses(centers: Mapping[Classes, NDArray[np.float64]], axis: int, middle: float | None) -> list[_Witness]:
    places = {
        classes: float(np.mean([atlas().center[name][axis] for name in classes]))
        for classes in centers
        if all(name in atlas().center for name in classes)
    }
    found = [
        _Witness(one, other, places[one] - places[other], float(centers[one][axis] - centers[other][axis]))
        for one, other in combinations(places, 2)
    ]
    if middle is not None:
        found += [_Witness(one, (), place, float(centers[one][axis]) - middle) for one, place in places.items()]
    return [one for one in found if abs(one.expected) >= _WITNESS_MM[axis]]


def _is_pair(witness: _Witness) -> bool:
    if len(witness.one) != 1 or len(witness.other) != 1:
        return False
    one, other = find(witness.one[0]), find(witness.other[0])
    return {one.side, other.side} == {"left", "right"} and one.snomed == other.snomed


def _sentence(witness: _Witness, axis: int) -> str:
    where = _BEYOND[axis][int(witness.measured > 0)]
    beside = " and ".join(witness.other) if witness.other else "the body's middle"
    return f"{' and '.join(witness.one)} lies {abs(witness.measured):.0f} mm {where} {beside}"
