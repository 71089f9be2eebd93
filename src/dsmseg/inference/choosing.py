"""Which classes: those that the weights know, and those of them that were asked for."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from dsmseg.checkpoint import Card, OperatingPoint
from dsmseg.errors import InputError
from dsmseg.inference.blending import Tiling
from dsmseg.taxonomy import ORGANS, TUMORS, StructureClass, find, find_all

DECIDES = ("threshold", "least_volume_ml", "least_score")
"""What of an operating point decides what is labelled; all else of it tells how it was found."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Classes in the order of their ids.

    Attributes:
        known_organs: organs that the weights know.
        known_tumors: tumors that the weights know, from labels.
        unseen_tumors: that no label showed them, and that they answer for nevertheless (`Card.unseen`).
        classes: what was asked for.
        stage: of the weights.
        points: operating points of tumors, by name; one without is labelled above 0.5.
    """

    known_organs: tuple[StructureClass, ...]
    known_tumors: tuple[StructureClass, ...]
    classes: tuple[StructureClass, ...]
    stage: int
    unseen_tumors: tuple[StructureClass, ...] = ()
    points: Mapping[str, OperatingPoint] = field(default_factory=dict)

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
        """Tumors that compete for voxels, as one; none where no tumor was asked for, and none that is not searched."""
        tumors = self.tumors
        return tuple(one for one in self.known_tumors if tumors and one not in tumors and self.point(one).searched)

    @property
    def left_out(self) -> dict[str, str]:
        """Why tumors that the weights know are not searched: what the card says, by name."""
        others = (one for one in self.known_tumors if one not in self.classes)
        return {one.name: self.point(one).reason for one in others if not self.point(one).searched}

    def point(self, tumor: StructureClass) -> OperatingPoint:
        """Give the operating point of a tumor."""
        return self.points.get(tumor.name, OperatingPoint())

    def thresholds(self, tumors: Sequence[StructureClass]) -> list[float]:
        """Give above which probability each tumor is labelled."""
        return [self.point(one).threshold for one in tumors]

    @property
    def tumor_search(self) -> str:
        """Say whether tumors were searched, so that an empty layer is not taken for a healthy patient."""
        if self.tumors:
            return "searched"
        if self.stage == 1:
            return "not searched: these weights hold Stage 1 only"
        if set(self.classes) == set(self.known_organs) and len(self.left_out) == len(self.known_tumors):
            return "not searched: the card says of each tumor that too few lesions are found"
        return "not searched: no tumor is among the classes that were asked for"

    def tiling(self, card: Card, overlap: float) -> Tiling:
        """Say how a scan is cut for the weights of ``card``, and which fields there are."""
        return Tiling(
            size=card.window,
            overlap=overlap,
            hu_windows=card.hu_windows,
            organs=[one.id - ORGANS[0].id for one in self.computed_organs],
            tumors=[one.id - TUMORS[0].id for one in self.tumors],
            other_organs=[one.id - ORGANS[0].id for one in self.other_organs],
            other_tumors=[one.id - TUMORS[0].id for one in self.other_tumors],
            tumor_thresholds=self.thresholds(self.tumors),
            other_tumor_thresholds=self.thresholds(self.other_tumors),
            unseen=unseen_channels(card, [*self.tumors, *self.other_tumors]),
        )

    def only(self, classes: Collection[StructureClass]) -> "Choice":
        """Ask for these instead."""
        known = self.known_organs + self.known_tumors + self.unseen_tumors
        return replace(self, classes=tuple(sorted((one for one in known if one in classes), key=lambda one: one.id)))

    def restrict(self, labels: UInt8[NDArray[np.uint8], "x y z"]) -> UInt8[NDArray[np.uint8], "x y z"]:
        """Set to 0 what was not asked for."""
        if set(self.classes).issuperset(self.known_organs + self.known_tumors):
            return labels
        kept = np.zeros(256, dtype=np.uint8)
        for one in self.classes:
            kept[one.id] = one.id
        return np.take(kept, labels.T).T


def unseen_channels(card: Card, tumors: Iterable[StructureClass]) -> dict[int, list[int]]:
    """Give the output channels of those tumors that no label named, each with the channels of its hosts."""
    return {
        TUMORS.index(tumor): [ORGANS.index(find(host)) for host in tumor.hosts if host in card.organs]
        for tumor in tumors
        if tumor in card.unseen
    }


def everything(card: Card) -> Choice:
    """Ask for all classes that weights know from labels, tumors above 0.5, whatever the card's operating points say."""
    organs = tuple(organ for organ in ORGANS if organ.name in card.organs)
    tumors = tuple(tumor for tumor in TUMORS if tumor.name in card.tumors)
    return Choice(organs, tumors, organs + tumors, card.stage, card.unseen)


def choose_classes(card: Card, classes: str | Sequence[str] | None) -> Choice:
    """Read ``classes``, names or groups, or one comma-separated text; of a group, the classes that the card names.

    A group means what labels taught the weights; a kind that none did is looked for by its name. Where nothing was
    asked for, tumors that the card says are not to be searched are left out too.

    Raises:
        InputError: nothing is called so, or the weights do not know it.
    """
    choice = replace(everything(card), points=card.operating_points)
    known = choice.classes + choice.unseen_tumors
    if classes is None:
        return choice.only([one for one in choice.classes if choice.point(one).searched])
    text = classes if isinstance(classes, str) else ",".join(classes)
    asked: set[StructureClass] = set()
    for part in [part for part in re.split("[,;]", text) if part.strip()] or [text]:
        meant = set(find_all(part))
        found = meant.intersection(choice.classes) or meant.intersection(choice.unseen_tumors)
        if not found:
            raise InputError(
                f"the weights {card.name!r} do not know {part.strip()!r}",
                mend=f"They answer for: {', '.join(one.name for one in known)}.",
            )
        asked |= found
    return choice.only(asked)
