"""The mass effect: what surrounds a tumor is pushed away from it, the same in the image and in any label map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped
from numpy.typing import NDArray

from dsmseg.compilation import compiled
from dsmseg.synthesis.tumors.grid import Box, Point

Labels = Shaped[NDArray[Any], "x y z"]


@dataclass(frozen=True, slots=True)
class Push:
    """The shift around one lesion: a voxel of ``box`` comes from ``offset`` voxels beyond it on the old grid."""

    box: Box
    offset: Float32[NDArray[np.float32], "axis x y z"]


@dataclass(frozen=True, slots=True)
class Displacement:
    """The mass effect of all lesions, one after the other. Nothing moves outside their boxes."""

    pushes: tuple[Push, ...]

    def pushed(self, labels: Labels) -> Labels:
        """Give a label map or mask of the whole grid after the mass effect, by the nearest voxel."""
        out = labels.copy()
        for push in self.pushes:
            out[push.box.slices] = _nearest(out, push)
        return out

    def push_layers(self, layers: Bool[NDArray[np.bool_], "layer x y z"]) -> None:
        """Move masks of the whole grid, in place."""
        for push in self.pushes:
            index = _sources(push, layers.shape[1:])
            for layer in layers:
                part = layer[push.box.slices]
                if part.any():  # nothing comes from outside of the box
                    part[...] = layer[index]

    def pushed_image(self, image: Float32[NDArray[np.float32], "x y z"]) -> Float32[NDArray[np.float32], "x y z"]:
        """Give an image of the whole grid after the mass effect, interpolated linearly."""
        out = image.copy()
        for push in self.pushes:
            part = _linear(out, np.array(push.box.start), push.offset)
            out[push.box.slices] = part
        return out


def push_around(
    box: Box, center: Point, surface: Float64[NDArray[np.float64], "x y z"], shift: float, reach: float
) -> Push:
    """Give the shift around a lesion: ``shift`` mm at its surface, away from ``center``, none ``reach`` mm from there.

    ``surface`` is the distance to the lesion's surface in mm, negative inside; there nothing moves.
    """
    x, y, z = (line.ravel() for line in box.offsets(center))
    offset = _radial(x, y, z, surface, shift, max(reach, 3.0 * shift), *box.spacing)
    return Push(box, offset)


def _nearest(labels: Labels, push: Push) -> Labels:
    found: Labels = labels[_sources(push, labels.shape)]
    return found


def _sources(push: Push, shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Give where each voxel of a push's box comes from, as an index into a grid of ``shape``."""
    index = []
    for axis in range(3):
        line = np.arange(push.box.start[axis], push.box.stop[axis])
        line = line.reshape([-1 if other == axis else 1 for other in range(3)])
        index.append(np.clip(line + np.rint(push.offset[axis]).astype(np.int64), 0, shape[axis] - 1))
    return index[0], index[1], index[2]


@compiled()
def _radial(xs, ys, zs, surface, shift, reach, sx, sy, sz):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202  # pragma: no cover
    out = np.zeros((3, xs.shape[0], ys.shape[0], zs.shape[0]), np.float32)
    for i in range(xs.shape[0]):
        for j in range(ys.shape[0]):
            for k in range(zs.shape[0]):
                away = surface[i, j, k]
                if away <= 0.0 or away >= reach:
                    continue
                x, y, z = xs[i], ys[j], zs[k]
                radius = np.sqrt((x * x + y * y) + z * z)
                fade = 1.0 - away / reach
                part = min(shift * (fade * fade), radius) / max(radius, 1e-6)
                out[0, i, j, k] = -x * part / sx
                out[1, i, j, k] = -y * part / sy
                out[2, i, j, k] = -z * part / sz
    return out


@compiled()
def _linear(image, start, offset):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202  # pragma: no cover
    _, nx, ny, nz = offset.shape
    out = np.empty((nx, ny, nz), np.float32)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                a, b, c = start[0] + i, start[1] + j, start[2] + k
                if offset[0, i, j, k] == 0.0 and offset[1, i, j, k] == 0.0 and offset[2, i, j, k] == 0.0:
                    out[i, j, k] = image[a, b, c]
                    continue
                x = min(max(a + np.float64(offset[0, i, j, k]), 0.0), image.shape[0] - 1.0)
                y = min(max(b + np.float64(offset[1, i, j, k]), 0.0), image.shape[1] - 1.0)
                z = min(max(c + np.float64(offset[2, i, j, k]), 0.0), image.shape[2] - 1.0)
                a, b, c = int(x), int(y), int(z)
                d, e, f = min(a + 1, image.shape[0] - 1), min(b + 1, image.shape[1] - 1), min(c + 1, image.shape[2] - 1)
                u, v, w = x - a, y - b, z - c
                near = (image[a, b, c] * (1 - w) + image[a, b, f] * w) * (1 - v)
                near += (image[a, e, c] * (1 - w) + image[a, e, f] * w) * v
                far = (image[d, b, c] * (1 - w) + image[d, b, f] * w) * (1 - v)
                far += (image[d, e, c] * (1 - w) + image[d, e, f] * w) * v
                out[i, j, k] = near * (1 - u) + far * u
    return out
