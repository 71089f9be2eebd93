"""The result for one scan, and its case folder on disk."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from dsmseg.errors import OutputError
from dsmseg.files import replacing_folder, telling, write_json
from dsmseg.inference.lesions import Lesion
from dsmseg.inference.statistics import class_rows
from dsmseg.taxonomy import StructureClass
from dsmseg.volume import Segment, Volume, write_nifti, write_seg_nrrd

FileFormat = Literal["nifti", "seg.nrrd"]

_RUN = "run.json"


def files_of(file_format: FileFormat) -> frozenset[str]:
    """Name the files of a case folder."""
    suffix = "nii.gz" if file_format == "nifti" else "seg.nrrd"
    return frozenset({f"organs.{suffix}", f"tumors.{suffix}", "anomaly.nii.gz", "statistics.json", _RUN})


_WRITTEN = files_of("nifti") | files_of("seg.nrrd")


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Organs, tumors and anomaly of one scan. Arrays have the shape and axes (RAS) of ``volume.array``.

    Attributes:
        volume: the scan, HU.
        organs: label map, taxonomy ids 1..25.
        tumors: label map, taxonomy ids 26..45, a layer of its own: a tumor never erases its organ.
        anomaly: 0..1, how little the organ queries explain a voxel (Eq. 14), scaled over the body; 0 beyond its edge.
        lesions: connected tumors, the largest first.
        classes: the classes that were looked for.
        run: what ran, as JSON would hold it.
    """

    volume: Volume
    organs: UInt8[NDArray[np.uint8], "x y z"]
    tumors: UInt8[NDArray[np.uint8], "x y z"]
    anomaly: Float[NDArray[np.float32], "x y z"]
    lesions: list[Lesion]
    classes: tuple[StructureClass, ...]
    run: dict[str, Any]

    def statistics(self) -> dict[str, Any]:
        """Measure every class that was looked for, absent ones too: rows for organs, tumors and lesions."""
        volume_ml = self.volume.grid.voxel_volume_ml
        organs = [one for one in self.classes if one.kind == "organ"]
        tumors = [one for one in self.classes if one.kind == "tumor"]
        return {
            "organs": class_rows(self.organs, self.volume.array, organs, volume_ml),
            "tumors": class_rows(self.tumors, self.volume.array, tumors, volume_ml) if tumors else self.run["tumors"],
            "lesions": [lesion.row() for lesion in self.lesions],
        }

    def save(self, directory: str | Path, *, file_format: FileFormat = "nifti", overwrite: bool = False) -> Path:
        """Write the case folder ``directory`` whole or not at all, and return it.

        It holds organs and tumors (label maps on the scan's own grid), anomaly, statistics.json and run.json.

        Raises:
            OutputError: the folder exists and ``overwrite`` is False, or is no case folder, or cannot be written.
        """
        directory = Path(directory)
        refuse_conflict(directory, overwrite=overwrite)
        with replacing_folder(directory) as folder:
            self._write_layers(folder, file_format)
            # Finer steps than 1/255 are beyond what the score can tell, and would make the file four times as large.
            anomaly = np.round(self.anomaly * 255.0) / np.float32(255.0)
            write_nifti(folder / "anomaly.nii.gz", anomaly, self.volume)
            write_json(folder / "statistics.json", self.statistics())
            write_json(folder / _RUN, self.run)
        return directory

    def _write_layers(self, folder: Path, file_format: FileFormat) -> None:
        for layer, kind in (("organs", "organ"), ("tumors", "tumor")):
            labels = getattr(self, layer)
            classes = [one for one in self.classes if one.kind == kind]
            if file_format == "nifti":
                names = {one.id: one.name for one in classes}
                write_nifti(folder / f"{layer}.nii.gz", labels, self.volume, names=names)
            else:
                segments = [Segment(one.id, one.name, one.color) for one in classes]
                write_seg_nrrd(folder / f"{layer}.seg.nrrd", labels, self.volume, segments)


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
