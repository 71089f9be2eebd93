"""Lesions: each connected tumor with its size, density, host, score, and what the scan's edge does to it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.checkpoint import OperatingPoint
from dsmseg.inference.boxes import boxes_of
from dsmseg.model.kernels import in_threads
from dsmseg.taxonomy import ORGANS, StructureClass
from dsmseg.volume import Volume

_DIRECTIONS = np.deg2rad(np.arange(0, 180, 2))


@dataclass(frozen=True, slots=True)
class Lesion:
    """One connected tumor. Lengths are in mm and lie in axial slices of the array, as RECIST 1.1 measures.

    Attributes:
        id: from 1, the largest first.
        name: the tumor's class.
        volume_ml: of all its voxels.
        centroid_mm: (x, y, z) in RAS.
        long_axis_mm: longest diameter in one slice.
        short_axis_mm: longest diameter that is perpendicular to it in that slice.
        mean_hu, sd_hu: of all its voxels.
        mean_score: the network's mean probability over the lesion, 0..1.
        host: the organ that most of it lies in; None where no organ was found.
        edge_mm: from its outermost voxel to the nearest end of the scan; 0 where it touches one.
        truncated: it touches an end of the scan, so that volume and axes are lower bounds.
    """

    id: int
    name: str
    volume_ml: float
    centroid_mm: tuple[float, float, float]
    long_axis_mm: float
    short_axis_mm: float
    mean_hu: float
    sd_hu: float
    mean_score: float
    host: str | None
    edge_mm: float
    truncated: bool

    def row(self) -> dict[str, Any]:
        """Give a JSON object with rounded numbers."""
        row = asdict(self)
        row["volume_ml"] = round(self.volume_ml, 4)
        row["centroid_mm"] = [round(value, 2) for value in self.centroid_mm]
        row["mean_score"] = round(self.mean_score, 4)
        for name in ("long_axis_mm", "short_axis_mm", "mean_hu", "sd_hu", "edge_mm"):
            row[name] = round(row[name], 2)
        return row


def drop_weak(
    tumor_labels: UInt8[NDArray[np.uint8], "x y z"],
    levels: UInt8[NDArray[np.uint8], "x y z"],
    tumors: Sequence[StructureClass],
    points: Mapping[int, OperatingPoint],
    voxel_ml: float,
) -> None:
    """Erase, in place, each lesion that is smaller than its class's least volume, or below its least mean score.

    Args:
        tumor_labels: ids of classes. levels: the probabilities of the labels in steps of 1/255.
        tumors: the classes. points: of these, by id.
        voxel_ml: volume of a voxel.
    """
    boxes = [place for place in _boxes(tumor_labels, tumors) if points[place[0].id].filters]

    def drop(first: int, last: int) -> None:
        for tumor, box in boxes[first:last]:
            parts, point = _parts(tumor_labels, tumor, box), points[tumor.id]
            inside = parts > 0
            voxels = np.bincount(parts[inside])
            scores = np.bincount(parts[inside], levels[box][inside]) / np.maximum(1, 255 * voxels)
            dropped = (voxels * voxel_ml < point.least_volume_ml) | (scores < point.least_score)
            dropped[0] = False
            tumor_labels[box][dropped[parts]] = 0

    in_threads(drop, len(boxes))


def find_lesions(
    tumor_labels: UInt8[NDArray[np.uint8], "x y z"],
    organ_labels: UInt8[NDArray[np.uint8], "x y z"],
    tumors: Sequence[StructureClass],
    volume: Volume,
    levels: UInt8[NDArray[np.uint8], "x y z"],
) -> list[Lesion]:
    """Take each class's voxels apart into lesions (voxels that share a face, edge or corner), largest first.

    ``levels`` are the probabilities of the labels in steps of 1/255.
    """
    boxes = _boxes(tumor_labels, tumors)
    of_classes: list[list[tuple[int, Lesion]]] = [[] for _ in boxes]

    def measure(first: int, last: int) -> None:
        for (tumor, box), found in zip(boxes[first:last], of_classes[first:last], strict=True):
            parts = _parts(tumor_labels, tumor, box)
            for number, part in enumerate(ndimage.find_objects(parts), start=1):
                corner = [whole.start + side.start for whole, side in zip(box, part, strict=True)]
                voxels = (
                    np.argwhere(parts[part] == number) + corner
                )  # of one lesion at a time: that is 50 bytes a voxel
                found.append((len(voxels), _measure(tumor, voxels, organ_labels, volume, levels)))

    in_threads(measure, len(boxes))
    lesions = sorted(chain.from_iterable(of_classes), key=lambda lesion: -lesion[0])
    return [replace(lesion, id=number) for number, (_, lesion) in enumerate(lesions, start=1)]


def lesion_labels(
    tumor_labels: UInt8[NDArray[np.uint8], "x y z"], tumors: Sequence[StructureClass]
) -> UInt16[NDArray[np.uint16], "x y z"]:
    """Label each lesion by its id, as `find_lesions` gives it. There are at most 65535."""
    boxes = _boxes(tumor_labels, tumors)
    sizes = [np.bincount(_parts(tumor_labels, *place).ravel())[1:] for place in boxes]
    order = np.argsort(-np.concatenate([*sizes, np.zeros(0, dtype=np.int64)]), kind="stable")
    ids = np.zeros(len(order), dtype=np.uint16)
    ids[order] = np.arange(1, len(order) + 1)
    labels = np.zeros(tumor_labels.shape[::-1], dtype=np.uint16).T
    first = 0
    for (tumor, box), of_class in zip(boxes, sizes, strict=True):
        parts = _parts(tumor_labels, tumor, box)
        labels[box] += np.append(np.uint16(0), ids[first : first + len(of_class)])[parts]
        first += len(of_class)
    return labels


def _boxes(
    tumor_labels: NDArray[np.uint8], tumors: Sequence[StructureClass]
) -> list[tuple[StructureClass, tuple[slice, ...]]]:
    """Give each class that is there, and the box around it."""
    boxes = boxes_of(tumor_labels.T)
    return [(tumor, boxes[tumor.id][::-1]) for tumor in tumors if tumor.id in boxes]


def _parts(tumor_labels: NDArray[np.uint8], tumor: StructureClass, box: tuple[slice, ...]) -> NDArray[np.integer[Any]]:
    """Number the lesions of a class in its box, from 1."""
    parts: NDArray[np.integer[Any]] = ndimage.label(tumor_labels[box] == tumor.id, structure=np.ones((3, 3, 3)))[0]
    return parts


def _measure(
    tumor: StructureClass,
    voxels: NDArray[np.int64],
    organ_labels: NDArray[np.uint8],
    volume: Volume,
    levels: NDArray[np.uint8],
) -> Lesion:
    grid, hu = volume.grid, volume.array[tuple(voxels.T)]
    positions = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    organs = np.bincount(organ_labels[tuple(voxels.T)], minlength=len(ORGANS) + 1)
    organs[0] = 0
    x, y, z = positions.mean(axis=0).tolist()
    long_axis, short_axis = _axes_mm(voxels, grid.spacing)
    beyond = np.minimum(voxels.min(axis=0), np.array(grid.shape) - 1 - voxels.max(axis=0))
    return Lesion(
        id=0,
        name=tumor.name,
        volume_ml=len(voxels) * grid.voxel_volume_ml,
        centroid_mm=(x, y, z),
        long_axis_mm=long_axis,
        short_axis_mm=short_axis,
        mean_hu=float(hu.mean(dtype=np.float64)),
        sd_hu=float(hu.std(dtype=np.float64)),
        mean_score=float(levels[tuple(voxels.T)].mean(dtype=np.float64)) / 255,
        host=ORGANS[int(organs.argmax()) - 1].name if organs.any() else None,
        edge_mm=float((beyond * grid.spacing).min()),
        truncated=bool((beyond == 0).any()),
    )


def _axes_mm(voxels: NDArray[np.int64], spacing: Sequence[float]) -> tuple[float, float]:
    """Give the long axis, the largest extent of any axial slice over all directions, and the short one across it.

    Both are between the middles of voxels, plus a voxel.
    """
    order = np.argsort(voxels[:, 2], kind="stable")
    slices = np.split(voxels[order, :2], np.flatnonzero(np.diff(voxels[order, 2])) + 1)
    directions = np.stack([np.cos(_DIRECTIONS), np.sin(_DIRECTIONS)])
    extents = [np.ptp((one * spacing[:2]) @ directions, axis=0) for one in slices]
    largest = max(range(len(slices)), key=lambda index: extents[index].max())
    angle = _DIRECTIONS[extents[largest].argmax()]
    voxel = (spacing[0] + spacing[1]) / 2
    across = _chord(slices[largest] * spacing[:2], float(angle), voxel)
    return float(extents[largest].max()) + voxel, across + voxel


def _chord(points: NDArray[np.floating[Any]], angle: float, width: float) -> float:
    """Give the longest extent across a direction, among strips of one ``width`` along it."""
    along = points @ [np.cos(angle), np.sin(angle)]
    across = points @ [-np.sin(angle), np.cos(angle)]
    strips = np.floor((along - along.min()) / width).astype(np.int64)
    numbers = np.arange(strips.max() + 1)
    highest = ndimage.maximum(across, strips, numbers)
    lowest = ndimage.minimum(across, strips, numbers)
    filled = np.isin(numbers, strips)
    return float((highest - lowest)[filled].max())
