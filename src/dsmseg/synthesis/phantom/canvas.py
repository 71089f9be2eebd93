"""A grid of voxels on which a body is drawn, shape by shape: blobs and tubes that know what they may replace."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8, UInt8
from numpy.typing import ArrayLike, NDArray

from dsmseg.synthesis import kernels
from dsmseg.synthesis.noise import Vector, smooth_noise

_FAR = np.float32(1e6)
_LUMP_SCALE = 22.0  # mm between the nodes of the field that makes surfaces uneven
_BEND_SCALE = 55.0  # mm between the nodes of the field that bends the whole body


@dataclass(frozen=True, slots=True)
class Frame:
    """Voxels of a scan: their number, the mm between them, the place of the first one in mm (RAS)."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Pose:
    """How a body lies in the scan: place in the body = matrix @ (place in the scan) + a smooth bend (mm, one sigma)."""

    matrix: NDArray[np.float64]
    bend: float
    seed: int


class Canvas:
    """What has been drawn.

    place: mm in the body's own frame of each voxel, (3, x, y, z). structures: ids. depth: mm below the surface of the
    structure that was drawn there. height: place within a tube or blob from -100 (posterior) to 100 (anterior).
    lumps: the field that makes surfaces uneven. wall, below: mm inside the wall of the cavity, mm below the diaphragm;
    the trunk sets them.
    """

    def __init__(self, frame: Frame, pose: Pose) -> None:
        self.frame, self.pose = frame, pose
        self.place: Float32[NDArray[np.float32], "3 x y z"] = _places(frame, pose)
        self.structures: UInt8[NDArray[np.uint8], "x y z"] = np.zeros(frame.shape, np.uint8)
        self.depth = np.zeros(frame.shape, np.float32)
        self.height: Int8[NDArray[np.int8], "x y z"] = np.zeros(frame.shape, np.int8)
        self.lumps = smooth_noise(frame.shape, frame.spacing, frame.origin, _LUMP_SCALE, pose.seed + 7)
        self.wall = np.full(frame.shape, _FAR)
        self.below = np.full(frame.shape, _FAR)
        self._spheres = kernels.blocks(self.place)  # around each block of voxels: middle and radius, mm in the body
        self._to_scan = np.linalg.inv(pose.matrix)

    def blob(
        self,
        structure: int,
        center: Vector,
        radii: Vector,
        *,
        over: NDArray[np.bool_],
        turn: NDArray[np.float64] | None = None,
        planes: ArrayLike = (),
        wall: float = -1e9,
        below: float = -1e9,
        lumpy: float = 0.0,
    ) -> None:
        """Draw an ellipsoid that gives way to walls and planes.

        Args:
            structure: id to draw. over: of each id whether it may be replaced.
            center, radii: mm in the body. turn: rotation of its axes.
            planes: rows (nx, ny, nz, d): only n . place <= d is drawn.
            wall, below: least mm inside the wall of the cavity, and below the diaphragm.
            lumpy: mm by which the surface is uneven.
        """
        axes = np.eye(3) if turn is None else turn
        radii_, center_ = np.asarray(radii, np.float64), np.asarray(center, np.float64)
        reach = np.sqrt(((axes * radii_) ** 2).sum(axis=1)) + 3 * lumpy
        boxes, seen = self._boxes((center_ - reach)[None], (center_ + reach)[None])
        if not seen[0]:
            return
        kernels.blob(
            self.place, self.structures, self.depth, self.height, self.lumps, self.wall, self.below, boxes[0],
            center_.astype(np.float32), (axes / radii_).T.astype(np.float32).copy(), np.float32(radii_[1]),
            np.asarray(planes, np.float32).reshape(-1, 4), np.float32(wall), np.float32(below), np.float32(lumpy),
            structure, over,
        )  # fmt: skip

    def tube(
        self,
        structure: int,
        points: ArrayLike,
        radii: ArrayLike,
        *,
        over: NDArray[np.bool_],
        squeeze: Vector = (1.0, 1.0, 1.0),
        wall: float = -1e9,
        lumpy: float = 0.0,
    ) -> None:
        """Draw a tube through points. Where it meets its own kind the greater depth is kept: each loop has a wall.

        Args:
            structure: id to draw. over: of each id whether it may be replaced.
            points: (n, 3), mm in the body. radii: one, or one a point, mm.
            squeeze: along each axis, how much thinner (above 1) or wider (below 1) than ``radii`` it is.
            wall: least mm inside the wall of the cavity. lumpy: mm by which the surface is uneven.
        """
        line = np.asarray(points, np.float32).reshape(-1, 3)
        thick = np.broadcast_to(np.asarray(radii, np.float32), len(line))
        ends = np.stack([line[:-1], line[1:]], axis=1)
        self.segments(
            structure, ends, np.stack([thick[:-1], thick[1:]], axis=1),
            over=over, squeeze=squeeze, wall=wall, lumpy=lumpy,
        )  # fmt: skip

    def segments(
        self,
        structure: int,
        ends: NDArray[np.floating],
        radii: NDArray[np.floating],
        *,
        over: NDArray[np.bool_],
        squeeze: Vector = (1.0, 1.0, 1.0),
        wall: float = -1e9,
        lumpy: float = 0.0,
    ) -> None:
        """Draw pieces of tubes: ``ends`` (n, 2, 3) in mm, ``radii`` (n, 2); all else as for a tube."""
        squeeze_ = np.asarray(squeeze, np.float32)
        reach = radii.max(axis=1)[:, None] / squeeze_ + 3 * lumpy
        boxes, seen = self._boxes(ends.min(axis=1) - reach, ends.max(axis=1) + reach)
        if not seen.any():
            return
        kernels.segments(
            self.place, self.structures, self.depth, self.height, self.lumps, self.wall, self._spheres, boxes[seen],
            ends[seen].astype(np.float32), radii[seen].astype(np.float32), squeeze_,
            np.float32(wall), np.float32(lumpy), structure, over,
        )  # fmt: skip

    def _boxes(
        self, low: NDArray[np.floating], high: NDArray[np.floating]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Give the voxels that may lie between two corners (n, 3) in the body, and whether there are any.

        A box is the first voxel and the end along each axis, (n, 6).
        """
        center = (low + high) / 2 @ self._to_scan.T
        reach = ((high - low) / 2 + 3.2 * self.pose.bend) @ np.abs(self._to_scan).T
        first = np.floor((center - reach - self.frame.origin) / self.frame.spacing).astype(np.int64)
        end = np.ceil((center + reach - self.frame.origin) / self.frame.spacing).astype(np.int64) + 1
        first, end = np.maximum(first, 0), np.minimum(end, self.frame.shape)
        return np.stack([first, end], axis=-1).reshape(-1, 6), (first < end).all(axis=-1)


def replacing(ids: Iterable[int]) -> NDArray[np.bool_]:
    """Give a table of 256 ids: may it be replaced?"""
    table = np.zeros(256, np.bool_)
    table[list(ids)] = True
    return table


def smooth_line(points: ArrayLike, pieces: int = 6) -> NDArray[np.float64]:
    """Give a Catmull-Rom line through points (n, d), with ``pieces`` points a stretch."""
    line = np.asarray(points, np.float64)
    padded = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
    t = (np.arange(pieces) / pieces)[:, None]
    parts = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        parts.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return np.concatenate([*parts, line[-1:]])


def turned(about: str, degrees: float) -> NDArray[np.float64]:
    """Give the rotation about an axis of the body: x (right), y (anterior) or z (superior)."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[about]
    matrix = np.eye(3)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def _places(frame: Frame, pose: Pose) -> NDArray[np.float32]:
    axes = [
        (start + step * np.arange(count)).astype(np.float32)
        for start, step, count in zip(frame.origin, frame.spacing, frame.shape, strict=True)
    ]
    out = np.empty((3, *frame.shape), np.float32)
    for axis, row in enumerate(pose.matrix.astype(np.float32)):
        bend = smooth_noise(frame.shape, frame.spacing, frame.origin, _BEND_SCALE, pose.seed + axis)
        flat = (row[0] * axes[0])[:, None, None] + (row[1] * axes[1])[None, :, None] + (row[2] * axes[2])[None, None, :]
        out[axis] = flat + np.float32(pose.bend) * bend
    return out
