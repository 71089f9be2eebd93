"""Chance that is the same on every machine: generators by key, smooth noise fixed in space, noise of each voxel.

Everything here is made of integers and of sums and products of IEEE numbers in a fixed order: the same seed gives the
same bits, whatever the processor. A field of noise belongs to a place in mm, not to an array: two grids that overlap
see the same field, so that a body may be made slab by slab, or a patch of it alone.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.synthesis import kernels

Vector = Sequence[float] | Float[NDArray[np.floating], "3"]

_NODES_PAD = 1  # nodes of a cubic B-spline on each side of a voxel's cell
# A B-spline averages the nodes: of white nodes this much is left along an axis, on average over a cell.
_SPLINE_DEVIATION = np.float32(0.692)


def generator(*key: int | str) -> Generator:
    """Give the generator of a key, such as ``generator(seed, "organs")``: other keys give independent streams."""
    digest = hashlib.sha256("\0".join(str(part) for part in key).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def seed_of(random: Generator) -> int:
    """Draw the seed of a field of noise."""
    return int(random.integers(1 << 62))


def smooth_noise(
    shape: Sequence[int], spacing: Vector, origin: Vector, scale: Vector | float, seed: int
) -> Float32[NDArray[np.float32], "x y z"]:
    """Give smooth noise of mean 0 and standard deviation 1 on a grid.

    Cubic B-splines over a lattice of random nodes. The field is fixed in space: a voxel's value depends on its place,
    ``scale`` and ``seed`` alone.

    Args:
        shape: of the grid.
        spacing: mm between its voxels, along each axis.
        origin: mm of its first voxel.
        scale: mm between nodes (along each axis, or all); bumps are about twice as wide.
        seed: of the field.
    """
    scales = np.broadcast_to(np.asarray(scale, np.float64), 3)
    first, weights = [], []
    counts = []
    for count, step, start, between in zip(shape, spacing, origin, scales, strict=True):
        places = (start + step * np.arange(count)) / between
        cells = np.floor(places)
        low = int(cells[0]) - _NODES_PAD
        counts.append(int(cells[-1]) + 2 + _NODES_PAD - low)
        first.append(low)
        weights.append((cells.astype(np.int64) - _NODES_PAD - low, _spline(places - cells)))
    field = kernels.nodes(np.array(first, np.int64), counts[0], counts[1], counts[2], np.uint64(seed))
    for index, weight in weights:  # the longest loops last, on the axis that is contiguous
        field = kernels.upsample(np.ascontiguousarray(field.transpose(1, 2, 0)), index, weight)
    result: NDArray[np.float32] = field
    return result


def white_noise(shape: Sequence[int], first: Sequence[int], seed: int) -> Float32[NDArray[np.float32], "x y z"]:
    """Give noise of mean 0 and standard deviation 1 that is independent from voxel to voxel, nearly normal.

    Args:
        shape: of the array.
        first: place of its first voxel in the whole; a voxel's value depends on its place there and on ``seed``.
        seed: of the field.
    """
    noise: NDArray[np.float32] = kernels.nodes(np.array(first, np.int64), shape[0], shape[1], shape[2], np.uint64(seed))
    return noise


def _spline(fraction: Float[NDArray[np.float64], "voxel"]) -> Float32[NDArray[np.float32], "voxel 4"]:
    """Give the weights of a cubic B-spline's four nodes, scaled to keep the deviation of the nodes on average."""
    t, u = fraction, 1 - fraction
    weights = np.stack(
        [u * u * u / 6, (4 - 6 * t * t + 3 * t * t * t) / 6, (4 - 6 * u * u + 3 * u * u * u) / 6, t * t * t / 6], axis=1
    )
    return weights.astype(np.float32) / _SPLINE_DEVIATION
