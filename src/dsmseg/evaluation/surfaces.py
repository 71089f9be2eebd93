"""Distances between two surfaces: normalized surface Dice (NSD) and the 95th percentile Hausdorff distance (HD95).

As in DeepMind's ``surface-distance``: elements of surface weigh by their area. Nearest elements are searched in a tree,
so that time and memory go with the surfaces, not with the grid.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial import KDTree

from dsmseg.errors import InputError
from dsmseg.evaluation.masks import mask_pair
from dsmseg.evaluation.surface_elements import surface_elements

_ROUNDING_MM = 1e-6  # a distance that equals the tolerance but for rounding is within it


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """From each element of either surface to the nearest of the other (mm, rising), and the elements' areas (mm^2)."""

    from_reference: Float[NDArray[np.float64], " element"]
    reference_areas: Float[NDArray[np.float64], " element"]
    from_prediction: Float[NDArray[np.float64], " other"]
    prediction_areas: Float[NDArray[np.float64], " other"]

    def nsd(self, tolerance_mm: float) -> float:
        """Share of both surfaces that lies within ``tolerance_mm`` of the other.

        Raises:
            InputError: a tolerance that is no length.
        """
        if not 0 <= tolerance_mm < np.inf:
            raise InputError(f"a tolerance of {tolerance_mm} mm", mend="Give a length from 0 mm.")
        within = [
            areas[distances <= tolerance_mm + _ROUNDING_MM].sum()
            for distances, areas in (
                (self.from_reference, self.reference_areas),
                (self.from_prediction, self.prediction_areas),
            )
        ]
        return float(sum(within) / (self.reference_areas.sum() + self.prediction_areas.sum()))

    def hausdorff(self, percent: float = 95.0) -> float:
        """Distance in mm that ``percent`` of either surface's area are within; of both directions the larger."""
        return max(
            _percentile(self.from_reference, self.reference_areas, percent),
            _percentile(self.from_prediction, self.prediction_areas, percent),
        )


def surface_distances(
    reference: NDArray[Any], prediction: NDArray[Any], spacing: tuple[float, float, float]
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Args:
        reference, prediction: (X, Y, Z). spacing: mm.

    Raises:
        InputError: they are no masks, of different shapes, or one is empty: what that means, `dsmseg.evaluation.policy`
            says.
    """
    reference, prediction = mask_pair(reference, prediction)
    one, other = surface_elements(reference, spacing), surface_elements(prediction, spacing)
    if not len(one.areas) or not len(other.areas):
        raise InputError("an empty mask has no surface", mend="See the policy for empty masks.")
    there = np.asarray(KDTree(other.places_mm).query(one.places_mm)[0])
    back = np.asarray(KDTree(one.places_mm).query(other.places_mm)[0])
    first, second = np.argsort(there), np.argsort(back)
    return SurfaceDistances(there[first], one.areas[first], back[second], other.areas[second])


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], percent: float) -> float:
    shares: NDArray[np.float64] = np.cumsum(areas) / areas.sum()
    return float(distances[min(int(np.searchsorted(shares, percent / 100)), len(distances) - 1)])
