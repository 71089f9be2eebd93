"""Lesion by lesion: which are found, which found ones are false, and FROC.

A lesion is what hangs together by faces, edges or corners (26 neighbors), as in `dsmseg.inference.lesions`. A lesion of
the reference and one of the prediction hit each other where they share a voxel, or, with ``least_iou``, where their
intersection over union reaches that. A lesion may hit several: one mask over two lesions finds both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.errors import InputError
from dsmseg.evaluation.masks import mask_pair, refuse_other_shapes, union_box
from dsmseg.volume import bounding_box

LUNA16_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # false lesions a scan that the LUNA16 challenge takes the mean over

_NEIGHBORS = np.ones((3, 3, 3))


@dataclass(frozen=True, slots=True)
class Cut:
    """How a score map becomes a mask: the three numbers of an operating point.

    Attributes:
        threshold: a voxel is marked where its score is above.
        least_volume_ml, least_score: lesions that are smaller, or of a lower mean score, are left out.
    """

    threshold: float = 0.5
    least_volume_ml: float = 0.0
    least_score: float = 0.0


_AT_ONE_HALF = Cut()


@dataclass(frozen=True, slots=True)
class LesionCounts:
    """Lesions of one scan or more; counts of several add up (``a + b``).

    Attributes:
        reference: lesions of the reference. hit: those that the prediction hits.
        predicted: lesions of the prediction. false: those that hit none.
        scans: all; healthy: those without a lesion in the reference. false_healthy: false lesions in the healthy ones.
    """

    reference: int = 0
    hit: int = 0
    predicted: int = 0
    false: int = 0
    scans: int = 0
    healthy: int = 0
    false_healthy: int = 0

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference's lesions that are hit; None where there is none."""
        return self.hit / self.reference if self.reference else None

    @property
    def precision(self) -> float | None:
        """Share of the predicted lesions that are not false; None where there is none."""
        return 1 - self.false / self.predicted if self.predicted else None

    @property
    def false_per_scan(self) -> float | None:
        """False lesions a scan."""
        return self.false / self.scans if self.scans else None

    @property
    def false_per_healthy_scan(self) -> float | None:
        """False lesions a scan, of the scans that have none; None where all have one."""
        return self.false_healthy / self.healthy if self.healthy else None

    def __add__(self, other: "LesionCounts") -> "LesionCounts":
        """Add up the lesions of other scans."""
        return LesionCounts(
            self.reference + other.reference,
            self.hit + other.hit,
            self.predicted + other.predicted,
            self.false + other.false,
            self.scans + other.scans,
            self.healthy + other.healthy,
            self.false_healthy + other.false_healthy,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Froc:
    """Scores of lesions, for free-response ROC; those of several scans add up (``a + b``).

    Attributes:
        found: for each lesion of the reference, the score of the best that hits it; -inf where none does.
        false: scores of the predicted lesions that hit none.
        scans: how many.
    """

    found: Float[NDArray[np.float64], " lesion"]
    false: Float[NDArray[np.float64], " false"]
    scans: int

    def sensitivity_at(self, false_per_scan: float) -> float | None:
        """Share of lesions that a threshold finds which leaves at most ``false_per_scan``; None where there is none."""
        if not len(self.found):
            return None
        allowed = int(np.floor(false_per_scan * self.scans + 1e-9))
        falling = np.sort(self.false)[::-1]
        bar = falling[allowed] if allowed < len(falling) else -np.inf
        return float((self.found > bar).mean())

    def mean_sensitivity(self, rates: Sequence[float] = LUNA16_RATES) -> float | None:
        """Mean of `sensitivity_at` over some rates of false lesions a scan."""
        found = [self.sensitivity_at(rate) for rate in rates]
        return None if found[0] is None else float(np.mean([one for one in found if one is not None]))

    def curve(self) -> list[tuple[float, float]]:
        """Give false lesions a scan and sensitivity at each threshold, from the highest on."""
        thresholds = np.unique(np.append(self.found[np.isfinite(self.found)], self.false))[::-1]
        lesions = max(1, len(self.found))
        return [
            (float((self.false >= one).sum() / self.scans), float((self.found >= one).sum() / lesions))
            for one in thresholds
        ]

    def __add__(self, other: "Froc") -> "Froc":
        """Put the lesions of other scans beside these."""
        return Froc(np.append(self.found, other.found), np.append(self.false, other.false), self.scans + other.scans)


@dataclass(frozen=True, slots=True, eq=False)
class LesionMatches:
    """The lesions of one scan.

    Attributes:
        hits: whether a lesion of the reference (row) and one of the prediction (column) hit each other.
        scores: of the predicted lesions, the largest score in each; None where no score map was given.
    """

    hits: Bool[NDArray[np.bool_], "reference predicted"]
    scores: Float[NDArray[np.float64], " predicted"] | None = None

    @property
    def counts(self) -> LesionCounts:
        """Count them."""
        reference, predicted = self.hits.shape
        false = predicted - int(self.hits.any(axis=0).sum())
        healthy = int(reference == 0)
        hit = int(self.hits.any(axis=1).sum())
        return LesionCounts(reference, hit, predicted, false, 1, healthy, false * healthy)

    @property
    def froc(self) -> Froc:
        """Give the scores for FROC.

        Raises:
            InputError: no score map was given.
        """
        if self.scores is None:
            raise InputError("FROC needs scores", mend="Give match_lesions a score map.")
        found = np.where(self.hits, self.scores, -np.inf).max(axis=1, initial=-np.inf)
        return Froc(found, self.scores[~self.hits.any(axis=0)], 1)


def lesion_mask(
    scores: Float[NDArray[np.floating], "x y z"], voxel_ml: float, cut: Cut = _AT_ONE_HALF
) -> Bool[NDArray[np.bool_], "x y z"]:
    """Mark the lesions of a score map (one class, 0..1) as predict labels them; ``voxel_ml`` is a voxel's volume."""
    mask: NDArray[np.bool_] = scores > cut.threshold
    box = bounding_box(mask) if cut.least_volume_ml or cut.least_score else None
    if box is not None:
        parts, _ = ndimage.label(mask[box], _NEIGHBORS)
        inside = parts > 0
        voxels = np.bincount(parts[inside])
        means = np.bincount(parts[inside], scores[box][inside]) / np.maximum(1, voxels)
        mask[box] &= ((voxels * voxel_ml >= cut.least_volume_ml) & (means >= cut.least_score))[parts]
    return mask


def match_lesions(
    reference: NDArray[Any], prediction: NDArray[Any], *, least_iou: float = 0.0, scores: NDArray[Any] | None = None
) -> LesionMatches:
    """Find which lesions of two masks (X, Y, Z) hit each other.

    Args:
        reference, prediction: masks. least_iou: 0 to 1; 0 is any overlap.
        scores: map of the same shape, for FROC.

    Raises:
        InputError: no masks, different shapes, or a ``least_iou`` that is no share.
    """
    if not 0 <= least_iou <= 1:
        raise InputError(f"an intersection over union of {least_iou}", mend="Give 0 (any overlap) to 1.")
    reference, prediction = mask_pair(reference, prediction)
    if scores is not None:
        refuse_other_shapes(reference, scores, "a score map")
    box = union_box(reference, prediction)
    if box is None:
        return LesionMatches(np.zeros((0, 0), bool), None if scores is None else np.zeros(0))
    lesions, wanted = ndimage.label(reference[box], _NEIGHBORS)
    parts, found = ndimage.label(prediction[box], _NEIGHBORS)
    shared = _shared(lesions, wanted, parts, found)
    sizes = [np.bincount(one.ravel(), minlength=count + 1)[1:] for one, count in ((lesions, wanted), (parts, found))]
    union = sizes[0][:, None] + sizes[1][None, :] - shared
    best = None if scores is None else _largest(scores[box], parts, found)
    return LesionMatches((shared > 0) & (shared >= least_iou * union), best)


def _shared(
    lesions: NDArray[np.integer], wanted: int, parts: NDArray[np.integer], found: int
) -> Int[NDArray[np.int64], "reference predicted"]:
    """Count the voxels that each lesion shares with each part."""
    both = (lesions > 0) & (parts > 0)
    shared = np.zeros((wanted, found), np.int64)
    np.add.at(shared, (lesions[both] - 1, parts[both] - 1), 1)
    return shared


def _largest(scores: NDArray[Any], parts: NDArray[np.integer], found: int) -> Float[NDArray[np.float64], " predicted"]:
    """Give the largest score in each part."""
    best, inside = np.full(found + 1, -np.inf), parts > 0
    np.maximum.at(best, parts[inside], scores[inside].astype(np.float64))
    return best[1:]
