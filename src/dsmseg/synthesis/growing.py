"""Tumors in a drawn body, one after the other: each grows in its host and pushes aside what is there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import HEPATIC_VESSEL, organ_mask, phantom_anatomy
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.phantom.structures import id_of
from dsmseg.synthesis.tumors import Neighbors, measure
from dsmseg.synthesis.tumors.insertion import Ground, insert
from dsmseg.synthesis.tumors.kinds import Growth, named_variant
from dsmseg.taxonomy import StructureClass, find

MOST_TUMORS = 30  # in one scan: the lesions are numbered in 8 bits


@dataclass(slots=True)
class GrowingBody:
    """A body before the scanner, with the tumors that have grown in it.

    image: HU. structures: ids of `phantom_anatomy`. spacing: mm. lesions: the number of each lesion, from 1, in the
    order in which they grew; classes: the tumor class of each number. records: one a tumor.
    """

    image: Float32[NDArray[np.float32], "x y z"]
    structures: UInt8[NDArray[np.uint8], "x y z"]
    spacing: tuple[float, float, float]
    lesions: UInt8[NDArray[np.uint8], "x y z"] = field(init=False)
    classes: list[int] = field(default_factory=lambda: [0])
    records: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """No tumor has grown yet."""
        self.lesions = np.zeros(self.structures.shape, np.uint8)

    def grow(
        self,
        kind: StructureClass,
        phase: str,
        *key: int | str,
        variant: str | None = None,
        diameter_mm: float | None = None,
    ) -> None:
        """Grow a tumor, or record why there is none. ``key`` decides all chance.

        variant: name of one of the kind's variants. diameter_mm: long axis of each lesion. None: drawn.
        """
        host, where = self._choose_host(kind.hosts, key)
        if host is None:
            self.records.append({"kind": kind.name, "skipped": f"no {' or '.join(kind.hosts)} in the scan"})
            return
        vessels = organ_mask(self.structures, HEPATIC_VESSEL) if where == "Liver" else None
        others = ~(host | (self.structures == id_of("visceral_fat"))) | (self.lesions > 0)
        seed = int(generator(*key, "tumor").integers(1 << 31))
        try:
            grown = insert(
                Ground(self.image, host, self.spacing, Neighbors(vessels, others)),
                Growth.of(kind, None if variant is None else (named_variant(kind, variant),)),
                seed,
                phase=phase,
                diameters=None if diameter_mm is None else (diameter_mm, diameter_mm),
            )
        except InputError as error:
            self.records.append({"kind": kind.name, "skipped": error.what})
            return
        self.image, self.structures = grown.image, grown.pushed(self.structures)
        self.lesions = grown.pushed(self.lesions)
        self._fill_with_host(grown.mask, host, find(where).id)
        self.lesions[grown.mask] = grown.lesions[grown.mask] + np.uint8(len(self.classes) - 1)
        self.classes += [kind.id] * len(grown.record["lesions"])
        self.records.append(dict(grown.record) | {"host": where})

    def tumors(self) -> UInt8[NDArray[np.uint8], "x y z"]:
        """Give the label map of the tumors: ids of the taxonomy."""
        return np.array(self.classes, np.uint8)[self.lesions]

    def measured_records(self) -> list[dict[str, Any]]:
        """Give the records with each lesion as it is now: a later tumor may have pushed an earlier one."""
        boxes = iter(ndimage.find_objects(self.lesions, max_label=len(self.classes) - 1))
        number, measured = 0, []
        for record in self.records:
            rows = []
            for row in record.get("lesions", ()):
                number, box = number + 1, next(boxes)
                if box is not None:
                    start = [part.start for part in box]
                    rows.append(row | measure(self.lesions[box] == number, self.image[box], start, self.spacing))
            measured.append(record | {"lesions": rows} if "lesions" in record else record)
        return measured

    def _choose_host(self, hosts: Sequence[str], key: Sequence[int | str]) -> tuple[NDArray[np.bool_] | None, str]:
        """Choose one of the hosts that the scan shows; what other tumors hold already is not free."""
        free = self.lesions == 0
        found = []
        for name in hosts:
            mask = organ_mask(self.structures, find(name).id) & free
            if mask.any():
                found.append((mask, name))
        if not found:
            return None, ""
        paired = len(found) > 1 and found[0][1].startswith(("Right", "Left"))
        return found[int(generator(*key, "host").integers(len(found))) if paired else 0]

    def _fill_with_host(self, mask: NDArray[np.bool_], host: NDArray[np.bool_], organ: int) -> None:
        """Give what the push carried into a tumor to the host, as the part of it that is most frequent."""
        inside = phantom_anatomy().organs == organ
        stray = mask & ~organ_mask(self.structures, organ)
        parts = np.bincount(self.structures[host & inside[self.structures]], minlength=256)
        self.structures[stray] = parts.argmax() or np.flatnonzero(inside)[0]
