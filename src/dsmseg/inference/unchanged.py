"""What need not be done again: a case folder that the same scan, weights and settings have made, and that is whole."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dsmseg.errors import InputError
from dsmseg.files import checksum
from dsmseg.inference.segmentation import FileFormat, files_of
from dsmseg.volume import source_files


def hash_scan(scan: Path) -> str | None:
    """Give the sha256 of the files that a scan is read from, of a folder's with their names; None if not all are known.

    Raises:
        InputError: a file cannot be read.
    """
    paths = source_files(scan)
    if paths is None or not scan.is_dir():
        return None if paths is None else checksum(paths)
    names = "\0".join(path.relative_to(scan).as_posix() for path in paths)
    return hashlib.sha256(f"{names}\0{checksum(paths)}".encode("utf-8", "surrogateescape")).hexdigest()


def is_unchanged(directory: Path, scan: Path, settings: dict[str, Any], file_format: FileFormat) -> bool:
    """Tell whether a case folder is whole, and its run.json names this scan's bytes and these settings."""
    try:
        run = json.loads((directory / "run.json").read_text("utf-8"))
        files = files_of(file_format, json.loads((directory / "statistics.json").read_text("utf-8")))
        if not all((directory / name).is_file() for name in files):
            return False
        if any(run[name] != value for name, value in settings.items()):
            return False
        made_from = run["input"]["sha256"]
        return made_from is not None and bool(made_from == hash_scan(scan))
    except (OSError, ValueError, LookupError, TypeError, InputError):
        return False
