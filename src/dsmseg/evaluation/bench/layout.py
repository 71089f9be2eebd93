"""A table as numbers and as a page: ours beside the paper's own."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsmseg.errors import InputError
from dsmseg.evaluation.bench.tables import FIGURES, Column, Table
from dsmseg.evaluation.summaries import Summary
from dsmseg.files import write_atomically
from dsmseg.model import PRESETS

_HEADS = {"auroc": "AUROC↑", "fpr95": "FPR₉₅↓", "dsc": "DSC↑"}
_MORE = ("host_auroc", "host_fpr95", "anomaly_auroc", "anomaly_fpr95", "anomaly_host_auroc", "anomaly_host_fpr95")
_ALIKE = ("scale", "recipe", "preset", "lengths", "settings", "unseen")  # what summaries that are joined have in common


@dataclass(frozen=True, slots=True)
class Scored:
    """One case of one column, as one training of one row scored it.

    column: its title. figures: means over the classes that the case shows; empty where it shows none. answered_by: what
    answered for each class.
    """

    row: str
    column: str
    seed: int
    case: str
    figures: dict[str, float]
    answered_by: tuple[str, ...]

    @classmethod
    def of(cls, row: str, column: Column, seed: int, case: str, classes: Sequence[dict[str, Any]]) -> "Scored":
        """Sum up a case's rows, one a class."""
        figures = {}
        for name in (*FIGURES, *_MORE):
            values = [one[name] for one in classes if one.get(name) is not None]
            if values:
                figures[name] = float(np.mean(values))
        return cls(row, column.title, seed, case, figures, tuple(sorted({str(one["answered_by"]) for one in classes})))


def summarize(table: Table, scored: Iterable[Scored]) -> dict[str, Any]:
    """Sum up what was scored.

    A case's figure is the mean over seeds; mean and standard error are over cases, as the paper has them. ``seeds``
    holds the mean over cases of each seed, and so shows what chance in training makes. ``cases`` holds what all that
    is made from.
    """
    several = list(scored)
    by_place: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for one in several:
        by_place[one.row, one.column].append(one)
    content = []
    for row in table.rows:
        columns = []
        for place, column in enumerate(table.columns):
            found = by_place.get((row.key, column.title), []) if row.method is not None else []
            columns.append(
                {
                    "title": column.title,
                    "seen": column.seen,
                    "cases": len({one.case for one in found if one.figures}),
                    "ours": {name: _figure(found, name) for name in (*FIGURES, *_MORE)},
                    "answered_by": sorted({answer for one in found for answer in one.answered_by}),
                    "paper": dict(zip(FIGURES, row.paper[place], strict=True)) if row.paper else None,
                }
            )
        content.append({"title": row.title, "row": row.key if row.method else None, "columns": columns})
    return {"table": table.name, "caption": table.caption, "rows": content, "cases": [asdict(one) for one in several]}


def join(table: Table, summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make one summary of several of the same table, such as of seeds that were trained on different machines.

    Raises:
        InputError: they are of other tables, recipes or settings, or two hold the same seed of the same row.
    """
    made = [one["made_by"] for one in summaries]
    for name in _ALIKE:
        if len({json.dumps(one[name]) for one in made}) > 1:
            raise InputError(f"the tables were made with different '{name}'", mend="Join those of one recipe.")
    if others := {one["table"] for one in summaries} - {table.name}:
        raise InputError(f"{min(others)} is not {table.name}", mend="Join summaries of one table.")
    scored = [
        Scored(**(case | {"answered_by": tuple(case["answered_by"])})) for one in summaries for case in one["cases"]
    ]
    places = Counter((one.row, one.column, one.seed, one.case) for one in scored)
    if twice := [place for place, count in places.items() if count > 1]:
        row, column, seed, case = twice[0]
        raise InputError(f"{row}, seed {seed}: {column} of {case} is there twice", mend="Leave one of them out.")
    seeds = len({one.seed for one in scored})
    return summarize(table, scored) | {"made_by": made[0] | {"seeds": seeds}, "parts": made}


def _figure(scored: Sequence[Scored], name: str) -> dict[str, Any]:
    by_case: dict[str, list[float]] = defaultdict(list)
    by_seed: dict[int, list[float]] = defaultdict(list)
    for one in scored:
        if (value := one.figures.get(name)) is not None:
            by_case[one.case].append(value)
            by_seed[one.seed].append(value)
    summary = Summary.of([float(np.mean(values)) for values in by_case.values()])
    return {
        "n": summary.n,
        "mean": summary.mean,
        "se": summary.se,
        "seeds": {str(seed): float(np.mean(values)) for seed, values in sorted(by_seed.items())},
    }


def as_markdown(table: Table, summary: dict[str, Any]) -> str:
    """Give a table in the paper's layout, each of our figures above the paper's."""
    heads = [f"{column.title} {_HEADS[name]}" for column in table.columns for name in FIGURES]
    lines = [_line(["method", *heads]), _line(["---"] * (1 + len(heads)))]
    for row in summary["rows"]:
        if row["row"] is not None:
            lines.append(_line([row["title"], *(_ours(column, name) for column in row["columns"] for name in FIGURES)]))
        if any(column["paper"] for column in row["columns"]):
            own = [_papers(column, name) for column in row["columns"] for name in FIGURES]
            lines.append(_line([f"*{row['title']}, the paper's*", *own]))
    return "\n".join(lines)


def write_page(path: Path, table: Table, summary: dict[str, Any]) -> None:
    """Write the page of a table: `as_markdown`, and what made it."""
    made = summary["made_by"]
    lines = [
        f"# Table {table.name.removeprefix('table')}: {table.caption}",
        "",
        as_markdown(table, summary),
        "",
        "Mean ± standard error over cases in %, each case's figure a mean over seeds. AUROC and FPR₉₅ are over the "
        "voxels of the body. The paper's figures are of real scans.",
        "",
        f"Recipe {made['recipe']}, preset {made['preset']}, stages of {' and '.join(made['lengths'])}"
        f"{', ' + ', '.join(made['settings']) if made['settings'] else ''}."
        + (
            " The backbone of all rows is a convolutional U-Net."
            if PRESETS[made["preset"]].backbone == "conv_unet"
            else ""
        ),
        "",
        f"dsmseg {made['dsmseg']} ({made['commit']}), torch {made['torch']}, scale {made['scale']}, "
        f"{made['seeds']} seeds, {made['cores']} cores ({made['processor']}), {made['gpu'] or 'no GPU'}.",
    ]
    text = "\n".join(lines) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _ours(column: dict[str, Any], name: str) -> str:
    figure = column["ours"][name]
    return Summary(figure["n"], figure["mean"], figure["se"]).text()


def _papers(column: dict[str, Any], name: str) -> str:
    if not column["paper"]:
        return ""
    mean, error = column["paper"][name]
    return f"*{mean:.2f}±{error:.2f}*"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
