"""A label map as a DICOM segmentation (SEG): one binary segment a label, on the slices of the source series."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.files import replacing
from dsmseg.volume.dicom_out.checking import check_written
from dsmseg.volume.dicom_out.extra import dicom_packages, unwarned
from dsmseg.volume.dicom_out.origin import MAKER, Origin, equipment, finish, tracking_uid
from dsmseg.volume.dicom_out.segments import ARTIFICIAL_INTELLIGENCE, CodedSegment, concept, description
from dsmseg.volume.dicom_out.source import SourceSeries
from dsmseg.volume.dicom_out.uids import derived_uid
from dsmseg.volume.grid import Volume

_LARGEST_LABEL = 65_535


@dataclass(frozen=True, slots=True)
class WrittenSegmentation:
    """How others refer to a SEG: its UIDs, and the number of the segment that each label became."""

    sop_instance_uid: str
    series_instance_uid: str
    numbers: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class SeriesTitle:
    """What a person reads in a PACS: the series' number and description (at most 64 characters)."""

    number: int
    text: str


def write_dicom_seg(
    path: Path,
    labels: NDArray[Any],
    volume: Volume,
    segments: Sequence[CodedSegment],
    *,
    series: SourceSeries,
    origin: Origin,
    title: SeriesTitle,
) -> WrittenSegmentation | None:
    """Write a label map (X, Y, Z) of ``volume``'s grid as a binary SEG on the slices of ``series``, atomically.

    Segments without a voxel are left out, and so are empty frames. The file is read back and compared with ``labels``
    voxel by voxel, in mm, before it takes its name. Returns None, and writes nothing, where no label has a voxel: a
    SEG without a frame is not valid.

    Raises:
        InputError: another shape, another series, labels that no segment names or above 65535, two segments of one
            label, or a header that DICOM does not allow; or highdicom is not installed.
        OutputError: the place cannot be written to, or what was written is not what was meant.
    """
    series.check_fits(volume)
    own = volume.to_own(labels)
    present = _present(own, segments, path)
    kept = [segment for segment in segments if segment.value in present]
    if not kept:
        return None
    numbers = {segment.value: number for number, segment in enumerate(kept, start=1)}
    frames = _renumbered(own, numbers)
    content = hashlib.sha256(frames.data).digest()
    uid = derived_uid("seg", series.series_uid, origin.key(), title.text, repr(kept), content)
    written = WrittenSegmentation(uid, derived_uid("series", uid), numbers)
    with replacing(path) as temporary:
        try:
            with unwarned():
                _dataset(frames, kept, series, origin, title, written).save_as(temporary)
        except ValueError as error:
            raise unquotable(series, error) from error
        check_written(temporary, frames, series, path)
    return written


def _present(own: NDArray[Any], segments: Sequence[CodedSegment], where: Path) -> set[int]:
    """Give the labels that have a voxel."""
    named = {segment.value for segment in segments}
    if len(named) < len(segments) or not all(1 <= value <= _LARGEST_LABEL for value in named):
        raise InputError(
            "segments share a label, or have one outside 1 to 65535", where=where, mend="Number them anew."
        )
    if own.dtype.kind not in "iu" or own.min() < 0 or own.max() > _LARGEST_LABEL:
        raise InputError("labels lie outside 0 to 65535", where=where, mend="Number the labels anew.")
    found = np.zeros(_LARGEST_LABEL + 1, dtype=bool)
    for image in own.T:
        found[: int(image.max()) + 1] |= np.bincount(image.ravel().astype(np.intp)) > 0
    present = set(np.flatnonzero(found).tolist()) - {0}
    if nameless := present - named:
        raise InputError(f"the label {min(nameless)} has no segment", where=where, mend="Describe every label.")
    return present


def _renumbered(own: NDArray[Any], numbers: Mapping[int, int]) -> NDArray[Any]:
    """Turn labels (column, row, slice) into segment numbers (slice, row, column)."""
    table = np.zeros(_LARGEST_LABEL + 1, dtype=np.uint8 if len(numbers) < 256 else np.uint16)
    table[list(numbers)] = list(numbers.values())
    return np.ascontiguousarray(table[own.T])


def _dataset(
    frames: NDArray[Any],
    segments: Sequence[CodedSegment],
    series: SourceSeries,
    origin: Origin,
    title: SeriesTitle,
    written: WrittenSegmentation,
) -> Any:
    _, highdicom = dicom_packages()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER,
        family=concept(ARTIFICIAL_INTELLIGENCE),
        version=origin.version,
        parameters=dict(origin.settings) or None,
    )
    dataset = highdicom.seg.Segmentation(
        source_images=series.slices,
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=[
            description(number, segment, tracking_uid(series, origin, segment), algorithm)
            for number, segment in enumerate(segments, start=1)
        ],
        series_instance_uid=written.series_instance_uid,
        series_number=title.number,
        sop_instance_uid=written.sop_instance_uid,
        instance_number=1,
        content_label="SEGMENTATION",
        content_description=title.text,
        content_creator_name=f"{MAKER}^",
        series_description=title.text,
        **equipment(origin),
    )
    finish(dataset, origin)
    return dataset


def unquotable(series: SourceSeries, error: Exception) -> InputError:
    """Say that a header of the source holds what DICOM does not allow."""
    return InputError(
        f"has a header that DICOM results cannot quote ({error})",
        where=series.where,
        mend="Export the series again, or choose nifti or seg.nrrd.",
    )
