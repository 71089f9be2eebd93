"""Whether a score means what it says: of voxels that score 0.7, seven in ten should be tumor."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.evaluation.masks import OUTSIDE, flattened

BINS = 15

_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationCounts:
    """Voxels in bins of equal width over the scores 0 to 1; those of several scans add up (``a + b``).

    Attributes:
        voxels: of each bin. positives: those that are tumor. score_sums: of their scores.
    """

    voxels: Int[NDArray[np.int64], " bin"]
    positives: Int[NDArray[np.int64], " bin"]
    score_sums: Float[NDArray[np.float64], " bin"]

    @property
    def ece(self) -> float | None:
        """Expected calibration error: mean over voxels of |share of tumor - mean score| of their bin."""
        total = self.voxels.sum()
        return float(np.abs(self.positives - self.score_sums).sum() / total) if total else None

    def table(self) -> list[dict[str, float | int | None]]:
        """Give the reliability table: from, to, voxels, mean score and share of tumor of each bin."""
        edges = np.linspace(0, 1, len(self.voxels) + 1)
        rows: list[dict[str, float | int | None]] = []
        for number, voxels in enumerate(self.voxels.tolist()):
            row: dict[str, float | int | None] = {
                "from": round(float(edges[number]), 6),
                "to": round(float(edges[number + 1]), 6),
                "voxels": voxels,
                "mean_score": float(self.score_sums[number]) / voxels if voxels else None,
                "share": int(self.positives[number]) / voxels if voxels else None,
            }
            rows.append(row)
        return rows

    def __add__(self, other: "CalibrationCounts") -> "CalibrationCounts":
        """Add up the voxels of other scans."""
        return CalibrationCounts(
            self.voxels + other.voxels, self.positives + other.positives, self.score_sums + other.score_sums
        )


def count_calibration(
    scores: NDArray[Any], truth: NDArray[Any], region: NDArray[Any] | None = None, *, bins: int = BINS
) -> CalibrationCounts:
    """Count the voxels of a scan for `CalibrationCounts`.

    Args:
        scores: 0 to 1. truth: mask of the tumor. region: mask of the voxels that count; None is all. All of one shape.
        bins: of equal width; a score on an edge belongs to the bin above, 1 to the last.

    Raises:
        InputError: scores outside of 0 to 1, no masks, or different shapes.
    """
    flat, kinds = flattened(scores, truth, region)
    voxels, positives, sums = np.zeros(bins, np.int64), np.zeros(bins, np.int64), np.zeros(bins)
    for start in range(0, flat.size, _BLOCK):  # since counting makes eight bytes of each number
        inside = kinds[start : start + _BLOCK] < OUTSIDE
        found = flat[start : start + _BLOCK][inside].astype(np.float64)
        tumor = kinds[start : start + _BLOCK][inside] == 1
        if not ((found >= 0) & (found <= 1)).all():
            raise InputError("scores lie outside of 0 to 1", mend="Calibration needs probabilities.")
        places = np.minimum((found * bins).astype(np.int64), bins - 1)
        voxels += np.bincount(places, minlength=bins)
        positives += np.bincount(places[tumor], minlength=bins)
        sums += np.bincount(places, weights=found, minlength=bins)
    return CalibrationCounts(voxels, positives, sums)
