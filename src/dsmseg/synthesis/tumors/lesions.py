"""One lesion grown in its host: its place, its surface and its mask, in a box around it."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import label

from dsmseg.synthesis.tumors import shapes
from dsmseg.synthesis.tumors.distance import smooth_distance
from dsmseg.synthesis.tumors.draws import log_normal, uniform
from dsmseg.synthesis.tumors.grid import Box, Point, around
from dsmseg.synthesis.tumors.kinds import Variant
from dsmseg.synthesis.tumors.places import Site, Sites, any_voxel, choose_site, nearest_place

Mask = Bool[NDArray[np.bool_], "x y z"]
Field = Float64[NDArray[np.float64], "x y z"]

_PUSH_LIMIT = 4.0  # mm that surroundings are shifted, at most
_SPICULE = 11.0  # mm beyond the surface
_CUT_SHARE = 0.1  # of a mass that would reach out of its host


@dataclass(frozen=True, slots=True)
class Host:
    """The organ that tumors grow in: its mask on the whole grid, its bounding box, its depths, its vessels."""

    mask: Mask
    box: Box
    sites: Sites
    vessels: Float64[NDArray[np.float64], "n 3"] | None

    @property
    def extent(self) -> float:
        """The diagonal of its box in mm."""
        sides = [count * mm for count, mm in zip(self.box.shape, self.box.spacing, strict=True)]
        return math.sqrt(sum(side * side for side in sides))


@dataclass(frozen=True, slots=True)
class Lesion:
    """A lesion in a ``box`` of the grid.

    ``surface`` is the mm to its own surface, ``border`` to the host's (None where the host fills the box); both are
    negative inside. ``size`` is its radius in mm, or a wall's thickness; ``shift`` the mass effect at its surface.
    """

    box: Box
    center: Point
    site: Site
    surface: Field
    border: Field | None
    mask: Mask
    size: float
    shift: float

    @property
    def distance(self) -> Field:
        """The mm to the surface of the part that lies in the host, negative inside."""
        return self.surface if self.border is None else np.maximum(self.surface, self.border)


def draw_diameter(variant: Variant, wanted: float | None, random: Generator) -> float:
    """Draw a long axis in mm, or take the one ``wanted``."""
    drawn = log_normal(random, *variant.diameter)
    return drawn if wanted is None else wanted


def grow(
    host: Host, variant: Variant, diameter: float, features: frozenset[str], taken: list[Site], random: Generator
) -> Lesion | None:
    """Grow one lesion; None where there is no room for it. ``taken`` are the sites of the others."""
    if variant.shape in ("wall", "thrombus"):
        return _grow_on_tube(host, variant, diameter, features, taken, random)
    site = choose_site(host.sites, 0.5 * diameter, variant, taken, host.vessels, random)
    if site is None:
        return None
    shift = _shift(variant, site.radius, host.box.spacing)
    reach = 1.3 * site.radius + max(0.8 * site.radius if shift else 0.0, 3.0 * shift) + variant.margin
    reach += min(_SPICULE, site.radius) if variant.shape == "spiculated" else 0.0
    box = around(site.center, [reach] * 3, host.box.spacing, host.mask.shape)
    axis = None
    if variant.place == "vessel" and host.vessels is not None:
        axis = _vessel_axis(box, host.vessels, site)
    surface = shapes.mass(box, site.center, site.radius, variant, axis, random)
    part = host.mask[box.slices]
    border = None if part.all() else smooth_distance(part, box.spacing)
    return _finish(box, site.center, site, surface, border, site.radius, shift)


def _grow_on_tube(
    host: Host, variant: Variant, length: float, features: frozenset[str], taken: list[Site], random: Generator
) -> Lesion | None:
    """Grow a lesion on the wall of a hollow organ, or in a vessel."""
    length = min(length, 0.8 * host.extent)
    start = any_voxel(host.mask, host.box, random)
    if any(float(((start - other.center) ** 2).sum()) < (other.radius + 0.5 * length) ** 2 for other in taken):
        return None
    box = around(start, [0.65 * length + 10.0] * 3, host.box.spacing, host.mask.shape)
    part = host.mask[box.slices]
    border = smooth_distance(part, box.spacing)
    depths = -border
    near = part & (box.radii(start) <= max(9.0, 1.5 * max(box.spacing)))
    caliber = float(depths.max(where=near, initial=0.5 * min(box.spacing)))
    if variant.shape == "thrombus":
        center = nearest_place(box, near & (depths >= caliber - 1e-6), start)
        surface = shapes.thrombus(box, part, depths, center, length, "occlusive" in features, random)
        size = caliber
    else:
        center = nearest_place(box, part & (depths <= min(box.spacing)), start)
        annular = "annular" in features
        size = min(uniform(random, *variant.thickness), (1.5 if caliber < 8.0 else 1.1) * caliber, 0.45 * length)
        size = max(size, 0.9 * min(box.spacing))
        surface = shapes.wall(box, part, depths, center, length, size, annular, random)
    shift = _shift(variant, size, box.spacing)
    return _finish(box, center, Site(center, 0.5 * length), surface, border, size, shift)


def _finish(
    box: Box, center: Point, site: Site, surface: Field, border: Field | None, size: float, shift: float
) -> Lesion | None:
    """Keep the part of a lesion that hangs together at its center. None if nothing of it lies in the host."""
    mask = surface <= 0.0 if border is None else (surface <= 0.0) & (border < 0.0)
    if not mask.any():
        return None
    pieces, count = label(mask, np.ones((3, 3, 3)))
    if count > 1:
        nearest = np.unravel_index(int(np.where(mask, box.radii(center), np.inf).argmin()), box.shape)
        mask = pieces == pieces[nearest]
        surface = np.where((pieces > 0) & ~mask, np.float64(max(box.spacing)), surface)
    cut = int(np.count_nonzero((surface <= 0.0) & ~mask))
    if cut > _CUT_SHARE * np.count_nonzero(mask):  # it lies open at the host's surface: nothing there to push
        shift = 0.0
    return Lesion(box, center, site, surface, border, mask, size, shift)


def _shift(variant: Variant, size: float, spacing: tuple[float, float, float]) -> float:
    """Give the mass effect in mm: no more than two voxels or `_PUSH_LIMIT`."""
    return min(variant.push * size, 2.0 * max(spacing), _PUSH_LIMIT)


def _vessel_axis(box: Box, vessels: Float64[NDArray[np.float64], "n 3"], site: Site) -> Point | None:
    """Give the direction of the vessels around a site."""
    mask = np.zeros(box.shape, bool)
    index = [np.rint(vessels[:, axis] / box.spacing[axis]).astype(np.int64) - box.start[axis] for axis in range(3)]
    inside = np.all([(line >= 0) & (line < count) for line, count in zip(index, box.shape, strict=True)], axis=0)
    mask[index[0][inside], index[1][inside], index[2][inside]] = True
    return shapes.local_axis(box, mask, site.center, 1.5 * site.radius) if mask.any() else None
