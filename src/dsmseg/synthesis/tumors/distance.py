"""Exact Euclidean distances in mm on an anisotropic grid, and the long axis of a mask."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from dsmseg.compilation import compiled

_ANGLES = 49  # directions in which a long axis is sought


def depth(mask: Bool[NDArray[np.bool_], "x y z"], spacing: Sequence[float]) -> Float64[NDArray[np.float64], "x y z"]:
    """Give for each voxel of a mask the mm to the nearest center outside it, 0 for others. Large if there is none."""
    squared: Float64[NDArray[np.float64], "x y z"] = _squared(mask, spacing[0], spacing[1], spacing[2])
    return np.sqrt(squared)


def signed_distance(
    mask: Bool[NDArray[np.bool_], "x y z"], spacing: Sequence[float]
) -> Float64[NDArray[np.float64], "x y z"]:
    """Give the mm to the surface of a mask, negative inside it. The surface is half a voxel beyond the last center."""
    half = 0.5 * min(spacing)
    inside, outside = depth(mask, spacing), depth(~mask, spacing)
    return np.where(mask, half - inside, outside - half)


def smooth_distance(
    mask: Bool[NDArray[np.bool_], "x y z"], spacing: Sequence[float]
) -> Float64[NDArray[np.float64], "x y z"]:
    """Give the signed distance without the steps that voxels make of a surface. Its sign still tells the mask."""
    limit = 6.0 * max(spacing)
    raw = np.clip(signed_distance(mask, spacing), -1e3, limit)
    size = [5 if mm < 1.2 else 3 for mm in spacing]
    smooth = uniform_filter(raw, size, mode="nearest")
    least = 0.05 * min(spacing)
    return np.where(mask, np.minimum(smooth, -least), np.maximum(smooth, least))


def long_axis(points: Float64[NDArray[np.float64], "point 3"]) -> float:
    """Give the largest extent of points over directions spread evenly, as far as their centers reach."""
    return float(_extent(points, _directions()))


def _directions() -> Float64[NDArray[np.float64], "direction 3"]:
    """Give directions of a lattice on the half sphere: all of small whole numbers."""
    steps = [(i, j, k) for i in range(-2, 3) for j in range(-2, 3) for k in range(-2, 3) if (i, j, k) > (0, 0, 0)]
    kept = [step for step in steps if math.gcd(*step) == 1][:_ANGLES]
    vectors = np.array(kept, np.float64)
    lengths: Float64[NDArray[np.float64], "direction 1"] = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return vectors / lengths


@compiled()
def _extent(points, directions):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202  # pragma: no cover
    longest = 0.0
    for n in range(directions.shape[0]):
        low, high = 1e30, -1e30
        for m in range(points.shape[0]):
            along = (points[m, 0] * directions[n, 0] + points[m, 1] * directions[n, 1]) + points[m, 2] * directions[
                n, 2
            ]
            low, high = min(low, along), max(high, along)
        longest = max(longest, high - low)
    return longest


@compiled()
def _squared(mask, sx, sy, sz):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202  # pragma: no cover
    nx, ny, nz = mask.shape
    out = np.empty((nx, ny, nz), np.float64)
    for i in range(nx):
        for j in range(ny):
            steps = 1e6
            for k in range(nz):
                steps = steps + 1.0 if mask[i, j, k] else 0.0
                out[i, j, k] = steps
            steps = 1e6
            for k in range(nz - 1, -1, -1):
                steps = steps + 1.0 if mask[i, j, k] else 0.0
                nearest = min(steps, out[i, j, k])
                out[i, j, k] = min(nearest * nearest * sz * sz, 1e12)
    longest = max(nx, ny)
    line, heads, edges = np.empty(longest), np.empty(longest, np.int64), np.empty(longest + 1)
    for i in range(nx):
        for k in range(nz):
            for j in range(ny):
                line[j] = out[i, j, k]
            _lower_envelope(line, ny, sy * sy, heads, edges, out[i, :, k])
    for j in range(ny):
        for k in range(nz):
            for i in range(nx):
                line[i] = out[i, j, k]
            _lower_envelope(line, nx, sx * sx, heads, edges, out[:, j, k])
    return out


@compiled()
def _lower_envelope(line, count, weight, heads, edges, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202  # pragma: no cover
    """Felzenszwalb and Huttenlocher 2012: the lower envelope of one parabola a voxel."""
    if count == 1:
        return
    last = 0
    heads[0], edges[0], edges[1] = 0, -1e30, 1e30
    for q in range(1, count):
        while True:
            head = heads[last]
            meet = ((line[q] - line[head]) / weight + (q * q - head * head)) / (2.0 * (q - head))
            if meet > edges[last]:
                break
            last -= 1
        last += 1
        heads[last], edges[last], edges[last + 1] = q, meet, 1e30
    last = 0
    for q in range(count):
        while edges[last + 1] < q:
            last += 1
        step = q - heads[last]
        out[q] = min(line[heads[last]] + step * step * weight, 1e12)
