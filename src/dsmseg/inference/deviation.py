"""The anomaly within an organ: how far a voxel is from the organ's own center in this scan.

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
_FAT_HU, _TISSUE_HU = -50.0, -10.0  # no tumor below the first, any tumor above the second
_CONTRAST_HU, _DENSE_HU = 250.0, 350.0  # any tumor below the first, none above the second: bone, agent, metal


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
        hull = closed_hull(host[box], spacing_mm, CLOSING_MM)
        score[box] = deviation(hu[box], host[box], hull.inside, spacing_mm)
    return score


def deviation(hu: Map, organ: Mask, inside: Mask, spacing_mm: Sequence[float]) -> Map:
    """Give 1 - exp(-(z/3)^2) of the robust standard deviations z from the organ's median, 0 outside of ``inside``.

    Center and spread (median, median absolute deviation) are those of the organ's own voxels, of a scan smoothed by
    3 mm in which only ``inside`` has a part: surfaces shall not deviate for what is beside them. What partial volume is
    left is damped, to nothing at the surface. Fat and gas in the hull of a solid organ, and what is denser than any
    tissue, are no tumors and count as outside.
    """
    aerated = float(np.median(hu[organ])) < _AERATED_HU
    likely = np.ones_like(hu) if aerated else _likeliness(hu, spacing_mm)
    inside = inside & (likely > 0)  # claimed or not: masks reach a little beyond their organs
    smooth = smoothed_within(density_scale(hu, aerated=aerated), inside, spacing_mm)
    own = smooth[organ & inside] if (organ & inside).any() else smooth[organ]
    center = np.median(own)
    spread = _MAD_TO_SD * np.median(np.abs(own - center)) + _LEAST_SPREAD
    unusual = np.abs(smooth - center) / (_UNUSUAL * spread)
    score: Map = np.where(inside, -np.expm1(-(unusual**2)), 0).astype(np.float32) * likely * rim(inside, spacing_mm)
    return score


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


def rim(hull: Mask, spacing_mm: Sequence[float]) -> Map:
    """Give 0..1 by the depth in the hull: 1 from two voxels of the coarsest axis on, where partial volume has ended."""
    full = _RIM_VOXELS * max(spacing_mm)
    depth = distance_within(~hull, spacing_mm, full)
    inner: Map = np.minimum(depth / np.float32(full), np.float32(1))
    return inner


def _likeliness(hu: Map, spacing_mm: Sequence[float]) -> Map:
    """Give 1 for densities that a tumor of a solid organ may have, 0 for fat, gas, bone and contrast agent."""
    smooth = ndimage.gaussian_filter(hu, [_SMOOTHING_MM / step / 1.5 for step in spacing_mm], truncate=2)
    above = np.clip((smooth - _FAT_HU) / (_TISSUE_HU - _FAT_HU), 0, 1)
    below = np.clip((_DENSE_HU - smooth) / (_DENSE_HU - _CONTRAST_HU), 0, 1)
    likely: Map = (above * below).astype(np.float32)
    return likely
