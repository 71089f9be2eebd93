"""Tumors put into a training patch as it is drawn: each time others, and every label that follows from them."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import HEPATIC_VESSEL, LIVER
from dsmseg.synthesis.noise import seed_of
from dsmseg.synthesis.tumors.insertion import InsertedTumor, insert_tumor
from dsmseg.taxonomy import ORGANS, TUMORS, StructureClass, find

_LEAST_ML = 1.0  # of a host that a patch must show: less is a sliver at its edge
_ORGANS = len(ORGANS)


@dataclass(frozen=True, slots=True)
class LabelledPatch:
    """A patch before its HU are scaled.

    image: HU. masks: of all 45 classes (class 1 at index 0); an organ holds its tumors, the liver its vessels.
    annotated: which classes are known. absent: ids of the kinds of tumor known to be nowhere in this scan. merged:
    indices of pairs of organs whose masks are both the union of the two. spacing: mm.
    """

    image: Float32[NDArray[np.float32], "x y z"]
    masks: Bool[NDArray[np.bool_], "class x y z"]
    annotated: Bool[NDArray[np.bool_], "class"]
    absent: frozenset[int]
    spacing: tuple[float, float, float]
    merged: tuple[tuple[int, int], ...] = ()

    def host(self, organ: int) -> Bool[NDArray[np.bool_], "x y z"] | None:
        """Give the part of an organ (id) that no tumor holds; None if it is unknown or the patch has too little."""
        if not self.annotated[organ - 1]:
            return None
        free = self.masks[organ - 1] & ~self.masks[_ORGANS:].any(axis=0)
        least = 1000 * _LEAST_ML / (self.spacing[0] * self.spacing[1] * self.spacing[2])
        return free if np.count_nonzero(free) >= least else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TumorPlan:
    """What is put into patches.

    kinds: of tumor that may be drawn; others are never drawn and never said to be absent. chance: share of the patches
    with a suitable host that get a tumor.
    """

    kinds: tuple[StructureClass, ...]
    chance: float = 0.5


def absent_kinds(healthy: frozenset[int]) -> frozenset[int]:
    """Give the kinds of tumor that a scan has not, where these organs (ids) are healthy: all hosts of a kind are."""
    return frozenset(kind.id for kind in TUMORS if healthy.issuperset(find(name).id for name in kind.hosts))


def put_tumors(patch: LabelledPatch, plan: TumorPlan, random: Generator) -> LabelledPatch:
    """Put tumors into a patch, or leave it healthy, and tell which kinds are known to be in it or not.

    A tumor of a kind grows only where the scan is known to have none of that kind; then its mask holds them all. Of
    the plan's kinds, those that the scan has not and whose host the patch shows become annotated.
    """
    hosts = _hosts(patch, plan.kinds)
    annotated = patch.annotated.copy()
    annotated[[kind.id - 1 for kind, _ in hosts]] = True
    patch = replace(patch, annotated=annotated)
    if not hosts or random.random() >= plan.chance:
        return patch
    kind, organs = hosts[int(random.integers(len(hosts)))]
    organ = organs[int(random.integers(len(organs)))]
    return _grown(patch, kind, organ, seed_of(random))


def _hosts(patch: LabelledPatch, kinds: tuple[StructureClass, ...]) -> list[tuple[StructureClass, tuple[int, ...]]]:
    """Give the kinds that the scan has not and whose hosts the patch shows, with those hosts."""
    shown = {}
    found = []
    for kind in kinds:
        if kind.id not in patch.absent:
            continue
        organs = [find(name).id for name in kind.hosts]
        for organ in organs:
            if organ not in shown:
                shown[organ] = patch.host(organ) is not None
        if any(shown[organ] for organ in organs):
            found.append((kind, tuple(organ for organ in organs if shown[organ])))
    return found


def _grown(patch: LabelledPatch, kind: StructureClass, organ: int, seed: int) -> LabelledPatch:
    """Grow a tumor; the patch stays as it is where none fits."""
    host = patch.host(organ)
    vessels = patch.masks[HEPATIC_VESSEL - 1] if organ == LIVER and patch.annotated[HEPATIC_VESSEL - 1] else None
    if host is None:
        return patch
    try:
        tumor = insert_tumor(patch.image, host, patch.spacing, kind.name, seed, vessels=vessels)
    except InputError:  # the host is too thin for this kind
        return patch
    masks = _pushed(patch.masks, tumor)
    masks[:, tumor.mask] = False
    owners = {organ - 1, kind.id - 1, *(index for pair in patch.merged if organ - 1 in pair for index in pair)}
    for index in owners:
        masks[index] |= tumor.mask
    return replace(patch, image=tumor.image, masks=masks)


def _pushed(masks: Bool[NDArray[np.bool_], "class x y z"], tumor: InsertedTumor) -> NDArray[np.bool_]:
    out = masks.copy()
    for mask in out:
        if mask.any():
            mask[...] = tumor.pushed(mask)
    return out
