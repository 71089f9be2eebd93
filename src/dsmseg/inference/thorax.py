"""Where a lung is expected though none was found: a large mass takes the place of the lung that would tell of it.

The two halves of a chest mirror each other, but for the heart. What is soft tissue where the other side has lung, and
is neither bone nor heart nor an organ that was found, is in the place of lung.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from dsmseg.inference.hulls import Map, Mask, distance_within
from dsmseg.volume import bounding_box

_DENSE_HU = 180.0  # bone, and vessels full of contrast agent, after smoothing by a voxel
_BONE_MARGIN_MM = 3.0
_MIDDLE_SEARCH_VOXELS = 6  # how far the middle of the lungs may be from that of their box
_LEAST_THICKNESS_MM = 8.0  # thinner sheets are where the two sides do not quite mirror each other
_LEAST_HEIGHT_MM = 60.0  # of lungs; of less, no other side can be told
_HEART_HEIGHT = 0.6  # of the lungs' height, from below, that the heart may reach
_HEART_BACK = 0.33  # of the lungs' depth, from behind, that it never reaches


def in_place_of_lung(hu: Map, body: Mask, right: Mask, left: Mask, spacing_mm: Sequence[float]) -> Map:
    """Give how much a voxel is soft tissue where lung is expected by the other side, 0..1, beside the lungs themselves.

    Args:
        hu: the scan, in RAS.
        body: mask of the body.
        right, left: masks of the lungs as found.
        spacing_mm: of the grid.
    """
    box = bounding_box(right | left)
    if box is None or (box[2].stop - box[2].start) * spacing_mm[2] < _LEAST_HEIGHT_MM:
        return np.zeros_like(hu)
    smooth: Map = ndimage.gaussian_filter(hu, 1.0, truncate=2).astype(np.float32, copy=False)
    dense = (smooth > _DENSE_HU) & body
    twice_middle = _twice_middle(right | left, box[0])
    on_the_right = (2 * np.arange(hu.shape[0]) > twice_middle)[:, None, None]
    expected = np.where(
        on_the_right, _mirrored(left, twice_middle), _mirrored(right, twice_middle) & ~_heart(hu.shape, box)
    )
    expected &= body & ~np.isfinite(distance_within(dense, spacing_mm, _BONE_MARGIN_MM))
    return np.where(_thick(expected & ~(right | left), spacing_mm), _softness(hu, smooth), np.float32(0))


def _thick(mask: Mask, spacing_mm: Sequence[float]) -> Mask:
    """Leave out what is thinner than a mass."""
    radius = _LEAST_THICKNESS_MM / 2
    core = ~np.isfinite(distance_within(~mask, spacing_mm, radius))
    return np.isfinite(distance_within(core, spacing_mm, radius))


def _softness(hu: Map, smooth: Map) -> Map:
    """Give 1 for what is as dense as a mass, fading to 0 at lung and at contrast agent."""
    soft = np.clip((hu + 150) / 100, 0, 1) * np.clip((_DENSE_HU - smooth) / 50, 0, 1)
    return soft.astype(np.float32)


def _twice_middle(lungs: Mask, extent: slice) -> int:
    """Give twice the place along x, in voxels, about which the lungs are most symmetric; ``extent`` is of their box."""
    guess = extent.start + extent.stop - 1
    reach = 2 * _MIDDLE_SEARCH_VOXELS
    return max(
        range(guess - reach, guess + reach + 1), key=lambda twice: np.count_nonzero(lungs & _mirrored(lungs, twice))
    )


def _mirrored(mask: Mask, twice_middle: int) -> Mask:
    """Mirror right and left about a place; nothing comes from beyond the array."""
    mirrored = np.zeros_like(mask)
    length = len(mask)
    common = slice(max(0, twice_middle - length + 1), min(length - 1, twice_middle) + 1)
    mirrored[common] = mask[common][::-1]
    return mirrored


def _heart(shape: tuple[int, ...], lungs: tuple[slice, slice, slice]) -> Mask:
    """Mark where the heart may be, by the box of the lungs: below, and not at the back; everywhere below a cut."""
    _, y, z = lungs
    cut = z.stop >= shape[2] - 1
    top = z.stop if cut else z.start + _HEART_HEIGHT * (z.stop - z.start)
    back = y.start + _HEART_BACK * (y.stop - y.start)
    low, front = np.arange(shape[2]) < top, np.arange(shape[1]) > back
    heart: Mask = np.broadcast_to(front[None, :, None] & low[None, None, :], shape)
    return heart
