"""One DICOM file's header: what choosing a series and placing its slices needs."""

import os
from dataclasses import dataclass
from pathlib import Path

from SimpleITK import ImageFileReader

from dsmseg.errors import InputError
from dsmseg.volume.native import native_name

_MARK_OFFSET = 128
_META_BYTES = 1024
_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_STORAGE_CLASS_TAG = b"\x02\x00\x02\x00UI"
_DICOM_EXTENSIONS = (".dcm", ".dicom", ".ima")
_LARGEST_NUMBER = 1e6  # no length in mm, angle or count of a CT comes near


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One image file. Lengths in mm, directions in DICOM's patient axes (LPS); None where it says nothing usable."""

    path: Path
    name: str
    series: str
    description: str
    modality: str
    image_type: str
    photometric: str
    frames: int
    sizes: tuple[int, int]  # columns, rows
    spacing: tuple[float, ...] | None  # between rows, between columns
    orientation: tuple[float, ...] | None  # direction along a row, then along a column
    position: tuple[float, ...] | None
    tilt_degrees: float
    rescaled: bool


def read_headers(folder: Path, where: Path) -> list[SliceHeader]:
    """Read the header of every DICOM image below ``folder``; other files are passed over.

    Raises:
        InputError: there is none, or a CT image is damaged.
    """
    headers = []
    for path in files_below(folder):
        header = _read_header(path, str(path.relative_to(folder)))
        if header is not None:
            headers.append(header)
        elif _was_an_image(path):
            raise InputError(
                f"its file {path.relative_to(folder)} is damaged or cut short",
                where=where,
                mend="Copy the series again, or take the file out.",
            )
    if not headers:
        raise InputError("holds no DICOM images", where=where, mend="Give the folder of a CT series.")
    return headers


def looks_like_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM by its extension or its first bytes; False for what is no file or unreadable."""
    try:
        return path.is_file() and (path.suffix.lower() in _DICOM_EXTENSIONS or _starts_as_dicom(_start(path)))
    except OSError:
        return False


def is_ignored_name(name: str) -> bool:
    """Tell whether a file or folder is only a system's own note (.DS_Store, ._IM001, __MACOSX)."""
    return name.startswith(".") or name == "__MACOSX"


def files_below(folder: Path) -> list[Path]:
    """List what a series may be read from, in order: all files but notes of systems."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_ignored_name(name)]
        found += [Path(parent, name) for name in names if not is_ignored_name(name)]
    return sorted(path for path in found if path.is_file())


def _read_header(path: Path, name: str) -> SliceHeader | None:
    # An extension alone is not enough here: it would only make GDCM guess.
    if not _starts_as_dicom(_start(path)):
        return None
    reader = ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(native_name(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None

    def text(tag: str) -> str:
        value = reader.GetMetaData(tag) if reader.HasMetaDataKey(tag) else ""
        return str(value).encode("utf-8", "replace").decode("utf-8").strip(" \0")

    spacing = _numbers(text("0028|0030"), 2)
    columns, rows = reader.GetSize()[:2]
    return SliceHeader(
        path=path,
        name=name,
        series=text("0020|000e"),
        description=text("0008|103e"),
        modality=text("0008|0060"),
        image_type=text("0008|0008"),
        photometric=text("0028|0004"),
        frames=int((_numbers(text("0028|0008"), 1) or (1,))[0]),
        sizes=(columns, rows),
        spacing=spacing if spacing and min(spacing) > 0 else None,
        orientation=_numbers(text("0020|0037"), 6),
        position=_numbers(text("0020|0032"), 3),
        tilt_degrees=(_numbers(text("0018|1120"), 1) or (0.0,))[0],
        rescaled=text("0028|1052") != "",
    )


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    usable = len(values) == count and all(abs(value) < _LARGEST_NUMBER for value in values)  # NaN is below nothing
    return values if usable else None


def _was_an_image(path: Path) -> bool:
    """Tell whether a file that cannot be read as an image was meant to be one, as far as its start shows."""
    start = _start(path)
    found = start.find(_STORAGE_CLASS_TAG)
    if found >= 0:
        length_at = found + len(_STORAGE_CLASS_TAG)
        length = int.from_bytes(start[length_at : length_at + 2], "little")
        storage_class = start[length_at + 2 : length_at + 2 + length].decode("ascii", "replace").strip(" \0")
        return storage_class == _CT_STORAGE
    nameless = path.suffix == "" or path.suffix[1:].isdigit()
    return path.suffix.lower() in _DICOM_EXTENSIONS or (nameless and not start)


def _starts_as_dicom(start: bytes) -> bool:
    # Old files lack the mark and begin with group 2 or 8.
    return start[_MARK_OFFSET : _MARK_OFFSET + 4] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00")


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_META_BYTES)
