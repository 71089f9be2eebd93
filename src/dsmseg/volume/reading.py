"""The doors in: `read_scan` for a CT, `read_labels` for a label map, `read_map` for that or a map of scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.volume.archive import read_dicom_zip
from dsmseg.volume.checks import check_grid, check_intensities
from dsmseg.volume.dicom import files_below, looks_like_dicom, read_dicom_folder
from dsmseg.volume.grid import Volume
from dsmseg.volume.itk import read_metaimage, read_nrrd
from dsmseg.volume.itk_data import header_and_data
from dsmseg.volume.nifti import read_nifti
from dsmseg.volume.stored import Stored

_FILE_READERS: dict[str, Callable[[Path], Stored]] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".nrrd": read_nrrd,
    ".mha": read_metaimage,
    ".mhd": read_metaimage,
}
# Longest first, so that ".nii.gz" is taken off a name whole.
VOLUME_SUFFIXES = tuple(sorted(_FILE_READERS, key=len, reverse=True))
SCAN_SUFFIXES = (*VOLUME_SUFFIXES, ".zip")
_LABEL_TYPES = (np.uint8, np.uint16, np.int32)


def read_scan(path: str | Path) -> Volume:
    """Read a CT as float32 HU in RAS: .nii(.gz), .nrrd, .mha, .mhd, a DICOM folder or a .zip of one.

    Raises:
        InputError: missing, damaged, of an unknown kind, or not one CT volume in HU with a known place in space.
    """
    path = Path(path)
    stored = _read_file_or_dicom(path)
    check_grid(stored.array.shape, stored.affine, path)
    volume = Volume.from_own(stored.array, stored.affine, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if stored.slope != 1.0:
            volume.array[...] *= np.float32(stored.slope)
        if stored.intercept != 0.0:
            volume.array[...] += np.float32(stored.intercept)
    check_intensities(volume.array, path)
    return volume


def read_labels(path: str | Path) -> Volume:
    """Read a label map (.nii(.gz), .nrrd, .mha, .mhd) in RAS, as the smallest of uint8, uint16 and int32.

    Raises:
        InputError: missing, damaged, of an unknown kind, or with values that are not whole numbers from 0.
    """
    volume = _read_values(Path(path))
    return Volume(_whole_numbers(volume.array, Path(path)), volume.affine, volume.own)


def read_map(path: str | Path) -> Volume:
    """Read what a label map file holds in RAS: labels as `read_labels`, or float32 scores where there are fractions.

    Raises:
        InputError: missing, damaged, of an unknown kind, with NaN or infinity, or with negative whole numbers alone.
    """
    volume = _read_values(Path(path))
    values = volume.array
    if values.dtype.kind == "f":
        if not np.isfinite(values.sum(dtype=np.float64)):
            raise InputError("holds NaN or infinite values", where=path, mend="Replace them, and save it.")
        if (values % 1 != 0).any():
            return Volume(values.astype(np.float32, order="K", copy=False), volume.affine, volume.own)
    return Volume(_whole_numbers(values, Path(path)), volume.affine, volume.own)


def _read_values(path: Path) -> Volume:
    if path.is_dir() or path.suffix.lower() == ".zip":
        raise InputError("is not a label map file", where=path, mend=f"Give one of {_known_extensions()}.")
    stored = _read_file_or_dicom(path)
    check_grid(stored.array.shape, stored.affine, path)
    volume = Volume.from_own(stored.array, stored.affine)
    values: NDArray[Any] = volume.array
    if (stored.slope, stored.intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * stored.slope + stored.intercept
    return Volume(values, volume.affine, volume.own)


def source_files(path: Path) -> list[Path] | None:
    """Give the files that a scan or a label map is read from: of a folder all, of a header that and the data it names.

    None where a header names several data files. What is not there is left out.

    Raises:
        InputError: a header cannot be read.
    """
    if path.is_dir():
        return files_below(path)
    apart = path.is_file() and _FILE_READERS.get(path.suffix.lower()) in (read_nrrd, read_metaimage)
    try:
        return header_and_data(path) if apart else [path]
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_file_or_dicom(path: Path) -> Stored:
    try:
        if not path.exists():
            raise InputError("does not exist", where=path, mend="Check the path.")
        if path.is_dir():
            return read_dicom_folder(path, where=path)
        if not path.is_file():  # opening a pipe or a device would block, or never end
            raise InputError("is no plain file", where=path, mend="Give a file or a DICOM folder.")
        name = path.name.lower()
        if name.endswith(".zip"):
            return read_dicom_zip(path)
        return _file_reader(path, name)(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:
        raise InputError(
            "does not fit in memory", where=path, mend="Crop the scan, or use a machine with more memory."
        ) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot be read ({error.strerror or error})", where=path, mend="Check the path and its permissions."
    )


def _file_reader(path: Path, name: str) -> Callable[[Path], Stored]:
    reader = next((reader for end, reader in _FILE_READERS.items() if name.endswith(end)), None)
    if reader is None and looks_like_dicom(path):
        raise InputError("is one DICOM file", where=path, mend="Give the folder that holds the whole series.")
    if reader is None:
        raise InputError(
            "is not of a known kind", where=path, mend=f"Give {_known_extensions()}, a DICOM folder or a .zip of one."
        )
    if path.stat().st_size == 0:
        raise InputError("is an empty file", where=path, mend="Copy or convert it again.")
    return reader


def _whole_numbers(values: NDArray[Any], path: Path) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):
        low, high = values.min(), values.max()
    whole = np.isfinite(low) and np.isfinite(high) and (values.dtype.kind in "biu" or bool((values % 1 == 0).all()))
    if not whole:
        raise InputError("holds values that are not whole numbers", where=path, mend="Give a label map, not a score.")
    if low < 0:
        raise InputError(f"holds the negative label {low:g}", where=path, mend="Number labels from 0 (background).")
    fitting = next((kind for kind in _LABEL_TYPES if high <= np.iinfo(kind).max), None)
    if fitting is None:
        raise InputError(f"holds the label {high:g}", where=path, mend="Number labels below 2147483648.")
    return values.astype(fitting, order="K", copy=False)


def _known_extensions() -> str:
    return ", ".join(_FILE_READERS)
