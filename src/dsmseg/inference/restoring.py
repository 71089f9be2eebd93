"""From the working grid back to the scan's own resolution: linear interpolation, then the best class of each voxel.

Both grids have the same axes, so each is interpolated for itself, between two voxels. Slices come as the sliding window
finishes them and are restored at once, so neither grid ever holds an array of all classes. Each class is interpolated
inside of its own box only. Arrays in this file lie as scans do in memory: z, y, x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from dsmseg.inference import kernels
from dsmseg.inference.boxes import Box, Boxes, as_slices, in_slabs
from dsmseg.inference.soft_masks import SoftMasks
from dsmseg.volume import Grid

_Indices = tuple[NDArray[np.int64], ...]
_Fractions = tuple[NDArray[np.float32], ...]
_Number = TypeVar("_Number", np.int64, np.float32)


@dataclass(frozen=True, slots=True)
class Taps:
    """Linear interpolation along one axis: each target voxel lies between two of ``source`` voxels.

    lower: the first of the two. fraction: share of the second one, 0 where there is none.
    """

    lower: Int64[NDArray[np.int64], "target"]
    fraction: Float32[NDArray[np.float32], "target"]
    source: int

    @classmethod
    def at(cls, positions: Float[NDArray[np.float64], "target"], source: int) -> "Taps":
        """Place target voxels, in source voxels. Beyond the outermost centers, their value goes on."""
        positions = np.clip(positions, 0, source - 1)
        lower = np.floor(positions)
        return cls(lower.astype(np.int64), (positions - lower).astype(np.float32), source)

    @property
    def last(self) -> Int64[NDArray[np.int64], "target"]:
        """The last source voxel that each target voxel needs."""
        return self.lower + (self.fraction > 0)

    @property
    def needed(self) -> slice:
        """The source voxels that any target voxel needs."""
        return slice(int(self.lower.min()), int(self.last.max()) + 1)

    def target(self, part: slice) -> "Taps":
        """Give some of the target voxels."""
        return Taps(self.lower[part], self.fraction[part], self.source)

    def within(self, source: slice) -> "Taps":
        """Count from the source voxel at which ``source`` begins; all that is needed lies in it."""
        return Taps(self.lower - source.start, self.fraction, source.stop - source.start)

    def reached(self, source: slice) -> slice | None:
        """Give the target voxels that need any of some source voxels, if there are any."""
        targets = np.flatnonzero((self.last >= source.start) & (self.lower < source.stop))
        return slice(int(targets[0]), int(targets[-1]) + 1) if targets.size else None


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Linear interpolation from one grid to another with the same axes."""

    z: Taps
    y: Taps
    x: Taps

    @classmethod
    def between(cls, source: Grid, target: Grid) -> "Interpolation":
        """Read it from the two affines.

        Raises:
            ValueError: the grids' axes differ, so that axes cannot be interpolated one by one.
        """
        to_source = np.linalg.inv(source.affine) @ target.affine
        scales = np.diag(to_source)[:3]
        if not np.allclose(to_source[:3, :3], np.diag(scales), atol=1e-4):
            raise ValueError("the two grids have different axes")
        x, y, z = (
            Taps.at(np.arange(target.shape[axis]) * scales[axis] + to_source[axis, 3], source.shape[axis])
            for axis in range(3)
        )
        return cls(z, y, x)

    @property
    def axes(self) -> tuple[Taps, Taps, Taps]:
        """The axes in the order in which arrays lie here: z, y, x."""
        return self.z, self.y, self.x

    @property
    def target_shape(self) -> tuple[int, int, int]:
        """Voxels of the target grid: z, y, x."""
        return len(self.z.lower), len(self.y.lower), len(self.x.lower)

    def source_of(self, target: Box) -> Box:
        """Give the box of the source grid that a box of the target grid comes of."""
        z, y, x = (axis.target(side).needed for axis, side in zip(self.axes, target, strict=True))
        return z, y, x

    def part(self, target: slice, source: slice) -> "Interpolation":
        """Cut along z."""
        return Interpolation(self.z.target(target).within(source), self.y, self.x)


class Restoring:
    """Tells which target slices can be restored once source slices are there; they are given from first to last."""

    def __init__(self, interpolation: Interpolation) -> None:
        self._interpolation = interpolation
        self._done = 0

    def advance(self, start: int, stop: int) -> tuple[slice, Interpolation]:
        """Give the target slices that source slices ``start`` to ``stop`` complete, and how they come of these.

        ``start`` lies at least one slice before the last ``stop``.
        """
        target = slice(self._done, int(np.searchsorted(self._interpolation.z.last, stop)))
        self._done = target.stop
        return target, self._interpolation.part(target, slice(start, stop))


def restore_field(
    field: Float[Tensor, "z y x"], interpolation: Interpolation, into: UInt8[NDArray[np.uint8], "tz ty tx"]
) -> None:
    """Interpolate one field from 0 to 1 to the target grid, in steps of 1/255."""
    source, (lower, fractions) = field.numpy(), _numbers(interpolation.axes)

    def restore(slab: slice) -> None:
        kernels.restore_levels(source, _first(lower, slab), _first(fractions, slab), into[slab])

    in_slabs(restore, into.shape)


def restore_labels(
    masks: SoftMasks,
    ids: Sequence[int],
    boxes: Boxes,
    interpolation: Interpolation,
    into: UInt8[NDArray[np.uint8], "tz ty tx"],
    scores: UInt8[NDArray[np.uint8], "tz ty tx"] | None = None,
) -> None:
    """Give each target voxel the class that is most probable there, of those that are above their thresholds.

    Where thresholds differ, it is the class that has come farthest from its threshold to 1, see `SoftMasks.relative`.

    Args:
        masks: one a class on the source grid. Of two equal ones, the first class wins.
        ids: the classes' label values.
        boxes: where each class is above its threshold (x, y, z).
        interpolation: from the source grid to the target grid.
        into: labels, all 0.
        scores: takes the probability of the label in steps of 1/255, where there is a label.
    """
    found = [
        one
        for number, (identity, box) in enumerate(zip(ids, as_slices(boxes), strict=True))
        if box is not None and (one := _ClassBox.of(identity, masks, number, box, interpolation)) is not None
    ]
    if not found:
        return
    stretches = np.ones(256, dtype=np.float32)
    stretches[np.asarray(ids, dtype=np.int64)] = masks.stretches

    def label(slab: slice) -> None:
        best = np.full(into[slab].shape, 0.5, dtype=np.float32)
        for one in found:
            one.label(slab, into, best)
        if scores is not None:
            probabilities = 1 - (1 - best) / stretches[into[slab]]
            scores[slab] = np.rint(probabilities * 255).astype(np.uint8) * (into[slab] > 0)

    in_slabs(label, into.shape)


def erase(
    labels: UInt8[NDArray[np.uint8], "tz ty tx"],
    identity: int,
    where: Bool[NDArray[np.bool_], "z y x"],
    box: Box,
    interpolation: Interpolation,
    *,
    over: float,
    within: Box,
) -> None:
    """Set to 0, in place, the label ``identity`` where an interpolated mask is more than ``over``.

    The mask is ``where`` in ``box`` of the source grid, and false elsewhere. ``within`` is a box of the target grid
    that holds the label.
    """
    needed = interpolation.source_of(within)
    source, target = _cut(where, box, needed), labels[within]
    if not source.any():
        return
    taps = [axis.target(side).within(part) for axis, side, part in zip(interpolation.axes, within, needed, strict=True)]
    lower, fractions = _numbers(taps)

    def clear(slab: slice) -> None:
        part = _first(lower, slab), _first(fractions, slab)
        kernels.erase_label(source, *part, np.float32(over), np.uint8(identity), target[slab])

    in_slabs(clear, target.shape)


@dataclass(frozen=True, slots=True)
class _ClassBox:
    """A class inside of the only source and target boxes where it can exceed its threshold. Axes are z, y, x.

    field: relative probabilities, which exceed 0.5 where the class does its threshold.
    """

    identity: int
    field: Float32[NDArray[np.float32], "z y x"]
    lower: _Indices
    fractions: _Fractions
    target: tuple[slice, ...]

    @classmethod
    def of(
        cls, identity: int, masks: SoftMasks, number: int, box: Box, interpolation: Interpolation
    ) -> "_ClassBox | None":
        """Cut a class down to where interpolation can exceed 0.5: less than a voxel from its ``box``, where it does."""
        source, target, taps = [], [], []
        for axis, inside in zip((interpolation.x, interpolation.y, interpolation.z), box, strict=True):
            reached = axis.reached(inside)
            if reached is None:
                return None
            around = slice(max(0, inside.start - 1), min(inside.stop + 1, axis.source))
            source.append(around)
            target.append(reached)
            taps.append(axis.target(reached).within(around))
        field = masks.relative(number, (source[0], source[1], source[2])).numpy()
        return cls(identity, field, *_numbers(taps[::-1]), tuple(target[::-1]))

    def label(
        self,
        slab: slice,
        labels: UInt8[NDArray[np.uint8], "tz ty tx"],
        best: Float32[NDArray[np.float32], "slab ty tx"],
    ) -> None:
        """Label what of the class lies in a slab of target slices, where it is more than ``best``."""
        z, y, x = self.target
        start, stop = max(slab.start, z.start), min(slab.stop, z.stop)
        if start >= stop:
            return
        rows = slice(start - z.start, stop - z.start)
        kernels.raise_labels(
            self.field,
            _first(self.lower, rows),
            _first(self.fractions, rows),
            np.uint8(self.identity),
            labels[start:stop, y, x],
            best[start - slab.start : stop - slab.start, y, x],
        )


def _cut(mask: NDArray[np.bool_], box: Box, wanted: Box) -> NDArray[np.float32]:
    """Give as numbers what a mask, known in ``box``, is in another box."""
    numbers = np.zeros([side.stop - side.start for side in wanted], dtype=np.float32)
    common = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, wanted, strict=True)]
    if all(side.start < side.stop for side in common):
        own, other = (
            tuple(slice(side.start - of.start, side.stop - of.start) for side, of in zip(common, whole, strict=True))
            for whole in (box, wanted)
        )
        numbers[other] = mask[own]
    return numbers


def _numbers(axes: Sequence[Taps]) -> tuple[_Indices, _Fractions]:
    """Take the taps of z, y and x as kernels want them."""
    z, y, x = axes
    return (z.lower, y.lower, x.lower), (z.fraction, y.fraction, x.fraction)


def _first(of_axes: tuple[NDArray[_Number], ...], part: slice) -> tuple[NDArray[_Number], ...]:
    """Cut what belongs to the first axis."""
    z, y, x = of_axes
    return z[part], y, x
