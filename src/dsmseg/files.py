"""Whole files or none: written beside the target, flushed to disk, then renamed over it. And a checksum of files."""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dsmseg.errors import InputError, OutputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_OLD = "-old"  # what a folder that is being replaced is called meanwhile, after its token


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


def checksum(paths: Iterable[Path]) -> str:
    """Give the sha256 of several files' sha256.

    Raises:
        InputError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            told = f"cannot be read ({error.strerror or error})"
            raise InputError(told, where=path, mend="Check the path and its permissions.") from error
    return digest.hexdigest()


@contextmanager
def replacing_folder(directory: Path) -> Iterator[Path]:
    """Yield a new folder beside ``directory`` that takes its place when the block ends well, else vanishes.

    Raises:
        OutputError: the folder cannot be written to, or the disk is full.
    """
    token = secrets.token_hex(4)
    temporary = directory.with_name(f".{token}.{directory.name}")
    replaced = directory.with_name(f".{token}{_OLD}.{directory.name}")
    try:
        with telling(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            with _locked(temporary):
                yield temporary
                for file in temporary.rglob("*"):
                    _flush_to_disk(file)
                _exchange(temporary, directory, replaced)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if directory.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what `replacing_folder` has left beside ``directory`` in a process that was killed.

    Where it was killed between two renames, the old folder gets its name back. What another process is writing stays.
    """
    for replaced in _beside(directory, _OLD):
        new = replaced.with_name(replaced.name.replace(_OLD, "", 1))
        with suppress(OSError), _locked(new if new.is_dir() else replaced, wait=False):
            if not os.path.lexists(directory):
                replaced.rename(directory)
    for left in [*_beside(directory, ""), *_beside(directory, _OLD)]:
        with suppress(OSError), _locked(left, wait=False):
            shutil.rmtree(left, ignore_errors=True)


def _beside(directory: Path, mark: str) -> list[Path]:
    name = re.compile(rf"\.[0-9a-f]{{8}}{mark}\.{re.escape(directory.name)}")
    with suppress(OSError):
        return [entry for entry in directory.parent.iterdir() if name.fullmatch(entry.name) and entry.is_dir()]
    return []


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a folder against `remove_leftovers`; where a system has no locks on folders, nothing is held.

    Raises:
        OSError: another process holds it, or nothing can be held, and ``wait`` is False.
    """
    if fcntl is None:
        if not wait:
            raise BlockingIOError
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:  # another process holds it, or the file system has no locks
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


@contextmanager
def telling(directory: Path) -> Iterator[None]:
    """Turn what went wrong inside of a temporary folder into a line about ``directory``."""
    mend = "Choose a folder that can be written to and has space."
    try:
        yield
    except OutputError as error:
        raise OutputError(error.what, where=directory, mend=mend) from error
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", where=directory, mend=mend) from error


def _exchange(new: Path, target: Path, replaced: Path) -> None:
    try:
        if target.exists():
            os.rename(target, replaced)
        os.rename(new, target)
    except BaseException:  # An interruption between the two must not cost both.
        if replaced.exists() and not target.exists():
            os.rename(replaced, target)
        raise


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
