"""What weights find in a scan whichever way they look at it, and where they find now this and now that."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from dsmseg.checkpoint import Card
from dsmseg.inference import Segmenter
from dsmseg.volume import Volume

Labels = UInt8[NDArray[np.uint8], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]

_BORDER_MM = 5.0
"""Where looks differ by less than this across, they draw the same border, each a little elsewhere. Our choice: less
than two voxels of 3 mm."""


@dataclass(frozen=True, slots=True)
class Look:
    """One way to look at a scan. spacing: by the weights' own; overlap: of windows, which then lie elsewhere."""

    spacing: float
    overlap: float


LOOKS = (Look(1.0, 0.25), Look(0.87, 0.35), Look(1.15, 0.45))
"""Sizes that augmentation in training holds too. A body is not looked at in a mirror: its organs would lie where no
person's do, and what is found there tells nothing of what was found here."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all looks together say of a scan's organs.

    labels: taxonomy ids that most looks give; of equal ones, the first look's. unsure: regions, not borders, of which
    looks differ. agreeing: by id, the mean Dice of each look with ``labels``.
    """

    labels: Labels
    unsure: Mask
    agreeing: dict[int, float]


def look_at(
    network: nn.Module, card: Card, volume: Volume, looks: Sequence[Look], device: str = "auto"
) -> list[Labels]:
    """Give the organs that each look finds, on the scan's grid.

    Raises:
        InputError: memory runs out.
    """
    found = []
    for look in looks:
        x, y, z = (look.spacing * step for step in card.spacing_mm)
        seen = card.model_copy(update={"spacing_mm": (x, y, z)})
        segmenter = Segmenter(network, seen, device=device, overlap=look.overlap, classes=card.organs)
        found.append(segmenter.segment(volume).organs)
    return found


def agree(found: Sequence[Labels], spacing_mm: Sequence[float]) -> Agreement:
    """Put together what several looks have found.

    Args:
        found: labels of each look, on one grid.
        spacing_mm: of that grid.
    """
    labels = found[0].copy()
    most = _count_of(labels, found)
    for other in found[1:]:
        count = _count_of(other, found)
        better = count > most
        labels[better] = other[better]
        most[better] = count[better]
    unsure = most < len(found)
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    agreeing = {int(one): _mean_dice(labels == one, [each == one for each in found]) for one in present if one}
    return Agreement(labels, thick(unsure, spacing_mm), agreeing)


def thick(mask: Mask, spacing_mm: Sequence[float], least_mm: float = _BORDER_MM) -> Mask:
    """Give what of a mask is as wide as this along every axis: its opening with a box."""
    opened = mask.view(np.uint8)
    sizes = [max(1, round(least_mm / step)) for step in spacing_mm]
    for axis, size in enumerate(sizes):
        opened = ndimage.minimum_filter1d(opened, size, axis, mode="constant")
    for axis, size in enumerate(sizes):
        # The box of an even size has no middle: growing back, it lies one voxel to the other side.
        opened = ndimage.maximum_filter1d(opened, size, axis, mode="constant", origin=-1 if size % 2 == 0 else 0)
    result: Mask = opened.astype(bool)
    return result


def _count_of(labels: Labels, found: Sequence[Labels]) -> UInt8[NDArray[np.uint8], "x y z"]:
    """Count how many looks give each voxel this label."""
    count = np.zeros(labels.shape, np.uint8)
    for other in found:
        count += other == labels
    return count


def _mean_dice(mask: Mask, others: Sequence[Mask]) -> float:
    own = np.count_nonzero(mask)
    return float(np.mean([2 * np.count_nonzero(mask & other) / (own + np.count_nonzero(other)) for other in others]))
