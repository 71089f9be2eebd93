"""The folder run: many cases with one segmenter, a case folder for each."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from dsmseg.errors import DsmsegError, OutputError
from dsmseg.inference.blending import Progress
from dsmseg.inference.cases import Case
from dsmseg.inference.memory import telling_memory
from dsmseg.inference.segmentation import FileFormat, Segmentation, files_of, refuse_conflict
from dsmseg.inference.segmenter import Segmenter
from dsmseg.inference.unchanged import hash_scan, is_unchanged


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case.

    Attributes:
        case: the input.
        directory: the case folder; None where the case failed.
        segmentation: what was saved; None where the case failed or was done before. It holds the scan: keep no list of
            them.
        seconds: from reading to the saved folder.
        error: why the case failed.
        unchanged: it was done before, from the same bytes with the same weights and settings.
    """

    case: Case
    directory: Path | None
    segmentation: Segmentation | None
    seconds: float
    error: DsmsegError | None = None
    unchanged: bool = False


def predict(
    cases: Sequence[Case],
    output: Path,
    *,
    segmenter: Segmenter,
    file_format: FileFormat = "nifti",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[CaseResult]:
    """Segment ``cases``, as `find_cases` lists them, into ``output``/<case>, one by one as the result is iterated.

    The output is checked at once, before anything is computed. A case folder that is whole, and was made from the same
    bytes with the same weights and settings, is left as it is unless ``overwrite`` is True. A case that fails, or for
    which memory runs out, does not stop the others. Where all fail, no new folder stays behind.

    Raises:
        OutputError: ``output`` cannot be written to, or a case folder exists, is another, and ``overwrite`` is False.
    """
    made = prepare_output(output)
    settings, files, done = segmenter.settings(), files_of(file_format), set()
    for case in cases:
        if not overwrite and is_unchanged(output / case.name, case.path, settings, files):
            done.add(case)
        else:
            refuse_conflict(output / case.name, overwrite=overwrite)

    def segment_one(case: Case) -> CaseResult:
        start = perf_counter()
        if case in done:
            return CaseResult(case, output / case.name, None, 0.0, unchanged=True)
        try:
            with telling_memory():
                digest = hash_scan(case.path)  # before it is read: what is changed meanwhile counts as changed
                segmentation = segmenter(case.path, progress=progress)
                segmentation.run["input"]["sha256"] = digest
                directory = segmentation.save(output / case.name, file_format=file_format, overwrite=overwrite)
        except DsmsegError as error:
            return CaseResult(case, None, None, perf_counter() - start, error)
        return CaseResult(case, directory, segmentation, perf_counter() - start)

    def segment_all() -> Iterator[CaseResult]:
        try:
            # No name is given to a result: it holds the scan, and would live on while the next one is segmented.
            yield from map(segment_one, cases)
        finally:
            _remove_empty(made)

    return segment_all()


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


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # one that is not empty is to stay, and so are those around it
        for folder in folders:
            folder.rmdir()
