"""Figures of a segmentation: volume, density and completeness of each class, and a row for each lesion."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.taxonomy import ORGANS, StructureClass
from dsmseg.volume import Grid

_DIRECTIONS = np.deg2rad(np.arange(0, 180, 2))
_SLAB_VOXELS = 250_000  # What bincount converts stays in the cache.


@dataclass(frozen=True, slots=True)
class Lesion:
    """One connected tumor.

    Attributes:
        id: from 1, the largest first.
        name: the tumor's class.
        volume_ml: of all its voxels.
        centroid_mm: (x, y, z) in RAS.
        long_axis_mm: longest diameter in one axial slice of the array.
        mean_score: the network's mean probability over the lesion, 0..1.
        host: the organ that most of it lies in; None where no organ was found.
    """

    id: int
    name: str
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    long_axis_mm: float
    mean_score: float
    host: str | None

    def row(self) -> dict[str, Any]:
        """Give a JSON object with rounded numbers."""
        row = asdict(self)
        row["volume_ml"] = round(self.volume_ml, 4)
        row["centroid_mm"] = [round(value, 2) for value in self.centroid_mm]
        row["long_axis_mm"] = round(self.long_axis_mm, 2)
        row["mean_score"] = round(self.mean_score, 4)
        return row


def class_rows(
    labels: UInt8[NDArray[np.uint8], "x y z"],
    hu: Float[NDArray[np.float32], "x y z"],
    classes: Sequence[StructureClass],
    voxel_volume_ml: float,
) -> list[dict[str, Any]]:
    """Measure each class: a JSON object each, in the order of ``classes``.

    ``mean_hu`` and ``sd_hu`` are null for a class that is absent. ``truncated`` says that the class touches an end of
    the scan, so that its volume is a lower bound.
    """
    count, total, squares = _moments(labels, hu)
    cut = _touching_the_border(labels)
    rows = []
    for one in classes:
        voxels = int(count[one.id])
        mean = total[one.id] / voxels if voxels else 0.0
        variance = max(0.0, squares[one.id] / voxels - mean**2) if voxels else 0.0
        rows.append(
            {
                "id": one.id,
                "name": one.name,
                "voxels": voxels,
                "volume_ml": round(voxels * voxel_volume_ml, 4),
                "mean_hu": round(float(mean), 2) if voxels else None,
                "sd_hu": round(float(np.sqrt(variance)), 2) if voxels else None,
                "truncated": one.id in cut,
            }
        )
    return rows


def find_lesions(
    tumor_labels: UInt8[NDArray[np.uint8], "x y z"],
    organ_labels: UInt8[NDArray[np.uint8], "x y z"],
    tumors: Sequence[StructureClass],
    grid: Grid,
    scores: "LesionScores",
) -> list[Lesion]:
    """Take each class's voxels apart into lesions (voxels that share a face, edge or corner), largest first."""
    lesions = []
    boxes = ndimage.find_objects(tumor_labels.T)
    for tumor in tumors:
        backwards = boxes[tumor.id - 1] if tumor.id <= len(boxes) else None
        if backwards is None:
            continue
        box = backwards[::-1]
        parts, _ = ndimage.label(tumor_labels[box] == tumor.id, structure=np.ones((3, 3, 3)))
        for number, part_box in enumerate(ndimage.find_objects(parts), start=1):
            mask = parts[part_box] == number
            corner = [whole.start + part.start for whole, part in zip(box, part_box, strict=True)]
            voxels = np.argwhere(mask) + corner
            lesions.append(_measure(tumor, voxels, organ_labels, grid, scores))
    lesions.sort(key=lambda lesion: -lesion.volume_ml)
    return [Lesion(**{**asdict(lesion), "id": number}) for number, lesion in enumerate(lesions, start=1)]


@dataclass(frozen=True, slots=True)
class LesionScores:
    """Soft masks of the tumors on the working grid, by class name."""

    probabilities: Mapping[str, Float[NDArray[np.float32], "x y z"]]
    grid: Grid

    def mean(self, name: str, positions_mm: Float[NDArray[np.float64], "voxel 3"]) -> float:
        """Interpolate the mean probability of a class at ``positions_mm`` (RAS)."""
        to_voxel = np.linalg.inv(self.grid.affine)
        voxels = positions_mm @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        values = ndimage.map_coordinates(self.probabilities[name], voxels.T, order=1, mode="nearest")
        return float(values.mean(dtype=np.float64))


def _measure(
    tumor: StructureClass,
    voxels: NDArray[np.int64],
    organ_labels: NDArray[np.uint8],
    grid: Grid,
    scores: LesionScores,
) -> Lesion:
    positions = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    organs = np.bincount(organ_labels[tuple(voxels.T)], minlength=len(ORGANS) + 1)
    organs[0] = 0
    x, y, z = positions.mean(axis=0).tolist()
    return Lesion(
        id=0,
        name=tumor.name,
        volume_ml=len(voxels) * grid.voxel_volume_ml,
        centroid_mm=(x, y, z),
        long_axis_mm=_long_axis_mm(voxels, grid.spacing),
        mean_score=scores.mean(tumor.name, positions),
        host=ORGANS[int(organs.argmax()) - 1].name if organs.any() else None,
    )


def _long_axis_mm(voxels: NDArray[np.int64], spacing: Sequence[float]) -> float:
    """Give the largest extent of any axial slice over all directions, between voxel middles, plus a voxel."""
    order = np.argsort(voxels[:, 2], kind="stable")
    slices = np.split(voxels[order, :2], np.flatnonzero(np.diff(voxels[order, 2])) + 1)
    directions = np.stack([np.cos(_DIRECTIONS), np.sin(_DIRECTIONS)])
    extent = max(np.ptp((one * spacing[:2]) @ directions, axis=0).max() for one in slices)
    return float(extent) + (spacing[0] + spacing[1]) / 2


def _moments(
    labels: NDArray[np.uint8], hu: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    count = np.zeros(256, dtype=np.int64)
    total, squares = np.zeros(256), np.zeros(256)
    thickness = max(1, _SLAB_VOXELS // max(1, labels[..., 0].size))
    for start in range(0, labels.shape[2], thickness):
        # Scans lie in memory with x fastest, so the transposed arrays are read in one go.
        slab = labels.T[start : start + thickness]
        inside = slab > 0
        found = slab[inside]
        values = hu.T[start : start + thickness][inside].astype(np.float64)
        count += np.bincount(found, minlength=256)
        total += np.bincount(found, values, minlength=256)
        squares += np.bincount(found, values**2, minlength=256)
    return count, total, squares


def _touching_the_border(labels: NDArray[np.uint8]) -> set[int]:
    faces = [np.moveaxis(labels, axis, 0)[end] for axis in range(3) for end in (0, -1)]
    count = np.sum([np.bincount(face.ravel(), minlength=256) for face in faces], axis=0)
    return {int(identity) for identity in np.flatnonzero(count) if identity}
