"""The folder run: many cases with one segmenter, a case folder for each.

While the network sees one case, the next one is read and the last one written, each by a thread of its own.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from time import perf_counter

from dsmseg.errors import DsmsegError, InputError, OutputError
from dsmseg.files import remove_leftovers
from dsmseg.inference.cases import Case
from dsmseg.inference.dicom_results import check_dicom_source
from dsmseg.inference.memory import telling_memory
from dsmseg.inference.runtime import leaving_a_core_free
from dsmseg.inference.segmentation import FileFormat, Segmentation, refuse_conflict
from dsmseg.inference.segmenter import Segmenter
from dsmseg.inference.unchanged import hash_scan, is_unchanged
from dsmseg.resources import available_memory
from dsmseg.volume import Volume, read_grid, read_scan

_BESIDE_A_VOXEL = 10  # bytes: of a scan that is read, or of a result with its scan that is written
CaseProgress = Callable[[Case, int, int], None]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case.

    Attributes:
        case: the input.
        directory: the case folder; None where the case failed.
        segmentation: what was saved; None where the case failed, was done before or was computed elsewhere. It holds
            the scan: keep no list of them.
        seconds: spent on reading, computing and writing it.
        error: why the case failed.
        unchanged: it was done before, from the same bytes with the same weights and settings.
    """

    case: Case
    directory: Path | None
    segmentation: Segmentation | None
    seconds: float
    error: DsmsegError | None = None
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Where case folders go, and how they are written."""

    output: Path
    file_format: FileFormat = "nifti"
    overwrite: bool = False

    def folder(self, case: Case) -> Path:
        """Name the folder of a case."""
        return self.output / case.name


def predict(
    cases: Sequence[Case],
    output: Path,
    *,
    segmenter: Segmenter,
    file_format: FileFormat = "nifti",
    overwrite: bool = False,
    progress: CaseProgress | None = None,
) -> Iterator[CaseResult]:
    """Segment ``cases``, as `find_cases` lists them, into ``output``/<case>, one by one as the result is iterated.

    The output is checked at once, before anything is computed. A case folder that is whole, and was made from the same
    bytes with the same weights and settings, is left as it is unless ``overwrite`` is True. A case that fails, or for
    which memory runs out, does not stop the others. Where all fail, no new folder stays behind. While a scan is read,
    what is written to the process's standard error is lost: ITK and GDCM print there.

    Args:
        cases: what to segment.
        output: the folder for their folders.
        segmenter: with its network loaded.
        file_format: of the label maps.
        overwrite: replace case folders that exist.
        progress: is called with (case, windows done, windows in all).

    Raises:
        OutputError: ``output`` cannot be written to, or a case folder exists, is another, and ``overwrite`` is False.
    """
    target = Target(output, file_format, overwrite)
    made = prepare_output(output)
    done = find_done(cases, target, segmenter)

    def run() -> Iterator[CaseResult]:
        try:
            with leaving_a_core_free() if len(cases) - len(done) > 1 else nullcontext():
                yield from _overlapped(cases, done, target, segmenter, progress)
        finally:
            remove_empty(made)

    return run()


def find_done(cases: Sequence[Case], target: Target, segmenter: Segmenter) -> set[Case]:
    """Give the cases whose folders are whole and unchanged, so that they are left as they are.

    What a run that was killed has left of a case is removed.

    Raises:
        OutputError: another case's folder exists, and may not be replaced.
    """
    settings, done = segmenter.settings(), set()
    for case in cases:
        remove_leftovers(target.folder(case))
        if not target.overwrite and is_unchanged(target.folder(case), case.path, settings, target.file_format):
            done.add(case)
        else:
            refuse_conflict(target.folder(case), overwrite=target.overwrite)
    return done


def segment_case(case: Case, target: Target, segmenter: Segmenter, progress: CaseProgress | None = None) -> CaseResult:
    """Read, segment and write one case; what goes wrong with it is told in the result."""
    result = _written(_segmented(_read(case, target, segmenter), segmenter, progress), target)
    return replace(result, segmentation=None)


def prepare_output(output: Path) -> list[Path]:
    """Make the output folder, try it out, and return the folders that were made for it, the innermost first.

    Raises:
        OutputError: ``output`` is a file, or cannot be written to.
    """
    try:
        made = [folder for folder in (output, *output.parents) if not folder.exists()]
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except FileExistsError as error:
        raise OutputError("is a file", where=output, mend="Choose a folder for the results.") from error
    except OSError as error:
        raise OutputError(
            f"cannot be written to ({error.strerror or error})",
            where=output,
            mend="Choose a folder that can be written to.",
        ) from error
    return made


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that are empty, the innermost first."""
    with suppress(OSError):  # one that is not empty is to stay, and so are those around it
        for folder in folders:
            folder.rmdir()


@dataclass(frozen=True, slots=True)
class _Step:
    """A case on its way: what it has come to, and the seconds that it has cost."""

    case: Case
    seconds: float
    volume: Volume | None = None
    digest: str | None = None
    segmentation: Segmentation | None = None
    error: DsmsegError | None = None

    @property
    def voxels(self) -> int:
        """Count the voxels of its scan."""
        return 0 if self.volume is None else prod(self.volume.own.shape)


def _overlapped(
    cases: Sequence[Case], done: set[Case], target: Target, segmenter: Segmenter, progress: CaseProgress | None
) -> Iterator[CaseResult]:
    """Give results in order, each when the next case has been computed or there is none."""
    todo = deque(case for case in cases if case not in done)
    pending: deque[Future[CaseResult]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future[_Step] | None = None
        held = 0  # voxels of the scan that is being written
        try:
            for case in cases:
                if case in done:
                    pending.append(Future())
                    pending[-1].set_result(CaseResult(case, target.folder(case), None, 0.0, unchanged=True))
                else:
                    step = (ahead or reader.submit(_read, todo.popleft(), target, segmenter)).result()
                    ahead = None
                    if pending and not _has_room(step, held, segmenter):
                        yield from _told(pending, keep=0)
                        held = 0
                    if todo and _has_room(step, held + _voxels(todo[0], step), segmenter):
                        ahead = reader.submit(_read, todo.popleft(), target, segmenter)
                    held = step.voxels
                    # No name is given to a result: it holds a scan, and would live on while the next one is segmented.
                    pending.append(writer.submit(_written, _segmented(step, segmenter, progress), target))
                    del step
                yield from _told(pending, keep=1)
            yield from _told(pending, keep=0)
        except (Exception, KeyboardInterrupt, SystemExit):
            for future in pending:
                with suppress(Exception):  # What was finished is told; what matters is on its way already.
                    yield future.result()
            raise
        finally:
            if ahead is not None:
                ahead.cancel()


def _told(pending: "deque[Future[CaseResult]]", *, keep: int) -> Iterator[CaseResult]:
    """Give the oldest results; one stays pending until it is given, lest an interruption loses it."""
    while len(pending) > keep:
        yield pending[0].result()
        pending.popleft()


def _has_room(step: _Step, beside: int, segmenter: Segmenter) -> bool:
    """Tell whether a scan can be segmented while as many voxels ``beside`` it are read or written."""
    left = available_memory()
    if step.volume is None or left is None:
        return True
    return segmenter.need.of(step.volume.own) + _BESIDE_A_VOXEL * beside <= left


def _voxels(case: Case, like: _Step) -> int:
    """Count the voxels of a case by its header; what has none to tell is taken for one ``like`` the last."""
    if not case.path.is_file() or case.path.suffix.lower() == ".zip":
        return like.voxels
    try:
        return prod(read_grid(case.path).shape)
    except InputError:  # told when it is read
        return 0


def _read(case: Case, target: Target, segmenter: Segmenter) -> _Step:
    start = perf_counter()
    try:
        with telling_memory():
            segmenter.check_memory(case.path)
            digest = hash_scan(case.path)  # before it is read: what is changed meanwhile counts as changed
            if target.file_format == "dicom-seg":
                check_dicom_source(case.path)  # before anything is computed
            volume = read_scan(case.path)
    except DsmsegError as error:
        return _Step(case, perf_counter() - start, error=error)
    return _Step(case, perf_counter() - start, volume, digest)


def _segmented(step: _Step, segmenter: Segmenter, progress: CaseProgress | None) -> _Step:
    if step.volume is None:
        return step
    case, start = step.case, perf_counter()

    def show(done: int, total: int) -> None:
        if progress is not None:
            progress(case, done, total)

    try:
        segmentation = segmenter.segment(step.volume, source=case.path, progress=show)
    except DsmsegError as error:
        return _Step(case, step.seconds + perf_counter() - start, error=error)
    segmentation.run["input"]["sha256"] = step.digest
    segmentation.run["seconds"] = {"read": round(step.seconds, 3), **segmentation.run["seconds"]}
    return _Step(case, step.seconds + perf_counter() - start, segmentation=segmentation)


def _written(step: _Step, target: Target) -> CaseResult:
    if step.segmentation is None:
        return CaseResult(step.case, None, None, step.seconds, step.error)
    start = perf_counter()
    try:
        with telling_memory():
            folder = target.folder(step.case)
            step.segmentation.save(folder, file_format=target.file_format, overwrite=target.overwrite)
    except DsmsegError as error:
        return CaseResult(step.case, None, None, step.seconds + perf_counter() - start, error)
    return CaseResult(step.case, folder, step.segmentation, step.seconds + perf_counter() - start)
