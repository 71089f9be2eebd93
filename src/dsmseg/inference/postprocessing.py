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

from dsmseg.inference.boxes import WHOLE, Box, Boxes, as_slices, boxes_of, nowhere, shifted, union
from dsmseg.inference.restoring import Interpolation, erase
from dsmseg.inference.soft_masks import SoftMasks
from dsmseg.model.kernels import in_threads
from dsmseg.taxonomy import StructureClass

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
        self._boxes = nowhere(len(classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the working grid: z, y, x."""
        z, y, x = self._bits.shape[1:]
        return z, y, x

    def add(self, masks: SoftMasks, start: int) -> Boxes:
        """Take slices from ``start`` on; give the boxes (x, y, z) in which classes are more probable than 0.5.

        ``masks`` may hold more than the classes here, after them.
        """
        boxes = masks.boxes(self._bits[:, start : start + masks.weights.shape[2]])
        self._boxes = union([self._boxes, shifted(boxes[: len(self._boxes)], (0, 0, start))])
        return boxes

    def box(self, one: StructureClass) -> Box | None:
        """Give a box (z, y, x) that holds the class."""
        (box,) = as_slices(self._boxes[self._places[one.id]][None])
        return box and box[::-1]

    def mask(self, one: StructureClass, box: Box = WHOLE) -> Bool[NDArray[np.bool_], "z y x"]:
        """Give the voxels of a class, in a box."""
        byte, bit = divmod(self._places[one.id], 8)
        mask: NDArray[np.bool_] = (self._bits[byte][box] & (128 >> bit)) > 0
        return mask

    def remove(self, one: StructureClass, where: Bool[NDArray[np.bool_], "z y x"], box: Box = WHOLE) -> None:
        """Take voxels of a box from a class."""
        byte, bit = divmod(self._places[one.id], 8)
        self._bits[byte][box][where] &= 255 - (128 >> bit)


def drop_fragments(
    labels: UInt8[NDArray[np.uint8], "tz ty tx"],
    claims: Claims,
    organs: Sequence[StructureClass],
    interpolation: Interpolation,
) -> None:
    """Erase, in place, each organ's parts (sharing faces) that are small beside its largest part; from claims too."""
    boxes = boxes_of(labels)
    for organ, (fragments, box) in remove_fragments(claims, organs).items():
        if organ.id in boxes:
            erase(labels, organ.id, fragments, box, interpolation, over=0.0, within=boxes[organ.id])


def remove_fragments(
    claims: Claims, organs: Sequence[StructureClass]
) -> dict[StructureClass, tuple[Bool[NDArray[np.bool_], "z y x"], Box]]:
    """Take each organ's small parts from ``claims``, and give them by organ, each in a box."""
    places = [(organ, box) for organ in organs if (box := claims.box(organ)) is not None]
    fragments: dict[StructureClass, tuple[NDArray[np.bool_], Box]] = {}

    def find(first: int, last: int) -> None:
        for organ, box in places[first:last]:
            found = _fragments(organ, claims.mask(organ, box))
            if found is not None:
                fragments[organ] = found, box

    in_threads(find, len(places))
    for organ, (found, box) in fragments.items():
        claims.remove(organ, found, box)
    return fragments


def _fragments(organ: StructureClass, present: Bool[NDArray[np.bool_], "z y x"]) -> NDArray[np.bool_] | None:
    """Mark the parts of an organ that are too small to be one, if there are any."""
    parts, count = ndimage.label(present)
    if count <= 1:
        return None
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    share = _LEAST_SHARE_IN_PIECES if organ.name in _IN_PIECES else _LEAST_SHARE
    dropped = sizes < share * sizes.max()
    dropped[0] = False
    return dropped[parts] if dropped.any() else None


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
    boxes = boxes_of(labels)
    confined = [one for one in tumors if one.id in boxes]

    def confine(first: int, last: int) -> None:
        for tumor in confined[first:last]:
            source = interpolation.source_of(boxes[tumor.id])
            far = far_from_hosts(tumor, hosts, claims, source, spacing_mm)
            if far is not None:
                erase(labels, tumor.id, far, source, interpolation, over=0.5, within=boxes[tumor.id])

    in_threads(confine, len(confined))


def far_from_hosts(
    tumor: StructureClass,
    hosts: Mapping[str, StructureClass],
    claims: Claims,
    box: Box,
    spacing_mm: Sequence[float],
) -> Bool[NDArray[np.bool_], "z y x"] | None:
    """Mark the voxels of a box (z, y, x) that are farther than 9 mm from a tumor's host organs.

    None where the weights do not know every one of its hosts. Arguments are as for `confine_to_hosts`.
    """
    if not hosts.keys() >= set(tumor.hosts):
        return None
    return _farther_than_margin([hosts[name] for name in tumor.hosts], claims, box, spacing_mm[::-1])


def _farther_than_margin(
    hosts: Sequence[StructureClass], claims: Claims, box: Box, spacing_mm: Sequence[float]
) -> Bool[NDArray[np.bool_], "z y x"]:
    """Mark the voxels of a box (z, y, x) that are far from all of the hosts. Spacing is z, y, x."""
    factors = [max(1, int(_FINE_ENOUGH_MM / step)) for step in spacing_mm]
    coarse_mm = [step * factor for step, factor in zip(spacing_mm, factors, strict=True)]
    # The box with a margin around, in coarse voxels.
    sides = []
    for side, step, factor, length in zip(box, coarse_mm, factors, claims.shape, strict=True):
        more = ceil(_HOST_MARGIN_MM / step) + 1
        sides.append(slice(max(0, side.start // factor - more) * factor, min(length, side.stop + more * factor)))
    around = sides[0], sides[1], sides[2]
    near = _pooled(np.logical_or.reduce([claims.mask(one, around) for one in hosts]), factors)
    far: NDArray[np.bool_] = np.ones(near.shape, dtype=bool)
    if near.any():
        far = ndimage.distance_transform_edt(~near, sampling=coarse_mm) > _HOST_MARGIN_MM
    for axis, factor in enumerate(factors):
        far = far.repeat(factor, axis=axis)
    return far[
        tuple(slice(side.start - whole.start, side.stop - whole.start) for side, whole in zip(box, around, strict=True))
    ]


def _pooled(mask: NDArray[np.bool_], factors: Sequence[int]) -> NDArray[np.bool_]:
    """Make a mask coarser: a voxel is true where any of its own is."""
    for axis, factor in enumerate(factors):
        lines = mask.swapaxes(0, axis)
        pooled = lines[::factor].copy()
        for offset in range(1, factor):
            others = lines[offset::factor]
            pooled[: len(others)] |= others
        mask = pooled.swapaxes(0, axis)
    return mask
