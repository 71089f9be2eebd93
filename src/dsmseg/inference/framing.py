"""The part of a scan that the network is to see: resampled to the weights' spacing, cut down to the body."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from dsmseg.inference.windows import Size
from dsmseg.volume import Grid, Volume, resample
from dsmseg.volume.body import body_mask, bounding_box

_BODY_MM = 3.0
_MARGIN = 1  # One voxel of air around the body, so that what is restored ends with it.


@dataclass(frozen=True, slots=True)
class Frame:
    """A box of the resampled scan around the body, in RAS. ``body`` is empty where nothing but air was found."""

    hu: Float[NDArray[np.float32], "x y z"]
    body: Bool[NDArray[np.bool_], "x y z"]
    grid: Grid


def frame_body(volume: Volume, spacing_mm: tuple[float, float, float], window: Size) -> Frame:
    """Resample ``volume``, find the body, and keep the box around it, widened to a window where the scan reaches."""
    working = resample(volume, spacing_mm)
    body = _body(working.array, spacing_mm)
    box = bounding_box(body) or tuple(slice(0, 1) for _ in range(3))
    x, y, z = (
        _widened(inside, length, width) for inside, length, width in zip(box, working.array.shape, window, strict=True)
    )
    affine = working.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [x.start, y.start, z.start]
    hu = np.ascontiguousarray(working.array[x, y, z], dtype=np.float32)
    return Frame(hu, body[x, y, z], Grid(hu.shape, affine))


def _body(hu: NDArray[np.float32], spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Find the body, on every second voxel or fewer where they lie closer than it needs."""
    factors = [max(1, int(_BODY_MM / step)) for step in spacing_mm]
    x, y, z = (slice(None, None, factor) for factor in factors)
    body = body_mask(hu[x, y, z])
    for axis, factor in enumerate(factors):
        if factor > 1:
            body = body.repeat(factor, axis=axis)
    x, y, z = (slice(length) for length in hu.shape)
    return body[x, y, z]


def _widened(inside: slice, length: int, width: int) -> slice:
    """Add the margin, then as much on both sides as a window wants and the scan has."""
    start, stop = max(0, inside.start - _MARGIN), min(length, inside.stop + _MARGIN)
    lacking = max(0, min(width, length) - (stop - start))
    size = stop - start + lacking
    start = min(max(0, start - lacking // 2), length - size)
    return slice(start, start + size)
