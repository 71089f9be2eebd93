"""Whether what was found can be an organ: by its density, its size, and its place among the others."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

from dsmseg.datasets.atlas import atlas
from dsmseg.taxonomy import by_id, find
from dsmseg.volume import Volume

_LEAST_AGREEING = 0.7  # mean Dice of single looks with what most of them say. Our choice
_TOO_FAR_MM = 90.0
"""From where the atlas puts an organ's center beside the others: half of a trunk's width. Our choice: wide, since
bodies differ by size and scans show parts of organs."""
_Measured = tuple[int, float, NDArray[np.float64]]  # voxels, mean HU, center in voxels

_LEAST_WITNESSES = 3  # organs, of which the median place tells where the body lies


@dataclass(frozen=True, slots=True)
class OrganReport:
    """An organ that was found, and what speaks against it.

    name: of the class. ml: its volume. hu: mean. agreeing: mean Dice of single looks with what most of them say.
    given: it was labelled, and is not judged. against: what does not fit, empty where all does.
    """

    name: str
    ml: float
    hu: float
    agreeing: float
    given: bool
    against: str


def judge(
    volume: Volume,
    labels: UInt8[NDArray[np.uint8], "x y z"],
    agreeing: Mapping[int, float],
    given: frozenset[int] = frozenset(),
) -> list[OrganReport]:
    """Judge each organ that was found in a scan.

    Args:
        volume: the scan, HU in RAS.
        labels: taxonomy ids on its grid.
        agreeing: by id, how much looks agree, see `Agreement`.
        given: ids of organs that were labelled: they are what the others are judged by, too.
    """
    found = _measure(volume.array, labels)
    apart = _distances(_in_mm(volume, found))
    reports = []
    for id, (voxels, hu, _) in sorted(found.items()):
        name = by_id(id).name
        ml = voxels * volume.grid.voxel_volume_ml
        share = 1.0 if id in given else agreeing.get(id, 0.0)
        against = "" if id in given else _against(name, ml, hu, share, apart.get(id))
        reports.append(OrganReport(name, round(ml, 1), round(hu, 1), round(share, 3), id in given, against))
    return reports


def centers_of(volume: Volume, labels: UInt8[NDArray[np.uint8], "x y z"]) -> dict[int, NDArray[np.float64]]:
    """Give the center of each label in mm RAS."""
    return _in_mm(volume, _measure(volume.array, labels))


def _in_mm(volume: Volume, found: Mapping[int, _Measured]) -> dict[int, NDArray[np.float64]]:
    return {id: volume.affine[:3, :3] @ place + volume.affine[:3, 3] for id, (_, _, place) in found.items()}


def _against(name: str, ml: float, hu: float, agreeing: float, apart_mm: float | None) -> str:
    low, high = atlas().hu[name]
    most = atlas().most_ml[name]
    if not low <= hu <= high:
        return f"its mean of {hu:.0f} HU is outside {low:g} to {high:g}"
    if ml > most:
        return f"its {ml:.0f} ml are more than {most:g}"
    if apart_mm is not None and apart_mm > _TOO_FAR_MM and name not in _WIDE:
        return f"it lies {apart_mm:.0f} mm from where the other organs put it"
    if agreeing < _LEAST_AGREEING:
        return f"looks at other scales find something else (mean Dice {agreeing:.2f})"
    return ""


# Organs whose part in a scan may lie anywhere along them: their centers tell no place.
_WIDE = frozenset({"Colon", "Intestine", "Aorta", "Esophagus", "Postcava", "Rectum", "Right Lung", "Left Lung"})


def _measure(
    hu: Float32[NDArray[np.float32], "x y z"], labels: UInt8[NDArray[np.uint8], "x y z"]
) -> dict[int, _Measured]:
    """Give voxels, mean HU and center (in voxels) of each id, slice by slice so that little memory is taken."""
    sums = np.zeros((256, 5))
    x, y = (line.ravel().astype(float) for line in np.meshgrid(*map(np.arange, labels.shape[:2]), indexing="ij"))
    for z in range(labels.shape[2]):
        ids = labels[..., z].ravel()
        if ids.any():
            for column, weights in enumerate((None, hu[..., z].ravel(), x, y, np.full(ids.size, float(z)))):
                sums[:, column] += np.bincount(ids, weights, minlength=256)
    return {
        int(id): (int(sums[id, 0]), float(sums[id, 1] / sums[id, 0]), sums[id, 2:] / sums[id, 0])
        for id in np.flatnonzero(sums[:, 0])
        if id
    }


def _distances(centers: Mapping[int, NDArray[np.float64]]) -> dict[int, float]:
    """Give how far each organ lies from where all the others, by the median, put the atlas."""
    offsets = {id: center - atlas().center[by_id(id).name] for id, center in centers.items()}
    witnesses = {id: offset for id, offset in offsets.items() if by_id(id).name not in _WIDE}
    apart = {}
    for id, offset in offsets.items():
        others = [one for other, one in witnesses.items() if other != id]
        if len(others) >= _LEAST_WITNESSES:
            apart[id] = float(np.linalg.norm(offset - np.median(others, axis=0)))
    return apart


def ids_of(reports: list[OrganReport]) -> tuple[frozenset[int], frozenset[int]]:
    """Give the ids of the organs that are kept, and of those that something speaks against."""
    against = frozenset(find(one.name).id for one in reports if one.against)
    return frozenset(find(one.name).id for one in reports) - against, against
