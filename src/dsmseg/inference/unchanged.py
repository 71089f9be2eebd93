"""What need not be done again: a case folder that the same scan, weights and settings have made, and that is whole."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dsmseg.errors import InputError


def hash_scan(scan: Path) -> str:
    """Give the sha256 of a scan's bytes; of a folder's files with their names, in the order of these.

    Raises:
        InputError: a file cannot be read.
    """
    files = sorted(path for path in scan.rglob("*") if path.is_file()) if scan.is_dir() else [scan]
    digest = hashlib.sha256()
    try:
        for path in files:
            if scan.is_dir():
                digest.update(path.relative_to(scan).as_posix().encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot be read ({reason})", where=scan, mend="Check the path and its permissions."
        ) from error
    return digest.hexdigest()


def is_unchanged(directory: Path, scan: Path, settings: dict[str, Any], files: frozenset[str]) -> bool:
    """Tell whether a case folder holds all ``files``, and its run.json names this scan's bytes and these settings."""
    try:
        run = json.loads((directory / "run.json").read_text("utf-8"))
        if not all((directory / name).is_file() for name in files):
            return False
        if any(run[name] != value for name, value in settings.items()):
            return False
        return bool(run["input"]["sha256"] == hash_scan(scan))
    except (OSError, ValueError, LookupError, TypeError, InputError):
        return False
