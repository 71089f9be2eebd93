"""A DICOM series in: from a folder of files to one volume, or one clear line.

The files are read by GDCM through SimpleITK. Slices are ordered by where they lie, never by their number or name; the
affine is built from each slice's own position and orientation. A tilted gantry is refused: its slices are sheared
against each other, and tools such as dcm2niix straighten them.
"""

from pathlib import Path

from dsmseg.volume.dicom.geometry import stacked
from dsmseg.volume.dicom.headers import SliceHeader, files_below, is_ignored_name, looks_like_dicom, read_headers
from dsmseg.volume.dicom.pixels import read_pixels
from dsmseg.volume.dicom.series import the_scan
from dsmseg.volume.grid import Grid
from dsmseg.volume.native import quiet_native_code
from dsmseg.volume.stored import Stored

__all__ = [
    "files_below",
    "is_ignored_name",
    "looks_like_dicom",
    "read_dicom_folder",
    "read_dicom_grid",
    "read_dicom_slices",
]


def read_dicom_folder(folder: Path, *, where: Path) -> Stored:
    """Read the one CT series in a folder and its subfolders as float32 HU, with its affine in mm RAS.

    ``where`` is what messages name: the folder, or the .zip it was unpacked from.

    Raises:
        InputError: no CT series, several, or one with missing, doubled, uneven, tilted or damaged slices.
    """
    with quiet_native_code():
        headers = read_headers(folder, where)
        ordered, affine = stacked(the_scan(headers, where), where)
        return Stored(read_pixels(ordered, where), affine)


def read_dicom_grid(folder: Path) -> Grid:
    """Read the grid of the one CT series in a folder from its headers: (columns, rows, slices), slices upward.

    Raises:
        InputError: as `read_dicom_folder`, but for damaged pixels.
    """
    return read_dicom_slices(folder, where=folder)[1]


def read_dicom_slices(folder: Path, *, where: Path) -> tuple[list[SliceHeader], Grid]:
    """Read the headers of the one CT series in a folder, slices upward, and its grid: (columns, rows, slices).

    Raises:
        InputError: as `read_dicom_folder`, but for damaged pixels.
    """
    with quiet_native_code():
        ordered, affine = stacked(the_scan(read_headers(folder, where), where), where)
    columns, rows = ordered[0].sizes
    return ordered, Grid((columns, rows, len(ordered)), affine)
