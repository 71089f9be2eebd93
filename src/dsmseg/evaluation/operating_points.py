"""Operating points by FROC: from candidate lesions of validation scans to threshold, least volume, least mean score.

Pure functions over `Candidates`; where the score maps come from, a network or an anomaly, does not matter. The rules
and their reasons are in docs/decisions/0033.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from dsmseg.checkpoint import OperatingPoint
from dsmseg.evaluation.candidates import Candidates

FALSE_PER_SCAN = 0.5
"""False lesions a scan, validation scans with and without tumors together, that a point is chosen for."""
LEAST_SENSITIVITY, AT_MOST_FALSE = 0.5, 1.0
"""A class is searched if so many of its lesions are found at so many false lesions a scan."""

FALSE_OF_UNSEEN = 1.0
"""The same of kinds that were never labelled: nothing tells what they find, so that they may err more often."""

LEAST_DIAMETERS_MM = (0, 4, 6, 8, 10)
"""Of a ball with the least volume: the steps at which reports of nodules begin (4, 6, 8: Lung-RADS; 10: RECIST 1.1)."""
LEAST_VOLUMES_ML = tuple(pi / 6 * (one / 10) ** 3 for one in LEAST_DIAMETERS_MM)

_SAME_DICE = 0.02  # less tells no two points apart on a few dozen scans
_EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a point does on the validation scans.

    Attributes:
        threshold, least_volume_ml, least_score: the point; a candidate is kept from the least values on.
        sensitivity: share of the lesions that are found. false_lesions: a scan.
        dice: mean over the scans that have the tumor; 0 where none has.
    """

    threshold: float
    least_volume_ml: float
    least_score: float
    sensitivity: float
    false_lesions: float
    dice: float

    @property
    def filters(self) -> int:
        """How much more than a threshold it takes."""
        return (self.least_volume_ml > 0) + (self.least_score > 0)


def outcomes(candidates: Candidates) -> Iterator[Outcome]:
    """Try every threshold with every least volume, and every least mean score among the thresholds above."""
    for level, threshold in enumerate(candidates.thresholds):
        found = candidates.at(level)
        for volume in LEAST_VOLUMES_ML:
            for score in (0.0, *candidates.thresholds[level + 1 :]):
                yield _outcome(found, threshold, volume, score)


def best(tried: Sequence[Outcome], lesions: int, false_per_scan: float) -> Outcome | None:
    """Choose a point with at most ``false_per_scan`` false lesions; None where no point has so few.

    Of those, points whose sensitivity is within one standard error of the highest count as equal (the rule of Breiman
    et al. 1984 for choosing the simplest of equals). Of equals those stay whose mean Dice is within 0.02 of the
    highest; of these the one with the fewest filters, then the fewest false lesions, then the highest threshold.
    """
    allowed = [one for one in tried if one.false_lesions <= false_per_scan + _EXACT]
    if not allowed:
        return None
    highest = max(one.sensitivity for one in allowed)
    equal = [one for one in allowed if one.sensitivity >= highest - _standard_error(highest, lesions) - _EXACT]
    dice = max(one.dice for one in equal)
    kept = [one for one in equal if one.dice >= dice - _SAME_DICE]
    return min(kept, key=lambda one: (one.filters, one.false_lesions, -one.threshold, one.least_score))


def sensitivity_at(tried: Sequence[Outcome], false_per_scan: float) -> float:
    """Give the highest share of lesions that a point with so few false ones finds; 0 where none has so few."""
    return max((one.sensitivity for one in tried if one.false_lesions <= false_per_scan + _EXACT), default=0.0)


def operating_point(candidates: Candidates, false_per_scan: float = FALSE_PER_SCAN) -> OperatingPoint:
    """Choose the point of a class, or tell why the class is not to be searched.

    A class that no scan has a lesion of takes `point_without_lesions`.
    """
    if candidates.lesions == 0:
        return point_without_lesions(candidates, false_per_scan)
    tried = list(outcomes(candidates))
    reached = sensitivity_at(tried, AT_MOST_FALSE)
    chosen = best(tried, candidates.lesions, false_per_scan) or min(tried, key=lambda one: one.false_lesions)
    searched = reached >= LEAST_SENSITIVITY - _EXACT
    reason = (
        ""
        if searched
        else f"at {AT_MOST_FALSE:g} false lesion a scan {reached:.0%} of {candidates.lesions} lesions are found, "
        f"less than {LEAST_SENSITIVITY:.0%}"
    )
    return OperatingPoint(
        threshold=chosen.threshold,
        least_volume_ml=chosen.least_volume_ml,
        least_score=chosen.least_score,
        sensitivity=chosen.sensitivity,
        false_lesions=chosen.false_lesions,
        cases=candidates.scans,
        lesions=candidates.lesions,
        searched=searched,
        reason=reason,
    )


def lowest_threshold(
    candidates: Candidates, false_per_scan: float = FALSE_PER_SCAN, least_volume_ml: float = 0.0
) -> float | None:
    """Give the lowest threshold from which on all have at most so many false lesions a scan; None where none has.

    All above count, since far below, false lesions grow into few large ones.
    """
    large = candidates.volume_ml >= least_volume_ml - _EXACT
    false = np.bincount(candidates.level[large & ~candidates.true], minlength=len(candidates.thresholds))
    lowest = None
    for threshold, count in zip(candidates.thresholds[::-1], false[::-1], strict=True):
        if count > false_per_scan * candidates.scans + _EXACT:
            break
        lowest = threshold
    return lowest


def point_without_lesions(
    candidates: Candidates, false_per_scan: float = FALSE_PER_SCAN, least_volume_ml: float = 0.0
) -> OperatingPoint:
    """Choose the threshold by false lesions alone: for kinds that no validation scan has, and unseen ones."""
    threshold = lowest_threshold(candidates, false_per_scan, least_volume_ml)
    marked = candidates.thresholds[-1] if threshold is None else threshold
    of_level = candidates.level == candidates.thresholds.index(marked)
    false = of_level & ~candidates.true & (candidates.volume_ml >= least_volume_ml - _EXACT)
    return OperatingPoint(
        threshold=marked,
        least_volume_ml=least_volume_ml,
        least_score=0.0,
        sensitivity=None,
        false_lesions=float(false.sum()) / candidates.scans,
        cases=candidates.scans,
        lesions=0,
        searched=threshold is not None,
        reason=f"more than {false_per_scan:g} false lesions a scan at every threshold"
        if threshold is None
        else "no validation scan has such a lesion: the threshold keeps false ones few, what it finds is not known",
    )


def _outcome(candidates: Candidates, threshold: float, volume: float, score: float) -> Outcome:
    """Say what a point does to the candidates of its threshold."""
    kept = (candidates.volume_ml >= volume - _EXACT) & (candidates.mean_score >= score - _EXACT)
    true = candidates.true
    hits = candidates.hits[(kept & true)[candidates.hits[:, 0]]]
    return Outcome(
        threshold=threshold,
        least_volume_ml=volume,
        least_score=score,
        sensitivity=len(np.unique(hits[:, 1])) / max(1, candidates.lesions),
        false_lesions=float((kept & ~true).sum()) / candidates.scans,
        dice=_mean_dice(candidates, kept),
    )


def _mean_dice(candidates: Candidates, kept: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    scan, scans = candidates.scan[kept], candidates.scans
    marked = np.bincount(scan, candidates.voxels[kept], minlength=scans)
    shared = np.bincount(scan, candidates.shared[kept], minlength=scans)
    wanted = candidates.reference_voxels
    shown = wanted > 0
    return float((2 * shared[shown] / (marked + wanted)[shown]).mean()) if shown.any() else 0.0


def _standard_error(share: float, count: int) -> float:
    """Give that of a share of ``count`` lesions, by Laplace's rule, so that all of few is not certain."""
    smooth = (share * count + 1) / (count + 2)
    return sqrt(smooth * (1 - smooth) / (count + 2))
