"""Where voxels lie in space: `Grid`, and `Volume`, an array in RAS that remembers the grid it came from."""

from dataclasses import dataclass
from typing import Any

import nibabel.orientations as orientations
import numpy as np
from numpy.typing import DTypeLike, NDArray

from dsmseg.errors import InputError
from dsmseg.volume.checks import check_grid


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Sizes of an array in voxels, and its affine (4x4 float64, voxel -> mm RAS)."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighboring voxels along each axis, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def oriented(self) -> "Grid":
        """Give the same grid with its axes in the order that runs closest to RAS."""
        orientation = orientations.io_orientation(self.affine)
        sizes = [0, 0, 0]
        for length, (axis, _) in zip(self.shape, orientation, strict=True):
            sizes[int(axis)] = length
        return Grid((sizes[0], sizes[1], sizes[2]), self.affine @ orientations.inv_ornt_aff(orientation, self.shape))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in milliliters, also where the axes are not quite at right angles."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An array (X, Y, Z) whose axes run closest to right, anterior, superior.

    ``affine`` is that of ``array`` (4x4 float64, voxel -> mm RAS); ``own`` is the grid of the file before its axes
    were put in this order. Nothing is interpolated between the two: they differ by an order of axes and flips.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    own: Grid

    @classmethod
    def from_own(cls, array: NDArray[Any], affine: NDArray[Any], *, dtype: DTypeLike | None = None) -> "Volume":
        """Order the axes of any (I, J, K) array so that they run closest to RAS; an oblique affine stays oblique.

        The array is copied only where axes are flipped or ``dtype`` asks for another type.

        Raises:
            InputError: the array is not 3D, or the affine cannot place it in space.
        """
        affine = np.array(affine, dtype=np.float64)
        if array.ndim != 3:
            raise InputError(f"an array of {array.ndim} axes is not a volume", mend="Give one array of three axes.")
        check_grid(array.shape, affine, None)
        own = Grid((array.shape[0], array.shape[1], array.shape[2]), affine)
        orientation = orientations.io_orientation(affine)
        ordered = _reordered(array, orientation, dtype)
        return cls(ordered, affine @ orientations.inv_ornt_aff(orientation, array.shape), own)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighboring voxels along each axis of ``array``, in mm."""
        return self.grid.spacing

    @property
    def grid(self) -> Grid:
        """The grid of ``array``, in RAS order."""
        x, y, z = self.array.shape
        return Grid((x, y, z), self.affine)

    def to_own(self, array: NDArray[Any]) -> NDArray[Any]:
        """Put an array (X, Y, Z) of this volume's grid back in the order of axes of its file, exactly.

        Raises:
            InputError: the array has another shape than this volume.
        """
        if array.shape != self.array.shape:
            raise InputError(
                f"a result of shape {array.shape} does not fit a scan of shape {self.array.shape}",
                mend="Resample the result onto the scan's grid first.",
            )
        forth = orientations.io_orientation(self.own.affine)
        ras = np.array([[0, 1], [1, 1], [2, 1]])
        return _reordered(array, orientations.ornt_transform(ras, forth), None)


def _reordered(array: NDArray[Any], orientation: NDArray[Any], dtype: DTypeLike | None) -> NDArray[Any]:
    view: NDArray[Any] = orientations.apply_orientation(array, orientation)
    # torch takes no negative strides; order "K" keeps the layout in memory, which is the fast way to copy.
    flipped = any(stride < 0 for stride in view.strides)
    with np.errstate(over="ignore", invalid="ignore"):
        return view.astype(dtype or view.dtype, order="K", copy=flipped)
