"""Anatomy's say: stray fragments of organs go, tumors stay in or at their host organ.

What is to go is found on the working grid and erased from the labels on the scan's own. Arrays in this file lie as
scans do in memory: z, y, x.
"""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from dsmseg.inference.restoring import Interpolation, erase
from dsmseg.taxonomy import StructureClass
from dsmseg.volume.body import bounding_box

_LEAST_SHARE = 0.1  # of the largest part, for an organ in one piece
_LEAST_SHARE_IN_PIECES = 0.01
_IN_PIECES = frozenset(
    {"Right Lung", "Left Lung", "Colon", "Intestine", "Hepatic Vessel", "Portal Vein and Splenic Vein"}
)
_HOST_MARGIN_MM = 9.0  # A tumor may bulge out of the organ as the network drew it.
_CHUNK_VOXELS = 8_000_000


class Claims:
    """Which classes are more probable than 0.5, by voxel of the working grid: a bit a class."""

    def __init__(self, classes: Sequence[StructureClass], shape: tuple[int, int, int]) -> None:
        """Begin with none. ``shape`` is z, y, x."""
        self._places = {one.id: place for place, one in enumerate(classes)}
        self._bits = np.zeros((ceil(len(classes) / 8), *shape), dtype=np.uint8)

    def add(self, start: int, probabilities: Float[Tensor, "class z y x"]) -> None:
        """Take slices from ``start`` on."""
        packed = np.packbits((probabilities > 0.5).numpy(), axis=0)
        self._bits[:, start : start + packed.shape[1]] = packed

    def mask(self, one: StructureClass) -> Bool[NDArray[np.bool_], "z y x"]:
        """Give the voxels of a class."""
        byte, bit = divmod(self._places[one.id], 8)
        mask: NDArray[np.bool_] = (self._bits[byte] & (128 >> bit)) > 0
        return mask

    def remove(self, one: StructureClass, where: Bool[NDArray[np.bool_], "z y x"]) -> None:
        """Take voxels from a class."""
        byte, bit = divmod(self._places[one.id], 8)
        self._bits[byte][where] &= 255 - (128 >> bit)


def drop_fragments(
    labels: UInt8[NDArray[np.uint8], "tz ty tx"],
    claims: Claims,
    organs: Sequence[StructureClass],
    interpolation: Interpolation,
) -> None:
    """Erase, in place, each organ's parts (sharing faces) that are small beside its largest part; from claims too."""
    for organ in organs:
        present = claims.mask(organ)
        box = bounding_box(present)
        if box is None:
            continue
        parts, count = ndimage.label(present[box])
        if count == 1:
            continue
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        share = _LEAST_SHARE_IN_PIECES if organ.name in _IN_PIECES else _LEAST_SHARE
        dropped = sizes < share * sizes.max()
        dropped[0] = False
        if not dropped.any():
            continue
        present[...] = False
        present[box] = dropped[parts]
        claims.remove(organ, present)
        erase(labels, organ.id, present, interpolation, over=0.0)


def confine_to_hosts(
    labels: UInt8[NDArray[np.uint8], "tz ty tx"],
    tumors: Sequence[StructureClass],
    hosts: Mapping[str, StructureClass],
    claims: Claims,
    interpolation: Interpolation,
    spacing_mm: Sequence[float],
) -> None:
    """Erase, in place, each tumor where it is farther than 9 mm from its host organs.

    A tumor is left alone where the weights do not know every one of its hosts.

    Args:
        labels: of tumors.
        tumors: their classes.
        hosts: the organs that the weights know and that were computed, by name.
        claims: masks of these organs.
        interpolation: from the working grid to that of the labels.
        spacing_mm: of the working grid, x, y, z.
    """
    far: dict[tuple[str, ...], NDArray[np.bool_]] = {}
    found = np.bincount(labels.ravel(order="K"), minlength=256)
    for tumor in tumors:
        if not found[tumor.id] or not hosts.keys() >= set(tumor.hosts):
            continue
        if tumor.hosts not in far:
            far[tumor.hosts] = _farther_than_margin([claims.mask(hosts[name]) for name in tumor.hosts], spacing_mm)
        erase(labels, tumor.id, far[tumor.hosts], interpolation, over=0.5)


def _farther_than_margin(
    masks: Sequence[NDArray[np.bool_]], spacing_mm: Sequence[float]
) -> Bool[NDArray[np.bool_], "z y x"]:
    host = np.logical_or.reduce(masks)
    far = np.ones(host.shape, dtype=bool)
    box = bounding_box(host)
    if box is None:
        return far
    reach = [ceil(_HOST_MARGIN_MM / step) + 1 for step in spacing_mm[::-1]]
    z, y, x = (slice(max(0, side.start - more), side.stop + more) for side, more in zip(box, reach, strict=True))
    # In chunks, each seen with the slices that its distances may depend on: the transform takes 20 bytes a voxel.
    height = max(1, _CHUNK_VOXELS // max(1, host[0, y, x].size))
    for start in range(z.start, min(z.stop, len(host)), height):
        stop = min(start + height, z.stop, len(host))
        low = max(0, start - reach[0])
        around = host[low : stop + reach[0], y, x]
        if around.any():
            distance = ndimage.distance_transform_edt(~around, sampling=tuple(spacing_mm[::-1]))
            far[start:stop, y, x] = distance[start - low : stop - low] > _HOST_MARGIN_MM
    return far
