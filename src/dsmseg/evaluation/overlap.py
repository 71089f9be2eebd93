"""Dice similarity coefficient (DSC), and the counts of voxels behind it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.evaluation.masks import mask_pair
from dsmseg.evaluation.policy import Presence


@dataclass(frozen=True, slots=True)
class OverlapCounts:
    """Voxels of reference and prediction. The counts of several cases add up (``a + b``)."""

    both: int = 0
    reference_only: int = 0
    prediction_only: int = 0

    @property
    def presence(self) -> Presence:
        """Where the structure is."""
        return Presence.of(
            reference=self.both + self.reference_only > 0, prediction=self.both + self.prediction_only > 0
        )

    @property
    def dsc(self) -> float | None:
        """2 |A and B| / (|A| + |B|); None where both are empty."""
        total = 2 * self.both + self.reference_only + self.prediction_only
        return 2 * self.both / total if total else None

    def __add__(self, other: "OverlapCounts") -> "OverlapCounts":
        """Add up the voxels of other cases."""
        return OverlapCounts(
            self.both + other.both,
            self.reference_only + other.reference_only,
            self.prediction_only + other.prediction_only,
        )


def count_overlap(reference: NDArray[Any], prediction: NDArray[Any]) -> OverlapCounts:
    """Count the voxels that two masks (X, Y, Z) have in common, and that only one has.

    Raises:
        InputError: they are no masks, or of different shapes.
    """
    reference, prediction = mask_pair(reference, prediction)
    both = int(np.count_nonzero(reference & prediction))
    return OverlapCounts(both, int(np.count_nonzero(reference)) - both, int(np.count_nonzero(prediction)) - both)
