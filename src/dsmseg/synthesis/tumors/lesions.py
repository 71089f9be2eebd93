"""One lesion grown in its host: its place, its surface and its mask, in a box around it."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import label, uniform_filter

from dsmseg.synthesis.tumors import shapes
from dsmseg.synthesis.tumors.distance import smooth_distance
from dsmseg.synthesis.tumors.draws import log_even, log_normal, uniform
from dsmseg.synthesis.tumors.grid import Box, Point, around
from dsmseg.synthesis.tumors.interior import Look, features_of
from dsmseg.synthesis.tumors.kinds import Variant
from dsmseg.synthesis.tumors.places import Site, Sites, any_voxel, choose_site, nearest_place

Mask = Bool[NDArray[np.bool_], "x y z"]
Field = Float64[NDArray[np.float64], "x y z"]

_PUSH_LIMIT = 4.0  # mm that surroundings are shifted, at most
_SPICULE = 11.0  # mm beyond the surface
_RAMP = 3.46  # a line that fades over so many deviations has the deviation of a Gaussian edge
_SOFTEST = 0.18  # deviation of an edge, in half long axes: the middle of a flat lesion stays its own
_FAT = (-160.0, -30.0)  # HU
_FAT_MM = 4.0
_CUT_SHARE = 0.1  # of a mass that would reach out of its host


@dataclass(frozen=True, slots=True)
class Host:
    """The organ that tumors grow in: its mask on the whole grid, its bounding box, its depths, its vessels.

    image: HU of the whole grid. others: the other structures, if tumors may leave the organ for the fat around it.
    """

    mask: Mask
    box: Box
    sites: Sites
    vessels: Float64[NDArray[np.float64], "n 3"] | None
    image: Float32[NDArray[np.float32], "x y z"]
    others: Mask | None

    @property
    def extent(self) -> float:
        """The diagonal of its box in mm."""
        sides = [count * mm for count, mm in zip(self.box.shape, self.box.spacing, strict=True)]
        return math.sqrt(sum(side * side for side in sides))

    def room(self, box: Box) -> Mask:
        """Mark where a tumor may be in a part of the grid: in the organ, and in the fat around it if it may leave."""
        own = self.mask[box.slices]
        if self.others is None:
            return own
        return own | (fat_beside(own, self.image[box.slices], box.spacing) & ~self.others[box.slices])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to grow: a variant, its look, and mm of long axes, from and to, where the variant's are not wanted."""

    variant: Variant
    look: Look
    diameters: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Lesion:
    """A lesion in a ``box`` of the grid.

    ``surface`` is the mm to its own surface, ``border`` to the host's (None where the host fills the box); both are
    negative inside. ``size`` is its radius in mm, or a wall's thickness; ``shift`` the mass effect at its surface;
    ``blur`` the mm over which its edge fades.
    """

    box: Box
    center: Point
    site: Site
    surface: Field
    border: Field | None
    mask: Mask
    size: float
    shift: float
    blur: float

    @property
    def distance(self) -> Field:
        """The mm to the surface of the part that lies in the host, negative inside."""
        return self.surface if self.border is None else np.maximum(self.surface, self.border)


def fat_beside(own: Mask, image: Float32[NDArray[np.float32], "x y z"], spacing: tuple[float, float, float]) -> Mask:
    """Mark what HU alone tell to be fat beside an organ: some mm of it, since walls of gas have such HU too.

    The organ itself counts for nothing there, so that its own margin does not part it from the fat.
    """
    size = [max(1, 2 * round(0.5 * _FAT_MM / mm) + 1) for mm in spacing]
    share = uniform_filter((~own).astype(np.float32), size, mode="nearest")
    mean = uniform_filter(np.where(own, np.float32(0), image), size, mode="nearest")
    mean /= np.maximum(share, np.float32(1e-3))
    found: Mask = (mean > _FAT[0]) & (mean < _FAT[1]) & ~own
    return found


def draw_diameter(wanted: Wanted, random: Generator) -> float:
    """Draw a long axis in mm."""
    if wanted.diameters is None:
        return log_normal(random, *wanted.variant.diameter)
    return log_even(random, *wanted.diameters)


def grow(host: Host, wanted: Wanted, diameter: float, taken: list[Site], random: Generator) -> Lesion | None:
    """Grow one lesion; None where there is no room for it. ``taken`` are the sites of the others."""
    variant = wanted.variant
    if variant.shape in ("wall", "thrombus"):
        return _grow_on_tube(host, variant, diameter, features_of(wanted.look, diameter), taken, random)
    leaves = host.others is not None
    site = choose_site(host.sites, 0.5 * diameter, variant, taken, host.vessels, leaves, random)
    if site is None:
        return None
    shift = _shift(variant, site.radius, host.box.spacing)
    blur = _draw_blur(variant, site.radius, random)
    reach = 1.3 * site.radius + max(0.8 * site.radius if shift else 0.0, 3.0 * shift) + 0.5 * blur
    reach += min(_SPICULE, site.radius) if variant.shape == "spiculated" else 0.0
    box = around(site.center, [reach] * 3, host.box.spacing, host.mask.shape)
    axis = None
    if variant.place == "vessel" and host.vessels is not None:
        axis = _vessel_axis(box, host.vessels, site)
    surface = shapes.mass(box, site.center, site.radius, variant, axis, random)
    part = host.room(box)
    border = None if part.all() else smooth_distance(part, box.spacing)
    return _finish(Lesion(box, site.center, site, surface, border, part, site.radius, shift, blur), leaves=leaves)


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
    blur = _draw_blur(variant, size, random)
    site = Site(center, 0.5 * length)
    return _finish(Lesion(box, center, site, surface, border, part, size, shift, blur), leaves=False)


def _finish(grown: Lesion, *, leaves: bool) -> Lesion | None:
    """Keep the part of a lesion that hangs together at its center. None if nothing of it lies in the host.

    ``leaves``: it may lie beside its host, and pushes what it meets there.
    """
    surface, border, shift = grown.surface, grown.border, grown.shift
    mask = surface <= 0.0 if border is None else (surface <= 0.0) & (border < 0.0)
    if not mask.any():
        return None
    pieces, count = label(mask, np.ones((3, 3, 3)))
    if count > 1:
        nearest = np.unravel_index(int(np.where(mask, grown.box.radii(grown.center), np.inf).argmin()), mask.shape)
        mask = pieces == pieces[nearest]
        surface = np.where((pieces > 0) & ~mask, grown.blur + max(grown.box.spacing), surface)
    cut = int(np.count_nonzero((surface <= 0.0) & ~mask))
    if not leaves and cut > _CUT_SHARE * np.count_nonzero(
        mask
    ):  # it lies open at the host's surface: nothing there to push
        shift = 0.0
    return replace(grown, surface=surface, mask=mask, shift=shift)


def _draw_blur(variant: Variant, size: float, random: Generator) -> float:
    """Draw the mm over which an edge fades: a line as steep as the Gaussian's of the deviation drawn."""
    return _RAMP * min(uniform(random, *variant.edge), _SOFTEST * size)


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
