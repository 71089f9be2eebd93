"""What a recipe says of data: where patches come from, how they are drawn and varied, and the tumors put into them."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from dsmseg.datasets.patches import Balance
from dsmseg.datasets.splits import Protocol
from dsmseg.errors import InputError
from dsmseg.synthesis.tumors.kinds import tumor_class
from dsmseg.synthesis.tumors.patches import TumorPlan
from dsmseg.taxonomy import ORGANS, find_all
from dsmseg.training.settings import Count, Fraction, Natural, NotNegative, Positive, Section, Side

_USUAL = Balance()


class BodySource(Section):
    """A labelled body to learn from: a TotalSegmentator label map and, where it has one, its CT.

    healthy: organs in which the CT is known to hold no tumor and no cyst; "all" for all. Tumors are put into these
    alone. A body that is painted from its label map is healthy wherever the map has no cyst.
    """

    labels: Path
    image: Path | None = None
    name: str
    licence: str
    source: str
    healthy: tuple[str, ...] = ()


class Store(Section):
    """Prepared scans to learn from.

    path: what `dsmseg datasets prepare` wrote. protocol: which of its scans are for training. splits: a table of parts
    and stages of their own, such as a synthetic benchmark's; without it the public data sets'. healthy: data sets
    whose scans are known to hold no tumor and no cyst but those that are labelled; those of the synthetic benchmark
    need not be named.
    """

    path: Path
    protocol: Protocol = "paper"
    splits: Path | None = None
    healthy: tuple[str, ...] = ()


class Sampling(Section):
    """How often what is drawn from a store; see `dsmseg.datasets.patches.Balance`.

    near_hosts: in Stage 2, organs that patches are centered on are those that can hold a kind of tumor that is put in
    or labelled, and drawn patches lie near hosts of those that are put in. Elsewhere Stage 2 has little to learn.
    """

    dataset_power: Fraction = _USUAL.dataset_power
    with_tumors: Positive = _USUAL.with_tumors
    anywhere: NotNegative = _USUAL.anywhere
    organ: NotNegative = _USUAL.organ
    tumor: NotNegative = _USUAL.tumor
    near_hosts: bool = False

    def balance(self, organs: frozenset[int] = frozenset()) -> Balance:
        """Give it for a sampler, which centers patches on these organs (ids); none for all."""
        return Balance(organs=organs, **self.model_dump(exclude={"near_hosts"}))


class AugmentationRange(Section):
    """What may happen to a patch from a store. Each ``_chance`` is how often.

    rotation: degrees about each axis, both ways. scale: size in the patch relative to that in the scan. elastic: the
    largest standard deviation of the displacement, in voxels, of a smooth field with nodes every ``elastic_nodes``
    voxels. brightness: standard deviation of what is added to the image in [0, 1]. gamma: exponent.

    The defaults are those of nnU-Net (Isensee et al. 2021, supplement: rotation, scaling, gamma; brightness as in its
    additive variant); elastic deformation, which it leaves off, is mild.
    """

    rotation: NotNegative = 30.0
    rotation_chance: Fraction = 0.2
    scale: tuple[Positive, Positive] = (0.7, 1.4)
    scale_chance: Fraction = 0.2
    elastic: NotNegative = 4.0
    elastic_nodes: Positive = 12.0
    elastic_chance: Fraction = 0.2
    brightness: NotNegative = 0.1
    brightness_chance: Fraction = 0.15
    gamma: tuple[Positive, Positive] = (0.7, 1.5)
    gamma_chance: Fraction = 0.3


class Tumors(Section):
    """Tumors put into patches as they are drawn, where the scan is known to have none of their kind or annotates it.

    kinds: classes that may be drawn; of these, those known to be absent are learned as absent. All other kinds are
    never drawn: what is to stay unseen is left out here. chance: share of the patches with a host of such a kind that
    get tumors; the others stay healthy. most: growths in such a patch, one to so many. generic: share of the tumors of
    solid organs that are an early lesion, which looks alike in all of them. distractors: share of the patches that get
    what looks like a tumor of their organ and is none, such as a liver cyst or a clip. diameters: mm, from and to,
    drawn evenly in their logarithm; without it, sizes are those measured (kinds.toml). even_variants: all variants of
    a kind are drawn alike, not as often as they occur.
    nodules: a folder of real lung nodules, below the folder ``data`` (docs/synthesis.md), which are this share of the
    lung tumors: ``pasted``. exclude: patients whose nodules are left out. near: share of the drawn patches (not of the
    stored ones) that lie near a host of one of the kinds; the others lie near any organ.
    """

    kinds: Annotated[tuple[str, ...], Field(min_length=1)]
    chance: Fraction = 0.5
    most: Count = 1
    generic: Fraction = 0.3
    distractors: Fraction = 0.25
    diameters: tuple[Positive, Positive] | None = None
    even_variants: bool = False
    nodules: Path | None = None
    pasted: Fraction = 0.5
    exclude: tuple[str, ...] = ()
    near: Fraction = 0.5

    @property
    def plan(self) -> TumorPlan:
        """Give what is put into patches, but for real nodules.

        Raises:
            InputError: a name is no kind of tumor.
        """
        return TumorPlan(
            kinds=tuple(tumor_class(name) for name in self.kinds),
            chance=self.chance,
            most=self.most,
            generic=self.generic,
            distractors=self.distractors,
            diameters=self.diameters,
            even_variants=self.even_variants,
            pasted=self.pasted,
        )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.diameters and self.diameters[0] > self.diameters[1]:
            raise ValueError("tumors.diameters goes from a smaller to a larger one")
        return self


NO_AUGMENTATION = AugmentationRange(
    rotation_chance=0.0, scale_chance=0.0, elastic_chance=0.0, brightness_chance=0.0, gamma_chance=0.0
)


class Patch(Section):
    """Size in voxels, spacing in mm, and how bodies and phantoms are deformed: degrees, relative size, mm.

    truncation: how often a patch of them is a thin slab, from step ``truncation_from`` on. phases: how often they are
    drawn without contrast, in the arterial and in the venous phase, relative to each other; most tumors show best in
    one of them.
    """

    size: tuple[Side, Side, Side] = (64, 64, 64)
    spacing: Positive = 3.0
    rotation: NotNegative = 10.0
    scale: tuple[Positive, Positive] = (0.8, 1.25)
    stretch: Fraction = 0.1
    elastic: NotNegative = 6.0
    truncation: Fraction = 0.0
    truncation_from: Natural = 0
    phases: tuple[NotNegative, NotNegative, NotNegative] = (1, 1, 1)

    @model_validator(mode="after")
    def _has_a_phase(self) -> Self:
        if not sum(self.phases):
            raise ValueError("patch.phases are all 0: give at least one phase of contrast a share")
        return self


class Batch(Section):
    """Patches of one step, of all processes together: from the store, from real CT of bodies, synthetic ones.

    phantoms: the share of the synthetic ones that are phantoms; the others are deformed bodies.
    reuse: how often a real or synthetic patch is used. mixed: share of the patches that get a box of another one of
    the same step, labels with it; only what both know stays known.
    """

    stored: Natural = 0
    real: Natural = 0
    synthetic: Natural = 0
    phantoms: Fraction = 0.0
    reuse: Count = 3
    mixed: Fraction = 0.0

    @property
    def size(self) -> int:
        """Count the patches."""
        return self.stored + self.real + self.synthetic


class Validation(Section):
    """Held-out cases that the averaged weights are tried on, see docs/training.md. They change nothing that is learned.

    every: steps from one validation to the next; 0: at the end alone. cases: at most so many each time, evenly taken
    from all; at the end all are taken, for the operating points. scans: a folder of scans with label maps, in nnU-Net's
    layout or a public data set's. store: another store than the recipe's. Without either, it is the recipe's store;
    of a store, the cases that its splits have for validation. planted: so many copies of each case are measured beside
    it, with a drawn tumor of each kind that it is known to lack: a few scans have too few lesions to choose points by.
    """

    every: Natural = 500
    cases: Count = 8
    scans: Path | None = None
    store: Store | None = None
    planted: Natural = 0


def healthy_organs(body: BodySource) -> frozenset[int]:
    """Give the ids of the organs that a body's CT is known to be healthy in.

    Raises:
        InputError: a name is no organ.
    """
    if not body.healthy:
        return frozenset()
    if body.healthy == ("all",):
        return frozenset(one.id for one in ORGANS)
    named = [one for name in body.healthy for one in find_all(name)]
    if tumor := next((one.name for one in named if one.kind == "tumor"), None):
        raise InputError(f"healthy names {tumor}, which is no organ", mend="Name organs, such as Liver, or all.")
    return frozenset(one.id for one in named)
