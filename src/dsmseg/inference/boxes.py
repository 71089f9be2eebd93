"""Boxes around labels, and slabs: how loops over all voxels are shared out to threads."""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray

from dsmseg.inference import kernels
from dsmseg.model.kernels import in_threads

Box = tuple[slice, slice, slice]
WHOLE: Box = slice(None), slice(None), slice(None)
Boxes = Int64[NDArray[np.int64], "box 6"]

_SLAB_VOXELS = 1_000_000  # 4 MB of float32 stay in the cache.
_LABELS = 256
_FAR = 1 << 40  # voxels
EVERYWHERE = (0, _FAR) * 3


def in_slabs(work: Callable[[slice], None], shape: Sequence[int]) -> None:
    """Do ``work`` on slabs of the first axis, of bounded size, in threads."""
    thickness = max(1, _SLAB_VOXELS // max(1, shape[1] * shape[2]))

    def take(first: int, last: int) -> None:
        for number in range(first, last):
            work(slice(number * thickness, min((number + 1) * thickness, shape[0])))

    in_threads(take, ceil(shape[0] / thickness))


def nowhere(count: int) -> Boxes:
    """Give so many boxes that hold nothing, and become any box by widening: first and end along three axes."""
    return np.tile(np.array([_FAR, 0]), (count, 3))


def shifted(boxes: Boxes, by: Sequence[int]) -> Boxes:
    """Move boxes along three axes; those that hold nothing stay."""
    moved: Boxes = np.where(boxes[:, 1:2] > 0, boxes + np.repeat(by, 2), boxes)
    return moved


def union(boxes: Sequence[Boxes]) -> Boxes:
    """Give the boxes, each around those in its place."""
    stacked = np.stack(boxes)
    both: Boxes = np.where(np.arange(6) % 2 == 0, stacked.min(axis=0), stacked.max(axis=0))
    return both


def as_slices(boxes: Boxes) -> list[Box | None]:
    """Give slices for each box; None for one that holds nothing."""
    return [
        (slice(row[0], row[1]), slice(row[2], row[3]), slice(row[4], row[5])) if row[1] else None
        for row in boxes.tolist()
    ]


def boxes_of(labels: UInt8[NDArray[np.uint8], "z y x"]) -> dict[int, Box]:
    """Give the smallest box around each label that is there, except 0."""
    found = [nowhere(_LABELS)]

    def look(slab: slice) -> None:
        boxes = nowhere(_LABELS)
        kernels.label_boxes(labels[slab], slab.start, boxes)
        found.append(boxes)

    in_slabs(look, labels.shape)
    return {label: box for label, box in enumerate(as_slices(union(found))) if box is not None}
