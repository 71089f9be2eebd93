"""What the benchmarks of answers and prompts share: bodies with tumors, of another benchmark than the tables'."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dsmseg.evaluation.bench.data import Data, Reference
from dsmseg.evaluation.bench.tables import Column, Name, load_table


def tumor_columns(folder: Path, tables: Iterable[Name]) -> list[tuple[Column, Sequence[Reference]]]:
    """Give the columns of ``tables`` that are of tumors, each once, with their cases in a benchmark of scale mini."""
    data = Data("mini", folder, folder, folder / "splits.csv")
    places = {
        (column.dataset, column.classes): (column, references)
        for table in tables
        for column, references in data.cases(load_table(table)).items()
        if column.classes
    }
    return list(places.values())
