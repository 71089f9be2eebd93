"""Windows: the tiles that the network sees, and where they lie."""

from collections.abc import Sequence
from math import ceil, prod

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

Slices = tuple[slice, slice, slice]
Size = tuple[int, int, int]

DEFAULT_OVERLAP = 0.25


def place_windows(body: Bool[NDArray[np.bool_], "x y z"], size: Size, overlap: float) -> list[Slices]:
    """Lay windows over the whole array, evenly, and keep those that hold body.

    Args:
        body: no axis is shorter than the window.
        size: of a window, voxels.
        overlap: least share of a window that it has in common with the next one along an axis, 0 up to 0.9.

    Returns:
        Windows in the order of their first corner. Every body voxel is in at least one.
    """
    starts = [_starts(length, width, overlap) for length, width in zip(body.shape, size, strict=True)]
    windows = [
        (slice(x, x + size[0]), slice(y, y + size[1]), slice(z, z + size[2]))
        for x in starts[0]
        for y in starts[1]
        for z in starts[2]
    ]
    return [window for window in windows if body[window].any()]


def most_windows(shape: Sequence[int], size: Size, overlap: float) -> int:
    """Count the windows that `place_windows` would lay over an array of ``shape``, padded, if all of it were body."""
    return prod(len(_starts(max(length, width), width, overlap)) for length, width in zip(shape, size, strict=True))


def padding_to(shape: Sequence[int], size: Size) -> tuple[tuple[int, int], ...]:
    """Give the voxels to add before and after each axis so that a window fits in."""
    lacking = [max(0, width - length) for length, width in zip(shape, size, strict=True)]
    return tuple((lack // 2, lack - lack // 2) for lack in lacking)


def gaussian_weights(size: Size) -> Float[Tensor, "x y z"]:
    """Weigh a window's voxels: its middle knows more of the surroundings than its rim (sigma is 1/8 of the size)."""
    profiles = []
    for width in size:
        distance = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
        profiles.append(torch.exp(-0.5 * (distance / (width / 8)) ** 2))
    x, y, z = profiles
    # A floor, since a voxel that only rims see must still be divided by something.
    return (x[:, None, None] * y[:, None] * z).clamp_min(1e-4)


def channels(hu: Float[Tensor, "x y z"], hu_windows: Sequence[tuple[float, float]]) -> Float[Tensor, "1 channel x y z"]:
    """Scale each HU window (low, high) to 0..1 and clip: the network's input."""
    scaled = [((hu - low) / (high - low)).clamp(0, 1) for low, high in hu_windows]
    return torch.stack(scaled)[None]


def _starts(length: int, width: int, overlap: float) -> list[int]:
    step = max(1, int(width * (1 - overlap)))
    count = ceil((length - width) / step) + 1
    return [round(start) for start in np.linspace(0, length - width, count).tolist()]
