"""Label maps of one case as masks of structures; a tumor's voxels belong to its host organ too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.evaluation.labels import LabelMeaning, Structure, host_classes, is_tumor
from dsmseg.evaluation.masks import Box

_NEIGHBORS = np.ones((3, 3, 3))


@dataclass(slots=True, eq=False)
class Layer:
    """One label map (X, Y, Z), and what its labels mean."""

    labels: Int[NDArray[np.integer[Any]], "x y z"]
    meaning: LabelMeaning
    boxes: list[tuple[slice, slice, slice] | None] = field(init=False)

    def __post_init__(self) -> None:
        """Find the box of each label; transposed, since maps lie in memory that way."""
        found = ndimage.find_objects(self.labels.T)
        self.boxes = [None if box is None else (box[2], box[1], box[0]) for box in found]

    def box(self, structure: Structure) -> Box | None:
        """Give the box of a structure's labels."""
        wanted = self.meaning.labels.get(structure, frozenset())
        return _union(self.boxes[label - 1] for label in wanted if 0 < label <= len(self.boxes))

    def mask(self, structure: Structure, box: Box) -> Bool[NDArray[np.bool_], "x y z"]:
        """Mark the voxels of a structure's labels in a box."""
        table = np.zeros(len(self.boxes) + 1, bool)
        table[[label for label in self.meaning.labels[structure] if label < len(table)]] = True
        marked: NDArray[np.bool_] = table[self.labels[box]]
        return marked


@dataclass(frozen=True, slots=True, eq=False)
class LabelMaps:
    """All label maps of a case, on one grid; without layers nothing is anywhere."""

    shape: tuple[int, int, int]
    layers: Sequence[Layer] = ()

    @property
    def structures(self) -> list[Structure]:
        """What the labels mean, in the order of the taxonomy."""
        return sorted({structure for layer in self.layers for structure in layer.meaning.labels})

    def box(self, structure: Structure) -> Box | None:
        """Give a box around a structure, its tumors included, and a voxel more where there is one."""
        parts = [*self._parts(structure), *self._tumors(structure)]
        box = _union(layer.box(part) for part in parts for layer in self.layers)
        if box is None:
            return None
        x, y, z = (slice(max(0, s.start - 1), min(size, s.stop + 1)) for s, size in zip(box, self.shape, strict=True))
        return x, y, z

    def mask(self, structure: Structure, box: Box) -> Bool[NDArray[np.bool_], "x y z"]:
        """Mark a structure in a box, with the tumors that are a part of it.

        Of a paired organ, a tumor that hangs together belongs to the side that it touches more of.
        """
        own = self._marked(self._parts(structure), box)
        whole = own.copy()
        for tumor in self._tumors(structure):
            part = self._marked([tumor], box)
            others = host_classes(tumor[0]) - set(structure)
            beside = self._marked([(other,) for other in others], box)
            whole |= _nearer(part, own, beside) if beside.any() else part
        return whole

    def _parts(self, structure: Structure) -> list[Structure]:
        """Give the structures that make one up: itself, and where it is both sides, either."""
        return [structure] if len(structure) == 1 else [structure, *((one,) for one in structure)]

    def _tumors(self, structure: Structure) -> list[Structure]:
        if is_tumor(structure):
            return []
        return [one for one in self.structures if is_tumor(one) and host_classes(one[0]).intersection(structure)]

    def _marked(self, structures: Iterable[Structure], box: Box) -> NDArray[np.bool_]:
        marked = np.zeros([side.stop - side.start for side in box], bool)
        for structure in structures:
            for layer in self.layers:
                if structure in layer.meaning.labels:
                    marked |= layer.mask(structure, box)
        return marked


def _nearer(part: NDArray[np.bool_], own: NDArray[np.bool_], beside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep of a mask what hangs together and touches ``own`` more than ``beside``."""
    pieces, count = ndimage.label(part, _NEIGHBORS)
    reach = ndimage.grey_dilation(pieces, size=(3, 3, 3))
    touched = [np.bincount(reach[side], minlength=count + 1) for side in (own, beside)]
    kept = touched[0] > touched[1]
    kept[0] = False
    return np.asarray(kept[pieces])


def _union(boxes: Iterable[Box | None]) -> Box | None:
    known = [box for box in boxes if box is not None]
    if not known:
        return None
    x, y, z = (slice(min(box[axis].start for box in known), max(box[axis].stop for box in known)) for axis in range(3))
    return x, y, z


def union(first: Box | None, second: Box | None) -> Box | None:
    """Give the smallest box around two; None is an empty one."""
    return _union((first, second))
