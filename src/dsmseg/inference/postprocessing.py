"""Anatomy's say: stray fragments of organs go, tumors stay in or at their host organ.

What is to go is found on the working grid and erased from the labels on the scan's own. Arrays in this file lie as
scans do in memory: z, y, x.
"""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.inference.restoring import Interpolation, erase
from dsmseg.taxonomy import StructureClass
from dsmseg.volume.body import bounding_box

_LEAST_SHARE = 0.1  # of the largest part, for an organ in one piece
_LEAST_SHARE_IN_PIECES = 0.01
_IN_PIECES = frozenset(
    {"Right Lung", "Left Lung", "Colon", "Intestine", "Hepatic Vessel", "Portal Vein and Splenic Vein"}
)
_HOST_MARGIN_MM = 9.0  # A tumor may bulge out of the organ as the network drew it.
_FINE_ENOUGH_MM = 3.0


class Claims:
    """Which classes are more probable than 0.5, by voxel of the working grid: a bit a class."""

    def __init__(self, classes: Sequence[StructureClass], shape: tuple[int, int, int]) -> None:
        """Begin with none. ``shape`` is z, y, x."""
        self._places = {one.id: place for place, one in enumerate(classes)}
        self._bits = np.zeros((ceil(len(classes) / 8), *shape), dtype=np.uint8)

    def add(self, one: StructureClass, start: int, over_half: Bool[NDArray[np.bool_], "x y z"]) -> None:
        """Take slices of a class from ``start`` on."""
        byte, bit = divmod(self._places[one.id], 8)
        if over_half.any():
            self._bits[byte, start : start + over_half.shape[2]] |= over_half.T * np.uint8(128 >> bit)

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
    boxes = _boxes_of(labels)
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
        if organ.id in boxes:
            erase(labels, organ.id, present, interpolation, over=0.0, within=boxes[organ.id])


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
    boxes = _boxes_of(labels)
    for tumor in tumors:
        if tumor.id not in boxes or not hosts.keys() >= set(tumor.hosts):
            continue
        if tumor.hosts not in far:
            far[tumor.hosts] = _farther_than_margin([claims.mask(hosts[name]) for name in tumor.hosts], spacing_mm)
        erase(labels, tumor.id, far[tumor.hosts], interpolation, over=0.5, within=boxes[tumor.id])


def _boxes_of(labels: UInt8[NDArray[np.uint8], "z y x"]) -> dict[int, tuple[slice, ...]]:
    """Give the smallest box around each label that is there."""
    return {label: box for label, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None}


def _farther_than_margin(
    masks: Sequence[NDArray[np.bool_]], spacing_mm: Sequence[float]
) -> Bool[NDArray[np.bool_], "z y x"]:
    pooled, factors = _pooled(np.logical_or.reduce(masks), spacing_mm[::-1])
    far = np.ones(pooled.shape, dtype=bool)
    box = bounding_box(pooled)
    if box is not None:
        spacing = [step * factor for step, factor in zip(spacing_mm[::-1], factors, strict=True)]
        reach = [ceil(_HOST_MARGIN_MM / step) + 1 for step in spacing]
        around = tuple(
            slice(max(0, side.start - more), side.stop + more) for side, more in zip(box, reach, strict=True)
        )
        far[around] = ndimage.distance_transform_edt(~pooled[around], sampling=spacing) > _HOST_MARGIN_MM
    for axis, factor in enumerate(factors):
        far = far.repeat(factor, axis=axis)
    z, y, x = masks[0].shape
    return far[:z, :y, :x]


def _pooled(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[NDArray[np.bool_], list[int]]:
    """Make a mask coarser where its voxels are finer than the margin asks for: a voxel is true where any of its is."""
    factors = [max(1, int(_FINE_ENOUGH_MM / step)) for step in spacing_mm]
    for axis, factor in enumerate(factors):
        lines = mask.swapaxes(0, axis)
        pooled = lines[::factor].copy()
        for offset in range(1, factor):
            others = lines[offset::factor]
            pooled[: len(others)] |= others
        mask = pooled.swapaxes(0, axis)
    return mask, factors
