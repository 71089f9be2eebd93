"""Whole files or none: written beside the target, flushed to disk, then renamed over it."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dsmseg.errors import OutputError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that takes its place when the block ends well.

    The temporary name keeps the target's suffixes, since writers choose the format by them. When the block fails,
    the temporary file is removed and the target stays as it was.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
        with suppress(OSError):  # the file is in place; some systems cannot flush a folder
            _flush_to_disk(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot be written ({reason})", where=target, mend="Choose a folder that can be written to and has space."
        ) from error
    finally:
        with suppress(OSError):  # the failure that matters is on its way already
            temporary.unlink(missing_ok=True)


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary path, then rename it to ``target``."""
    with replacing(target) as temporary:
        write(temporary)


def write_json(target: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically. NaN is refused: JSON has none."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(target, lambda path: path.write_text(text, "utf-8", "backslashreplace"))


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
