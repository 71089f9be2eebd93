"""Figures of a segmentation: volume, density and completeness of each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from dsmseg.taxonomy import StructureClass

_SLAB_VOXELS = 250_000  # What bincount converts stays in the cache.


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
