"""Random patches from a store, for a data loader: images in [0, 1], masks of the annotated classes."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dsmseg.datasets.labelling import class_masks
from dsmseg.datasets.store import StoredArray, StoredCase
from dsmseg.errors import InputError
from dsmseg.model.losses import PartialLabels
from dsmseg.taxonomy import CLASSES, ORGANS, TUMORS

Size = tuple[int, int, int]

_OPEN_CASES = 64  # that a worker keeps open; opening one costs a third of reading a patch
_ORGAN_IDS, _TUMOR_IDS = (frozenset(one.id for one in kind) for kind in (ORGANS, TUMORS))


@dataclass(frozen=True, slots=True)
class Draw:
    """What a patch is drawn from: ``case`` by its place in the list, and a ``seed`` for where in it.

    class_id: the class that the patch is centered on; None for anywhere.
    """

    case: int
    class_id: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch.

    image: HU windows scaled to [0, 1]. codes: labels; table: which of the 45 classes each code means (class 1 at index
    0). unknown: which codes mean that nothing is known. annotated: which classes are known in this case. merged:
    indices (left, right) of organs whose sides the case does not tell apart. start: the voxel of the case that the
    patch begins with, negative where it is padded.
    """

    image: Float[Tensor, "window x y z"]
    codes: UInt8[Tensor, "x y z"]
    table: Bool[Tensor, "code class"]
    unknown: Bool[Tensor, "code"]
    annotated: Bool[Tensor, "class"]
    merged: tuple[tuple[int, int], ...]
    case: str
    start: Size

    def masks(self) -> Bool[Tensor, "class x y z"]:
        """Give the voxels of each of the 45 classes; all False for those that are not annotated."""
        return torch.from_numpy(class_masks(self.codes.numpy(), self.table.numpy()))

    def known(self) -> Bool[Tensor, "x y z"] | None:
        """Give the voxels of which the annotated classes are known; None where all are."""
        if not self.unknown.any():
            return None
        known = torch.from_numpy(~self.unknown.numpy()[self.codes.numpy()])
        return None if known.all() else known


@dataclass(frozen=True, slots=True)
class PatchBatch:
    """Images in [0, 1], the annotated classes' masks, and the cases that they are from."""

    image: Float[Tensor, "batch window x y z"]
    labels: PartialLabels
    cases: tuple[str, ...]


class Change(Protocol):
    """What is done to one patch: it is sampled from a region of ``source_size`` voxels, then its image is recolored."""

    @property
    def source_size(self) -> Size:
        """Voxels of the scan, about the patch's middle, that the patch is sampled from."""

    def warp(self, hu: NDArray[Any], codes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Sample HU and label codes of the patch from those of the region."""

    def recolor(self, image: Float[Tensor, "window x y z"]) -> None:
        """Change the intensities of an image in [0, 1], in place."""


@dataclass(frozen=True, slots=True)
class RawPatch:
    """A patch before its HU are scaled: warped already, not yet recolored. hu: clipped to the store's window.

    All else as in `Patch`.
    """

    hu: NDArray[np.generic]
    codes: NDArray[Any]
    case: StoredCase
    start: Size
    change: Change | None


class PatchDataset(Dataset[Patch]):
    """Patches of prepared cases. The same draw gives the same patch, in any worker and any order.

    Args:
        cases: from a store, see `choose_cases` or `Store.cases`.
        size: voxels.
        hu_windows: (low, high) of each channel of the image; None is the window that the store was prepared with.
        augment: gives what is done to a patch, by the patch's size and the draw's seed; None leaves patches as they
            are.
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        size: Size = (96, 96, 96),
        hu_windows: Sequence[tuple[float, float]] | None = None,
        augment: Callable[[Size, int], Change] | None = None,
    ) -> None:
        if not cases:
            raise InputError(
                "there are no cases to draw from", mend="Prepare a data set that has a part in the protocol."
            )
        self.cases = list(cases)
        self.size = size
        self.hu_windows = _windows(hu_windows, {case.settings.hu_window for case in cases})
        self.augment = augment
        self._opened: OrderedDict[int, StoredCase] = OrderedDict()

    def __len__(self) -> int:
        """Count the cases; a sampler draws as many patches as it wants."""
        return len(self.cases)

    def __getitem__(self, draw: Draw) -> Patch:
        """Read the patch of a draw. A case that is smaller than a patch is padded with air."""
        return self.finish(self.read(draw))

    def read(self, draw: Draw) -> RawPatch:
        """Read the patch of a draw as HU."""
        case = self._open(draw.case)
        start = self._start(case, draw)
        change = None if self.augment is None else self.augment(self.size, draw.seed)
        hu, codes = self._region(case, start, change)
        return RawPatch(hu, codes, case, start, change)

    def finish(self, raw: RawPatch) -> Patch:
        """Scale the HU of a patch to [0, 1], and recolor it."""
        case = raw.case
        image = torch.empty(len(self.hu_windows), *self.size)
        values = torch.from_numpy(raw.hu)
        for channel, (low, high) in zip(image, self.hu_windows, strict=True):
            torch.sub(values, low, out=channel).mul_(1 / (high - low)).clamp_(0, 1)
        if raw.change is not None:
            raw.change.recolor(image)
        annotated = torch.zeros(len(CLASSES), dtype=torch.bool)
        annotated[[one - 1 for one in case.record.annotated]] = True
        return Patch(
            image=image,
            codes=torch.from_numpy(raw.codes),
            table=torch.from_numpy(case.table),
            unknown=torch.from_numpy(case.unknown_codes),
            annotated=annotated,
            merged=tuple((left - 1, right - 1) for right, left in case.record.merged),
            case=case.name,
            start=raw.start,
        )

    def _region(self, case: StoredCase, start: Size, change: Change | None) -> tuple[NDArray[Any], NDArray[Any]]:
        size = self.size if change is None else change.source_size
        x, y, z = (first - (wide - narrow) // 2 for first, wide, narrow in zip(start, size, self.size, strict=True))
        hu = _read(case.image, (x, y, z), size, int(case.settings.hu_window[0]))
        codes = _read(case.codes, (x, y, z), size, 0)
        return (hu, codes) if change is None else change.warp(hu, codes)

    def _open(self, index: int) -> StoredCase:
        if index in self._opened:
            self._opened.move_to_end(index)
        else:
            # A copy, so that what it opens is closed when it is dropped here.
            self._opened[index] = replace(self.cases[index])
            if len(self._opened) > _OPEN_CASES:
                self._opened.popitem(last=False)
        return self._opened[index]

    def _start(self, case: StoredCase, draw: Draw) -> Size:
        """Center the patch on a voxel of the class, moved by up to a quarter of its size, and keep it in the scan."""
        generator = np.random.default_rng(draw.seed)
        shape, size = np.array(case.record.shape), np.array(self.size)
        last = shape - size
        places = case.locations(draw.class_id) if draw.class_id is not None else np.zeros((0, 3), np.int16)
        if len(places):
            center = places[generator.integers(len(places))] + generator.integers(-(size // 4), size // 4 + 1)
            start = center - size // 2
        else:
            start = generator.integers(0, np.maximum(last, 0) + 1)
        kept = np.where(last >= 0, np.clip(start, 0, np.maximum(last, 0)), last // 2)
        return int(kept[0]), int(kept[1]), int(kept[2])

    def __getstate__(self) -> dict[str, object]:
        """Leave open files behind when a worker is given the data set."""
        return {**self.__dict__, "_opened": OrderedDict()}


@dataclass(frozen=True, slots=True)
class Balance:
    """How often what is drawn.

    dataset_power: a data set is drawn in proportion to its number of cases to this power; 1 is each case alike, 0 each
    data set alike. with_tumors: this many times as often where it shows tumors. anywhere, organ, tumor: relative
    weights of a patch anywhere, centered on an organ, and centered on a tumor, of those that the data set has. Within
    organs and within tumors each class is drawn alike, so that rare ones come as often as large ones. organs: ids of
    those that patches are centered on; empty for all.
    """

    dataset_power: float = 0.5
    with_tumors: float = 1.0
    anywhere: float = 1.0
    organ: float = 2.0
    tumor: float = 5.0
    organs: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Group:
    """The cases of one data set, and which of them show a class."""

    cases: tuple[int, ...]
    organs: dict[int, tuple[int, ...]] = field(default_factory=dict)
    tumors: dict[int, tuple[int, ...]] = field(default_factory=dict)


class PatchSampler(Sampler[Draw]):
    """Draws that balance data sets and classes (the long tail).

    The k-th draw follows from the seed and k alone: ``start`` goes on where another run was, and of ``ranks`` processes
    each takes its own share of the same row.
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        *,
        draws: int,
        seed: int = 0,
        start: int = 0,
        balance: Balance | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.draws, self.seed, self.start, self.rank, self.ranks = draws, seed, start, rank, ranks
        self.balance = balance or Balance()
        self._groups = _groups(cases, self.balance.organs)
        weights = np.array([self._weight(group) for group in self._groups])
        self._shares = weights / weights.sum()

    def __len__(self) -> int:
        """Count the draws of this rank."""
        return len(range(self.start + self.rank, self.draws, self.ranks))

    def __iter__(self) -> Iterator[Draw]:
        """Give the draws of this rank, from ``start`` to ``draws``."""
        return (self.draw(index) for index in range(self.start + self.rank, self.draws, self.ranks))

    def _weight(self, group: "_Group") -> float:
        size = float(len(group.cases) ** self.balance.dataset_power)
        return size * self.balance.with_tumors if group.tumors else size

    def draw(self, index: int) -> Draw:
        """Give the draw with this number."""
        generator = np.random.default_rng((self.seed, index))
        group = self._groups[int(generator.choice(len(self._groups), p=self._shares))]
        kinds: list[tuple[float, dict[int, tuple[int, ...]] | None]] = [(self.balance.anywhere, None)]
        kinds += [(self.balance.organ, group.organs)] if group.organs else []
        kinds += [(self.balance.tumor, group.tumors)] if group.tumors else []
        weights = np.array([weight for weight, _ in kinds])
        classes = kinds[int(generator.choice(len(kinds), p=weights / weights.sum()))][1]
        if classes is None:
            class_id, cases = None, group.cases
        else:
            class_id = sorted(classes)[int(generator.integers(len(classes)))]
            cases = classes[class_id]
        case = cases[int(generator.integers(len(cases)))]
        return Draw(case, class_id, int(generator.integers(2**63)))


def collate(patches: Sequence[Patch]) -> PatchBatch:
    """Make a batch of patches: what a data loader's ``collate_fn`` is."""
    labels = PartialLabels(
        masks=torch.stack([patch.masks() for patch in patches]),
        annotated=torch.stack([patch.annotated for patch in patches]),
        merged=tuple((item, left, right) for item, patch in enumerate(patches) for left, right in patch.merged),
        known=stack_known([patch.known() for patch in patches], patches[0].codes.shape),
    )
    return PatchBatch(torch.stack([patch.image for patch in patches]), labels, tuple(patch.case for patch in patches))


def stack_known(
    known: Sequence[Bool[Tensor, "x y z"] | None], shape: Sequence[int]
) -> Bool[Tensor, "batch x y z"] | None:
    """Put together what is known of each patch; None where all is known of all."""
    if all(one is None for one in known):
        return None
    return torch.stack([torch.ones(tuple(shape), dtype=torch.bool) if one is None else one for one in known])


def _windows(
    asked: Sequence[tuple[float, float]] | None, stored: set[tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    """Give the HU windows of the channels; HU beyond what a store was clipped to are gone."""
    low, high = max(one for one, _ in stored), min(one for _, one in stored)
    if asked is None:
        return ((low, high),)
    for window in asked:
        if window[0] < low or window[1] > high or window[0] >= window[1]:
            raise InputError(
                f"the window {window[0]:g} to {window[1]:g} HU does not lie in that of the store, {low:g} to {high:g}",
                mend=f"Prepare a store with --hu-window={window[0]:g},{window[1]:g} or wider.",
            )
    return tuple(asked)


def _groups(cases: Sequence[StoredCase], organs: frozenset[int]) -> list[_Group]:
    by_dataset: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        by_dataset.setdefault(case.record.dataset, []).append(index)
    groups = []
    for _, members in sorted(by_dataset.items()):
        showing: dict[int, list[int]] = {}
        for index in members:
            for class_id, voxels in cases[index].record.voxels.items():
                if voxels:
                    showing.setdefault(class_id, []).append(index)
        groups.append(
            _Group(
                cases=tuple(members),
                organs={one: tuple(those) for one, those in showing.items() if one in (organs or _ORGAN_IDS)},
                tumors={one: tuple(those) for one, those in showing.items() if one in _TUMOR_IDS},
            )
        )
    return groups


def _read(array: StoredArray, start: Size, size: Size, beyond: int) -> NDArray[np.generic]:
    """Read a patch of a stored array; what lies beyond it is ``beyond``."""
    inner = tuple(
        slice(max(0, first), min(length, first + width))
        for first, width, length in zip(start, size, array.shape, strict=True)
    )
    part: NDArray[np.generic] = array[inner]
    if part.shape == size:
        return part
    whole = np.full(size, beyond, part.dtype)
    whole[tuple(slice(one.start - first, one.stop - first) for one, first in zip(inner, start, strict=True))] = part
    return whole
