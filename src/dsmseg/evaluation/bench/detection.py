"""Which lesions of a scan a score map finds at each threshold, and at the price of how many false ones.

What is found and what is false follows `dsmseg.evaluation.candidates`, as operating points do: a part of the map counts
if a quarter of it is tumor, and finds each lesion that it shares a voxel with.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.evaluation.candidates import THRESHOLDS, find_candidates
from dsmseg.synthesis.tumors.distance import long_axis

_NEIGHBORS = np.ones((3, 3, 3))
_EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Detection:
    """One scan and class.

    Attributes:
        diameters_mm: of each lesion of the reference, its longest extent in space.
        found: for each threshold, from the lowest on, whether it finds each lesion.
        false: for each threshold, how many parts of the map are false lesions.
    """

    diameters_mm: Sequence[float]
    found: Sequence[Sequence[bool]]
    false: Sequence[int]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Of several scans: lesions of a size, those of them that are found, and false lesions a scan of any size."""

    lesions: int
    found: int
    false_per_scan: float

    @property
    def share(self) -> float | None:
        """Share of the lesions that are found; None where there is none."""
        return self.found / self.lesions if self.lesions else None


def detect(
    scores: Float[NDArray[np.floating], "x y z"],
    reference: Bool[NDArray[np.bool_], "x y z"],
    spacing_mm: Sequence[float],
    thresholds: Sequence[float] = THRESHOLDS,
) -> Detection:
    """Find what a score map finds above each of some rising thresholds.

    Raises:
        InputError: map and mask have different shapes.
    """
    candidates = find_candidates(scores, reference, float(np.prod(spacing_mm)) / 1000, thresholds)
    found = np.zeros((len(thresholds), candidates.lesions), bool)
    counted = candidates.hits[candidates.true[candidates.hits[:, 0]]]
    found[candidates.level[counted[:, 0]], counted[:, 1]] = True
    false = np.bincount(candidates.level[~candidates.true], minlength=len(thresholds))
    return Detection(lesion_diameters(reference, spacing_mm), found.tolist(), false.tolist())


def lesion_diameters(reference: Bool[NDArray[np.bool_], "x y z"], spacing_mm: Sequence[float]) -> list[float]:
    """Give the mm of the longest extent of each lesion, in the order in which `find_candidates` numbers them."""
    lesions, _ = ndimage.label(reference, _NEIGHBORS)
    voxel = sum(spacing_mm) / 3  # a voxel reaches beyond its center
    return [
        round(long_axis(np.argwhere(lesions[box] == number).astype(np.float64) * spacing_mm) + voxel, 2)
        for number, box in enumerate(ndimage.find_objects(lesions), start=1)
    ]


def sensitivity_at(
    detections: Iterable[Detection], false_per_scan: float, sizes_mm: tuple[float, float] = (0.0, np.inf)
) -> Sensitivity | None:
    """Give what the best threshold finds that leaves at most so many false lesions a scan.

    Args:
        detections: of all scans, of the same thresholds; those without a lesion too.
        false_per_scan: at most, over all scans.
        sizes_mm: lesions of a diameter from the first to below the second are counted; false ones of any size are.

    Returns:
        None where every threshold leaves more, or there is no scan.
    """
    several = list(detections)
    if not several:
        return None
    false = np.mean([one.false for one in several], axis=0)
    found, lesions = np.zeros(len(false), np.int64), 0
    for one in several:
        counted = [sizes_mm[0] <= diameter < sizes_mm[1] for diameter in one.diameters_mm]
        lesions += sum(counted)
        found += np.array([sum(np.logical_and(row, counted)) for row in one.found], np.int64)
    allowed = np.flatnonzero(false <= false_per_scan + _EXACT)
    if not len(allowed):
        return None
    best = max(allowed, key=lambda level: (found[level], -false[level]))
    return Sensitivity(lesions, int(found[best]), float(false[best]))
