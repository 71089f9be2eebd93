"""A scan's content in 2 kB: the same for a copy that was turned, mirrored or resampled, another for another patient."""

from collections.abc import Mapping, Sequence
from itertools import permutations, product

import numpy as np
from jaxtyping import Float, Int8
from numpy.typing import NDArray
from scipy import ndimage

SIDE = 12  # voxels a side: coarse enough for any resampling, fine enough to tell patients apart
SAME = 0.985  # correlation; copies are above, other patients below (tests and docs/datasets.md)
_HU = (-1000.0, 400.0)
_QUANTILES = 48
_QUANTILE_TOLERANCE = 0.1  # standard deviations; sorted values of a copy agree better, also of one cropped a little
_LEAST_DEVIATION = 1.0  # HU
_ENOUGH = 96  # voxels along an axis; of longer ones every second, third, ... is enough
_SCALE = 32.0

Fingerprint = Int8[NDArray[np.int8], "side side side"]


def fingerprint(hu: NDArray[np.number]) -> Fingerprint:
    """Give the fingerprint of a whole scan (X, Y, Z) in HU, in any order of axes.

    It is the array brought to 12 x 12 x 12 by averaging, whatever its spacing claims, without what all bodies have in
    common (a smooth blob), at unit deviation.
    """
    every = tuple(slice(None, None, max(1, size // _ENOUGH)) for size in hu.shape)
    small = np.clip(hu[every], *_HU).astype(np.float32)
    for axis in range(3):
        small = _averaged(small, axis)
    detail = small - ndimage.gaussian_filter(small, 1.5, mode="nearest")
    deviation = float(detail.std())
    if deviation < _LEAST_DEVIATION:  # nothing to be told by
        return np.zeros(detail.shape, np.int8)
    detail /= deviation
    result: Fingerprint = np.clip(np.rint(detail * _SCALE), -127, 127).astype(np.int8)
    return result


def find_copies(prints: Mapping[str, Fingerprint]) -> list[tuple[str, str, float]]:
    """Give the pairs of scans with the same content, as (name, name, correlation), in the order of ``prints``.

    All 48 ways to turn and mirror a scan are tried, on those pairs whose sorted values agree, which no turn changes.
    """
    names = list(prints)
    if len(names) < 2:
        return []
    values = np.stack([prints[name].astype(np.float32).ravel() for name in names]) / _SCALE
    ranks = np.quantile(values, np.linspace(0, 1, _QUANTILES), axis=1).T.astype(np.float32)
    copies = []
    for index, name in enumerate(names[:-1]):
        near = np.abs(ranks[index + 1 :] - ranks[index]).mean(axis=1) < _QUANTILE_TOLERANCE
        candidates = np.flatnonzero(near) + index + 1
        if candidates.size:
            likeness = _best_correlations(prints[name], values[candidates])
            copies += [
                (name, names[other], round(float(one), 4))
                for other, one in zip(candidates, likeness, strict=True)
                if one >= SAME
            ]
    return copies


def _best_correlations(one: Fingerprint, others: Float[NDArray[np.float32], "n v"]) -> Float[NDArray[np.float32], "n"]:
    turned = np.stack([turn.ravel() for turn in _turns(one.astype(np.float32))])
    best: NDArray[np.float32] = (_standardized(others) @ _standardized(turned).T).max(axis=1)
    return best


def _standardized(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = rows - rows.mean(axis=1, keepdims=True)
    result: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return result


def _turns(cube: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
    return [
        np.flip(cube.transpose(order), tuple(axis for axis in range(3) if mirrored[axis]))
        for order in permutations(range(3))
        for mirrored in product((False, True), repeat=3)
    ]


def _averaged(array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Bring one axis to `SIDE` by the mean over equal, possibly fractional, shares of it."""
    size = array.shape[axis]
    edges = np.arange(SIDE + 1) * size / SIDE
    lower, upper = edges[:-1, None], edges[1:, None]
    voxels = np.arange(size)
    share = np.clip(np.minimum(upper, voxels + 1) - np.maximum(lower, voxels), 0, None)
    weights = (share / share.sum(axis=1, keepdims=True)).astype(np.float32)
    moved = np.tensordot(weights, array, axes=(1, axis))
    result: NDArray[np.float32] = np.moveaxis(moved, 0, axis)
    return result
