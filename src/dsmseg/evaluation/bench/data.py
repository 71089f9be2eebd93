"""The data of a bench: virtual bodies that anyone can make (``mini``), or the real data sets (``full``)."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from dsmseg.datasets.choosing import choose_datasets
from dsmseg.datasets.description import Description, Part
from dsmseg.datasets.labelled import ScanCase
from dsmseg.datasets.labelling import ClassLabels
from dsmseg.datasets.layout import CaseFiles, Found
from dsmseg.datasets.prepare import prepare
from dsmseg.datasets.splits import Protocol, Splits, parts, public_splits, read_splits
from dsmseg.datasets.store import Settings, Store
from dsmseg.datasets.verify import Progress
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.tables import Column, Table
from dsmseg.evaluation.regions import body_region
from dsmseg.synthesis.benchmark import SPLITS, write_benchmark
from dsmseg.synthesis.protocol import protocol
from dsmseg.synthesis.truth import Truth, truth_path
from dsmseg.taxonomy import ORGANS, StructureClass, find
from dsmseg.volume import Volume

Scale = Literal["mini", "full"]

_VIRTUAL = "virtual_"
_CALIBRATED_BY = 20  # training scans that stand in where there are none for validation: enough for a false-lesion rate


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
            chosen[column] = self._references(found.get(name), assigned, column.part)
            if not chosen[column]:
                raise InputError(
                    f"holds no case of {name} for {column.part}", where=self.folder, mend="See docs/datasets.md."
                )
        return chosen

    def validation(self) -> list["Reference"]:
        """Find the scans that operating points are chosen by; scans of training that label tumors where there are none.

        Raises:
            InputError: there are neither.
        """
        assigned = parts("clean", self.table)
        found = choose_datasets(self.folder)
        held_out = [case for one in found for case in self._references(one, assigned, "validation")]
        if held_out:
            return held_out
        labelling = [one for one in found if any(find(name).kind == "tumor" for name in one.description.classes)]
        trained = [case for one in labelling for case in self._references(one, assigned, "training")]
        if not trained:
            what = "holds no case for validation, and none to train on that labels tumors"
            raise InputError(what, where=self.folder, mend="See docs/datasets.md.")
        step = max(1, len(trained) // _CALIBRATED_BY)
        return trained[::step][:_CALIBRATED_BY]

    def _references(
        self, found: Found | None, assigned: Mapping[tuple[str, str], str], part: Part
    ) -> list["Reference"]:
        if found is None:
            return []
        name = found.description.name
        return [
            Reference(name, case, found.description, self._truth(name, case.id))
            for case in found.cases
            if assigned.get((name, case.id)) == part
        ]

    def _truth(self, dataset: str, case: str) -> Path | None:
        path = truth_path(self.folder, dataset, case)
        return path if path.exists() else None

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
    """A case with its labels, on disk. truth: a file of all its organs, for scoring alone; of virtual bodies."""

    dataset: str
    files: CaseFiles
    description: Description
    truth: Path | None = None

    def state(self) -> list[list[int]]:
        """Give size and time of each file: another one is another case."""
        paths = [self.files.image, *(path for _, path in sorted(self.files.labels.items()))]
        paths += [] if self.truth is None else [self.truth]
        return [[path.stat().st_size, path.stat().st_mtime_ns] for path in paths]

    def load(self) -> "LoadedReference":
        """Read the scan and its labels, on the scan's own grid.

        Raises:
            InputError: a file cannot be read or used.
        """
        case = ScanCase(self.files, self.description).read()
        truth = None if self.truth is None else Truth.read(self.truth)
        return LoadedReference(case.image, body_region(case.image), case.labels, truth)


@dataclass(frozen=True, slots=True)
class LoadedReference:
    """A scan in RAS, its body, and what is known of it. truth: all its organs, where a program made it."""

    image: Volume
    body: Bool[NDArray[np.bool_], "x y z"]
    labels: ClassLabels
    truth: Truth | None = None

    def classes(self, column: Column) -> Iterator[tuple[StructureClass, Bool[NDArray[np.bool_], "x y z"]]]:
        """Give the classes of a column that are annotated here, apart, each with its mask."""
        merged = {one for pair in self.labels.merged for one in pair}
        wanted = [find(name) for name in column.classes] or list(ORGANS)
        for one in wanted:
            if one.id in self.labels.annotated and one.id not in merged:
                yield one, self.labels.mask(one.id)

    def host(self, tumor: StructureClass) -> Bool[NDArray[np.bool_], "x y z"] | None:
        """Give the organ that a tumor is in, with the tumor; None where not all of it is known, or it is empty."""
        if self.truth is not None:
            known = self.truth.host(tumor)
            return known if known.any() else None
        hosts = [find(name).id for name in tumor.hosts]
        if not hosts or not set(hosts) <= set(self.labels.annotated):
            return None
        mask: NDArray[np.bool_] = np.logical_or.reduce([self.labels.mask(one) for one in hosts])
        return mask if mask.any() else None


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
