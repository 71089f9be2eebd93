"""The CT series that results refer to: its slices' headers in order, made fit to be quoted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsmseg.errors import InputError
from dsmseg.volume.archive import unpacked
from dsmseg.volume.dicom import read_dicom_slices
from dsmseg.volume.dicom.headers import SliceHeader
from dsmseg.volume.dicom_out.extra import dicom_packages, unwarned
from dsmseg.volume.dicom_out.uids import derived_uid
from dsmseg.volume.grid import Grid, Volume

_NEEDED = ("SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID")
_OF_THE_SERIES = ("SeriesInstanceUID", "StudyInstanceUID")
_TEXTS = ("PatientID", "PatientName", "PatientSex", "StudyID", "AccessionNumber", "ReferringPhysicianName")
_DATES = {"PatientBirthDate": "DA", "StudyDate": "DA", "StudyTime": "TM"}
# Private tags of a slice can be large, and results quote patient and study from the first slice alone.
_OF_EVERY_SLICE = (
    *_NEEDED,
    *_OF_THE_SERIES,
    *("Modality", "Rows", "Columns", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
)
_SEXES = ("M", "F", "O")
_SAME_PLACE_MM = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class SourceSeries:
    """A CT series on disk, without its pixels.

    Attributes:
        where: the folder or .zip that it was read from.
        slices: a pydicom data set for each slice, in the order of the last axis of ``grid``.
        grid: (columns, rows, slices), the ``own`` grid of a `Volume` read from ``where``.
    """

    where: Path
    slices: tuple[Any, ...]
    grid: Grid

    @property
    def series_uid(self) -> str:
        """The UID of the series."""
        return str(self.slices[0].SeriesInstanceUID)

    def check_fits(self, volume: Volume) -> None:
        """Refuse a volume that was not read from this series.

        Raises:
            InputError: it has another grid.
        """
        own = volume.own
        if own.shape != self.grid.shape or not np.allclose(own.affine, self.grid.affine, rtol=0, atol=_SAME_PLACE_MM):
            raise InputError(
                "is not the series that the result was computed from",
                where=self.where,
                mend="Leave the series in place, and unchanged, until its result is written.",
            )


def read_source_series(source: str | Path) -> SourceSeries:
    """Read the headers of the one CT series in a DICOM folder or a .zip of one: the same that `read_scan` reads.

    Raises:
        InputError: no DICOM; no or several series, or slices that do not form a volume; slices without the UIDs
            that results refer to; or pydicom and highdicom are not installed.
    """
    source = Path(source)
    if not source.is_dir() and source.suffix.lower() != ".zip":
        raise InputError(
            "is no DICOM series, which DICOM output needs",
            where=source,
            mend="Give the DICOM folder, or choose nifti or seg.nrrd.",
        )
    try:
        with _folder_of(source) as folder, unwarned():
            headers, grid = read_dicom_slices(folder, where=source)
            first = _quotable(headers[0], None, source)
            slices = (first, *(_quotable(header, _OF_EVERY_SLICE, source) for header in headers[1:]))
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror or error})", where=source, mend="Check the path and its permissions."
        ) from error
    _name_series(slices)
    _check_one_series(slices, source)
    for dataset in slices:  # `stacked` lets them differ a little, and takes the first
        dataset.ImageOrientationPatient = slices[0].ImageOrientationPatient
        dataset.PixelSpacing = slices[0].PixelSpacing
        dataset.SliceThickness = dataset.SpacingBetweenSlices = f"{grid.spacing[2]:.10g}"
    return SourceSeries(source, slices, grid)


@contextmanager
def _folder_of(source: Path) -> Iterator[Path]:
    if source.is_dir():
        yield source
    else:
        with unpacked(source) as folder:
            yield folder


def _quotable(header: SliceHeader, tags: Sequence[str] | None, where: Path) -> Any:
    """Read a header, or only some tags of it, and mend what would be refused where it is quoted."""
    pydicom, _ = dicom_packages()
    try:
        dataset = pydicom.dcmread(header.path, stop_before_pixels=True, force=True, specific_tags=tags)
        dataset.decode()
    except (ValueError, LookupError, TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"its file {header.name} has a header that cannot be read ({error})",
            where=where,
            mend="Export the series again, or choose nifti or seg.nrrd.",
        ) from error
    for name in ("SOPClassUID", "SOPInstanceUID"):  # anonymizers that empty them often leave the same ones here
        if not dataset.get(name) and (same := dataset.file_meta.get(f"MediaStorage{name}")):
            setattr(dataset, name, same)
    missing = [name for name in _NEEDED if not dataset.get(name)]
    if missing:
        raise InputError(
            f"its file {header.name} lacks {missing[0]}, which DICOM results must refer to",
            where=where,
            mend="Export the series again without taking UIDs away, or choose nifti or seg.nrrd.",
        )
    for name in _TEXTS:
        dataset.setdefault(name, "")
    for name, kind in _DATES.items():
        setattr(dataset, name, _date_or_nothing(dataset.get(name), kind))
    if dataset.PatientSex not in _SEXES:
        dataset.PatientSex = ""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset


def _date_or_nothing(value: object, kind: str) -> object:
    pydicom, _ = dicom_packages()
    parse = {"DA": pydicom.valuerep.DA, "TM": pydicom.valuerep.TM}[kind]
    try:
        return parse(value) if value else None
    except (ValueError, TypeError):
        return None


def _name_series(slices: tuple[Any, ...]) -> None:
    """Give a series and a study whose UIDs were taken away new ones, always the same; its images keep theirs."""
    for name in _OF_THE_SERIES:
        if not any(dataset.get(name) for dataset in slices):
            uid = derived_uid(name, *(str(dataset.SOPInstanceUID) for dataset in slices))
            for dataset in slices:
                setattr(dataset, name, uid)


def _check_one_series(slices: tuple[Any, ...], where: Path) -> None:
    for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        if len({dataset.get(name) for dataset in slices}) > 1:
            raise InputError(
                f"has several {name} among its slices, so that DICOM results cannot refer to one series",
                where=where,
                mend="Export the series again, or choose nifti or seg.nrrd.",
            )
    if len({dataset.SOPInstanceUID for dataset in slices}) < len(slices):
        raise InputError(
            "has slices with the same SOPInstanceUID",
            where=where,
            mend="Export the series again, or choose nifti or seg.nrrd.",
        )
