"""Another spacing, or another grid with the same axes: anti-aliased linear for intensities, nearest for labels."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.volume.grid import Grid, Volume

# Rounding errors of an affine's inverse must neither blur equal grids nor tip a tie between two voxels.
_POSITION_DIGITS = 9
_LARGEST_DRIFT_VOXELS = 0.05


def resample(volume: Volume, spacing: tuple[float, float, float], *, nearest: bool = False) -> Volume:
    """Resample to ``spacing`` (mm, one number an axis): to `resampled_grid`, as `resample_onto` tells.

    Raises:
        InputError: a spacing that is not three positive numbers.
    """
    return resample_onto(volume, resampled_grid(volume.grid, spacing), nearest=nearest)


def resampled_grid(grid: Grid, spacing: tuple[float, float, float]) -> Grid:
    """Give the grid of ``spacing`` with the same center: ``max(1, round(size * old / new))`` voxels an axis.

    Raises:
        InputError: a spacing that is not three positive numbers.
    """
    target = np.asarray(spacing, dtype=np.float64)
    if target.shape != (3,) or not np.isfinite(target).all() or target.min() <= 0:
        raise InputError(f"the spacing {spacing} is not usable", mend="Give three positive numbers in mm.")
    old_sizes = np.array(grid.shape)
    ratio = target / np.array(grid.spacing)
    sizes = np.maximum(1, np.rint(old_sizes / ratio)).astype(int)
    affine = grid.affine.copy()
    affine[:3, :3] *= ratio
    affine[:3, 3] += grid.affine[:3, :3] @ ((old_sizes - 1) / 2) - affine[:3, :3] @ ((sizes - 1) / 2)
    return Grid((int(sizes[0]), int(sizes[1]), int(sizes[2])), affine)


def resample_onto(volume: Volume, grid: Grid, *, nearest: bool = False) -> Volume:
    """Resample onto a grid whose axes run along the volume's own, for example back onto ``scan.grid``.

    Linear: a triangle as wide as the larger of the two spacings, so that what is made coarser is averaged, not
    picked. It keeps constants and linear ramps. Beyond the border the last voxel goes on. The result is float32.
    Nearest: each voxel is one that was there, of the same type.

    Raises:
        InputError: the axes of the two grids are not parallel.
    """
    between = np.linalg.solve(volume.affine, grid.affine)
    drift = np.abs(between[:3, :3] - np.diag(np.diag(between)[:3])) @ np.array(grid.shape)
    if drift.max() > _LARGEST_DRIFT_VOXELS or np.diag(between).min() <= 0:
        raise InputError("the two grids do not have the same axes", mend="Resample between grids of one scan.")
    positions = [
        np.round(between[axis, 3] + between[axis, axis] * np.arange(grid.shape[axis]), _POSITION_DIGITS)
        for axis in range(3)
    ]
    ratios = [float(between[axis, axis]) for axis in range(3)]
    along = _nearest_along if nearest else _linear_along
    array = volume.array if nearest else volume.array.astype(np.float32, order="K", copy=False)
    return Volume(_along_each_axis(array, positions, ratios, along), grid.affine, grid)


def _along_each_axis(
    array: NDArray[Any],
    positions: list[NDArray[np.float64]],
    ratios: list[float],
    along: Callable[[NDArray[Any], int, NDArray[np.float64], float], NDArray[Any]],
) -> NDArray[Any]:
    """Go through the axes in turn, the largest reduction first, in the order in which the voxels lie in memory."""
    layout = np.argsort([-abs(stride) for stride in array.strides], kind="stable")
    array = np.ascontiguousarray(array.transpose(layout))
    for place in np.argsort([-ratios[axis] for axis in layout], kind="stable"):
        axis = layout[place]
        if not np.array_equal(positions[axis], np.arange(array.shape[place])):
            array = along(array, int(place), positions[axis], ratios[axis])
    return array.transpose(np.argsort(layout))


def _nearest_along(array: NDArray[Any], axis: int, positions: NDArray[np.float64], _: float) -> NDArray[Any]:
    indices = np.floor(positions + 0.5).astype(np.intp)
    return np.take(array, np.clip(indices, 0, array.shape[axis] - 1), axis=axis)


def _linear_along(array: NDArray[Any], axis: int, positions: NDArray[np.float64], ratio: float) -> NDArray[Any]:
    weights = _weights(positions, ratio, array.shape[axis])
    first, middle, last = array.shape
    if axis == 0:
        along_first: NDArray[Any] = weights @ array.reshape(first, -1)
        return along_first.reshape(-1, middle, last)
    if axis == 1:
        along_middle: NDArray[Any] = np.matmul(weights, array)
        return along_middle
    along_last: NDArray[Any] = array.reshape(-1, last) @ weights.T
    return along_last.reshape(first, middle, -1)


def _weights(positions: NDArray[np.float64], ratio: float, size: int) -> NDArray[np.float32]:
    """Return the share (new, old) of each old voxel in each new one. Dense: BLAS is faster than any sparse product."""
    reach = max(1.0, ratio)
    width = int(np.ceil(reach))
    voxels = np.floor(positions)[:, None] + np.arange(-width, width + 2)
    distance = voxels - positions[:, None]
    share = np.maximum(0.0, 1.0 - np.abs(distance) / reach)
    # A sampled triangle leans a little to one side; taking its first moment out makes linear ramps exact.
    zeroth, first, second = (np.sum(share * distance**power, axis=1, keepdims=True) for power in range(3))
    leaning = np.abs(first) > 1e-12
    divisor = np.where(leaning, zeroth * second - first**2, zeroth)
    share *= np.where(leaning, second - first * distance, 1.0) / divisor
    weights = np.zeros((len(positions), size))
    rows = np.broadcast_to(np.arange(len(positions))[:, None], voxels.shape)
    np.add.at(weights, (rows, np.clip(voxels, 0, size - 1).astype(np.intp)), share)
    return weights.astype(np.float32)
