"""From the working grid back to the scan's own resolution: linear interpolation, then the best class of each voxel.

Both grids have the same axes, so interpolation is one small matrix an axis: ``W_x W_y W_z field``. The array of all
classes on the scan's grid (3 GB for 20 classes of a chest CT) never exists: classes are restored one by one, each
inside of its own box, slab by slab, and only the best score so far is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from dsmseg.volume import Grid
from dsmseg.volume.body import bounding_box

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
    def target_shape(self) -> tuple[int, int, int]:
        """Voxels of the target grid."""
        return self.x.shape[0], self.y.shape[0], self.z.shape[0]


def restore_field(
    field: Float[Tensor, "x y z"], interpolation: Interpolation
) -> Float[NDArray[np.float32], "target_x target_y target_z"]:
    """Interpolate one field to the target grid. The result lies in memory as scans do, x fastest."""
    restored = torch.empty(interpolation.target_shape[::-1])
    backwards = field.permute(2, 1, 0).contiguous()
    for slab in _slabs(restored.shape):
        restored[slab] = _interpolate(backwards, interpolation.z[slab], interpolation.y, interpolation.x)
    return restored.numpy().T


def restore_labels(
    probabilities: Float[Tensor, "class x y z"], ids: Sequence[int], interpolation: Interpolation
) -> UInt8[NDArray[np.uint8], "target_x target_y target_z"]:
    """Give each target voxel the class that is most probable there, where that is more than 0.5, else 0.

    Args:
        probabilities: one field a class on the source grid. Of two equal ones, the first class wins.
        ids: the classes' label values.
        interpolation: from the source grid to the target grid.

    Returns:
        A label map that lies in memory as scans do, x fastest.
    """
    classes = [
        box
        for identity, field in zip(ids, probabilities, strict=True)
        if (box := _ClassBox.of(identity, field, interpolation)) is not None
    ]
    labels = torch.zeros(interpolation.target_shape[::-1], dtype=torch.uint8)
    for slab in _slabs(labels.shape):
        _label_slab(labels[slab], slab, classes)
    return labels.numpy().T


@dataclass(frozen=True, slots=True)
class _ClassBox:
    """A class inside of the only source and target boxes where it can exceed 0.5. Axes are z, y, x."""

    identity: int
    field: Float[Tensor, "z y x"]
    weights: tuple[Float[Tensor, "target source"], ...]
    target: tuple[slice, ...]

    @classmethod
    def of(cls, identity: int, field: Float[Tensor, "x y z"], interpolation: Interpolation) -> "_ClassBox | None":
        """Cut a class down to where interpolation can exceed 0.5: less than a voxel from a source voxel that does."""
        box = bounding_box((field > 0.5).numpy())
        if box is None:
            return None
        source, target, weights = [], [], []
        for axis_weights, inside in zip((interpolation.x, interpolation.y, interpolation.z), box, strict=True):
            reached = np.flatnonzero((axis_weights[:, inside] > 0).any(dim=1).numpy())
            if reached.size == 0:
                return None
            source.append(slice(max(0, inside.start - 1), inside.stop + 1))
            target.append(slice(int(reached[0]), int(reached[-1]) + 1))
            weights.append(axis_weights[target[-1], source[-1]].contiguous())
        crop = field[source[0], source[1], source[2]].permute(2, 1, 0).contiguous()
        return cls(identity, crop, tuple(weights[::-1]), tuple(target[::-1]))


def _label_slab(labels: UInt8[Tensor, "slab y x"], slab: slice, classes: Sequence[_ClassBox]) -> None:
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


def _slabs(shape: Sequence[int]) -> list[slice]:
    """Cut the first axis into slabs of bounded size."""
    thickness = max(1, _SLAB_VOXELS // max(1, shape[1] * shape[2]))
    return [slice(start, min(start + thickness, shape[0])) for start in range(0, shape[0], thickness)]


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
