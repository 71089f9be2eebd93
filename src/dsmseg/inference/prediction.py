"""The folder run: many cases with one segmenter, a case folder for each."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from dsmseg.errors import DsmsegError, OutputError
from dsmseg.inference.blending import Progress
from dsmseg.inference.cases import Case, find_cases
from dsmseg.inference.segmentation import FileFormat, Segmentation, refuse_conflict
from dsmseg.inference.segmenter import Segmenter


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one case.

    Attributes:
        case: the input.
        directory: the case folder; None where the case failed.
        segmentation: what was saved; None where the case failed. It holds the scan: keep no list of them.
        seconds: from reading to the saved folder.
        error: why the case failed.
    """

    case: Case
    directory: Path | None
    segmentation: Segmentation | None
    seconds: float
    error: DsmsegError | None = None


def predict(
    inputs: Sequence[Path],
    output: Path,
    *,
    segmenter: Segmenter,
    file_format: FileFormat = "nifti",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Iterator[CaseResult]:
    """Segment all cases in ``inputs`` into ``output``/<case>, one by one as the result is iterated.

    Inputs and output are checked at once, before anything is computed. A case that fails does not stop the others.

    Raises:
        InputError: an input is missing or holds no scan.
        OutputError: ``output`` cannot be written to, or a case folder exists and ``overwrite`` is False.
    """
    cases = find_cases(inputs)
    _prepare(output)
    for case in cases:
        refuse_conflict(output / case.name, overwrite=overwrite)

    def segment_one(case: Case) -> CaseResult:
        start = perf_counter()
        try:
            segmentation = segmenter(case.path, progress=progress)
            directory = segmentation.save(output / case.name, file_format=file_format, overwrite=overwrite)
        except DsmsegError as error:
            return CaseResult(case, None, None, perf_counter() - start, error)
        return CaseResult(case, directory, segmentation, perf_counter() - start)

    return map(segment_one, cases)


def _prepare(output: Path) -> None:
    """Make the output folder and try it out."""
    try:
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
