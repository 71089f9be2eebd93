"""Labels of a data set as classes of the taxonomy: one array of codes, and a table that says which classes each means.

A voxel may be of several classes (a tumor and its organ; a vessel in the liver), so that a code stands for a set of
classes. Of a case some classes are annotated; all others are unknown, which is not the same as background. Voxels may
be unknown too: of these it is not known which of the annotated classes they are.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from dsmseg.datasets.description import Description
from dsmseg.datasets.loading import Structures
from dsmseg.datasets.separation import part_sides
from dsmseg.taxonomy import CLASSES, find
from dsmseg.volume import bounding_box

_Set = frozenset[int]

UNKNOWN = 0
"""In a set of taxonomy ids: nothing is known of these voxels."""


@dataclass(frozen=True, slots=True)
class ClassLabels:
    """The labels of one case.

    codes: one number a voxel. sets: the taxonomy ids that each code means, in order; code 0 is none of the annotated,
    and one may be `UNKNOWN`.
    annotated: taxonomy ids of the classes that are known in this case. merged: (right, left) of organs whose two sides
    could not be told apart: their voxels are in both classes.
    """

    codes: Int[NDArray[np.integer], "x y z"]
    sets: tuple[tuple[int, ...], ...]
    annotated: tuple[int, ...]
    merged: tuple[tuple[int, int], ...] = ()

    @property
    def table(self) -> Bool[NDArray[np.bool_], "code class"]:
        """Tell of each code which of the 45 classes it means (class 1 is at index 0)."""
        return class_table(self.sets)

    def mask(self, class_id: int) -> Bool[NDArray[np.bool_], "x y z"]:
        """Mark the voxels of a class."""
        marked: NDArray[np.bool_] = self.table[:, class_id - 1][self.codes]
        return marked


def class_table(sets: tuple[tuple[int, ...], ...]) -> Bool[NDArray[np.bool_], "code class"]:
    """Tell of each code which of the 45 classes it means (class 1 is at index 0)."""
    table = np.zeros((len(sets), len(CLASSES)), dtype=bool)
    for code, classes in enumerate(sets):
        table[code, [one - 1 for one in classes if one != UNKNOWN]] = True
    return table


def class_masks(
    codes: Int[NDArray[np.integer], "x y z"], table: Bool[NDArray[np.bool_], "code class"]
) -> Bool[NDArray[np.bool_], "class x y z"]:
    """Give the voxels of each of the 45 classes (class 1 at index 0)."""
    masks = np.zeros((table.shape[1], *codes.shape), dtype=bool)
    present = np.bincount(codes.ravel(), minlength=len(table)) > 0
    for index in np.flatnonzero(table[present].any(axis=0)):
        np.take(table[:, index], codes, out=masks[index])
    return masks


def unknown_codes(sets: tuple[tuple[int, ...], ...]) -> Bool[NDArray[np.bool_], "code"]:
    """Tell which codes mean that nothing is known."""
    return np.array([UNKNOWN in classes for classes in sets])


def label_classes(
    structures: Structures,
    description: Description,
    spacing: tuple[float, float, float],
    middle: float | None,
    *,
    case: str = "",
) -> ClassLabels:
    """Give the classes of a case's labels.

    Args:
        structures: labels on a grid in RAS.
        description: of the data set: which labels make up which class, and which are to be parted into sides.
        spacing: mm of the grid.
        middle: of the body between right and left, as a voxel index along the first axis.
        case: its id, by which the description may say that it tells less than others.
    """
    coder = _Coder.of(structures, description, case)
    annotated, merged = set(coder.annotated), []
    for parting in description.separated:
        if not _is_known(parting.labels, structures, description):
            continue
        right, left = find(parting.right).id, find(parting.left).id
        annotated |= {right, left}
        both = structures.mask(parting.labels)
        sides = part_sides(both, parting.rule, spacing, middle)
        if sides is None:
            merged.append((right, left))
            sides = both, both
        for class_id, side in zip((right, left), sides, strict=True):
            coder.add(side, class_id)
    return ClassLabels(coder.smallest(), tuple(coder.sets), tuple(sorted(annotated)), tuple(merged))


def _is_known(labels: tuple[str, ...], structures: Structures, description: Description) -> bool:
    """Tell whether a class that these labels make up is annotated: all its files are there but for optional ones."""
    required = set(labels) - set(description.optional)
    return required <= structures.present and not structures.present.isdisjoint(labels)


@dataclass(slots=True)
class _Coder:
    codes: NDArray[np.uint16]
    sets: list[tuple[int, ...]]
    annotated: list[int]

    @classmethod
    def of(cls, structures: Structures, description: Description, case: str) -> "_Coder":
        """Start with the classes that labels make up as they are."""
        classes = {
            find(name).id: labels
            for name, labels in description.classes.items()
            if _is_known(labels, structures, description) and name not in description.unlabelled.get(case, ())
        }
        if structures.ids is None:
            shape = next(iter(structures.masks.values())).shape
            coder = cls(np.zeros(shape, np.uint16), [()], list(classes))
            for class_id, labels in sorted(classes.items()):
                coder.add(structures.mask(labels), class_id)
            return coder
        meaning: dict[int, _Set] = {}
        for class_id, labels in classes.items():
            for label in labels:
                id = structures.names[label]
                meaning[id] = meaning.get(id, frozenset()) | {class_id}
        if description.unknown:
            meaning[structures.names[description.unknown]] = frozenset({UNKNOWN})
        coder = cls(np.zeros(0, np.uint16), [()], list(classes))
        by_id = np.zeros(int(structures.ids.max()) + 1, np.uint16)
        for id, set_ in sorted(meaning.items()):
            if id < len(by_id):
                by_id[id] = coder._code(set_)
        coder.codes = by_id[structures.ids]
        return coder

    def add(self, mask: Bool[NDArray[np.bool_], "x y z"], class_id: int) -> None:
        """Say that the voxels of ``mask`` are of this class too."""
        box = bounding_box(mask)
        if box is None:
            return
        inner, part = mask[box], self.codes[box]
        renamed = np.arange(len(self.sets), dtype=np.uint16)
        for code in np.flatnonzero(np.bincount(part[inner])):
            renamed[code] = self._code((frozenset(self.sets[code]) - {UNKNOWN}) | {class_id})
        part[inner] = renamed[part[inner]]

    def smallest(self) -> NDArray[np.integer]:
        """Give the codes as bytes, where that is enough, which it nearly always is."""
        return self.codes.astype(np.uint8) if len(self.sets) <= 256 else self.codes

    def _code(self, classes: _Set) -> int:
        wanted = tuple(sorted(classes))
        if wanted not in self.sets:
            self.sets.append(wanted)
        return self.sets.index(wanted)
