"""What Tables 2 to 5 compare, and what the paper found: paper.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from dsmseg.baselines import Method
from dsmseg.datasets.description import Part
from dsmseg.errors import InputError
from dsmseg.model import Ablation

Name = Literal["table2", "table3", "table4", "table5"]
TABLES: tuple[Name, ...] = get_args(Name)

Free = Literal["host_mask", "host_deviation"]
"""What any method should beat: the true organ that the tumor grows in, as it is, or what looks unlike it there."""

FIGURES = ("auroc", "fpr95", "dsc")
"""The three columns below each title, in the paper's order."""


@dataclass(frozen=True, slots=True)
class Column:
    """One structure, or a mean over some, in the cases of one data set.

    dataset: of Table 1. part: of its cases. classes: names; none for all organs that the data set annotates. seen:
    whether labels of these kinds may be trained on.
    """

    dataset: str
    title: str
    part: Part
    classes: tuple[str, ...]
    seen: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One method.

    method: None where it is not built. free: what needs no training, and is given the true host organ instead. paper:
    mean and standard error in %, by column and `FIGURES`.
    """

    title: str
    method: Method | None
    ablation: Ablation
    paper: tuple[tuple[tuple[float, float], ...], ...]
    free: Free | None = None

    @property
    def is_built(self) -> bool:
        """Tell whether it can be run."""
        return self.method is not None or self.free is not None

    @property
    def key(self) -> str:
        """Name the row in files: what needs no training, the ablation of DSM, or the method."""
        if self.free is not None:
            return self.free
        return self.ablation if self.method == "dsm" else str(self.method)


@dataclass(frozen=True, slots=True)
class Table:
    """One table. supervised: tumors of the inference sets are trained on first (§ 6.3)."""

    name: Name
    caption: str
    supervised: bool
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def unseen(self) -> list[str]:
        """The kinds that nothing may be trained on."""
        return sorted({name for one in self.columns if not one.seen for name in one.classes})

    def built(self, only: tuple[str, ...] = ()) -> tuple[Row, ...]:
        """Give the rows that can be run, or those of them that are named by their key.

        Raises:
            InputError: a name is none of these.
        """
        possible = tuple(one for one in self.rows if one.is_built)
        if strange := set(only) - {one.key for one in possible}:
            known = ", ".join(one.key for one in possible)
            raise InputError(f"{self.name} has no row '{min(strange)}' that can be run", mend=f"There are: {known}.")
        return tuple(one for one in possible if not only or one.key in only)


@cache
def load_table(name: Name) -> Table:
    """Read a table from paper.toml."""
    content = tomllib.loads(files("dsmseg.evaluation.bench").joinpath("paper.toml").read_text(encoding="utf-8"))[name]
    columns = tuple(Column(**(one | {"classes": tuple(one["classes"])})) for one in content["column"])
    rows = []
    for one in content["row"]:
        pairs = [(float(mean), float(error)) for mean, error in one.get("paper", ())]
        starts = range(0, len(pairs), len(FIGURES))
        by_column = tuple(tuple(pairs[start : start + len(FIGURES)]) for start in starts)
        if by_column and len(by_column) != len(columns):
            raise ValueError(f"{name}, {one['title']}: {len(pairs)} figures for {len(columns)} columns")
        rows.append(Row(one["title"], one.get("method"), one.get("ablation", "full"), by_column, one.get("free")))
    return Table(name, content["caption"], content["supervised"], columns, tuple(rows))
