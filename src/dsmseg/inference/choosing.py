"""Which classes: those that the weights know, and those of them that were asked for."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from dsmseg.checkpoint import Card
from dsmseg.errors import InputError
from dsmseg.taxonomy import ORGANS, TUMORS, StructureClass, find_all


@dataclass(frozen=True, slots=True)
class Choice:
    """Classes in the order of their ids.

    Attributes:
        known_organs: organs that the weights know.
        known_tumors: tumors that the weights know.
        classes: what was asked for.
        stage: of the weights.
    """

    known_organs: tuple[StructureClass, ...]
    known_tumors: tuple[StructureClass, ...]
    classes: tuple[StructureClass, ...]
    stage: int

    @property
    def tumors(self) -> tuple[StructureClass, ...]:
        """Tumors that were asked for."""
        return tuple(one for one in self.classes if one.kind == "tumor")

    @property
    def computed_organs(self) -> tuple[StructureClass, ...]:
        """Organs that are computed: those that were asked for, and the hosts of tumors that were."""
        wanted = {one.name for one in self.classes} | {host for tumor in self.tumors for host in tumor.hosts}
        return tuple(one for one in self.known_organs if one.name in wanted)

    @property
    def other_organs(self) -> tuple[StructureClass, ...]:
        """Organs that compete for voxels, as one, and are not computed."""
        computed = self.computed_organs
        return tuple(one for one in self.known_organs if one not in computed)

    @property
    def other_tumors(self) -> tuple[StructureClass, ...]:
        """Tumors that compete for voxels, as one; none where no tumor was asked for."""
        tumors = self.tumors
        return tuple(one for one in self.known_tumors if tumors and one not in tumors)

    @property
    def tumor_search(self) -> str:
        """Say whether tumors were searched, so that an empty layer is not taken for a healthy patient."""
        if self.tumors:
            return "searched"
        if self.stage == 1:
            return "not searched: these weights hold Stage 1 only"
        return "not searched: no tumor is among the classes that were asked for"

    def only(self, classes: Collection[StructureClass]) -> "Choice":
        """Ask for these instead."""
        known = self.known_organs + self.known_tumors
        return replace(self, classes=tuple(one for one in known if one in classes))

    def restrict(self, labels: UInt8[NDArray[np.uint8], "x y z"]) -> UInt8[NDArray[np.uint8], "x y z"]:
        """Set to 0 what was not asked for."""
        if len(self.classes) == len(self.known_organs) + len(self.known_tumors):
            return labels
        kept = np.zeros(256, dtype=np.uint8)
        for one in self.classes:
            kept[one.id] = one.id
        return np.take(kept, labels.T).T


def choose_classes(card: Card, classes: str | Sequence[str] | None) -> Choice:
    """Read ``classes``, names or groups, or one comma-separated text; of a group, the classes that the card names.

    Raises:
        InputError: nothing is called so, or the weights do not know it.
    """
    organs = tuple(organ for organ in ORGANS if organ.name in card.organs)
    tumors = tuple(tumor for tumor in TUMORS if tumor.name in card.tumors)
    known = organs + tumors
    if classes is None:
        return Choice(organs, tumors, known, card.stage)
    text = classes if isinstance(classes, str) else ",".join(classes)
    asked: set[StructureClass] = set()
    for part in [part for part in re.split("[,;]", text) if part.strip()] or [text]:
        found = set(find_all(part)) & set(known)
        if not found:
            raise InputError(
                f"the weights {card.name!r} do not know {part.strip()!r}",
                mend=f"They know: {', '.join(one.name for one in known)}.",
            )
        asked |= found
    return Choice(organs, tumors, tuple(one for one in known if one in asked), card.stage)
