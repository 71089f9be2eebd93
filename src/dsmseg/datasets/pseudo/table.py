"""What a person knows of scans that are to be labelled: a table with one row a scan."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmseg.errors import InputError
from dsmseg.taxonomy import CLASSES, ORGANS, StructureClass, find_all

COLUMNS = ("case", "labels", "names", "healthy", "drop")
"""case: name of the scan, as `dsmseg predict` would call it. labels: a label map on it, relative to the table; names:
what its labels mean, "1=liver,2=liver tumor" or a JSON of ids and names, where the map itself does not say. healthy:
organs without any tumor or cyst, apart by semicolons, or "all". drop: classes that weights get wrong in this scan, so
that what they say of them is not taken."""

_MEND = f"Its columns are {', '.join(COLUMNS)}; all but the first may be missing or empty."


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of one scan: see `COLUMNS`."""

    labels: Path | None = None
    names: str = ""
    healthy: frozenset[int] = frozenset()
    drop: frozenset[int] = frozenset()


NOTHING = Knowledge()


def read_table(path: Path, cases: Sequence[str]) -> dict[str, Knowledge]:
    """Read what is known of ``cases``, by name.

    Raises:
        InputError: the table cannot be read, or names a case, a column or a class that there is not.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})", where=path, mend="Give a CSV file.") from error
    known: dict[str, Knowledge] = {}
    for number, row in enumerate(rows, 2):
        where = f"{path}, line {number}"
        if strangers := [str(one) for one in row if one not in COLUMNS]:
            raise InputError(f"has a column '{strangers[0]}'", where=path, mend=_MEND)
        case = _cell(row, "case")
        if case not in cases:
            raise InputError(f"'{case}' is none of the scans", where=where, mend=f"There are: {', '.join(cases)}.")
        if case in known:
            raise InputError(f"'{case}' has two rows", where=where, mend="Put them together.")
        labels = _cell(row, "labels")
        known[case] = Knowledge(
            labels=path.parent / labels if labels else None,
            names=_names(_cell(row, "names"), path.parent),
            healthy=_classes(_cell(row, "healthy"), where, ORGANS),
            drop=_classes(_cell(row, "drop"), where, CLASSES),
        )
    return known


def _cell(row: Mapping[str, str | None], column: str) -> str:
    return (row.get(column) or "").strip()


def _names(text: str, folder: Path) -> str:
    return str(folder / text) if text.lower().endswith(".json") else text


def _classes(text: str, where: str, among: Sequence[StructureClass]) -> frozenset[int]:
    if text.casefold() == "all":
        return frozenset(one.id for one in among)
    found: set[int] = set()
    for part in (one.strip() for one in text.split(";")):
        if not part:
            continue
        try:
            classes = find_all(part)
        except InputError as error:
            raise InputError(error.what, where=where, mend=error.mend) from error
        if strangers := [one.name for one in classes if one not in among]:
            raise InputError(f"{strangers[0]} is no organ", where=where, mend="Name organs that are healthy.")
        found.update(one.id for one in classes)
    return frozenset(found)
