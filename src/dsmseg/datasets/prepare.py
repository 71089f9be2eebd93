"""Prepare the data sets of a folder into a store: in parallel, whole cases or none, only what has changed."""

import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsmseg.datasets.fingerprint import find_copies
from dsmseg.datasets.layout import Found, case_order
from dsmseg.datasets.preparation import Job, is_up_to_date, prepare_case
from dsmseg.datasets.store import Settings, Store, require_blosc2
from dsmseg.datasets.verification.findings import Check, Finding, from_error, in_order
from dsmseg.datasets.verify import Progress, memory_of
from dsmseg.datasets.workers import Done, Task, run_all
from dsmseg.errors import InputError, OutputError

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of one data set's cases.

    written: now; kept: were there and up to date; left_out: a line for each case that is not in the store, and why;
    gone: cases that the store has, and the folder no longer.
    """

    name: str
    written: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[Finding, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Preparation:
    """What came of all, and pairs of scans in the store that have the same content."""

    datasets: tuple[Prepared, ...]
    copies: tuple[tuple[str, str, float], ...]


def prepare(
    found: Sequence[Found],
    folder: Path,
    settings: Settings,
    *,
    workers: int = 1,
    accept: Collection[Check] = (),
    progress: Progress | None = None,
) -> Preparation:
    """Prepare data sets into the store at ``folder``; go on with what an earlier call has left undone.

    Args:
        found: the data sets, see `choose_datasets`.
        folder: the store; new, empty, or prepared with the same settings.
        settings: spacing and HU window.
        workers: processes.
        accept: checks that must not keep a case out.
        progress: is called with (case, cases done, cases in all).

    Raises:
        InputError: the store has other settings, or another `prepare` is at work on it.
        OutputError: the store cannot be written to, or the disk is full. What was finished stays.
    """
    require_blosc2()
    store = Store.create(folder, settings)
    with alone(folder):
        _remove_remains(folder)
        jobs, kept, left_out = _jobs(found, store, frozenset(accept), progress)
        written: dict[str, list[str]] = {one.description.name: [] for one in found}
        tasks = [Task(job, memory_of(job.files.image)) for job in jobs]
        for done, result in enumerate(run_all(partial(prepare_case, store=store), tasks, workers), start=1):
            name, case = result.input.description.name, result.input.files.id
            if _sort_in(result, written, left_out):
                # What an earlier run made of it is not what these files say.
                shutil.rmtree(store.case_folder(name, case), ignore_errors=True)
            if progress is not None:
                progress(f"{name} {case}", done, len(jobs))
        return Preparation(
            tuple(_summary(one, store, written, kept, left_out) for one in found),
            tuple(find_copies({one.name: one.fingerprint for one in store.whole_cases()})),
        )


def _jobs(
    found: Sequence[Found], store: Store, accepted: frozenset[Check], progress: Progress | None
) -> tuple[list[Job], dict[str, list[str]], dict[str, list[Finding]]]:
    jobs: list[Job] = []
    kept: dict[str, list[str]] = {}
    left_out: dict[str, list[Finding]] = {}
    total, seen = sum(len(one.cases) for one in found), 0
    for one in found:
        name = one.description.name
        kept[name], left_out[name] = [], []
        for files in one.cases:
            seen += 1
            job = Job(files, one.description, accepted)
            if reason := one.description.withdrawn.get(files.id):
                left_out[name].append(Finding(name, files.id, "withdrawn", reason, "Take it away."))
                shutil.rmtree(store.case_folder(name, files.id), ignore_errors=True)
            elif is_up_to_date(job, store.read_case(name, files.id)):
                kept[name].append(files.id)
            else:
                jobs.append(job)
            if progress is not None and seen % 100 == 0:
                progress("comparing with the store", seen, total)
    return jobs, kept, left_out


def _sort_in(
    result: Done[Job, list[Finding]], written: dict[str, list[str]], left_out: dict[str, list[Finding]]
) -> bool:
    """Put a case where it belongs; tells whether it is left out."""
    name, case = result.input.description.name, result.input.files.id
    if isinstance(result.error, OutputError):
        raise result.error
    if result.error is not None:
        left_out[name].append(from_error(name, case, result.error))
    elif result.output:
        left_out[name] += result.output
    else:
        written[name].append(case)
    return case not in written[name]


def _summary(
    found: Found,
    store: Store,
    written: dict[str, list[str]],
    kept: dict[str, list[str]],
    left_out: dict[str, list[Finding]],
) -> Prepared:
    name = found.description.name
    here = {one.id for one in found.cases}
    stored = {folder.name for folder in store.case_folders(name)}
    gone = sorted(stored - here, key=case_order)
    done = sorted(written[name], key=case_order)
    return Prepared(name, tuple(done), tuple(kept[name]), tuple(in_order(left_out[name])), tuple(gone))


def _remove_remains(folder: Path) -> None:
    """Take away what a killed run was writing."""
    for remains in [*folder.glob(".[0-9a-f]*.store.json"), *folder.glob("*/.[0-9a-f]*.*")]:
        if remains.is_dir():
            shutil.rmtree(remains, ignore_errors=True)
        else:
            remains.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second `prepare` out. The lock ends with the process, however that ends."""
    try:
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise OutputError(
            f"cannot be written to ({error.strerror or error})", where=folder, mend="Choose another folder."
        ) from error
    with lock:
        try:
            _lock(lock.fileno())
        except OSError as error:
            raise InputError(
                "is being prepared by another process", where=folder, mend="Wait for it, or end it."
            ) from error
        yield


def _lock(descriptor: int) -> None:
    """Lock an open file, or raise OSError at once where another process has."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
