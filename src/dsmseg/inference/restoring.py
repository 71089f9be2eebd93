"""From the working grid back to the scan's own resolution: linear interpolation, then the best class of each voxel.

Both grids have the same axes, so interpolation is one small matrix an axis: ``W_x W_y W_z field``. Slices come as the
sliding window finishes them and are restored at once, so neither grid ever holds an array of all classes. Each class
is interpolated inside of its own box only. Arrays in this file lie as scans do in memory: z, y, x.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from dsmseg.inference.soft_masks import SoftMasks
from dsmseg.volume import Grid
from dsmseg.volume.body import bounding_box

Claims = Callable[[int, NDArray[np.bool_]], None]

_SLAB_VOXELS = 1_000_000  # 4 MB of float32: score, best score and comparison of a slab stay in the cache.


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Linear weights of each axis, (target voxel, source voxel); rows sum to 1."""

    x: Float[Tensor, "target_x source_x"]
    y: Float[Tensor, "target_y source_y"]
    z: Float[Tensor, "target_z source_z"]

    @classmethod
    def between(cls, source: Grid, target: Grid) -> "Interpolation":
        """Read the weights from the two affines. Beyond the outermost source centers, their value goes on.

        Raises:
            ValueError: the grids' axes differ, so that axes cannot be interpolated one by one.
        """
        to_source = np.linalg.inv(source.affine) @ target.affine
        scales = np.diag(to_source)[:3]
        if not np.allclose(to_source[:3, :3], np.diag(scales), atol=1e-4):
            raise ValueError("the two grids have different axes")
        x, y, z = (
            _axis_weights(source.shape[axis], target.shape[axis], float(scales[axis]), float(to_source[axis, 3]))
            for axis in range(3)
        )
        return cls(x, y, z)

    @property
    def axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights in the order in which arrays lie here: z, y, x."""
        return self.z, self.y, self.x

    @property
    def target_shape(self) -> tuple[int, int, int]:
        """Voxels of the target grid: z, y, x."""
        return self.z.shape[0], self.y.shape[0], self.x.shape[0]

    def part(self, target: slice, source: slice) -> "Interpolation":
        """Cut along z."""
        return Interpolation(self.x, self.y, self.z[target, source].contiguous())


class Restoring:
    """Tells which target slices can be restored once source slices are there; they are given from first to last."""

    def __init__(self, interpolation: Interpolation) -> None:
        self._interpolation = interpolation
        needed = (interpolation.z > 0).numpy()
        self._last_needed = needed.shape[1] - 1 - np.argmax(needed[:, ::-1], axis=1)
        self._done = 0

    def advance(self, start: int, stop: int) -> tuple[slice, Interpolation]:
        """Give the target slices that source slices ``start`` to ``stop`` complete, and the weights between the two.

        ``start`` lies at least one slice before the last ``stop``.
        """
        target = slice(self._done, int(np.searchsorted(self._last_needed, stop)))
        self._done = target.stop
        return target, self._interpolation.part(target, slice(start, stop))


def restore_field(
    field: Float[Tensor, "z y x"], interpolation: Interpolation, into: UInt8[NDArray[np.uint8], "tz ty tx"]
) -> None:
    """Interpolate one field from 0 to 1 to the target grid, in steps of 1/255."""
    z, y, x = interpolation.axes
    restored = torch.from_numpy(into)
    for slab in _slabs(into.shape):
        restored[slab] = as_levels(_interpolate(field, z[slab], y, x))


def restore_labels(
    masks: SoftMasks,
    ids: Sequence[int],
    interpolation: Interpolation,
    into: UInt8[NDArray[np.uint8], "tz ty tx"],
    scores: UInt8[NDArray[np.uint8], "tz ty tx"] | None = None,
    claims: Claims | None = None,
) -> None:
    """Give each target voxel the class that is most probable there, where that is more than 0.5.

    Args:
        masks: one a class on the source grid. Of two equal ones, the first class wins.
        ids: the classes' label values.
        interpolation: from the source grid to the target grid.
        into: labels, all 0.
        scores: takes the probability of the label in steps of 1/255, where there is a label.
        claims: is called with the number of each class and where it is more probable than 0.5.
    """
    classes = []
    for number, identity in enumerate(ids):
        over_half = masks.over_half(number)
        if claims is not None:
            claims(number, over_half)
        box = bounding_box(over_half)
        if box is not None and (one := _ClassBox.of(identity, masks, number, box, interpolation)) is not None:
            classes.append(one)
    if not classes:
        return
    labels = torch.from_numpy(into)
    for slab in _slabs(into.shape):
        best = _label_slab(labels[slab], slab, classes)
        if scores is not None:
            torch.from_numpy(scores)[slab] = as_levels(best) * (labels[slab] > 0)


def erase(
    labels: UInt8[NDArray[np.uint8], "tz ty tx"],
    identity: int,
    where: Bool[NDArray[np.bool_], "z y x"],
    interpolation: Interpolation,
    *,
    over: float,
    within: Sequence[slice],
) -> None:
    """Set to 0, in place, the label ``identity`` where the interpolated mask ``where`` is more than ``over``.

    ``within`` is a box of the target grid that holds the label.
    """
    weights, sides = list(interpolation.axes), []
    for axis, side in enumerate(within):
        weights[axis] = weights[axis][side]
        reached = np.flatnonzero((weights[axis] > 0).any(dim=0).numpy())
        inside = slice(int(reached[0]), int(reached[-1]) + 1)
        weights[axis] = weights[axis][:, inside].contiguous()
        sides.append(inside)
    source, target = where[tuple(sides)], labels[tuple(within)]
    if not source.any():
        return
    field = torch.from_numpy(source.astype(np.float32))
    for slab in _slabs(target.shape):
        part = target[slab]
        gone = _interpolate(field, weights[0][slab], weights[1], weights[2]) > over
        part[gone.numpy() & (part == identity)] = 0


def as_levels(values: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Round 0 to 1 to steps of 1/255."""
    return (values * 255).round_().to(torch.uint8)


@dataclass(frozen=True, slots=True)
class _ClassBox:
    """A class inside of the only source and target boxes where it can exceed 0.5. Axes are z, y, x."""

    identity: int
    field: Float[Tensor, "z y x"]
    weights: tuple[Float[Tensor, "target source"], ...]
    target: tuple[slice, ...]

    @classmethod
    def of(
        cls, identity: int, masks: SoftMasks, number: int, box: Sequence[slice], interpolation: Interpolation
    ) -> "_ClassBox | None":
        """Cut a class down to where interpolation can exceed 0.5: less than a voxel from its ``box``, where it does."""
        source, target, weights = [], [], []
        for axis_weights, inside in zip((interpolation.x, interpolation.y, interpolation.z), box, strict=True):
            reached = np.flatnonzero((axis_weights[:, inside] > 0).any(dim=1).numpy())
            if reached.size == 0:
                return None
            source.append(slice(max(0, inside.start - 1), inside.stop + 1))
            target.append(slice(int(reached[0]), int(reached[-1]) + 1))
            weights.append(axis_weights[target[-1], source[-1]].contiguous())
        return cls(identity, masks.backwards(number, source), tuple(weights[::-1]), tuple(target[::-1]))


def _label_slab(
    labels: UInt8[Tensor, "slab y x"], slab: slice, classes: Sequence[_ClassBox]
) -> Float[Tensor, "slab y x"]:
    best = torch.full(labels.shape, 0.5)
    for one in classes:
        z, y, x = one.target
        start, stop = max(slab.start, z.start), min(slab.stop, z.stop)
        if start >= stop:
            continue
        rows = one.weights[0][start - z.start : stop - z.start]
        score = _interpolate(one.field, rows, *one.weights[1:])
        here = (slice(start - slab.start, stop - slab.start), y, x)
        better = score > best[here]
        if better.any():
            labels[here].masked_fill_(better, one.identity)
            torch.maximum(best[here], score, out=best[here])
    return best


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Cut the first axis into slabs of bounded size."""
    thickness = max(1, _SLAB_VOXELS // max(1, shape[1] * shape[2]))
    return (slice(start, min(start + thickness, shape[0])) for start in range(0, shape[0], thickness))


def _interpolate(
    field: Float[Tensor, "a b c"],
    first: Float[Tensor, "target_a a"],
    second: Float[Tensor, "target_b b"],
    third: Float[Tensor, "target_c c"],
) -> Float[Tensor, "target_a target_b target_c"]:
    along_first = (first @ field.flatten(1)).reshape(-1, *field.shape[1:])
    restored: Tensor = (second @ along_first) @ third.T
    return restored


def _axis_weights(source: int, target: int, scale: float, offset: float) -> Float[Tensor, "target source"]:
    position = np.clip(np.arange(target) * scale + offset, 0, source - 1)
    lower = np.minimum(position.astype(np.int64), max(0, source - 2))
    upper = np.minimum(lower + 1, source - 1)
    fraction = position - lower
    weights = np.zeros((target, source), dtype=np.float32)
    rows = np.arange(target)
    np.add.at(weights, (rows, lower), 1 - fraction)
    np.add.at(weights, (rows, upper), fraction)
    return torch.from_numpy(weights)
