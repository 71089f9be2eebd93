"""Cases with their labels, whole: of data sets as they unpack, on the scan's own grid, or of a store, as prepared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dsmseg.datasets.choosing import choose_datasets
from dsmseg.datasets.description import Description
from dsmseg.datasets.labelling import ClassLabels, label_classes
from dsmseg.datasets.layout import CaseFiles
from dsmseg.datasets.loading import load_case
from dsmseg.datasets.protocols import choose_cases
from dsmseg.datasets.splits import Protocol as SplitProtocol
from dsmseg.datasets.store import CaseRecord, Store, StoredCase
from dsmseg.datasets.verification.content import find_body
from dsmseg.errors import InputError
from dsmseg.taxonomy import find
from dsmseg.volume import Grid, Volume, resample

_BODY_MM = 3.0  # fine enough to find the body's middle


@dataclass(frozen=True, slots=True)
class Labelled:
    """A scan in RAS, and what is known of its voxels, on the same grid.

    absent: ids of kinds of tumor that are not labelled, and are known to be nowhere in the scan.
    """

    image: Volume
    labels: ClassLabels
    absent: frozenset[int] = frozenset()


class LabelledCase(Protocol):
    """A case that is read when it is asked for."""

    @property
    def name(self) -> str:
        """Data set and id as one word."""

    def read(self) -> Labelled:
        """Read scan and labels.

        Raises:
            InputError: a file cannot be read or used.
        """


@dataclass(frozen=True, slots=True)
class ScanCase:
    """A case of a data set as it unpacks."""

    files: CaseFiles
    description: Description

    @property
    def name(self) -> str:
        """Data set and id as one word."""
        return f"{self.description.name}/{self.files.id}"

    def read(self) -> Labelled:
        """Read scan and labels on the scan's own grid.

        Raises:
            InputError: a file cannot be read or used.
        """
        loaded = load_case(self.files, self.description)
        middle = _middle(loaded.image) if self.description.separated else None
        structures, spacing = loaded.structures, loaded.image.spacing
        labels = label_classes(structures, self.description, spacing, middle, case=self.files.id)
        absent = frozenset(find(name).id for name in self.description.absent.get(self.files.id, ()))
        return Labelled(loaded.image, labels, absent)


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A case of a store. Its HU are clipped to the store's window. ``absent`` as in `Labelled`."""

    stored: StoredCase
    absent: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """Data set and id as one word."""
        return self.stored.name

    def read(self) -> Labelled:
        """Read scan and labels as they were prepared.

        Raises:
            InputError: the case is damaged.
        """
        record = self.stored.record
        affine = np.array(record.affine)
        image = Volume(self.stored.image[:].astype(np.float32), affine, Grid(record.shape, affine))
        labels = ClassLabels(self.stored.codes[:], record.sets, record.annotated, record.merged)
        return Labelled(image, labels, self.absent)


def labelled_cases(folder: Path) -> list[LabelledCase]:
    """Find all labelled cases of the data sets in a folder, public ones, or one with a dataset.json (nnU-Net's layout).

    Raises:
        InputError: it holds none.
    """
    return [ScanCase(case, found.description) for found in choose_datasets(folder) for case in found.cases]


def _nothing_absent(_: CaseRecord) -> frozenset[int]:
    return frozenset()


def stored_cases(
    store: Path,
    *,
    protocol: SplitProtocol = "paper",
    splits: Path | None = None,
    absent: Callable[[CaseRecord], frozenset[int]] = _nothing_absent,
) -> list[LabelledCase]:
    """Find the cases that a store's splits have for validation; ``splits`` and ``protocol`` as for `choose_cases`.

    ``absent`` tells which kinds of tumor (ids) a case is known to lack.

    Raises:
        InputError: the folder is no store, the file no table of splits, or there is no such case.
    """
    found = choose_cases(Store.open(store), protocol, "validation", splits=splits).cases
    if not found:
        what, mend = "holds no case for validation", "Give splits that have such a part, or scans with label maps."
        raise InputError(what, where=store, mend=mend)
    return [PreparedCase(one, absent(one.record)) for one in found]


def spread(cases: Sequence[LabelledCase], count: int | None) -> list[LabelledCase]:
    """Choose at most ``count`` cases, evenly over their order, so that each data set has its share; None for all."""
    if count is None or count >= len(cases):
        return list(cases)
    return [cases[(2 * number + 1) * len(cases) // (2 * count)] for number in range(count)]


def _middle(image: Volume) -> float | None:
    """Give the body's middle between right and left as `datasets prepare` finds it, in voxels along the first axis."""
    coarse = resample(image, (_BODY_MM,) * 3)
    middle = find_body(coarse.array).middle
    if middle is None:
        return None
    return float(np.linalg.solve(image.affine, coarse.affine @ [middle, 0, 0, 1])[0])
