"""Measure a lesion: where it lies, how large it is, its HU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from dsmseg.synthesis.tumors.distance import long_axis


def measure(
    mask: Bool[NDArray[np.bool_], "x y z"],
    image: Float32[NDArray[np.float32], "x y z"],
    start: Sequence[int],
    spacing: Sequence[float],
) -> dict[str, Any]:
    """Measure a lesion.

    Args:
        mask: of the lesion, in a box of the scan. image: HU, in the same box.
        start: the box's first voxel in the scan.
        spacing: mm between voxels along each axis.
    """
    index = [line + first for line, first in zip(mask.nonzero(), start, strict=True)]
    points = np.stack([line * mm for line, mm in zip(index, spacing, strict=True)], axis=1).astype(np.float64)
    values = image[mask].astype(np.float64)
    center = points.sum(axis=0) / len(points)
    voxel = spacing[0] * spacing[1] * spacing[2]
    ball = (spacing[0] + spacing[1] + spacing[2]) / 3  # a voxel reaches beyond its center
    mean = float(values.sum() / values.size)
    return {
        "center_voxel": [round(float(at) / mm, 2) for at, mm in zip(center, spacing, strict=True)],
        "center_mm": [round(float(at), 2) for at in center],
        "diameter_mm": round(long_axis(points) + ball, 2),
        "voxels": len(points),
        "volume_ml": round(len(points) * voxel / 1000, 5),
        "hu_mean": round(mean, 1),
        "hu_deviation": round(float(np.sqrt(((values - mean) ** 2).sum() / values.size)), 1),
    }
