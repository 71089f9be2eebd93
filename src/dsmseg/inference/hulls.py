"""Closed hulls of masks, and distances in mm that are needed only up to a bound."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from dsmseg.volume import bounding_box
from dsmseg.volume.body import without_holes

Mask = Bool[NDArray[np.bool_], "x y z"]
Map = Float32[NDArray[np.float32], "x y z"]
Box = tuple[slice, slice, slice]


class Hull(NamedTuple):
    """The closed hull of a mask. distance: mm to the mask, infinity beyond the radius that gaps were closed with."""

    inside: Mask
    distance: Map


def distance_within(mask: Mask, spacing_mm: Sequence[float], reach_mm: float) -> Map:
    """Give the mm from each voxel's center to that of the nearest voxel of the mask, infinity beyond ``reach_mm``.

    Exact on anisotropic grids: the least of squared distances is taken along one axis after the other.
    """
    squared = np.where(mask, np.float32(0), np.float32(np.inf))
    for axis, step in enumerate(spacing_mm):
        lines = squared.swapaxes(0, axis)
        nearest = lines.copy()
        for offset in range(1, min(int(reach_mm / step + 1e-6), len(lines) - 1) + 1):
            cost = np.float32((offset * step) ** 2)
            np.minimum(nearest[offset:], lines[:-offset] + cost, out=nearest[offset:])
            np.minimum(nearest[:-offset], lines[offset:] + cost, out=nearest[:-offset])
        squared = nearest.swapaxes(0, axis)
    distance: Map = np.sqrt(squared)
    distance[distance > reach_mm + 1e-3] = np.inf
    return distance


def closed_hull(mask: Mask, spacing_mm: Sequence[float], radius_mm: float) -> Hull:
    """Close gaps and notches up to twice the radius (mm) wide, and fill what each axial slice encloses.

    The axial slices lie along the last axis. The hull may reach beyond the array: its border closes nothing.
    """
    widths = [(pad := int(np.ceil(radius_mm / step)) + 1, pad) for step in spacing_mm]
    x, y, z = (slice(before, before + length) for (before, _), length in zip(widths, mask.shape, strict=True))
    distance = distance_within(np.pad(mask, widths), spacing_mm, radius_mm)
    closed = ~np.isfinite(distance_within(~np.isfinite(distance), spacing_mm, radius_mm))
    return Hull(without_holes(closed[x, y, z] | mask), distance[x, y, z])


def box_around(mask: Mask, spacing_mm: Sequence[float], margin_mm: float) -> Box | None:
    """Give the box of the mask with a margin in mm, cut at the array's border; None for an empty mask."""
    box = bounding_box(mask)
    if box is None:
        return None
    x, y, z = (
        slice(max(0, side.start - (more := int(np.ceil(margin_mm / step)))), min(length, side.stop + more))
        for side, step, length in zip(box, spacing_mm, mask.shape, strict=True)
    )
    return x, y, z
