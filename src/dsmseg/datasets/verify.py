"""Verify the data sets of a folder: file names and headers first, then voxels, then scans that are there twice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from dsmseg.datasets.description import Description
from dsmseg.datasets.fingerprint import Fingerprint, find_copies
from dsmseg.datasets.layout import CaseFiles, Found
from dsmseg.datasets.loading import load_case
from dsmseg.datasets.splits import published_cases
from dsmseg.datasets.verification.content import check_content, find_body
from dsmseg.datasets.verification.findings import Finding, from_error, in_order
from dsmseg.datasets.verification.headers import check_files, check_headers
from dsmseg.datasets.workers import Task, run_all
from dsmseg.errors import DsmsegError, InputError
from dsmseg.volume import read_grid

SPACING_MM = (3.0, 3.0, 3.0)  # of the check: small organs are still seen, and no scan takes long
_CASES_A_TASK = 64
_BYTES_A_VOXEL = 16  # that reading a case takes at most, per voxel of its scan: a file of float64 does
_BASE_BYTES = 250_000_000

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Verified:
    """A data set and what was found. published: how many labelled cases are public, None where that is not known."""

    name: str
    cases: int
    published: int | None
    findings: tuple[Finding, ...]
    copies: tuple[tuple[str, str, float], ...] = ()


def verify(
    folder: Path,
    found: Sequence[Found],
    *,
    workers: int = 1,
    headers_only: bool = False,
    progress: Progress | None = None,
) -> list[Verified]:
    """Verify data sets that were found in ``folder``.

    Args:
        folder: where they are.
        found: the data sets, see `choose_datasets`.
        workers: processes.
        headers_only: do not read voxels.
        progress: is called with (what is done, cases done, cases in all).

    Returns:
        Each data set with its findings. Copies are pairs of scans (``data set/case``) with the same content; those
        between data sets that are known to share scans are told, but are no findings.
    """
    tell = progress or (lambda what, done, total: None)
    findings: dict[str, list[Finding]] = {
        one.description.name: check_files(one, published_cases(one.description.name), folder) for one in found
    }
    for finding in _all_headers(found, workers, tell):
        findings[finding.dataset].append(finding)
    copies: list[tuple[str, str, float]] = []
    if not headers_only:
        known = {(one.dataset, one.case, one.check) for every in findings.values() for one in every}
        prints: dict[str, Fingerprint] = {}
        for name, content in _all_contents(found, findings, workers, tell):
            findings[content.dataset] += [
                one for one in content.findings if (one.dataset, one.case, one.check) not in known
            ]
            if content.print is not None:
                prints[name] = content.print
        copies = find_copies(dict(sorted(prints.items())))
        for finding in duplicates(copies, [one.description for one in found]):
            findings[finding.dataset].append(finding)
    return [_summary(one, findings[one.description.name], copies) for one in found]


def duplicates(copies: Sequence[tuple[str, str, float]], descriptions: Sequence[Description]) -> list[Finding]:
    """Make a finding of each pair of copies that nobody has declared."""
    origin = {
        (one.name, own): (held.dataset, other)
        for one in descriptions
        for held in one.holds
        for own, other in held.pairs
    }
    by_content = {one.name: {held.dataset for held in one.holds if held.found == "content"} for one in descriptions}
    findings = []
    for first, second, likeness in copies:
        dataset, case = first.split("/", 1)
        other, other_case = second.split("/", 1)
        origins = origin.get((dataset, case), (dataset, case)), origin.get((other, other_case), (other, other_case))
        may_hold = [by_content.get(name, set()) for name in (dataset, other)]
        shared = origins[1][0] in may_hold[0] or origins[0][0] in may_hold[1] or not may_hold[0].isdisjoint(may_hold[1])
        if origins[0] == origins[1] or (dataset != other and shared):
            continue
        what = f"shows the same scan as {second} (correlation {likeness:.3f})"
        findings.append(
            Finding(dataset, case, "duplicate", what, "Keep one of the two, or both on the same side of a split.")
        )
    return findings


@dataclass(frozen=True, slots=True)
class _Content:
    dataset: str
    findings: tuple[Finding, ...]
    print: Fingerprint | None


def _all_headers(found: Sequence[Found], workers: int, tell: Progress) -> list[Finding]:
    tasks = [
        Task((one.cases[start : start + _CASES_A_TASK], one.description))
        for one in found
        for start in range(0, len(one.cases), _CASES_A_TASK)
    ]
    total, done = sum(len(one.cases) for one in found), 0
    findings: list[Finding] = []
    for result in run_all(_check_some_headers, tasks, workers if len(tasks) > 1 else 1):
        done += len(result.input[0])
        tell("headers", done, total)
        findings += result.output or []
    return findings


def _check_some_headers(some: tuple[tuple[CaseFiles, ...], Description]) -> list[Finding]:
    cases, description = some
    return [finding for case in cases for finding in check_headers(case, description)]


def _all_contents(
    found: Sequence[Found], findings: dict[str, list[Finding]], workers: int, tell: Progress
) -> list[tuple[str, _Content]]:
    broken = {(one.dataset, one.case) for every in findings.values() for one in every if one.check == "unreadable"}
    tasks = [
        Task((case, one.description), memory_of(case.image))
        for one in found
        for case in one.cases
        if (one.description.name, case.id) not in broken
    ]
    results = []
    for result in run_all(_check_content, tasks, workers):
        case, description = result.input
        content = result.output or _failed(case, description, result.error)
        results.append((f"{description.name}/{case.id}", content))
        tell("voxels", len(results), len(tasks))
    return sorted(results, key=lambda one: one[0])


def _check_content(one: tuple[CaseFiles, Description]) -> _Content:
    files, description = one
    case = load_case(files, description, SPACING_MM)
    findings = check_content(files.id, case, description, find_body(case.image.array))
    return _Content(description.name, tuple(findings), case.print)


def _failed(case: CaseFiles, description: Description, error: DsmsegError | None) -> _Content:
    error = error or InputError("cannot be used", where=case.image, mend="Look at the file.")
    return _Content(description.name, (from_error(description.name, case.id, error),), None)


def memory_of(image: Path) -> int:
    """Give the bytes that reading a case takes at most."""
    try:
        return _BASE_BYTES + _BYTES_A_VOXEL * prod(read_grid(image).shape)
    except InputError:
        return _BASE_BYTES


def _summary(found: Found, findings: list[Finding], copies: Sequence[tuple[str, str, float]]) -> Verified:
    name = found.description.name
    own = tuple(pair for pair in copies if f"{name}/" in (pair[0][: len(name) + 1], pair[1][: len(name) + 1]))
    return Verified(name, len(found.cases), found.description.published, tuple(in_order(findings)), own)
