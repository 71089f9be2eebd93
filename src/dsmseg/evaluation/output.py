"""What `dsmseg evaluate` writes: a table of cases, a summary, and pictures of the best, median and worst case."""

import csv
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from dsmseg import __version__
from dsmseg.errors import InputError
from dsmseg.evaluation.bootstrap import paired_bootstrap
from dsmseg.evaluation.evaluate import Evaluation, Request
from dsmseg.evaluation.measuring import CaseTask, Figures
from dsmseg.evaluation.policy import METRICS
from dsmseg.evaluation.regions import HOST_MARGIN_MM
from dsmseg.evaluation.tables import by_group, by_structure
from dsmseg.files import checksum, telling, write_atomically, write_json
from dsmseg.volume import source_files

CASES, SUMMARY, PICTURES = "cases.csv", "summary.json", "pictures"

_LIBRARIES = ("numpy", "scipy", "numba")


def prepare_output(directory: Path) -> None:
    """Make the folder that results will go to, so that a place that cannot be written to is told before the work.

    Raises:
        OutputError: it cannot be written to.
    """
    with telling(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory):
            pass


def write_tables(
    directory: Path, evaluation: Evaluation, request: Request, comparisons: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Write ``cases.csv`` and ``summary.json``, over those of an earlier run, and give the summary.

    ``comparisons`` are those of `compare`.

    Raises:
        OutputError: the folder cannot be written to.
    """
    summary = _summary(evaluation, request) | {"comparisons": list(comparisons)}
    write_atomically(directory / CASES, lambda path: _write_cases(path, evaluation.rows))
    write_json(directory / SUMMARY, summary)
    return summary


def compare(evaluation: Evaluation, other: Path) -> list[dict[str, Any]]:
    """Compare with an earlier evaluation, by its ``cases.csv``: paired bootstrap over the cases that both have.

    Args:
        evaluation: the first method. other: folder of the second.

    Raises:
        InputError: the table cannot be read.
    """
    theirs = _read_cases(other / CASES)
    names = dict.fromkeys((row.group, row.name) for row in evaluation.rows)
    found = []
    for group, name in names:
        rows = [row for row in evaluation.rows if (row.group, row.name) == (group, name)]
        for metric in METRICS:
            pairs = [
                (value, theirs[key][metric])
                for row in rows
                if (key := (row.case, row.name)) in theirs
                and (value := row.values.get(metric)) is not None
                and theirs[key].get(metric) is not None
            ]
            if len(pairs) > 1:
                difference = paired_bootstrap([a for a, _ in pairs], [b for _, b in pairs])
                found.append({"name": name, "group": group, "metric": metric, **asdict(difference)})
    return found


def _write_cases(path: Path, rows: Iterable[Figures]) -> None:
    header = ["case", "structure", "group", "presence", *METRICS]
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for row in rows:
            values = [row.values.get(name) for name in METRICS]
            cells = ["" if value is None else f"{value:.6g}" for value in values]
            writer.writerow([row.case, row.name, row.group, row.presence.value, *cells])


def _read_cases(path: Path) -> dict[tuple[str, str], dict[str, float | None]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return {
                (row["case"], row["structure"]): {name: float(row[name]) if row.get(name) else None for name in METRICS}
                for row in csv.DictReader(stream)
            }
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"is no table of dsmseg evaluate ({type(error).__name__}: {error})",
            where=path,
            mend="Give the folder that an earlier evaluation was written to.",
        ) from error


def _summary(evaluation: Evaluation, request: Request) -> dict[str, Any]:
    made, settings = evaluation.plan, request.settings
    region = "body" if made.tasks[0].scan is not None else "every voxel of the scan"
    return {
        "structures": by_structure(evaluation.rows),
        "groups": by_group(evaluation.rows),
        "missing_predictions": list(made.missing),
        "missing_predictions_count_as": "left out" if request.skip_missing else "missed",
        "without_reference": list(made.extra),
        "not_predicted": list(made.not_predicted),
        "unknown_labels": list(made.unknown),
        "failed": {case: str(error) for case, error in evaluation.failed.items()},
        "settings": {
            "predictions": str(request.predictions),
            "references": str(request.references),
            "nsd_tolerance_mm": settings.tolerance_mm,
            "lesion_hit": f"IoU >= {settings.least_iou:g}" if settings.least_iou else "any overlap",
            "score_threshold": settings.cut.threshold,
            "least_volume_ml": settings.cut.least_volume_ml,
            "least_score": settings.cut.least_score,
            "region": region,
            "host_region_margin_mm": HOST_MARGIN_MM,
            "primary": "mean over cases, region: " + region,
        },
        "policy": {one.name: [outcome.value for outcome in one.outcomes] for one in METRICS.values()},
        "versions": {"dsmseg": __version__, "python": platform.python_version()}
        | {name: version(name) for name in _LIBRARIES},
        "inputs": [_inputs(task) for task in made.tasks],
    }


def _inputs(task: CaseTask) -> dict[str, Any]:
    """Give the files of a case and the sha256 of their sha256; None where they cannot be read."""
    sides: Sequence[tuple[str, tuple[Path, ...]]] = (
        ("reference", task.reference.files),
        ("prediction", () if task.prediction is None else task.prediction.files),
    )
    row: dict[str, Any] = {"case": task.reference.name}
    for side, paths in sides:
        row[side] = [str(path) for path in paths]
        try:
            row[f"{side}_sha256"] = checksum(file for path in paths for file in source_files(path) or [path])
        except InputError:  # that case is among those that failed
            row[f"{side}_sha256"] = None
    return row
