"""The loops over voxels, compiled: counting scores by the bits of their keys, and the voxels around each corner.

A key is the 32 bits of a float32, put so that keys sort as the numbers do.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dsmseg.compilation import compiled

_MINUS_ZERO, _INFINITY = np.int32(-0x80000000), np.int32(0x7F800000)


@njit(inline="always")  # type: ignore[untyped-decorator]
def _key(bits: Any) -> Any:
    """Give the bits as they are, below zero all but the sign flipped; -0 is 0."""
    if bits == _MINUS_ZERO:
        return np.int32(0)
    return bits if bits >= 0 else bits ^ np.int32(0x7FFFFFFF)


@compiled()
def count_leading(
    bits: NDArray[np.int32], kinds: NDArray[np.uint8], low: int, counts: NDArray[np.uint32]
) -> tuple[int, int, bool]:
    """Count float32 numbers by the bits of their keys above the ``low`` lowest.

    Args:
        bits: (voxels,), of the numbers. kinds: (voxels,); those of kind 0 and 1 are counted.
        counts: (kind, bin), added to; the bin of the number 0 is in the middle.

    Returns:
        The first bin with a count and the one after the last, and whether there was NaN.
    """
    middle = counts.shape[1] // 2
    first, last, nan = counts.shape[1], -1, False
    for index in range(bits.size):
        kind = kinds[index]
        if kind < 2:
            nan |= (bits[index] & np.int32(0x7FFFFFFF)) > _INFINITY
            place = (np.int64(_key(bits[index])) >> low) + middle
            counts[kind, place] += np.uint32(1)
            first, last = min(first, place), max(last, place)
    return first, last + 1, nan


@compiled()
def count_next(
    bits: NDArray[np.int32], kinds: NDArray[np.uint8], low: int, pages: NDArray[np.int32], counts: NDArray[np.uint32]
) -> None:
    """Count the numbers of bins that have a page by the ``low`` lowest bits of their keys.

    Args:
        bits, kinds, low: as in `count_leading`.
        pages: the page of each bin, -1 for none.
        counts: (kind, page, lowest bits), added to.
    """
    middle, lowest = pages.size // 2, (np.int64(1) << low) - 1
    for index in range(bits.size):
        kind = kinds[index]
        if kind < 2:
            key = np.int64(_key(bits[index]))
            page = pages[(key >> low) + middle]
            if page >= 0:
                counts[kind, page, key & lowest] += np.uint32(1)


@compiled()
def corner_codes(mask: NDArray[np.uint8], codes: NDArray[np.uint8]) -> None:
    """Mark at each corner of voxels which of the 8 around it are in the mask: bit 4 i + 2 j + k, (0, 0, 0) first.

    Args:
        mask: (X, Y, Z), 0 or 1. codes: (X + 1, Y + 1, Z + 1), zeros, written to.
    """
    nx, ny, nz = mask.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                if mask[i, j, k]:
                    for corner in range(8):
                        a, b, c = corner >> 2, (corner >> 1) & 1, corner & 1
                        codes[i + 1 - a, j + 1 - b, k + 1 - c] |= np.uint8(1 << corner)
