"""Statistics, standardization and activation of channels-last maps on the processor, each in one pass.

One thread does it: a slab is finished before another thread would have woken up. A map is seen as rows along z and
channel, long enough to vectorize however few the channels. numpy has no bfloat16: such maps come as their bits, and are
widened and narrowed here.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import types
from numba.extending import overload
from torch import Tensor

from dsmseg.compilation import compiled

EPSILON = 1e-5
"""Added to the variance, as in every instance normalization."""

BLOCK = 64
"""Rows that are summed in float32; the sums of the blocks in float64."""


class Statistics:
    """Mean and variance of each channel of a map that comes slab by slab."""

    def __init__(self, channels: int) -> None:
        """Build for maps of ``channels`` channels."""
        self.channels = channels
        self.count = 0
        self.reference: Any = None
        self.sums: Any = None

    def add(self, slab: Float[Tensor, "1 channel plane y z"]) -> None:
        """Take a slab in."""
        rows = _rows(slab)
        if self.count == 0:
            # About a value of its own, a column's squares stay small whatever its mean.
            self.reference = _wide_row(rows)
            self.sums = np.zeros((2, rows.shape[1]))
        _add_moments(rows, self.reference, self.sums)
        self.count += rows.shape[0]

    def scale_and_offset(self) -> tuple[Any, Any]:
        """Give what brings each channel to mean 0 and variance 1, for one row of the map."""
        shift, square = (self.sums / self.count).reshape(2, -1, self.channels)
        means = self.reference.reshape(-1, self.channels) + shift
        mean = means.mean(0)
        variance = (square - shift**2 + (means - mean) ** 2).mean(0)
        scale = 1 / np.sqrt(variance + EPSILON)
        depth = len(means)
        return np.tile(scale, depth).astype(np.float32), np.tile(-mean * scale, depth).astype(np.float32)


def activate(
    slab: Float[Tensor, "1 channel plane y z"],
    standardization: tuple[Any, Any],
    slope: float,
    into: Float[Tensor, "1 channel plane y z"],
) -> None:
    """Write the standardized slab after a leaky rectifier."""
    _activate(_rows(slab), *standardization, np.float32(slope), _rows(into))


def add_and_activate_(
    slab: Float[Tensor, "1 channel plane y z"],
    standardization: tuple[Any, Any],
    shortcut: Float[Tensor, "1 channel plane y z"],
    shortcut_standardization: tuple[Any, Any] | None,
    slope: float,
) -> None:
    """Overwrite the slab with the sum of the two, standardized, after a leaky rectifier."""
    scale, offset = standardization
    shortcut_scale = np.ones_like(scale)
    if shortcut_standardization is not None:
        shortcut_scale, shortcut_offset = shortcut_standardization
        offset = offset + shortcut_offset
    _add_and_activate(_rows(slab), scale, offset, _rows(shortcut), shortcut_scale, np.float32(slope))


def _rows(feature: Float[Tensor, "1 channel x y z"]) -> Any:
    """View a channels-last map as an array of rows; of a bfloat16 map, its bits."""
    rows = feature.detach().permute(0, 2, 3, 4, 1).flatten(3).flatten(0, 2)
    return (rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows).numpy()


def _wide(value: Any) -> Any:
    """A float32 of the value, or of the bits of a bfloat16."""
    raise NotImplementedError


@overload(_wide, inline="always")
def _wide_compiled(value: Any) -> Any:
    def from_bits(value: Any) -> Any:
        return np.int32(np.int32(value) << np.int32(16)).view(np.float32)

    def unchanged(value: Any) -> Any:
        return value

    return from_bits if isinstance(value, types.Integer) else unchanged


def _narrow(value: Any, like: Any) -> Any:
    """The value in the type of ``like``: itself, or the bits of the nearest bfloat16."""
    raise NotImplementedError


@overload(_narrow, inline="always")
def _narrow_compiled(value: Any, like: Any) -> Any:
    def to_bits(value: Any, like: Any) -> Any:
        wide = np.float32(value).view(np.int32)
        return np.int16((wide + np.int32(0x7FFF) + ((wide >> np.int32(16)) & np.int32(1))) >> np.int32(16))

    def unchanged(value: Any, like: Any) -> Any:
        return value

    return to_bits if isinstance(like, types.Integer) else unchanged


@compiled()
def _wide_row(rows: Any) -> Any:
    reference = np.empty(rows.shape[1], np.float32)
    for column in range(rows.shape[1]):
        reference[column] = _wide(rows[0, column])
    return reference


@compiled(fastmath=True)
def _add_moments(rows: Any, reference: Any, sums: Any) -> None:
    """Add the sums of deviations from the reference, and of their squares."""
    first, second = np.empty_like(reference), np.empty_like(reference)
    for block in range(0, len(rows), BLOCK):
        first[:] = 0
        second[:] = 0
        for row in range(block, min(block + BLOCK, len(rows))):
            values = rows[row]
            for column in range(len(reference)):
                deviation = _wide(values[column]) - reference[column]
                first[column] += deviation
                second[column] += deviation * deviation
        for column in range(len(reference)):
            sums[0, column] += first[column]
            sums[1, column] += second[column]


@compiled(fastmath=True)
def _activate(source: Any, scale: Any, offset: Any, slope: Any, target: Any) -> None:
    for row in range(len(source)):
        values, results = source[row], target[row]
        for column in range(len(scale)):
            result = _wide(values[column]) * scale[column] + offset[column]
            results[column] = _narrow(result if result > 0 else result * slope, results[column])


@compiled(fastmath=True)
def _add_and_activate(target: Any, scale: Any, offset: Any, added: Any, added_scale: Any, slope: Any) -> None:
    for row in range(len(target)):
        values, others = target[row], added[row]
        for column in range(len(scale)):
            result = _wide(values[column]) * scale[column] + offset[column]
            result += _wide(others[column]) * added_scale[column]
            values[column] = _narrow(result if result > 0 else result * slope, values[column])
