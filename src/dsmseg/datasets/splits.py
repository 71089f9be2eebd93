"""Which scan is for training and which for testing: the lists in splits.csv, and how they were drawn.

The authors published no lists. Here a scan's rank within its data set is the SHA-256 of the seed and its id, so that
the draw is the same on any machine, and adding a scan moves no other. ``python -m dsmseg.datasets.splits`` draws anew.
"""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from dsmseg.datasets.description import Description, Part, packaged
from dsmseg.errors import InputError

Protocol = Literal["paper", "clean", "supervised"]

SEED = 12747  # the paper's number on arXiv, after the point
SUPERVISED_TESTING = 121  # of the four MSD tasks (§ 6.3), shared out by their sizes
_COLUMNS = ("dataset", "case", "official", "paper", "clean", "supervised", "why")
_STAGES = "stages"  # a column of other tables than the packaged one
_FILE = "splits.csv"
_TRAINING_SHARE = 0.4  # § 5.1: of BTCV, LiTS and KiTS


@dataclass(frozen=True, slots=True)
class Assignment:
    """One scan's row.

    official: its part by the data set's own makers. paper: its part after Table 1. clean: the same, but no scan that a
    test holds is trained on. supervised: its part in Table 4. Empty: it has none. why: what keeps it out of ``clean``.
    """

    dataset: str
    case: str
    official: str = ""
    paper: str = ""
    clean: str = ""
    supervised: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows of scans, and the stages of training that each data set is for (Table 1)."""

    rows: tuple[Assignment, ...]
    stages: Mapping[str, Collection[int]]


@cache
def assignments() -> tuple[Assignment, ...]:
    """Give the row of each scan of the public data sets, as stored in splits.csv."""
    text = files("dsmseg.datasets").joinpath(_FILE).read_text(encoding="utf-8")
    return tuple(Assignment(**row) for row in csv.DictReader(io.StringIO(text)))


@cache
def public_splits() -> Splits:
    """Give the splits of the public data sets."""
    return Splits(assignments(), {one.name: one.table_1.stages for one in packaged()})


def read_splits(path: Path) -> Splits:
    """Read the splits of other data sets: a table like splits.csv with a column more, ``stages`` ("1 2", "2", "").

    Raises:
        InputError: the file cannot be read, lacks a column, or names another part or stage than there are.
    """
    mend = f"It needs the columns {', '.join((*_COLUMNS, _STAGES))}."
    try:
        table = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))
        rows = tuple(Assignment(**{column: row[column] for column in _COLUMNS}) for row in table)
        stages = {row["dataset"]: tuple(int(one) for one in row[_STAGES].split()) for row in table}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", where=path, mend=mend) from error
    except (KeyError, ValueError, AttributeError) as error:  # a row that is too short holds None
        raise InputError("is no table of splits", where=path, mend=mend) from error
    for row in rows:
        if strange := {row.paper, row.clean, row.supervised} - {"", *get_args(Part)}:
            what = f"gives {row.dataset} {row.case} the part '{min(strange, key=str)}'"
            raise InputError(what, where=path, mend=f"Parts are {', '.join(get_args(Part))}, or none.")
    return Splits(rows, stages)


@cache
def published_cases(dataset: str) -> tuple[str, ...]:
    """Give the ids of a data set's labelled public cases; none where the data set is not one of the packaged."""
    return tuple(one.case for one in assignments() if one.dataset == dataset)


def parts(protocol: Protocol, splits: Splits | None = None) -> dict[tuple[str, str], str]:
    """Give the part (training, testing, inference, validation) of each scan that has one, by data set and id."""
    rows = assignments() if splits is None else splits.rows
    return {(one.dataset, one.case): part for one in rows if (part := getattr(one, protocol))}


def counts(protocol: Protocol) -> dict[str, dict[str, int]]:
    """Count the scans of each part, by data set."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for (dataset, _), part in parts(protocol).items():
        counted[dataset][part] += 1
    return {dataset: dict(one) for dataset, one in counted.items()}


def draw(scans: Sequence[Assignment], descriptions: Sequence[Description]) -> tuple[Assignment, ...]:
    """Draw all parts anew from which scans there are (data set, case, official)."""
    by_dataset: dict[str, list[Assignment]] = defaultdict(list)
    for scan in scans:
        by_dataset[scan.dataset].append(scan)
    paper = {one.name: _paper_parts(by_dataset[one.name], one) for one in descriptions}
    supervised = _supervised_parts(by_dataset, descriptions)
    tested = {(name, case) for name, all_ in paper.items() for case, part in all_.items() if part != "training"}
    rows = []
    for description in descriptions:
        copies = _copies_of(tested, description)
        for scan in by_dataset[description.name]:
            part = paper[description.name].get(scan.case, "")
            why = copies.get(scan.case, "") if part == "training" else ""
            clean = "" if why else part
            row = replace(
                scan, paper=part, clean=clean, supervised=supervised.get((scan.dataset, scan.case), ""), why=why
            )
            rows.append(row)
    return tuple(rows)


def _paper_parts(scans: Sequence[Assignment], description: Description) -> dict[str, str]:
    role = description.table_1
    if role.inference:
        return {scan.case: "inference" for scan in scans}
    if role.testing:
        wanted = role.training if role.training + role.testing == len(scans) else round(_TRAINING_SHARE * len(scans))
        chosen = _first(scans, wanted)
        return {scan.case: "training" if scan.case in chosen else "testing" for scan in scans}
    kept = [scan for scan in scans if scan.official != "test"]
    if len(kept) < role.training:  # then Table 1 took those of its makers' test too
        kept = list(scans)
    return dict.fromkeys(_first(kept, role.training), "training")


def _supervised_parts(
    scans: Mapping[str, Sequence[Assignment]], descriptions: Sequence[Description]
) -> dict[tuple[str, str], str]:
    tasks = [one.name for one in descriptions if one.table_1.inference]
    sizes = {name: len(scans[name]) for name in tasks}
    shares = {name: SUPERVISED_TESTING * size / sum(sizes.values()) for name, size in sizes.items()}
    testing = {name: int(share) for name, share in shares.items()}
    for name in sorted(tasks, key=lambda name: testing[name] - shares[name])[
        : SUPERVISED_TESTING - sum(testing.values())
    ]:
        testing[name] += 1
    result: dict[tuple[str, str], str] = {}
    for name in tasks:
        tested = _first(scans[name], testing[name])
        result |= {(name, scan.case): "testing" if scan.case in tested else "training" for scan in scans[name]}
    return result


def _copies_of(tested: set[tuple[str, str]], description: Description) -> dict[str, str]:
    """Give why each case that is known by its id to be a scan of a test is left out of ``clean``."""
    return {
        own: f"is {held.dataset} {other}"
        for held in description.holds
        for own, other in held.pairs
        if (held.dataset, other) in tested
    }


def _first(scans: Iterable[Assignment], count: int) -> set[str]:
    ranked = sorted(scans, key=lambda one: sha256(f"{SEED}:{one.dataset}:{one.case}".encode()).digest())
    return {scan.case for scan in ranked[:count]}


def as_csv(rows: Iterable[Assignment], stages: Mapping[str, Sequence[int]] | None = None) -> str:
    """Write rows as the text of splits.csv. stages: of each data set, where they are no public ones (`read_splits`)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS if stages is None else (*_COLUMNS, _STAGES))
    for row in rows:
        told = [] if stages is None else [" ".join(map(str, stages[row.dataset]))]
        writer.writerow([*(getattr(row, column) for column in _COLUMNS), *told])
    return stream.getvalue()


if __name__ == "__main__":
    Path(str(files("dsmseg.datasets").joinpath(_FILE))).write_text(as_csv(draw(assignments(), packaged())), "utf-8")
