"""The result for one scan, and its case folder on disk."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from dsmseg.errors import OutputError
from dsmseg.files import replacing_folder, telling, write_json
from dsmseg.inference.dicom_results import write_dicom
from dsmseg.inference.lesions import Lesion
from dsmseg.inference.prompting import Match
from dsmseg.inference.statistics import class_rows
from dsmseg.model.kernels import in_threads
from dsmseg.taxonomy import StructureClass
from dsmseg.volume import Segment, Volume, write_nifti, write_seg_nrrd

FileFormat = Literal["nifti", "seg.nrrd", "dicom-seg"]

_RUN = "run.json"
_ALWAYS = frozenset({"anomaly.nii.gz", "unexplained.nii.gz", "statistics.json", _RUN})
_DICOM_LAYERS = frozenset({"organs.dcm", "tumors.dcm"})  # only where there is something to segment


def files_of(file_format: FileFormat, statistics: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Name the files that a case folder always holds, or that one with these ``statistics`` holds."""
    if file_format == "dicom-seg":
        found = statistics or {"organs": [], "lesions": []}
        organs = {"organs.dcm"} if any(row["voxels"] for row in found["organs"]) else set()
        return _ALWAYS | {"report.dcm"} | organs | ({"tumors.dcm"} if found["lesions"] else set())
    suffix = "nii.gz" if file_format == "nifti" else "seg.nrrd"
    return _ALWAYS | {f"organs.{suffix}", f"tumors.{suffix}"}


_WRITTEN = files_of("nifti") | files_of("seg.nrrd") | files_of("dicom-seg") | _DICOM_LAYERS


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Organs, tumors and anomaly of one scan. Arrays have the shape and axes (RAS) of ``volume.array``.

    Attributes:
        volume: the scan, HU.
        source: the file or folder that it was read from, if there is one.
        organs: label map, taxonomy ids 1..25.
        tumors: label map, taxonomy ids 26..45, a layer of its own: a tumor never erases its organ.
        anomaly_levels, unexplained_levels: ``anomaly`` and ``unexplained`` in steps of 1/255.
        lesions: connected tumors, the largest first.
        classes: the classes that were looked for.
        run: what ran, as JSON would hold it.
        matches: the query that each free text means.
    """

    volume: Volume
    source: Path | None
    organs: UInt8[NDArray[np.uint8], "x y z"]
    tumors: UInt8[NDArray[np.uint8], "x y z"]
    anomaly_levels: UInt8[NDArray[np.uint8], "x y z"]
    unexplained_levels: UInt8[NDArray[np.uint8], "x y z"]
    lesions: list[Lesion]
    classes: tuple[StructureClass, ...]
    run: dict[str, Any]
    matches: Sequence[Match] = ()

    @property
    def anomaly(self) -> Float[NDArray[np.float32], "x y z"]:
        """How unlike its own organ a voxel is, 0..1, on one scale for all scans; 0 outside of organs' hulls."""
        return self.anomaly_levels * np.float32(1 / 255)

    @property
    def unexplained(self) -> Float[NDArray[np.float32], "x y z"]:
        """How little the organ queries explain a voxel, 0..1 (1 + A of Eq. 14), on one scale for all scans."""
        return self.unexplained_levels * np.float32(1 / 255)

    def statistics(self) -> dict[str, Any]:
        """Measure every class that was looked for, absent ones too: rows for organs, tumors and lesions."""
        volume_ml = self.volume.grid.voxel_volume_ml
        organs, tumors = self.chosen("organ"), self.chosen("tumor")
        rows = {
            "organs": class_rows(self.organs, self.volume.array, organs, volume_ml),
            "tumors": class_rows(self.tumors, self.volume.array, tumors, volume_ml) if tumors else self.run["tumors"],
            "lesions": [lesion.row() for lesion in self.lesions],
        }
        return rows | {"prompts": [match.row() for match in self.matches]} if self.matches else rows

    def chosen(self, kind: Literal["organ", "tumor"]) -> list[StructureClass]:
        """Give the classes of a kind that were looked for."""
        return [one for one in self.classes if one.kind == kind]

    def save(self, directory: str | Path, *, file_format: FileFormat = "nifti", overwrite: bool = False) -> Path:
        """Write the case folder ``directory`` whole or not at all, and return it.

        It holds organs and tumors (label maps on the scan's own grid), the scores anomaly and unexplained,
        statistics.json and run.json.

        Raises:
            InputError: ``file_format`` is dicom-seg, and the scan did not come from a DICOM series that can be quoted.
            OutputError: the folder exists and ``overwrite`` is False, or is no case folder, or cannot be written.
        """
        directory = Path(directory)
        refuse_conflict(directory, overwrite=overwrite)
        with replacing_folder(directory) as folder:
            statistics = self.statistics()
            scores = {"anomaly": self.anomaly_levels, "unexplained": self.unexplained_levels}
            writes: list[Callable[[], None]] = [
                partial(write_nifti, folder / f"{name}.nii.gz", levels, self.volume, slope=1 / 255)
                for name, levels in scores.items()
            ]
            if file_format == "dicom-seg":
                write_dicom(folder, self, statistics)
            else:
                writes += self._layers(folder, file_format)

            def write(first: int, last: int) -> None:
                for one in writes[first:last]:
                    one()

            in_threads(write, len(writes))  # most of it is zlib, which lets go of the interpreter
            write_json(folder / "statistics.json", statistics)
            write_json(folder / _RUN, self.run)
        return directory

    def _layers(self, folder: Path, file_format: FileFormat) -> list[Callable[[], None]]:
        """Give what writes each layer."""
        writes: list[Callable[[], None]] = []
        kinds: tuple[tuple[str, Literal["organ", "tumor"]], ...] = (("organs", "organ"), ("tumors", "tumor"))
        for layer, kind in kinds:
            labels, classes = getattr(self, layer), self.chosen(kind)
            if file_format == "nifti":
                names = {one.id: one.name for one in classes}
                writes.append(partial(write_nifti, folder / f"{layer}.nii.gz", labels, self.volume, names=names))
            else:
                segments = [Segment(one.id, one.name, one.color) for one in classes]
                writes.append(partial(write_seg_nrrd, folder / f"{layer}.seg.nrrd", labels, self.volume, segments))
        return writes


def is_case_folder(directory: Path) -> bool:
    """Tell whether a folder is a result of dsmseg."""
    return (directory / _RUN).is_file()


def refuse_conflict(directory: Path, *, overwrite: bool) -> None:
    """Refuse a case folder that exists, and with ``overwrite`` only what dsmseg has not written.

    Raises:
        OutputError: ``directory`` may not be replaced.
    """
    if not os.path.lexists(directory):
        return
    if not overwrite:
        raise OutputError(
            "exists already", where=directory, mend="Choose another output, or allow overwriting (--overwrite)."
        )
    if not directory.is_dir() or directory.is_symlink() or not is_case_folder(directory):
        raise OutputError(
            f"is no case folder of dsmseg (it has no {_RUN}), so it is not overwritten",
            where=directory,
            mend="Choose another output, or remove it yourself.",
        )
    with telling(directory):
        strangers = sorted({entry.name for entry in directory.iterdir()} - _WRITTEN)
    if strangers:
        raise OutputError(
            f"holds {strangers[0]}, which dsmseg did not write, so it is not overwritten",
            where=directory,
            mend="Choose another output, or move that away.",
        )
