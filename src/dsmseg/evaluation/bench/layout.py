"""A table as numbers: means, intervals over cases and seeds, and differences to DSM."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dsmseg.errors import InputError
from dsmseg.evaluation.bench.detection import Detection
from dsmseg.evaluation.bench.intervals import Draws, Interval, means_by_seed, sensitivities_by_seed
from dsmseg.evaluation.bench.tables import FIGURES, Column, Table
from dsmseg.evaluation.summaries import Summary

REFERENCE = "full"
"""The row that others are compared with: DSM."""

SENSITIVITY = "sensitivity"
"""Share of lesions found at one false lesion a scan: a figure of all cases of a column together."""

_MORE = ("host_auroc", "host_fpr95", "anomaly_auroc", "anomaly_fpr95", "anomaly_host_auroc", "anomaly_host_fpr95")
_NAMES = (*FIGURES, *_MORE, SENSITIVITY)
# What summaries that are joined have in common.
_ALIKE = ("scale", "recipe", "preset", "lengths", "settings", "unseen", "masks")


@dataclass(frozen=True, slots=True)
class Scored:
    """One case of one column, as one training of one row scored it.

    column: its title. figures: means over the classes that the case shows; empty where it shows none. answered_by: what
    answered for each class. detection: of the column's tumor, if it is of one. voxels: of the largest class.
    """

    row: str
    column: str
    seed: int
    case: str
    figures: dict[str, float]
    answered_by: tuple[str, ...]
    detection: Detection | None = None
    voxels: int = 0

    @classmethod
    def of(cls, row: str, column: Column, seed: int, case: str, classes: Sequence[dict[str, Any]]) -> "Scored":
        """Sum up a case's rows, one a class."""
        figures = {}
        for name in (*FIGURES, *_MORE):
            values = [one[name] for one in classes if one.get(name) is not None]
            if values:
                figures[name] = float(np.mean(values))
        found = [Detection(**one["detection"]) for one in classes if "detection" in one]
        answers = tuple(sorted({str(one["answered_by"]) for one in classes}))
        largest = max((one["voxels"] for one in classes), default=0)
        return cls(row, column.title, seed, case, figures, answers, found[0] if len(found) == 1 else None, largest)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Scored":
        """Take one from the JSON of a summary."""
        found = content.get("detection")
        return cls(
            **{**content, "answered_by": tuple(content["answered_by"]), "detection": found and Detection(**found)}
        )


def summarize(table: Table, scored: Iterable[Scored]) -> dict[str, Any]:
    """Sum up what was scored.

    A case's figure is the mean over seeds; mean and standard error are over cases, as the paper has them. low and high
    are the 95 % interval over cases and seeds (`dsmseg.evaluation.bench.intervals`), and ``above_reference`` the same
    of the difference to DSM. ``seeds`` holds the mean over cases of each seed. ``cases`` holds what all that is made
    from.
    """
    several = list(scored)
    content: list[dict[str, Any]] = [
        {"title": row.title, "row": row.key if row.is_built else None, "columns": []} for row in table.rows
    ]
    for place, column in enumerate(table.columns):
        found = _Figures.of([one for one in several if one.column == column.title])
        for row, entry in zip(table.rows, content, strict=True):
            ones = found.scored[row.key] if row.is_built else []
            entry["columns"].append(
                {
                    "title": column.title,
                    "seen": column.seen,
                    "cases": len({one.case for one in ones if one.figures}),
                    "ours": {name: found.figure(row.key if row.is_built else "", name) for name in _NAMES},
                    "answered_by": sorted({answer for one in ones for answer in one.answered_by}),
                    "paper": dict(zip(FIGURES, row.paper[place], strict=True)) if row.paper else None,
                }
            )
    return {"table": table.name, "caption": table.caption, "rows": content, "cases": [asdict(one) for one in several]}


@dataclass(frozen=True, slots=True)
class _Figures:
    """All that was scored of one column, by row, and the draws that its intervals share."""

    scored: Mapping[str, list[Scored]]
    seeds: tuple[int, ...]
    cases: tuple[str, ...]
    draws: Draws

    @classmethod
    def of(cls, scored: Sequence[Scored]) -> "_Figures":
        by_row: dict[str, list[Scored]] = defaultdict(list)
        for one in scored:
            by_row[one.row].append(one)
        seeds, cases = sorted({one.seed for one in scored}), sorted({one.case for one in scored})
        return cls(by_row, tuple(seeds), tuple(cases), Draws.of(max(1, len(cases)), max(1, len(seeds))))

    def figure(self, row: str, name: str) -> dict[str, Any]:
        """Give a row's figure, by its name; counts and None alone where nothing was scored."""
        ones = self.scored.get(row, [])
        by_case: dict[str, list[float]] = defaultdict(list)
        for one in ones:
            if (value := one.figures.get(name)) is not None:
                by_case[one.case].append(value)
        if name == SENSITIVITY:
            by_case = {one.case: [] for one in ones if one.detection is not None and one.detection.diameters_mm}
        if not by_case:
            return {"n": 0, "mean": None, "se": None, "low": None, "high": None, "seeds": {}}
        drawn = self._by_seed(row, name)
        own = Interval.of(self.draws.over_seeds(drawn), len(by_case))
        summary = Summary.of([float(np.mean(values)) for values in by_case.values() if values])
        more = {}
        if row != REFERENCE and self.scored.get(REFERENCE):
            other = self._by_seed(REFERENCE, name)
            above = Interval.of(self.draws.over_seeds(drawn - other), len(by_case))
            more = {"above_reference": asdict(above)} if above.value is not None else {}
        seeds = {
            str(seed): float(value) for seed, value in zip(self.seeds, drawn[0], strict=True) if np.isfinite(value)
        }
        told = {"n": len(by_case), "mean": own.value if name == SENSITIVITY else summary.mean, "se": summary.se}
        return told | {"low": own.low, "high": own.high, "seeds": seeds} | more

    def _by_seed(self, row: str, name: str) -> Any:
        """Give a figure of each draw of cases, seed by seed."""
        at = {(one.seed, one.case): one for one in self.scored[row]}
        grid = [[at.get((seed, case)) for case in self.cases] for seed in self.seeds]
        if name == SENSITIVITY:
            return sensitivities_by_seed(
                [[None if one is None else one.detection for one in of_seed] for of_seed in grid], self.draws
            )
        values = [[np.nan if one is None else one.figures.get(name, np.nan) for one in of_seed] for of_seed in grid]
        return means_by_seed(np.array(values, np.float64), self.draws)


def join(table: Table, summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make one summary of several of the same table, such as of seeds that were trained on different machines.

    Raises:
        InputError: they are of other tables, recipes or settings, or two hold the same seed of the same row.
    """
    made = [one["made_by"] for one in summaries]
    for name in _ALIKE:
        if len({json.dumps(one.get(name)) for one in made}) > 1:
            raise InputError(f"the tables were made with different '{name}'", mend="Join those of one recipe.")
    if others := {one["table"] for one in summaries} - {table.name}:
        raise InputError(f"{min(others)} is not {table.name}", mend="Join summaries of one table.")
    scored = [Scored.read(case) for one in summaries for case in one["cases"]]
    places = Counter((one.row, one.column, one.seed, one.case) for one in scored)
    if twice := [place for place, count in places.items() if count > 1]:
        row, column, seed, case = twice[0]
        raise InputError(f"{row}, seed {seed}: {column} of {case} is there twice", mend="Leave one of them out.")
    seeds = len({one.seed for one in scored})
    return summarize(table, scored) | {"made_by": made[0] | {"seeds": seeds}, "parts": made}
