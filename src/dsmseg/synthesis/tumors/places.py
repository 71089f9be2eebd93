"""Where in a host a tumor can grow, and how large it can be there."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.synthesis.tumors.distance import depth
from dsmseg.synthesis.tumors.draws import normal
from dsmseg.synthesis.tumors.grid import Box, Point, bounding_box
from dsmseg.synthesis.tumors.kinds import Variant

_COARSE_VOXELS = 60_000  # a host's depths are measured on a grid of about this many
_OUTSIDE_SPREAD, _MOST_OUTSIDE = 0.12, 0.7  # of the share of surface outside of the host: our choice
_MEAN_RADIUS = 0.7  # of a mass, by half its long axis
_APART = 1.25  # lesions are this many times the sum of their radii apart


@dataclass(frozen=True, slots=True)
class Sites:
    """Voxels of a host, thinned out: their mm on the grid, and their mm from the host's surface."""

    places: Float64[NDArray[np.float64], "site 3"]
    depths: Float64[NDArray[np.float64], "site"]

    @property
    def deepest(self) -> float:
        """The largest depth: the radius of the largest ball that fits in."""
        return float(self.depths.max())


NOWHERE = Sites(np.empty((0, 3)), np.empty(0))
"""For tumors that look for their place themselves."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a lesion goes, and how large it can be: center and radius in mm."""

    center: Point
    radius: float


def find_sites(host: Bool[NDArray[np.bool_], "x y z"], box: Box) -> Sites:
    """Measure how deep a host is, on a grid no finer than it takes. ``box`` is the host's bounding box."""
    steps = _strides(box)
    part = host[box.slices][:: steps[0], :: steps[1], :: steps[2]]
    if not part.any():
        steps = (1, 1, 1)
        part = host[box.slices]
    spacing = [step * mm for step, mm in zip(steps, box.spacing, strict=True)]
    # The scan's edge is no surface of the organ: lesions may be cut there as the organ is.
    margins = [(int(a > 0), int(b < count)) for a, b, count in zip(box.start, box.stop, host.shape, strict=True)]
    inner = tuple(slice(low, low + count) for (low, _), count in zip(margins, part.shape, strict=True))
    depths = depth(np.pad(part, margins), spacing)[inner]
    index = part.nonzero()
    places = np.stack([line * mm + start for line, mm, start in zip(index, spacing, box.origin, strict=True)], axis=1)
    return Sites(places, depths[index] - 0.5 * min(spacing))


def choose_site(
    sites: Sites, radius: float, variant: Variant, taken: list[Site],
    vessels: Float64[NDArray[np.float64], "n 3"] | None, leaves: bool, random: Generator,
) -> Site | None:  # fmt: skip
    """Draw the place of a mass, and make it smaller where the host is. None if the lesions ``taken`` leave no room.

    ``leaves``: it may grow out of its host; then it lies as deep as its share of surface outside says.
    """
    radius = min(radius, max(variant.fill * sites.deepest, 0.5))
    outside = _draw_outside(variant, radius, random) if leaves else 0.0
    for _ in range(12):
        room = sites.depths >= min(variant.inside * radius, sites.deepest)
        if outside > 0:
            # A sphere whose center lies so deep below a flat surface has this share of its own surface beyond it.
            off = np.abs(sites.depths - max(_MEAN_RADIUS * radius * (1.0 - 2.0 * outside), 0.0))
            room = off <= max(0.15 * radius, 1.05 * float(off.min()))
        elif variant.place == "peripheral":
            room &= sites.depths <= max(1.05 * radius, 1.2 * float(sites.depths[room].min()))
        for other in taken:
            apart = sites.places - other.center
            room &= (apart * apart).sum(axis=1) > (_APART * (radius + other.radius)) ** 2
        found = room.nonzero()[0]
        if found.size:
            return Site(sites.places[_pick(sites, found, radius, vessels, random)], radius)
        radius *= 0.8
    return None


def _draw_outside(variant: Variant, radius: float, random: Generator) -> float:
    """Draw the share of a mass's surface that faces outside of its host."""
    mean = variant.outside[0 if radius < 10.0 else 1 if radius < 20.0 else 2]
    return min(max(mean + _OUTSIDE_SPREAD * normal(random), 0.0), _MOST_OUTSIDE)


def vessel_places(
    vessels: Bool[NDArray[np.bool_], "x y z"], spacing: tuple[float, float, float]
) -> Float64[NDArray[np.float64], "n 3"] | None:
    """Give the mm of each voxel of a vessel mask, None if it is empty."""
    box = bounding_box(vessels, spacing)
    if box is None:
        return None
    index = vessels[box.slices].nonzero()
    return np.stack([line * mm + first for line, mm, first in zip(index, spacing, box.origin, strict=True)], axis=1)


def any_voxel(host: Bool[NDArray[np.bool_], "x y z"], box: Box, random: Generator) -> Point:
    """Draw a voxel of a host, in mm. ``box`` is the host's bounding box."""
    flat: Int64[NDArray[np.int64], n] = np.flatnonzero(host[box.slices])
    index = np.unravel_index(int(flat[int(random.integers(flat.size))]), box.shape)
    return np.array([(first + int(at)) * mm for first, at, mm in zip(box.start, index, box.spacing, strict=True)])


def nearest_place(box: Box, mask: Bool[NDArray[np.bool_], "x y z"], center: Point) -> Point:
    """Give the mm of the mask's voxel nearest to ``center``."""
    index = np.unravel_index(int(np.where(mask, box.radii(center), np.inf).argmin()), box.shape)
    return np.array([(first + int(at)) * mm for first, at, mm in zip(box.start, index, box.spacing, strict=True)])


def _pick(
    sites: Sites, found: Int64[NDArray[np.int64], "n"], radius: float,
    vessels: Float64[NDArray[np.float64], "n 3"] | None, random: Generator,
) -> int:  # fmt: skip
    """Draw one of the sites ``found``: any, or the one that best touches a vessel drawn."""
    if vessels is None:
        return int(found[int(random.integers(found.size))])
    best, misfit = int(found[0]), math.inf
    for _ in range(8):
        apart = sites.places[found] - vessels[int(random.integers(vessels.shape[0]))]
        off = np.abs(np.sqrt((apart * apart).sum(axis=1)) - 0.9 * radius)
        at = int(off.argmin())
        if off[at] < misfit:
            best, misfit = int(found[at]), float(off[at])
        if misfit < 0.2 * radius:
            break
    return best


def _strides(box: Box) -> tuple[int, int, int]:
    """Give strides that thin a box out to about `_COARSE_VOXELS`, the finest axis first."""
    steps = [1, 1, 1]
    while math.prod(-(-count // step) for count, step in zip(box.shape, steps, strict=True)) > _COARSE_VOXELS:
        spacing = [step * mm for step, mm in zip(steps, box.spacing, strict=True)]
        steps[spacing.index(min(spacing))] += 1
    return steps[0], steps[1], steps[2]
