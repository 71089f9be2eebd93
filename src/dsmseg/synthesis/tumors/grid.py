"""A box of a scan: where it lies, and the mm of its voxels from a point."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

Point = Float64[NDArray[np.float64], "3"]


@dataclass(frozen=True, slots=True)
class Box:
    """Voxels ``start`` to before ``stop`` of a grid with a ``spacing`` in mm."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return slice(a, d), slice(b, e), slice(c, f)

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many voxels along each axis."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return d - a, e - b, f - c

    @property
    def origin(self) -> tuple[float, float, float]:
        """The mm of the first voxel on the whole grid, whose own first voxel lies at 0."""
        (a, b, c), (x, y, z) = self.start, self.spacing
        return a * x, b * y, c * z

    def offsets(self, center: Point) -> list[Float64[NDArray[np.float64], "..."]]:
        """Give the mm from ``center`` (mm on the whole grid) along each axis, to be broadcast."""
        axes = []
        for axis in range(3):
            line = np.arange(self.start[axis], self.stop[axis]) * self.spacing[axis] - center[axis]
            axes.append(line.reshape([-1 if other == axis else 1 for other in range(3)]))
        return axes

    def radii(self, center: Point) -> Float64[NDArray[np.float64], "x y z"]:
        """Give the mm of each voxel from ``center``."""
        x, y, z = self.offsets(center)
        return np.sqrt(x * x + y * y + z * z)


def around(center: Point, reach: Sequence[float], spacing: tuple[float, float, float], shape: Sequence[int]) -> Box:
    """Give the box of all within ``reach`` mm along each axis and two voxels more, cut at the grid's border."""
    start, stop = [], []
    for axis in range(3):
        start.append(max(0, int(np.floor((center[axis] - reach[axis]) / spacing[axis])) - 2))
        stop.append(min(shape[axis], int(np.ceil((center[axis] + reach[axis]) / spacing[axis])) + 3))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]), spacing)


def bounding_box(mask: Bool[NDArray[np.bool_], "x y z"], spacing: tuple[float, float, float]) -> Box | None:
    """Give the smallest box that holds a mask, None if it is empty."""
    planes = np.flatnonzero(np.asarray(mask.any(axis=(1, 2))))
    if planes.size == 0:
        return None
    flat = np.asarray(mask[planes[0] : planes[-1] + 1].any(axis=0))
    rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    start = (int(planes[0]), int(rows[0]), int(columns[0]))
    return Box(start, (int(planes[-1]) + 1, int(rows[-1]) + 1, int(columns[-1]) + 1), spacing)
