"""A table as a page: ours, a table a column of the paper's, then how far from DSM, then the paper's own figures."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmseg.evaluation.bench.layout import REFERENCE, SENSITIVITY
from dsmseg.evaluation.bench.tables import FIGURES, Table
from dsmseg.files import write_atomically
from dsmseg.model import PRESETS

HEADS = {
    "host_auroc": "AUROC near the host↑",
    "auroc": "AUROC in the body↑",
    "fpr95": "FPR₉₅ in the body↓",
    "dsc": "DSC↑",
    SENSITIVITY: "lesions found at 1 false a scan↑",
}
"""The figures that are shown, the one that tells most first."""

_PAPER_HEADS = {"auroc": "AUROC↑", "fpr95": "FPR₉₅↓", "dsc": "DSC↑"}


def as_markdown(summary: Mapping[str, Any]) -> str:
    """Give our figures: a table a column, of each row the mean and its 95 % interval over cases and seeds, in %."""
    parts = []
    rows = [row for row in summary["rows"] if row["row"] is not None]
    for place, column in enumerate(rows[0]["columns"]):
        title = f"{column['title']}, {'seen' if column['seen'] else 'unseen'}"
        cases = max(row["columns"][place]["cases"] for row in rows)
        body = [
            [row["title"], *(told(row["columns"][place]["ours"][name]) for name in HEADS)]
            for row in rows
            if row["columns"][place]["cases"]
        ]
        parts.append(table_of([f"{title} ({cases} cases)", *HEADS.values()], body))
    return "\n\n".join(parts)


def differences(summary: Mapping[str, Any], names: Sequence[str] = ("host_auroc", SENSITIVITY)) -> str:
    """Give how far each row is above DSM, in points of %; nothing where no row is beside it.

    "not told apart": the interval over cases and seeds holds 0, or there is one seed alone.
    """
    rows = [row for row in summary["rows"] if row["row"] not in {None, REFERENCE}]
    seeds = {one["seed"] for one in summary["cases"]}
    body, heads = [], []
    for place, column in enumerate(summary["rows"][0]["columns"]):
        shown = [name for name in names if any("above_reference" in _ours(row, place, name) for row in rows)]
        heads += [(place, column["title"], name) for name in shown]
    for row in rows:
        cells = [_difference(_ours(row, place, name), len(seeds)) for place, _, name in heads]
        if any(cells):
            body.append([row["title"], *cells])
    if not body:
        return ""
    return table_of(["above DSM", *(f"{title}: {HEADS[name]}" for _, title, name in heads)], body)


def paper_table(summary: Mapping[str, Any]) -> str:
    """Give the paper's own figures: other scans, other lengths of training."""
    rows = [row for row in summary["rows"] if any(column["paper"] for column in row["columns"])]
    heads = [f"{column['title']} {_PAPER_HEADS[name]}" for column in rows[0]["columns"] for name in FIGURES]
    body = [
        [row["title"], *(f"{mean:.2f}±{error:.2f}" for column in row["columns"] for mean, error in _paper(column))]
        for row in rows
    ]
    return table_of(["the paper's", *heads], body)


def write_page(path: Path, table: Table, summary: Mapping[str, Any]) -> None:
    """Write the page of a table: our figures, differences, the paper's, and what made it."""
    made = summary["made_by"]
    lines = [
        f"# Table {table.name.removeprefix('table')}: {table.caption}",
        as_markdown(summary),
        "Means in %, with 95 % intervals over cases and seeds together. AUROC and FPR₉₅ over the voxels of the body "
        "tell whether an answer lies in the right organ: compare with the row of the host organ's mask, which knows no "
        "tumor. Near the host, 10 mm around it, they tell of the tumor. DSC and lesions are at operating points "
        "that were chosen on other scans, by one rule for all rows.",
        differences(summary),
        "## What the paper has",
        paper_table(summary),
        "Of real scans: not to be compared with ours, line by line.",
        f"Recipe {made['recipe']}, preset {made['preset']}, stages of {' and '.join(made['lengths'])}"
        f"{', ' + ', '.join(made['settings']) if made['settings'] else ''}."
        + (
            " The backbone of all rows is a convolutional U-Net."
            if PRESETS[made["preset"]].backbone == "conv_unet"
            else ""
        ),
        f"dsmseg {made['dsmseg']} ({made['commit']}), torch {made['torch']}, scale {made['scale']}, "
        f"{made['seeds']} seeds, {made['cores']} cores ({made['processor']}), {made['gpu'] or 'no GPU'}.",
    ]
    text = "\n\n".join(line for line in lines if line) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def told(figure: Mapping[str, Any]) -> str:
    """Write a mean with its interval, in %; "-" where there is none."""
    if figure["mean"] is None:
        return "-"
    mean = f"{100 * figure['mean']:.1f}"
    if figure.get("low") is None:
        return mean
    return f"{mean} ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def _difference(figure: Mapping[str, Any], seeds: int) -> str:
    above = figure.get("above_reference")
    if above is None:
        return ""
    if above["low"] is None:
        return f"{100 * above['value']:+.1f}"
    text = f"{100 * above['value']:+.1f} ({100 * above['low']:+.1f} to {100 * above['high']:+.1f})"
    apart = seeds > 1 and (above["low"] > 0 or above["high"] < 0)
    return text if apart else f"{text}, not told apart"


def _ours(row: Mapping[str, Any], place: int, name: str) -> Mapping[str, Any]:
    figures: Mapping[str, Any] = row["columns"][place]["ours"][name]
    return figures


def _paper(column: Mapping[str, Any]) -> list[tuple[float, float]]:
    return [column["paper"][name] for name in FIGURES]
