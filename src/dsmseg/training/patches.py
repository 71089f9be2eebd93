"""The endless row of training batches: each is decided by the seed and the step alone, so a run can go on anywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.utils.data import Dataset

from dsmseg.datasets.patches import Balance, PatchDataset, PatchSampler, stack_known
from dsmseg.datasets.store import CaseRecord, StoredCase
from dsmseg.errors import DsmsegError
from dsmseg.inference.windows import channels
from dsmseg.model.losses import PartialLabels
from dsmseg.synthesis.anatomy import HEPATIC_VESSEL, LIVER
from dsmseg.synthesis.bodies import Body, PatchPlan, Sample, draw
from dsmseg.synthesis.noise import generator as stream
from dsmseg.synthesis.online import draw_phantom
from dsmseg.synthesis.tumors.patches import LabelledPatch, TumorPlan, absent_kinds, put_tumors
from dsmseg.synthesis.warp import uniform
from dsmseg.taxonomy import CLASSES
from dsmseg.training.augmentation import draw_augmentation
from dsmseg.training.data_settings import AugmentationRange
from dsmseg.training.learning_patches import LearningPatch, mix

BLOCK = 8  # draws that are used in turn, several times, before new ones are made


@dataclass(frozen=True, slots=True)
class Batch:
    """Patches that go through the network together: images in [0, 1], labels of all 45 classes, where they are from."""

    image: Float[Tensor, "batch window x y z"]
    labels: PartialLabels
    names: tuple[str, ...]

    def on(self, device: torch.device) -> "Batch":
        """Move to a device."""
        if device.type == "cpu":
            return self
        known = None if self.labels.known is None else self.labels.known.to(device)
        masks, annotated = self.labels.masks.to(device), self.labels.annotated.to(device)
        labels = PartialLabels(masks, annotated, self.labels.merged, known)
        return Batch(self.image.to(device), labels, self.names)


class Source(Protocol):
    """Where patches come from."""

    def patch(self, step: int, place: int) -> LearningPatch:
        """Give the patch at a place of this source's part of a step's batch; the same whenever it is asked for."""


class StoredPatches:
    """Patches of prepared scans, augmented, balanced over data sets and classes."""

    def __init__(
        self,
        cases: Sequence[StoredCase],
        *,
        size: tuple[int, int, int],
        hu_windows: Sequence[tuple[float, float]],
        limits: AugmentationRange,
        balance: Balance,
        batch: int,
        seed: int,
        absent: Callable[[CaseRecord], frozenset[int]],
        tumors: TumorPlan | None = None,
    ) -> None:
        """Take cases, and say what of them is drawn.

        ``absent``: tells which kinds of tumor a case is known to lack; ``tumors``: what is put into patches.
        """
        self.batch, self.seed, self.tumors, self.absent = batch, seed, tumors, absent
        self.dataset = PatchDataset(cases, size, hu_windows, augment=partial(draw_augmentation, limits))
        self.sampler = PatchSampler(cases, draws=0, seed=seed, balance=balance)

    def patch(self, step: int, place: int) -> LearningPatch:
        """Give a patch of a step's batch."""
        raw = self.dataset.read(self.sampler.draw(step * self.batch + place))
        patch = self.dataset.finish(raw)
        if self.tumors is None:
            return LearningPatch(patch.image, patch.masks(), patch.annotated, patch.merged, patch.case, patch.known())
        record, known = raw.case.record, patch.known()
        healthy = LabelledPatch(
            raw.hu.astype(np.float32), patch.masks().numpy(), patch.annotated.numpy(), self.absent(record),
            raw.case.settings.spacing, patch.merged, None if known is None else known.numpy(),
        )  # fmt: skip
        grown = put_tumors(healthy, self.tumors, stream(self.seed, "tumors", step, place))
        image = patch.image if grown.image is healthy.image else self.dataset.finish(replace(raw, hu=grown.image)).image
        return _learning(image, grown, patch.case)


class DrawnPatches:
    """Patches of bodies, real or painted, and of phantoms; each draw is used several times, a little varied."""

    def __init__(
        self,
        bodies: Sequence[Body],
        *,
        plan: Callable[[int], PatchPlan],
        hu_windows: Sequence[tuple[float, float]],
        real: int,
        phantoms: float,
        reuse: int,
        seed: int,
        tumors: TumorPlan | None = None,
    ) -> None:
        """Take bodies, and say what of them is drawn.

        ``plan``: of a step; ``real``: how many patches of a batch, the first ones, are from real CT; ``phantoms``: the
        share of phantoms among the others; ``reuse``: of each draw; ``tumors``: what is put into each use of a draw.
        """
        self.real = [body for body in bodies if body.image is not None]
        self.all = list(bodies)
        self.plan, self.hu_windows, self.real_count = plan, hu_windows, real
        self.phantoms, self.reuse, self.seed, self.tumors = phantoms, reuse, seed, tumors
        self._drawn: dict[tuple[int, int], Sample] = {}

    def patch(self, step: int, place: int) -> LearningPatch:
        """Give a patch of a step's batch."""
        block, turn = divmod(step, BLOCK * self.reuse)
        index = block * BLOCK + turn % BLOCK
        if (index, place) not in self._drawn:
            self._drawn = {key: value for key, value in self._drawn.items() if key[0] // BLOCK == block}
            self._drawn[index, place] = self._draw(index, place)
        sample, random = self._drawn[index, place], _generator(self.seed, 1, step, place)
        patch = _labelled(sample, self.plan(step).spacing)
        if self.tumors is not None:
            patch = put_tumors(patch, self.tumors, stream(self.seed, "tumors", step, place))
        patch = _beyond_slab(patch, sample)
        image = channels(_vary(torch.from_numpy(patch.image), random), self.hu_windows)[0]
        return _learning(image, patch, f"draw {index}.{place}")

    def _draw(self, index: int, place: int) -> Sample:
        random = _generator(self.seed, 0, index, place)
        plan = self.plan(index // BLOCK * BLOCK * self.reuse)
        real = place < self.real_count
        if not real and self.phantoms and float(torch.rand((), generator=random)) < self.phantoms:
            return draw_phantom(plan, stream(self.seed, "phantom", index, place))
        pool = self.real if real else self.all
        body = pool[int(torch.randint(len(pool), (), generator=random))]
        return draw(body, plan, random, real=real)


class Batches(Dataset[list[Batch] | DsmsegError]):
    """The batches of one process: ``batches[step]`` is what it works through in that step, in ``parts`` of equal size.

    A step's places are shared out evenly: process ``rank`` of ``ranks`` has every ``ranks``-th. What the caller can
    mend is given instead of the batches, not raised: a data loader would bury it.

    Args:
        sources: each with how many patches of a batch are from it.
        learned: ids of the classes that are learned; others count as unknown.
        mixed: share of the patches that get a box of another one of the same step. seed: of that.
        parts: of a process's share.
        rank, ranks: which process this is, and of how many.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, int]],
        *,
        learned: frozenset[int],
        mixed: float = 0.0,
        seed: int = 0,
        parts: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.places = [(source, place) for source, count in sources for place in range(count)]
        self.own = range(len(self.places))[rank::ranks]
        self.parts, self.mixed, self.seed = parts, mixed, seed
        self.learned = torch.tensor([one.id in learned for one in CLASSES])

    def __getitem__(self, step: int) -> list[Batch] | DsmsegError:
        """Give the batches of a step."""
        try:
            patches = [self._learnable(patch) for patch in self._patches(step)]
        except DsmsegError as error:
            return error
        size = len(patches) // self.parts
        return [collate(patches[first : first + size]) for first in range(0, len(patches), size)]

    def _patches(self, step: int) -> list[LearningPatch]:
        """Give this process's patches; what is mixed in may be another process's, and is drawn here too."""
        drawn: dict[int, LearningPatch] = {}

        def at(index: int) -> LearningPatch:
            if index not in drawn:
                source, place = self.places[index]
                drawn[index] = source.patch(step, place)
            return drawn[index]

        patches = []
        for index in self.own:
            random = stream(self.seed, "mix", step, index)
            patch = at(index)
            if len(self.places) > 1 and random.random() < self.mixed:
                other = int(random.integers(len(self.places) - 1))
                patch = mix(patch, at(other + (other >= index)), random)
            patches.append(patch)
        return patches

    def _learnable(self, patch: LearningPatch) -> LearningPatch:
        known = patch.annotated & self.learned
        for pair in patch.merged:  # one side alone cannot be learned from the union of both
            if not known[list(pair)].all():
                known[list(pair)] = False
        merged = tuple(pair for pair in patch.merged if known[list(pair)].all())
        return replace(patch, annotated=known, merged=merged)


def collate(patches: Sequence[LearningPatch]) -> Batch:
    """Put patches together."""
    labels = PartialLabels(
        masks=torch.stack([patch.masks for patch in patches]),
        annotated=torch.stack([patch.annotated for patch in patches]),
        merged=tuple((item, *pair) for item, patch in enumerate(patches) for pair in patch.merged),
        known=stack_known([patch.known for patch in patches], patches[0].image.shape[1:]),
    )
    return Batch(torch.stack([patch.image for patch in patches]), labels, tuple(patch.name for patch in patches))


def _labelled(sample: Sample, spacing: float) -> LabelledPatch:
    """Give a drawn patch with masks of all classes, of the slices that the scan has."""
    organs = sample.organs[:, :, slice(*sample.slab)].numpy()
    masks = np.zeros((len(CLASSES), *organs.shape), np.bool_)
    annotated = np.zeros(len(CLASSES), np.bool_)
    for organ in sample.annotated:
        np.equal(organs, organ, out=masks[organ - 1])
        annotated[organ - 1] = True
    masks[LIVER - 1] |= organs == HEPATIC_VESSEL
    image = sample.image[:, :, slice(*sample.slab)].numpy()
    return LabelledPatch(image, masks, annotated, absent_kinds(sample.healthy), (spacing,) * 3)


def _beyond_slab(patch: LabelledPatch, sample: Sample) -> LabelledPatch:
    """Repeat the outermost slices of a thin scan to the patch's size."""
    first, end = sample.slab
    count = sample.image.shape[2]
    if end - first == count:
        return patch
    slices = np.arange(count).clip(first, end - 1) - first
    known = None if patch.known is None else patch.known[:, :, slices]
    return replace(patch, image=patch.image[:, :, slices], masks=patch.masks[:, :, :, slices], known=known)


def _learning(image: Float[Tensor, "window x y z"], patch: LabelledPatch, name: str) -> LearningPatch:
    masks, annotated = torch.from_numpy(patch.masks), torch.from_numpy(patch.annotated)
    known = None if patch.known is None else torch.from_numpy(patch.known)
    return LearningPatch(image, masks, annotated, patch.merged, name, known)


def _vary(image: Float[Tensor, "x y z"], random: Generator) -> Float[Tensor, "x y z"]:
    """Make a re-used patch a little different: brightness, contrast, noise."""
    noise = torch.randn(image.shape, generator=random) * uniform(0.0, 6.0, random)
    return image * uniform(0.97, 1.03, random) + uniform(-8.0, 8.0, random) + noise


def _generator(*key: int) -> Generator:
    """Seed by a key of small integers, so that steps, draws and seeds have streams of their own."""
    seed = 0
    for part in key:
        seed = (seed * 0x9E3779B97F4A7C15 + part + 1) % 2**63
    return Generator().manual_seed(seed)
