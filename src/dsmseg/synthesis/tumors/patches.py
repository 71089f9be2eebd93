"""Tumors put into a training patch as it is drawn: each time others, and every label that follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import HEPATIC_VESSEL, LIVER
from dsmseg.synthesis.noise import seed_of
from dsmseg.synthesis.tumors.insertion import Ground, Neighbors, insert
from dsmseg.synthesis.tumors.kinds import Growth, distractors, generic_lesions
from dsmseg.synthesis.tumors.nodules import Nodule, paste
from dsmseg.taxonomy import ORGANS, TUMORS, StructureClass, by_id, find

Mask = Bool[NDArray[np.bool_], "x y z"]

_LEAST_ML = 1.0  # of a host that a patch must show: less is a sliver at its edge
_MOST_NODULES = 3  # pasted into one patch
_ORGANS = len(ORGANS)


@dataclass(frozen=True, slots=True)
class LabelledPatch:
    """A patch before its HU are scaled.

    image: HU. masks: of all 45 classes (class 1 at index 0); an organ holds its tumors, the liver its vessels.
    annotated: which classes are known. absent: ids of the kinds of tumor known to be nowhere in this scan. merged:
    indices of pairs of organs whose masks are both the union of the two. spacing: mm. known: voxels of which the
    annotated classes are known; None where all are.
    """

    image: Float32[NDArray[np.float32], "x y z"]
    masks: Bool[NDArray[np.bool_], "class x y z"]
    annotated: Bool[NDArray[np.bool_], "class"]
    absent: frozenset[int]
    spacing: tuple[float, float, float]
    merged: tuple[tuple[int, int], ...] = ()
    known: Mask | None = None

    def host(self, organ: int) -> Mask | None:
        """Give the part of an organ (id) that no tumor holds; None if it is unknown or the patch has too little."""
        if not self.annotated[organ - 1]:
            return None
        free = self.masks[organ - 1] & ~_union(self.masks, np.flatnonzero(self.annotated[_ORGANS:]) + _ORGANS)
        least = 1000 * _LEAST_ML / (self.spacing[0] * self.spacing[1] * self.spacing[2])
        return free if np.count_nonzero(free) >= least else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TumorPlan:
    """What is put into patches.

    kinds: of tumor that may be drawn; others are never drawn and never said to be absent. chance: share of the patches
    with a suitable host that get tumors. most: growths in such a patch, one to so many, each of a kind and in a host of
    its own choice, so that little of a patch that was costly to draw teaches nothing. generic: share of tumors of solid
    organs that are the early lesion, which looks alike in all. distractors: share of the patches that get what looks
    like a tumor of their organ and is none. diameters: mm, from and to, drawn evenly in their logarithm; None for the
    sizes that kinds.toml gives. even_variants: all variants of a kind are drawn alike; else as often as kinds.toml
    says. nodules: real ones, pasted as this share, ``pasted``, of the lung tumors.
    """

    kinds: tuple[StructureClass, ...]
    chance: float = 0.5
    most: int = 1
    generic: float = 0.3
    distractors: float = 0.25
    diameters: tuple[float, float] | None = None
    even_variants: bool = False
    nodules: tuple[Nodule, ...] = ()
    pasted: float = 0.5


def absent_kinds(healthy: frozenset[int]) -> frozenset[int]:
    """Give the kinds of tumor that a scan has not, where these organs (ids) are healthy: all hosts of a kind are."""
    return frozenset(kind.id for kind in TUMORS if healthy.issuperset(find(name).id for name in kind.hosts))


def put_tumors(patch: LabelledPatch, plan: TumorPlan, random: Generator) -> LabelledPatch:
    """Put tumors into a patch, or leave it healthy, and tell which kinds are known to be in it or not.

    A tumor of a kind grows where all tumors of that kind are known: the scan is known to have none, or annotates them.
    Then the mask holds them all. Of the plan's kinds, those known so and whose host the patch shows are annotated.
    """
    hosts = _hosts(patch, plan.kinds)
    annotated = patch.annotated.copy()
    annotated[[kind.id - 1 for kind, _ in hosts]] = True
    patch = replace(patch, annotated=annotated)
    growths = 1 + int(random.integers(plan.most)) if hosts and random.random() < plan.chance else 0
    for _ in range(growths):
        kind, organs = hosts[int(random.integers(len(hosts)))]
        organ = organs[int(random.integers(len(organs)))]
        if kind.name == "Lung Tumor" and plan.nodules and random.random() < plan.pasted:
            patch = _with_nodules(patch, kind, organ, plan.nodules, random)
        else:
            patch = _inserted(patch, _tumor(kind, plan, random), organ, plan.diameters, seed_of(random))
    if random.random() < plan.distractors:
        patch = _with_distractor(patch, plan.kinds, random)
    return patch


def put_one_of_each(patch: LabelledPatch, kinds: tuple[StructureClass, ...], random: Generator) -> LabelledPatch:
    """Put a tumor of each kind, as they occur, into a scan that is known to have none of it; all these are annotated.

    A kind stays out where no host of it is known and has room.
    """
    for kind, organs in _hosts(patch, kinds):
        if patch.masks[kind.id - 1].any():
            continue
        organ = organs[int(random.integers(len(organs)))]
        grown = _inserted(patch, Growth.of(kind), organ, None, seed_of(random))
        if grown is not patch:
            annotated = grown.annotated.copy()
            annotated[kind.id - 1] = True
            patch = replace(grown, annotated=annotated)
    return patch


def _tumor(kind: StructureClass, plan: TumorPlan, random: Generator) -> Growth:
    generic = generic_lesions(kind)
    if generic and random.random() < plan.generic:
        return Growth.of(kind, generic)
    growth = Growth.of(kind)
    if not plan.even_variants:
        return growth
    return replace(growth, variants=tuple(replace(one, weight=1.0) for one in growth.variants))


def _with_distractor(patch: LabelledPatch, kinds: tuple[StructureClass, ...], random: Generator) -> LabelledPatch:
    """Put what looks like a tumor into a host of a kind that is known in the patch."""
    organs = sorted({find(name).id for kind in kinds if patch.annotated[kind.id - 1] for name in kind.hosts})
    shown = [organ for organ in organs if distractors(by_id(organ).name) and patch.host(organ) is not None]
    if not shown:
        return patch
    organ = shown[int(random.integers(len(shown)))]
    name = by_id(organ).name
    growth = Growth(f"distractor in the {name}", None, (name,), distractors(name))
    return _inserted(patch, growth, organ, None, seed_of(random))


def _hosts(patch: LabelledPatch, kinds: tuple[StructureClass, ...]) -> list[tuple[StructureClass, tuple[int, ...]]]:
    """Give the kinds that the scan has not or annotates, and whose hosts the patch shows, with those hosts."""
    shown = {}
    found = []
    for kind in kinds:
        if kind.id not in patch.absent and not patch.annotated[kind.id - 1]:
            continue
        organs = [find(name).id for name in kind.hosts]
        for organ in organs:
            if organ not in shown:
                shown[organ] = patch.host(organ) is not None
        if any(shown[organ] for organ in organs):
            found.append((kind, tuple(organ for organ in organs if shown[organ])))
    return found


def _inserted(
    patch: LabelledPatch, growth: Growth, organ: int, diameters: tuple[float, float] | None, seed: int
) -> LabelledPatch:
    """Put something into an organ (id); the patch stays as it is where it does not fit."""
    host = patch.host(organ)
    if host is None:
        return patch
    vessels = patch.masks[HEPATIC_VESSEL - 1] if organ == LIVER and patch.annotated[HEPATIC_VESSEL - 1] else None
    others = None
    if any(any(one.outside) for one in growth.variants):
        others = _union(patch.masks, np.flatnonzero(patch.annotated)) & ~host
    ground = Ground(patch.image, host, patch.spacing, Neighbors(vessels, others))
    try:
        grown = insert(ground, growth, seed, diameters=diameters)
    except InputError:  # the host is too thin for this
        return patch
    masks, known = patch.masks.copy(), patch.known
    grown.displacement.push_layers(masks)
    if known is not None:
        known = known.copy()
        grown.displacement.push_layers(known[None])
        known |= grown.mask
    _relabel(masks, grown.mask, patch, organ, growth.class_id)
    return replace(patch, image=grown.image, masks=masks, known=known)


def _with_nodules(
    patch: LabelledPatch, kind: StructureClass, organ: int, nodules: tuple[Nodule, ...], random: Generator
) -> LabelledPatch:
    """Paste some real nodules into a lung."""
    for _ in range(int(random.integers(1, _MOST_NODULES + 1))):
        host = patch.host(organ)
        if host is None:
            return patch
        pasted = paste(patch.image, host, patch.spacing, nodules[int(random.integers(len(nodules)))], random)
        if pasted is not None:
            masks = patch.masks.copy()
            _relabel(masks, pasted.mask, patch, organ, kind.id)
            known = None if patch.known is None else patch.known | pasted.mask
            patch = replace(patch, image=pasted.image, masks=masks, known=known)
    return patch


def _relabel(
    masks: Bool[NDArray[np.bool_], "class x y z"], new: Mask, patch: LabelledPatch, organ: int, class_id: int | None
) -> None:
    """Give what is new to its organ in the masks, in place, and to a tumor if it is one."""
    masks[:, new] = False
    owners = {organ - 1, *(index for pair in patch.merged if organ - 1 in pair for index in pair)}
    for index in owners if class_id is None else {*owners, class_id - 1}:
        masks[index] |= new


def _union(masks: Bool[NDArray[np.bool_], "class x y z"], indices: Iterable[int]) -> Mask:
    """Give what any of some masks holds, without a copy of all of them."""
    union: Mask = np.zeros(masks.shape[1:], np.bool_)
    for index in indices:
        union |= masks[index]
    return union
