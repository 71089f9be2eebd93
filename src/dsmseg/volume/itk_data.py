"""The voxel data behind a NRRD or MetaImage header, checked for what ITK passes over in silence.

ITK gives back changed voxels where a packed stream is damaged, and prints instead of telling which file is missing.
"""

import zlib
from pathlib import Path

from dsmseg.errors import InputError

_CHUNK_BYTES = 1 << 20
_LONGEST_HEADER_BYTES = 1 << 16


def check_metaimage_data(path: Path) -> None:
    """Refuse a MetaImage whose data file is missing or whose packed data fail their checksum."""
    fields, offset = _header(path, "=", last="elementdatafile")
    name = fields.get("elementdatafile", "")
    if not name:
        raise damaged(path, "MetaImage")
    _check_data(path, "" if name.upper() == "LOCAL" else name, offset, fields.get("compresseddata", "") == "true")


def check_nrrd_data(path: Path) -> None:
    """Refuse a NRRD whose data file is missing or whose packed data fail their checksum."""
    fields, offset = _header(path, ":", last="")
    if "line skip" in fields or "byte skip" in fields:
        return
    name = fields.get("data file", fields.get("datafile", ""))
    _check_data(path, name, offset, fields.get("encoding", "") in ("gzip", "gz"))


def damaged(path: Path, format_name: str) -> InputError:
    """Return the refusal of a file that is not what its name says."""
    return InputError(
        f"is damaged, cut short, or not the {format_name} file its name says",
        where=path,
        mend="Copy or convert it again.",
    )


def _header(path: Path, sign: str, *, last: str) -> tuple[dict[str, str], int]:
    """Return the fields of a text header, with keys in lower case, and where the data behind it begin."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while stream.tell() < _LONGEST_HEADER_BYTES and (line := stream.readline(_LONGEST_HEADER_BYTES)):
            key, _, value = line.decode("utf-8", "replace").partition(sign)
            key, value = key.strip().lower(), value.strip()
            fields[key] = value if key.replace(" ", "").endswith("datafile") else value.lower()
            if key == last:
                break
        return fields, stream.tell()


def _check_data(path: Path, name: str, offset: int, packed: bool) -> None:
    if name.upper().startswith("LIST") or "%" in name:
        return
    data = path.parent / name if name else path
    if not data.is_file():
        raise InputError(f"its data file {name} is missing", where=path, mend="Put it beside its header.")
    if packed and not _inflates(data, 0 if name else offset):
        raise InputError("its packed voxels are damaged or cut short", where=path, mend="Copy or convert it again.")


def _inflates(path: Path, offset: int) -> bool:
    """Tell whether a zlib or gzip stream runs to its end with the right checksum."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
    with path.open("rb") as stream:
        stream.seek(offset)
        try:
            while not inflate.eof and (chunk := stream.read(_CHUNK_BYTES)):
                inflate.decompress(chunk)
        except zlib.error:
            return False
    return inflate.eof
