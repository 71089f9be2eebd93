"""A NRRD or MetaImage header and the voxel data behind it, checked for what ITK passes over in silence.

ITK gives back changed voxels where a packed stream is damaged, prints instead of telling which file is missing, takes
1 mm and straight axes where the header says nothing, and memory for all that the header claims.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from dsmseg.errors import InputError

_CHUNK_BYTES = 1 << 16
_LONGEST_HEADER_BYTES = 1 << 16
_NRRD_PACKED = ("gzip", "gz")
_META_DATA = "ElementDataFile"
_META_SPACING = ("ElementSpacing", "ElementSize")
_META_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")


def check_metaimage_data(path: Path) -> int | None:
    """Return how many bytes of voxels lie behind a MetaImage header, or None where only ITK can tell.

    Raises:
        InputError: no spacing, no directions, a missing data file, or packed data that fail their checksum.
    """
    fields, offset = _header(path, "=", last=_META_DATA)
    if not fields.get(_META_DATA):
        raise damaged(path, "MetaImage")
    _check_named(fields, _META_SPACING, "the size of its voxels is unknown", path)
    _check_named(fields, _META_DIRECTIONS, "left and right are unknown", path)
    packed, binary = (fields.get(key, "").lower().startswith(("t", "1")) for key in ("CompressedData", "BinaryData"))
    found = _check_data(path, _data_name(fields), offset, packed)
    return found if binary else None


def check_nrrd_data(path: Path) -> int | None:
    """Return how many bytes of voxels lie behind a NRRD header, or None where only ITK can tell.

    Raises:
        InputError: a space without directions, a missing data file, or packed data that fail their checksum.
    """
    fields, offset = _nrrd_header(path)
    if "space" in fields:
        _check_named(fields, ("space directions",), "left and right are unknown", path)
    if "line skip" in fields or "byte skip" in fields:
        return None
    encoding = fields.get("encoding", "").lower()
    found = _check_data(path, _data_name(fields), offset, encoding in _NRRD_PACKED)
    return found if encoding in ("raw", *_NRRD_PACKED) else None


def header_and_data(path: Path) -> list[Path] | None:
    """Give the files that a NRRD or MetaImage consists of, as far as they exist; None if its header names several."""
    fields, _ = _nrrd_header(path) if path.suffix.lower() == ".nrrd" else _header(path, "=", last=_META_DATA)
    name = _data_name(fields)
    if _names_several(name):
        return None
    data = path.parent / name
    return [path, data] if name and data.is_file() else [path]


def nrrd_fields(path: Path) -> dict[str, str]:
    """Give the fields of a NRRD header, names in lower case; the value of a key and value pair begins with ``=``."""
    return _nrrd_header(path)[0]


def damaged(path: Path, format_name: str) -> InputError:
    """Return the refusal of a file that is not what its name says."""
    return InputError(
        f"is damaged, cut short, or not the {format_name} file its name says",
        where=path,
        mend="Copy or convert it again.",
    )


def _nrrd_header(path: Path) -> tuple[dict[str, str], int]:
    fields, offset = _header(path, ":", last="")
    return {key.lower(): value for key, value in fields.items()}, offset


def _header(path: Path, sign: str, *, last: str) -> tuple[dict[str, str], int]:
    """Return the fields of a text header, and where the data behind it begin."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while stream.tell() < _LONGEST_HEADER_BYTES and (line := stream.readline(_LONGEST_HEADER_BYTES)):
            key, _, value = line.decode("utf-8", "replace").partition(sign)
            key = key.strip()
            fields[key] = value.strip()
            if key == last:
                break
        return fields, stream.tell()


def _check_named(fields: Mapping[str, str], names: Sequence[str], doubt: str, path: Path) -> None:
    if not any(name in fields for name in names):
        raise InputError(
            f"names no {names[0]}, so {doubt}",
            where=path,
            mend=f"Convert it again from its DICOM, or add {names[0]} to the header if you know it.",
        )


def _data_name(fields: Mapping[str, str]) -> str:
    """Return what a header calls its data file, or nothing where the data follow it."""
    name = fields.get(_META_DATA, "")
    if name.upper() == "LOCAL":
        return ""
    return name or fields.get("data file", fields.get("datafile", ""))


def _names_several(name: str) -> bool:
    return name.upper().startswith("LIST") or "%" in name


def _check_data(path: Path, name: str, offset: int, packed: bool) -> int | None:
    if _names_several(name):
        return None
    data, start = (path.parent / name, 0) if name else (path, offset)
    if not data.is_file():
        raise InputError(f"its data file {name} is missing", where=path, mend="Put it beside its header.")
    if not packed:
        return data.stat().st_size - start
    length = _inflated_length(data, start)
    if length is None:
        raise InputError("its packed voxels are damaged or cut short", where=path, mend="Copy or convert it again.")
    return length


def _inflated_length(path: Path, offset: int) -> int | None:
    """Return the length of what a zlib or gzip stream holds, or None unless it ends with the right checksum."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    length = 0
    with path.open("rb") as stream:
        stream.seek(offset)
        try:
            while not inflate.eof and (chunk := stream.read(_CHUNK_BYTES)):
                length += len(inflate.decompress(chunk))
        except zlib.error:
            return None
    return length if inflate.eof else None
