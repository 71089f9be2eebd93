"""The data of a bench: virtual bodies that anyone can make (``mini``), or the real data sets (``full``)."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from dsmseg.datasets.choosing import choose_datasets
from dsmseg.datasets.description import Description
from dsmseg.datasets.labelling import ClassLabels, label_classes
from dsmseg.datasets.layout import CaseFiles, Found
from dsmseg.datasets.loading import load_case
from dsmseg.datasets.prepare import prepare
from dsmseg.datasets.splits import Protocol, Splits, parts, public_splits, read_splits
from dsmseg.datasets.store import Settings, Store
from dsmseg.datasets.verification.content import find_body
from dsmseg.datasets.verify import Progress
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.tables import Column, Table
from dsmseg.evaluation.regions import BODY_SPACING_MM, body_region
from dsmseg.synthesis.benchmark import SPLITS, write_benchmark
from dsmseg.synthesis.protocol import protocol
from dsmseg.taxonomy import ORGANS, StructureClass, find
from dsmseg.volume import Volume, resample

Scale = Literal["mini", "full"]

_VIRTUAL = "virtual_"


@dataclass(frozen=True, slots=True)
class Data:
    """Where the cases of a bench are.

    folder: of the data sets, as they unpack. store: what is trained on, made from them. splits: of virtual data sets;
    None: the public ones'.
    """

    scale: Scale
    folder: Path
    store: Path
    splits: Path | None

    @property
    def table(self) -> Splits:
        """Give which case is for what."""
        return public_splits() if self.splits is None else read_splits(self.splits)

    def cases(self, table: Table) -> dict[Column, list["Reference"]]:
        """Find the cases that a table scores.

        Raises:
            InputError: a column has none.
        """
        kind: Protocol = "supervised" if table.supervised else "clean"
        assigned = parts(kind, self.table)
        names = {column: self.named(column.dataset) for column in table.columns}
        found = {one.description.name: one for one in self._found(set(names.values()))}
        chosen: dict[Column, list[Reference]] = {}
        for column, name in names.items():
            chosen[column] = [
                Reference(name, case, found[name].description)
                for case in (found[name].cases if name in found else ())
                if assigned.get((name, case.id)) == column.part
            ]
            if not chosen[column]:
                raise InputError(
                    f"holds no case of {name} for {column.part}", where=self.folder, mend="See docs/datasets.md."
                )
        return chosen

    def version(self) -> dict[str, Any]:
        """Say which data these are: another version is not to be mixed with it."""
        store = Store.open(self.store)
        rows = json.dumps([asdict(one) for one in self.table.rows], sort_keys=True)
        return {
            "protocol": protocol().version if self.scale == "mini" else None,
            "splits": hashlib.sha256(rows.encode()).hexdigest()[:16],
            "store": store.settings.model_dump(mode="json"),
        }

    def named(self, dataset: str) -> str:
        """Give the name here of a data set of Table 1."""
        return f"{_VIRTUAL}{dataset.removesuffix('19')}" if self.scale == "mini" else dataset

    def _found(self, names: set[str]) -> list[Found]:
        if self.scale == "full":
            return choose_datasets(self.folder, sorted(names))
        return [one for one in choose_datasets(self.folder) if one.description.name in names]


@dataclass(frozen=True, slots=True)
class Reference:
    """A case with its labels, on disk."""

    dataset: str
    files: CaseFiles
    description: Description

    def state(self) -> list[list[int]]:
        """Give size and time of each file: another one is another case."""
        paths = [self.files.image, *(path for _, path in sorted(self.files.labels.items()))]
        return [[path.stat().st_size, path.stat().st_mtime_ns] for path in paths]

    def load(self) -> "LoadedReference":
        """Read the scan and its labels, on the scan's own grid.

        Raises:
            InputError: a file cannot be read or used.
        """
        loaded = load_case(self.files, self.description)
        middle = _middle(loaded.image) if self.description.separated else None
        labels = label_classes(loaded.structures, self.description, loaded.image.spacing, middle)
        return LoadedReference(loaded.image, body_region(loaded.image), labels)


@dataclass(frozen=True, slots=True)
class LoadedReference:
    """A scan in RAS, its body, and what is known of it."""

    image: Volume
    body: Bool[NDArray[np.bool_], "x y z"]
    labels: ClassLabels

    def classes(self, column: Column) -> Iterator[tuple[StructureClass, Bool[NDArray[np.bool_], "x y z"]]]:
        """Give the classes of a column that are annotated here, apart, each with its mask."""
        merged = {one for pair in self.labels.merged for one in pair}
        wanted = [find(name) for name in column.classes] or list(ORGANS)
        for one in wanted:
            if one.id in self.labels.annotated and one.id not in merged:
                yield one, self.labels.mask(one.id)

    def host(self, tumor: StructureClass) -> Bool[NDArray[np.bool_], "x y z"] | None:
        """Give the organ that a tumor is in, with the tumor; None where not all of it is annotated, or it is empty."""
        hosts = [find(name).id for name in tumor.hosts]
        if not hosts or not set(hosts) <= set(self.labels.annotated):
            return None
        mask: NDArray[np.bool_] = np.logical_or.reduce([self.labels.mask(one) for one in hosts])
        return mask if mask.any() else None


def _middle(image: Volume) -> float | None:
    """Give the body's middle between right and left as `datasets prepare` finds it, in voxels along the first axis."""
    coarse = resample(image, (BODY_SPACING_MM,) * 3)
    middle = find_body(coarse.array).middle
    if middle is None:
        return None
    return float(np.linalg.solve(image.affine, coarse.affine @ [middle, 0, 0, 1])[0])


def mini_data(directory: Path, *, workers: int = 1, progress: Progress | None = None) -> Data:
    """Make the virtual data sets and their store in ``directory``, or go on with what an earlier call has left undone.

    Raises:
        InputError: the folders hold something else.
        OutputError: they cannot be written to.
    """
    folder, store = directory / "benchmark", directory / "store"
    write_benchmark(folder, "mini", workers=workers, progress=progress)
    settings = Settings(spacing_mm=(3.0, 3.0, 3.0), hu_window=(-1000.0, 1000.0))
    prepare(choose_datasets(folder), store, settings, workers=workers, progress=progress)
    return Data("mini", folder, store, folder / SPLITS)
