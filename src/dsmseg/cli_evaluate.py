"""The verb `dsmseg evaluate`. It imports its room when it runs, so that help answers at once."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsmseg import console
from dsmseg.cli_options import YOURS_TO_MEND, AsJson
from dsmseg.errors import DsmsegError, InputError
from dsmseg.resources import cores

if TYPE_CHECKING:
    from dsmseg.evaluation import Cut, Evaluation, Request

_COLUMNS = {
    "organs": ("dsc", "nsd", "hd95_mm", "auroc", "fpr95"),
    "tumors": ("dsc", "nsd", "hd95_mm", "lesion_sensitivity", "lesion_precision", "auroc", "fpr95"),
    "anomaly": ("auroc", "fpr95", "auroc_host", "fpr95_host"),
}


def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS", help="Case folders of dsmseg predict, label maps or score maps; or one of them."
        ),
    ],
    references: Annotated[
        Path,
        typer.Argument(metavar="REFERENCES", help="A folder of label maps, a data set in nnU-Net's layout, or one."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Gets cases.csv, summary.json and pictures/.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Of maps that carry none: '1=liver,2=liver tumor', or a .json file."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Only these; what predictions do not look for then counts as missed."),
    ] = None,
    scores_of: Annotated[
        str | None, typer.Option("--scores-of", metavar="CLASS", help="What score maps are of.")
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(metavar="NAME|PATH", help="Weights whose operating point of CLASS makes masks of score maps."),
    ] = None,
    scans: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The scans: for the region of the body, and for pictures.")
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="MM", help="Of NSD.")] = 2.0,
    lesion_iou: Annotated[
        float, typer.Option("--lesion-iou", metavar="F", help="From which on lesions hit; 0 is any overlap.")
    ] = 0.0,
    compare_with: Annotated[
        Path | None, typer.Option("--compare-with", metavar="DIR", help="Of an earlier evaluation: paired bootstrap.")
    ] = None,
    skip_missing: Annotated[
        bool,
        typer.Option("--skip-missing", help="Leave out references without a prediction; else all is missed there."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes. Default: the cores.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure predictions against references.

    DSC, NSD, HD95, lesions, and of scores AUROC, FPR95 and calibration: case by case, means with their standard errors,
    and pooled. Cases belong together by name.
    """
    from dsmseg import evaluation, taxonomy

    request = evaluation.Request(
        predictions=predictions,
        references=references,
        scans=scans,
        labels=None if labels is None else evaluation.parse_meaning(labels),
        classes=None if classes is None else taxonomy.find_all(classes),
        scores_of=None if scores_of is None else taxonomy.find(scores_of),
        skip_missing=skip_missing,
        settings=_settings(tolerance, lesion_iou, _cut(card, scores_of)),
    )
    with console.progress("Looking for cases") as progress:
        made = evaluation.plan(request)
        evaluation.prepare_output(output)
        found = evaluation.evaluate(made, workers=workers or cores(), progress=progress.step)
        comparisons = [] if compare_with is None else evaluation.compare(found, compare_with)
        summary = evaluation.write_tables(output, found, request, comparisons)
        progress.step("Drawing", 0, 1)
        try:
            pictures = evaluation.draw_pictures(output / evaluation.PICTURES, found)
        except InputError as error:  # matplotlib is an extra: figures do not wait for it
            pictures = []
            progress.line(console.as_error(error))
    if as_json:
        console.document(summary | {"directory": str(output), "pictures": [str(path) for path in pictures]})
    else:
        _tell(summary, output, len(pictures))
    _tell_failures(found, request)


def _cut(card: str | None, scores_of: str | None) -> "Cut":
    """Read the operating point that score maps are cut at; without a card it is 0.5."""
    from dsmseg import taxonomy
    from dsmseg.evaluation import Cut

    if card is None:
        return Cut()
    if scores_of is None:
        raise InputError("a card has a point for each class", where="--card", mend="Add --scores-of CLASS.")
    from dsmseg import checkpoint

    name, read = taxonomy.find(scores_of).name, checkpoint.read(card).card
    if not isinstance(read, checkpoint.Card) or name not in read.operating_points:
        mend = "Choose one with `dsmseg weights calibrate`, or leave --card out."
        raise InputError(f"the card has no operating point of {name}", where=card, mend=mend)
    point = read.point(name)
    return Cut(point.threshold, point.least_volume_ml, point.least_score)


def _settings(tolerance: float, lesion_iou: float, cut: "Cut") -> Any:
    from dsmseg.evaluation import Settings

    if not 0 <= tolerance <= 1000:
        raise InputError(f"{tolerance:g} mm is no tolerance", where="--tolerance", mend="Give 0 to 1000 mm.")
    if not 0 <= lesion_iou <= 1:
        raise InputError(f"{lesion_iou:g} is no share", where="--lesion-iou", mend="Give 0 (any overlap) to 1.")
    return Settings(tolerance_mm=tolerance, least_iou=lesion_iou, cut=cut)


def _tell(summary: dict[str, Any], output: Path, pictures: int) -> None:
    for group, metrics in _COLUMNS.items():
        rows = [one for one in summary["structures"] if one["group"] == group]
        means = [one | {"name": f"mean of {one['structures']}"} for one in summary["groups"] if one["group"] == group]
        if rows:
            _tell_group(group, [*rows, *means], metrics)
    for row in summary["structures"]:
        if lesions := row["pooled"].get("lesions"):
            sys.stdout.write(f"{row['name']}: {_lesions(lesions)}\n")
    for one in summary["comparisons"]:
        sys.stdout.write(f"{one['name']}, {one['metric']}: {_difference(one)}\n")
    _tell_notes(summary)
    sys.stdout.write(f"Written to {output}: cases.csv, summary.json, {pictures} pictures\n")


def _tell_group(group: str, rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> None:
    from dsmseg.evaluation import METRICS

    shown = [name for name in metrics if any(name in row["metrics"] for row in rows)]
    titles = [f"{METRICS[name].title} ({METRICS[name].unit})" for name in shown]
    cells = [
        (row["name"], str(row["cases"]), *(_cell(row["metrics"].get(name), row["cases"]) for name in shown))
        for row in rows
    ]
    console.table((group, "cases", *titles), cells)
    sys.stdout.write("\n")


def _cell(figure: dict[str, Any] | None, cases: int) -> str:
    """Write mean ± SE, and over how many cases where that is not all."""
    if figure is None:
        return "-"
    return figure["text"] if figure["n"] in (0, cases) else f"{figure['text']} (n={figure['n']})"


def _lesions(lesions: dict[str, Any]) -> str:
    healthy = lesions["false_per_healthy_scan"]
    text = f"{lesions['hit']} of {lesions['reference']} lesions hit, {lesions['false']} of {lesions['predicted']} false"
    return text if healthy is None else f"{text}; {healthy:.2f} false a healthy scan ({lesions['healthy_scans']} scans)"


def _difference(one: dict[str, Any]) -> str:
    from dsmseg.evaluation import METRICS

    factor, unit = (100, "points") if METRICS[one["metric"]].unit == "%" else (1, METRICS[one["metric"]].unit)
    low, middle, high = (one[key] * factor for key in ("low", "difference", "high"))
    return f"{middle:+.2f} {unit} (95 % CI {low:+.2f} to {high:+.2f}), p = {one['p']:.4f}, n = {one['n']}"


def _tell_notes(summary: dict[str, Any]) -> None:
    notes = {
        f"Without a prediction, {summary['missing_predictions_count_as']}": summary["missing_predictions"],
        "Without a reference, not measured": summary["without_reference"],
        "Not looked for by the predictions, not measured (--classes counts them as missed)": summary["not_predicted"],
        "Labels that are no class of the taxonomy": summary["unknown_labels"],
    }
    for what, names in notes.items():
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            sys.stdout.write(f"{what}: {', '.join(names[:8])}{more}\n")


def _tell_failures(found: "Evaluation", request: "Request") -> None:
    """Tell each case that could not be measured, and that there were some by the exit code."""
    errors: list[DsmsegError] = list(found.failed.values())
    for error in errors:
        console.error_line(error)
    if errors:
        count = f"{len(errors)} of {len(found.plan.tasks)} cases"
        console.error_line(f"{request.predictions}: {count} were not measured. They are in no mean.")
        raise typer.Exit(YOURS_TO_MEND)
