"""Surfaces of tumors: fields in mm that are negative inside, about the distance to the surface."""

import numpy as np
from jaxtyping import Bool, Float64
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.compilation import compiled
from dsmseg.synthesis.noise import seed_of, smooth_noise
from dsmseg.synthesis.tumors.draws import cross, direction, length_of, normal, rotation, uniform
from dsmseg.synthesis.tumors.grid import Box, Point
from dsmseg.synthesis.tumors.kinds import Variant

Field = Float64[NDArray[np.float64], "x y z"]

_ITERATIONS = 30  # of the power method, for an axis
_FLATTEST = 0.3  # shortest axis by the longest
_LOBED = ("lobulated", "infiltrating")


def mass(box: Box, center: Point, radius: float, variant: Variant, axis: Point | None, random: Generator) -> Field:
    """Give the surface of a mass: an ellipsoid or a bunch of lobes, roughened, with spicules if it has them.

    ``radius`` in mm is half its long axis. ``axis`` is a direction along which it spreads, drawn if None.
    """
    short = min(max(variant.aspect[0] + variant.aspect[1] * normal(random), _FLATTEST), 0.95)
    middle = uniform(random, short, 1.0)
    if variant.shape == "cord":
        short = middle = variant.aspect[0]
    frame = rotation(random)
    if axis is not None:
        side = cross(axis, frame[0])
        side = side / max(length_of(side), 1e-6)
        frame = np.stack([axis, side, cross(axis, side)])
    scaled = frame / (radius * np.array([1.0, middle, short]))[:, None]
    lobes = _lobes(variant, random)
    spikes = _spicules(radius, random) if variant.shape == "spiculated" else np.empty((0, 6))
    x, y, z = (line.ravel() for line in box.offsets(center))
    mean = radius * (1.0 + middle + short) / 3.0
    field: Field = _blob(x, y, z, scaled, lobes, spikes, mean)
    return field - mean * variant.irregular * _roughness(box, mean, random)


def wall(
    box: Box, host: Bool[NDArray[np.bool_], "x y z"], depths: Field, center: Point, length: float, thickness: float,
    annular: bool, random: Generator,
) -> Field:  # fmt: skip
    """Give the surface of a thickening of the host's wall, thickest at ``center`` and ``length`` mm long.

    ``depths`` are mm from the host's surface inwards. An annular one goes around the lumen.
    """
    radii = box.radii(center)
    lateral = radii
    if annular:
        axis = local_axis(box, host, center, 0.6 * length)
        x, y, z = box.offsets(center)
        lateral = np.abs(x * axis[0] + y * axis[1] + z * axis[2])
        lateral = np.maximum(lateral, 0.7 * radii)
    part = lateral / (0.5 * length) * (1.0 + 0.16 * _roughness(box, 0.5 * length, random))
    height = thickness * (1.0 - part * part)
    height = np.maximum(height, -thickness) * (1.0 + 0.2 * _roughness(box, thickness, random))
    return np.maximum(depths - height, 0.5 * length * (part - 1.0))


def thrombus(
    box: Box, host: Bool[NDArray[np.bool_], "x y z"], depths: Field, center: Point, length: float, occlusive: bool,
    random: Generator,
) -> Field:  # fmt: skip
    """Give the surface of a thrombus: the vessel's lumen over a ``length`` in mm, or the part of it at one side."""
    radii = box.radii(center)
    caliber = float(depths.max(where=host & (radii < 0.5 * length), initial=0.5 * min(box.spacing)))
    field = radii - 0.5 * length * (1.0 + 0.12 * _roughness(box, caliber, random))
    if occlusive:
        return field
    axis = local_axis(box, host, center, max(0.5 * length, 1.5 * caliber))
    side = cross(axis, direction(random))
    side = side / max(length_of(side), 1e-6)
    x, y, z = box.offsets(center)
    across = x * side[0] + y * side[1] + z * side[2]
    level = caliber * (uniform(random, -0.1, 0.45) + 0.25 * _roughness(box, caliber, random))
    cut: Field = across - level
    return np.maximum(field, cut)


def local_axis(box: Box, mask: Bool[NDArray[np.bool_], "x y z"], center: Point, reach: float) -> Point:
    """Give the direction along which a mask extends most within ``reach`` mm of ``center`` (power method)."""
    near = mask & (box.radii(center) <= max(reach, 2.0 * max(box.spacing)))
    places = [line.astype(np.float64) * step for line, step in zip(near.nonzero(), box.spacing, strict=True)]
    if places[0].size < 2:
        return np.array([0.0, 0.0, 1.0])
    places = [line - line.sum() / line.size for line in places]
    spread = [[float((a * b).sum()) / a.size for b in places] for a in places]
    vector = np.array([0.31, 0.37, 0.87])
    for _ in range(_ITERATIONS):
        vector = np.array([sum(row[n] * float(vector[n]) for n in range(3)) for row in spread])
        vector = vector / max(length_of(vector), 1e-12)
    return vector


def _roughness(box: Box, size: float, random: Generator) -> Field:
    """Give noise of deviation 1 with bumps of the size of a lesion, and finer ones."""
    fields = []
    for scale in (0.55 * size, 0.22 * size):
        finest = 0.7 * min(box.spacing)
        seed = seed_of(random)
        fields.append(smooth_noise(box.shape, box.spacing, box.origin, max(scale, finest), seed).astype(np.float64))
    return 0.85 * fields[0] + 0.4 * fields[1]


def _lobes(variant: Variant, random: Generator) -> Float64[NDArray[np.float64], "lobe 4"]:
    """Draw spheres (center and radius) whose union fills about the unit ball and reaches its surface."""
    if variant.shape not in _LOBED:
        return np.array([[0.0, 0.0, 0.0, 1.0]])
    rows = [[0.0, 0.0, 0.0, uniform(random, 0.66, 0.8)]]
    for _ in range(int(random.integers(4, 9))):
        size = uniform(random, 0.3, 0.6)
        rows.append([*(direction(random) * uniform(random, 0.86, 1.0) * (1.0 - size)), size])
    rows.append([1.0 - rows[1][3], 0.0, 0.0, rows[1][3]])
    rows.append([rows[2][3] - 1.0, 0.0, 0.0, rows[2][3]])
    return np.array(rows)


def _spicules(radius: float, random: Generator) -> Float64[NDArray[np.float64], "spicule 6"]:
    """Draw spicules: direction, mm from the center to the tip, mm of half width at their root, mm from there.

    They fade: at the tip the half width is below zero, where a voxel holds but a little of them.
    """
    rows = []
    for _ in range(int(random.integers(18, 44))):
        width = min(uniform(random, 0.1, 0.24) * radius, 2.4)
        root = 0.6 * radius
        tip = radius + min(uniform(random, 0.15, 1.0) * radius, 11.0)
        rows.append([*direction(random), tip, width, root])
    return np.array(rows)


@compiled()
def _blob(xs, ys, zs, frame, lobes, spikes, size):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202  # pragma: no cover
    out = np.empty((xs.shape[0], ys.shape[0], zs.shape[0]), np.float64)
    soft = 0.22
    for i in range(xs.shape[0]):
        for j in range(ys.shape[0]):
            for k in range(zs.shape[0]):
                x, y, z = xs[i], ys[j], zs[k]
                u = (frame[0, 0] * x + frame[0, 1] * y) + frame[0, 2] * z
                v = (frame[1, 0] * x + frame[1, 1] * y) + frame[1, 2] * z
                w = (frame[2, 0] * x + frame[2, 1] * y) + frame[2, 2] * z
                value = np.sqrt((u * u + v * v) + w * w) - lobes[0, 3]
                for n in range(1, lobes.shape[0]):
                    a, b, c = u - lobes[n, 0], v - lobes[n, 1], w - lobes[n, 2]
                    other = np.sqrt((a * a + b * b) + c * c) - lobes[n, 3]
                    near = max(soft - abs(value - other), 0.0) / soft
                    value = min(value, other) - near * near * soft * 0.25
                value *= size
                for n in range(spikes.shape[0] if value > -0.4 * size else 0):
                    along = (x * spikes[n, 0] + y * spikes[n, 1]) + z * spikes[n, 2]
                    tip, width, root = spikes[n, 3], spikes[n, 4], spikes[n, 5]
                    if along > root and along < tip:
                        off = ((x * x + y * y) + z * z) - along * along
                        part = (along - root) / (tip - root)
                        value = min(value, np.sqrt(max(off, 0.0)) - width + (width + 0.7) * (part * part))
                out[i, j, k] = value
    return out
