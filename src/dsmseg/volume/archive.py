"""A .zip that holds a DICOM folder: unpacked with distrust, read, and removed again."""

import errno
import lzma
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath, PureWindowsPath

from dsmseg.errors import InputError
from dsmseg.volume.dicom import is_ignored_name, read_dicom_folder
from dsmseg.volume.stored import Stored

UNPACKED_LIMIT_BYTES = 8 << 30
ENTRY_LIMIT = 200_000
_ENCRYPTED = 0x1
_CHUNK_BYTES = 1 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError, RuntimeError)


def read_dicom_zip(path: Path) -> Stored:
    """Read the one DICOM series in a .zip (files may lie in subfolders). The temporary folder is always removed.

    Raises:
        InputError: damaged, encrypted, climbing out of its folder, larger than `UNPACKED_LIMIT_BYTES`, or no scan.
    """
    with unpacked(path) as folder:
        return read_dicom_folder(folder, where=path)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Yield a temporary folder with the files of a .zip, which is always removed.

    Raises:
        InputError: damaged, encrypted, climbing out of its folder, or larger than `UNPACKED_LIMIT_BYTES`.
    """
    with _temporary_folder(path) as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, Path(folder), path)
        except _DAMAGE as error:
            raise InputError(
                "is a damaged zip, or of a kind that cannot be unpacked", where=path, mend="Copy or zip it again."
            ) from error
        yield Path(folder)


def _temporary_folder(where: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="dsmseg-")
    except OSError as error:
        raise InputError(
            f"cannot be unpacked, since no temporary folder can be made ({error.strerror or error})",
            where=where,
            mend="Point TMPDIR to a folder that can be written to, or unpack it yourself and give the folder.",
        ) from error


def _unpack(archive: zipfile.ZipFile, folder: Path, where: Path) -> None:
    entries = archive.infolist()
    if len(entries) > ENTRY_LIMIT or sum(entry.file_size for entry in entries) > UNPACKED_LIMIT_BYTES:
        raise _too_large(where)
    places = [(entry, _place_inside(entry, where)) for entry in entries]
    try:
        _extract(archive, folder, places, where)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InputError(
            f"cannot be unpacked ({error.strerror or error})",
            where=where,
            mend="Make room in the temporary folder." if full else "Unpack it yourself and give the folder.",
        ) from error


def _extract(
    archive: zipfile.ZipFile, folder: Path, places: Sequence[tuple[zipfile.ZipInfo, PurePath]], where: Path
) -> None:
    # The header's sizes can lie, so the bytes that really come out are counted as well.
    left = UNPACKED_LIMIT_BYTES
    for entry, place in places:
        if entry.is_dir() or any(is_ignored_name(part) for part in place.parts):
            continue
        target = folder.joinpath(*place.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("xb") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise _too_large(where)
                sink.write(chunk)


def _place_inside(entry: zipfile.ZipInfo, where: Path) -> PureWindowsPath:
    if entry.flag_bits & _ENCRYPTED:
        raise InputError("is encrypted", where=where, mend="Unpack it with its password and give the folder.")
    # Windows paths know both separators and drives, so nothing that climbs on any system slips through.
    place = PureWindowsPath(entry.filename)
    if place.drive or place.root or ".." in place.parts or stat.S_ISLNK(entry.external_attr >> 16):
        raise InputError(
            f"holds {entry.filename!r}, which leads out of the zip", where=where, mend="Zip the plain files again."
        )
    return place


def _too_large(where: Path) -> InputError:
    return InputError(
        f"unpacks to more than {UNPACKED_LIMIT_BYTES >> 30} GiB or {ENTRY_LIMIT} files",
        where=where,
        mend="Unpack it yourself and give the folder of one series.",
    )
