"""What a SEG on disk really says, compared with what it was meant to say: every voxel, at its place in mm."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import OutputError
from dsmseg.volume.dicom_out.extra import dicom_packages
from dsmseg.volume.dicom_out.source import SourceSeries
from dsmseg.volume.itk import LPS_TO_RAS

_SAME_PLACE_MM = 0.01
_PIXEL_TAG, _PIXEL_HEADER_BYTES = b"\xe0\x7f\x10\x00OB", 12  # explicit VR, little endian


def check_written(path: Path, frames: NDArray[Any], series: SourceSeries, where: Path) -> None:
    """Read a binary SEG with pydicom alone, and compare it with segment numbers (slice, row, column).

    Each frame's own position and orientation say which slice of ``series.grid`` it covers; the image that it refers
    to must be that slice. Frames are read one by one, so that memory holds one at a time.

    Raises:
        OutputError: a frame lies elsewhere, refers to another slice, has other voxels, is missing or is there twice.
    """
    try:
        missing = _missing(path, frames, series, where)
    except (ValueError, KeyError, AttributeError, IndexError) as error:
        raise _differs(f"it cannot be read: {error}", where) from error
    if missing:
        raise _differs(f"{missing} frames are missing", where)


def _missing(path: Path, frames: NDArray[Any], series: SourceSeries, where: Path) -> int:
    """Compare all frames that are there, and count those that are not."""
    pydicom, _ = dicom_packages()
    with path.open("rb") as stream:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True)
        header = stream.read(_PIXEL_HEADER_BYTES)
        pixels = np.memmap(path, np.uint8, mode="r", offset=stream.tell())
    if not header.startswith(_PIXEL_TAG) or not dataset.NumberOfFrames == len(dataset.PerFrameFunctionalGroupsSequence):
        raise _differs("its header contradicts itself", where)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    expected = {(k, int(number)) for k, image in enumerate(frames) for number in _numbers(image)}
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        k = _slice_of(frame, shared, series, where)
        number = int(_group("SegmentIdentificationSequence", frame, shared).ReferencedSegmentNumber)
        source = _group("DerivationImageSequence", frame, shared).SourceImageSequence[0]
        if source.ReferencedSOPInstanceUID != series.slices[k].SOPInstanceUID or (k, number) not in expected:
            raise _differs("a frame belongs to another slice", where)
        if not np.array_equal(_image(pixels, index, dataset.Rows, dataset.Columns), frames[k] == number):
            raise _differs(f"voxels of segment {number} differ", where)
        expected.remove((k, number))
    return len(expected)


def _image(pixels: NDArray[np.uint8], index: int, rows: int, columns: int) -> NDArray[np.uint8]:
    """Unpack a frame, one bit a pixel. Frames follow each other without padding, so one may begin inside of a byte."""
    first = index * rows * columns
    packed = pixels[first // 8 : (first + rows * columns + 7) // 8]
    bits = np.unpackbits(packed, bitorder="little")
    return bits[first % 8 :][: rows * columns].reshape(rows, columns)


def _numbers(image: NDArray[Any]) -> NDArray[np.intp]:
    found = np.flatnonzero(np.bincount(image.ravel()))
    return found[found > 0]


def _group(name: str, frame: Any, shared: Any) -> Any:
    """Give a functional group: of the frame, or what all frames share."""
    return (frame if name in frame else shared)[name][0]


def _slice_of(frame: Any, shared: Any, series: SourceSeries, where: Path) -> int:
    """Give the slice whose place a frame has, after its corners were found where they should be."""
    orientation = _group("PlaneOrientationSequence", frame, shared).ImageOrientationPatient
    row, column = np.array(orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = map(float, _group("PixelMeasuresSequence", frame, shared).PixelSpacing)
    position = _ras(_group("PlanePositionSequence", frame, shared).ImagePositionPatient)
    affine, (columns, rows, slices) = series.grid.affine, series.grid.shape
    k = round(float((np.linalg.inv(affine) @ np.append(position, 1.0))[2]))
    if not 0 <= k < slices:
        raise _differs("a frame lies outside of the scan", where)
    # Positions of the source may be rounded, so a slice is where its own header says, within what `stacked` allows.
    expected = _ras(series.slices[k].ImagePositionPatient)
    for i, j in ((0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)):
        found = position + i * between_columns * _ras(row) + j * between_rows * _ras(column)
        offset = float(np.linalg.norm(found - (expected + affine[:3, :2] @ (i, j))))
        if offset > _SAME_PLACE_MM:
            raise _differs(f"a frame lies {offset:.2f} mm from its slice", where)
    return k


def _ras(lps: Any) -> NDArray[np.float64]:
    return LPS_TO_RAS[:3, :3] @ np.array(lps, dtype=np.float64)


def _differs(what: str, where: Path) -> OutputError:
    return OutputError(
        f"was written, but reads back differently ({what}), so it was removed",
        where=where,
        mend="Choose nifti or seg.nrrd, and report this with the versions of highdicom and pydicom.",
    )
