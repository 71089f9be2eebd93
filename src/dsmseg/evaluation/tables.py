"""What was measured, summed up over cases: by structure, and by group (mean over a case's structures first)."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeVar

import numpy as np

from dsmseg.evaluation.bootstrap import mean_interval
from dsmseg.evaluation.lesions import LUNA16_RATES
from dsmseg.evaluation.measuring import Figures, Group
from dsmseg.evaluation.policy import METRICS, Presence
from dsmseg.evaluation.summaries import Summary

State = TypeVar("State")

GROUPS: tuple[Group, ...] = ("organs", "tumors", "anomaly")
PRIMARY = {"organs": "dsc", "tumors": "dsc", "anomaly": "auroc"}


def by_structure(rows: Sequence[Figures]) -> list[dict[str, Any]]:
    """Give for each structure its group, cases, means over cases, and pooled figures, as JSON holds them."""
    names = dict.fromkeys((row.group, row.name) for row in sorted(rows, key=lambda row: GROUPS.index(row.group)))
    return [_structure([row for row in rows if (row.group, row.name) == one]) for one in names]


def by_group(rows: Sequence[Figures]) -> list[dict[str, Any]]:
    """Give for each group of several structures the mean over cases of a case's mean over structures."""
    found = []
    for group in GROUPS:
        of_group = [row for row in rows if row.group == group]
        structures = len({row.name for row in of_group})
        if structures > 1:
            cases = case_means(of_group)
            metrics = {
                name: _summary(name, [case.get(name) for case in cases.values()]) for name in _measured(of_group)
            }
            found.append({"group": group, "structures": structures, "cases": len(cases), "metrics": metrics})
    return found


def case_means(rows: Iterable[Figures]) -> dict[str, dict[str, float]]:
    """Give for each case the mean of each metric over its structures; what the policy leaves out does not count."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        case = values.setdefault(row.case, {})
        for name, value in row.values.items():
            if value is not None:
                case.setdefault(name, []).append(value)
    return {case: {name: float(np.mean(some)) for name, some in found.items()} for case, found in values.items()}


def _structure(rows: Sequence[Figures]) -> dict[str, Any]:
    counts = {one.name.lower(): sum(row.presence is one for row in rows) for one in Presence}
    return {
        "name": rows[0].name,
        "group": rows[0].group,
        "cases": len(rows),
        "presence": counts,
        "metrics": {name: _summary(name, [row.values.get(name) for row in rows]) for name in _measured(rows)},
        "pooled": _pooled(rows),
    }


def _summary(name: str, values: Sequence[float | None]) -> dict[str, Any]:
    summary, interval = Summary.of(values), mean_interval(values)
    return {
        "n": summary.n,
        "mean": summary.mean,
        "se": summary.se,
        "ci95": None if interval is None else list(interval),
        "text": summary.text(METRICS[name].unit),
    }


def _measured(rows: Iterable[Figures]) -> list[str]:
    known = {name for row in rows for name in row.values}
    return [name for name in METRICS if name in known]


def _pooled(rows: Sequence[Figures]) -> dict[str, Any]:
    """Give what the voxels, or lesions, of all cases together say."""
    pooled: dict[str, Any] = {}
    if (overlap := _total(rows, lambda row: row.overlap)) is not None:
        pooled["dsc"] = overlap.dsc
    if (lesions := _total(rows, lambda row: row.lesions)) is not None:
        pooled["lesions"] = {
            "reference": lesions.reference,
            "hit": lesions.hit,
            "predicted": lesions.predicted,
            "false": lesions.false,
            "sensitivity": lesions.sensitivity,
            "precision": lesions.precision,
            "false_per_scan": lesions.false_per_scan,
            "healthy_scans": lesions.healthy,
            "false_per_healthy_scan": lesions.false_per_healthy_scan,
        }
    if (froc := _total(rows, lambda row: row.froc)) is not None:
        at = {f"{rate:g}": froc.sensitivity_at(rate) for rate in LUNA16_RATES}
        pooled["froc"] = {"sensitivity_at_false_per_scan": at, "mean_sensitivity": froc.mean_sensitivity()}
    if (scores := _total(rows, lambda row: row.scores)) is not None:
        pooled |= {"auroc": scores.auroc, "fpr95": scores.fpr95}
    if (scores := _total(rows, lambda row: row.host_scores)) is not None:
        pooled |= {"auroc_host": scores.auroc, "fpr95_host": scores.fpr95}
    if (calibration := _total(rows, lambda row: row.calibration)) is not None:
        pooled |= {"ece": calibration.ece, "reliability": calibration.table()}
    return pooled


def _total(rows: Sequence[Figures], state: Callable[[Figures], State | None]) -> State | None:
    found = [one for row in rows if (one := state(row)) is not None]
    return reduce(add, found) if found else None
