"""The anomaly within organs: how far a voxel is from the organ's own center in this scan.

"Out-of-distribution regions within organs" (§ 1, § 4.2.1): an organ is a cluster with a center. Eq. 14 as trained tells
where no organ is; this tells, without any training, where an organ looks unlike itself.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.inference.hulls import Map, Mask, box_around, closed_hull, distance_within

CLOSING_MM = 12.0
"""A tumor that is missing in the mask of its organ is a hole or a notch of it: so wide are those closed."""

_SMOOTHING_MM = 3.0  # Gaussian sigma: below that it is noise that deviates
_MAD_TO_SD = 1.4826  # of a normal distribution
_LEAST_SPREAD = 3.0  # HU: no organ is more even than that, but images without noise are
_UNUSUAL = 3.0  # standard deviations at which the score is 1 - 1/e
_AERATED_HU = -400.0  # an organ whose median is below is compared by the logarithm of its density
_AIR_HU = -1024.0
_LOG_UNIT = 200.0  # a step of the logarithm that counts as one HU does in soft tissue
_RIM_VOXELS = 2.0  # partial volume at an organ's surface


def host_deviation(hu: Map, host: Mask, spacing_mm: Sequence[float]) -> Map:
    """Give how unlike its own center an organ looks, 0..1, within its closed hull; 0 elsewhere.

    Args:
        hu: the scan, HU, in RAS.
        host: mask of the organ (or organ pair), true or found; tumors in it may be left out or not.
        spacing_mm: of the grid. It is meant for 1.5 to 3 mm; finer grids cost more and gain nothing.
    """
    score = np.zeros(hu.shape, np.float32)
    box = box_around(host, spacing_mm, CLOSING_MM)
    if box is not None:
        hull = closed_hull(host[box], spacing_mm, CLOSING_MM).inside
        deviation = deviations(hu[box], host[box], hull, spacing_mm)
        score[box] = squashed(deviation) * rim(hull, spacing_mm)
    return score


def deviations(hu: Map, organ: Mask, hull: Mask, spacing_mm: Sequence[float]) -> Map:
    """Give how many robust standard deviations the smoothed scan is from the organ's median, within the hull.

    Center and spread (median, median absolute deviation) are those of the organ's own voxels. What lies outside of the
    hull has no part in the smoothing, so that surfaces do not deviate for what is beside them.
    """
    values = density_scale(hu, aerated=float(np.median(hu[organ])) < _AERATED_HU)
    smooth = smoothed_within(values, hull, spacing_mm)
    own = smooth[organ]
    center = np.median(own)
    spread = _MAD_TO_SD * np.median(np.abs(own - center)) + _LEAST_SPREAD
    return np.where(hull, np.abs(smooth - center) / spread, np.float32(0)).astype(np.float32)


def density_scale(hu: Map, *, aerated: bool) -> Map:
    """Give HU, or for an aerated organ the logarithm of density, of which its vessels have many times as much."""
    scaled = _LOG_UNIT * np.log(np.clip(hu - _AIR_HU, 1, None)) if aerated else hu
    return scaled.astype(np.float32)


def smoothed_within(values: Map, inside: Mask, spacing_mm: Sequence[float]) -> Map:
    """Smooth by a Gaussian of 3 mm as if there were nothing outside of a mask."""
    sigma = [_SMOOTHING_MM / step for step in spacing_mm]
    weight = ndimage.gaussian_filter(inside.astype(np.float32), sigma, mode="constant", truncate=2)
    total = ndimage.gaussian_filter(np.where(inside, values, np.float32(0)), sigma, mode="constant", truncate=2)
    smooth: NDArray[np.floating] = total / np.maximum(weight, np.float32(1e-3))
    return smooth.astype(np.float32, copy=False)


def squashed(deviation: Map) -> Map:
    """Bring standard deviations to 0..1, on one scale for all scans: 1 - exp(-(z/3)^2)."""
    score: Map = -np.expm1(-((deviation / np.float32(_UNUSUAL)) ** 2))
    return score


def rim(hull: Mask, spacing_mm: Sequence[float]) -> Map:
    """Give 0..1 by the depth in the hull: 1 from two voxels of the coarsest axis on, where partial volume has ended."""
    full = _RIM_VOXELS * max(spacing_mm)
    depth = distance_within(~hull, spacing_mm, full)
    inner: Map = np.minimum(depth / np.float32(full), np.float32(1))
    return inner
