"""A table from nothing: train, score, write. What an earlier call has finished is kept."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from dsmseg import __version__, checkpoint
from dsmseg.datasets.verify import Progress
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.data import Data, Reference
from dsmseg.evaluation.bench.layout import Scored, summarize, write_page
from dsmseg.evaluation.bench.scoring import score_case
from dsmseg.evaluation.bench.tables import Column, Row, Table
from dsmseg.evaluation.bench.training_runs import run_of, train_run, trained_on
from dsmseg.files import write_json

_SCORES = "scores.jsonl"
_VERSION = 1  # of what a row of scores means; rows of another one are scored anew


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    data: see `dsmseg.evaluation.bench.data`. directory: gets runs, scores and tables. seeds: as many trainings of each
    row. rows: keys of the rows; none for all. settings: changes of the recipe, ``key=value``. recipe: the recipe; None:
    the packaged one of the scale.
    """

    table: Table
    data: Data
    directory: Path
    seeds: int = 1
    rows: tuple[str, ...] = ()
    settings: list[str] = field(default_factory=list)
    recipe: Path | None = None


def run_table(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Run what is missing of a table, and write it; gives the summary that ``<table>.json`` holds.

    ``runs/`` gets the trainings, ``scores.jsonl`` a row for each class of each case and method, as it goes;
    ``<table>.json`` and ``<table>.md`` the table beside the paper's own figures, anew after each method. Stopped at any
    point, it goes on with the same call.

    Raises:
        InputError: there are no cases, the folder holds another recipe's runs, or weights were trained on what a
            column calls unseen.
        StoppedError: it was asked to stop while training; what was learned is saved.
    """
    rows, cases = plan.table.built(plan.rows), plan.data.cases(plan.table)
    scores = _Scores(plan.directory / _SCORES)
    summary: dict[str, Any] = {}
    for seed in range(plan.seeds):
        for row in rows:
            weights = _train(plan, row, seed, progress)
            _refuse_leaks(weights, plan.table)
            loaded = checkpoint.load(weights)
            missing = [
                (column, one)
                for column, references in cases.items()
                for one in references
                if not scores.has(loaded.card.sha256, column, one)
            ]
            network = checkpoint.network(loaded) if missing else None
            for done, (column, one) in enumerate(missing, start=1):
                if network is not None:
                    found = score_case(network, loaded.card, one, column)
                    scores.add(_identity(loaded.card.sha256, column, one) | {"seed": seed, "row": row.key}, found)
                progress(f"{row.title}, seed {seed}: scored {one.dataset} {one.files.id}", done, len(missing))
            of_table = scores.of_table(plan.table)
            summary = summarize(plan.table, of_table) | {"made_by": _made_by(plan)}
            write_json(plan.directory / f"{plan.table.name}.json", summary)
            write_page(plan.directory / f"{plan.table.name}.md", plan.table, summary)
    return summary


def _train(plan: Plan, row: Row, seed: int, progress: Progress) -> Path:
    def report(entry: dict[str, float], steps: int) -> None:
        stage, step = int(entry["stage"]), int(entry["step"])
        progress(f"{row.title}, seed {seed}: Stage {stage}, step {step} of {steps}", step, steps)

    run = run_of(row, plan.table)
    packaged = files("dsmseg.evaluation.bench").joinpath(f"{plan.data.scale}.yaml")
    with as_file(packaged) as path:
        return train_run(run, plan.recipe or path, plan.data, seed, plan.directory, plan.settings, report)


def _refuse_leaks(weights: Path, table: Table) -> None:
    """Unseen means unseen: weights whose card names a kind that a column calls so are not scored.

    Raises:
        InputError: they do.
    """
    unseen = {name for column in table.columns if not column.seen for name in column.classes}
    if leaked := sorted(unseen & set(trained_on(weights))):
        raise InputError(
            f"was trained on {leaked[0]}, which {table.name} calls unseen",
            where=weights,
            mend="Train with the protocol clean or paper.",
        )


def _identity(sha256: str | None, column: Column, reference: Reference) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "weights": sha256,
        "dataset": reference.dataset,
        "case": reference.files.id,
        "classes": list(column.classes),
    }


def _made_by(plan: Plan) -> dict[str, Any]:
    return {
        "dsmseg": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "scale": plan.data.scale,
        "seeds": plan.seeds,
        "settings": plan.settings,
        "cores": os.cpu_count(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _commit() -> str | None:
    """Give the commit of the checkout that this runs from, if it is one."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or None


class _Scores:
    """The file of scores: a line for each case of each column and weights, holding a row for each class."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[dict[str, Any]] = []
        if path.exists():
            self._lines = list(_whole_lines(path))
            # What a killed run left of its last line goes.
            text = "".join(json.dumps(one) + "\n" for one in self._lines)
            path.write_text(text, encoding="utf-8")
        self._known = {self._key(one) for one in self._lines}

    @staticmethod
    def _key(line: dict[str, Any]) -> str:
        names = ("version", "weights", "dataset", "case", "classes")
        return json.dumps([line.get(name) for name in names])

    def has(self, sha256: str | None, column: Column, reference: Reference) -> bool:
        return self._key(_identity(sha256, column, reference)) in self._known

    def add(self, identity: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
        line = identity | {"rows": list(rows)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._lines.append(line)
        self._known.add(self._key(line))

    def of_table(self, table: Table) -> list[Scored]:
        """Give what belongs to a table's columns; of what was scored with several weights, what came last."""
        columns = {tuple(column.classes): column for column in table.columns}
        latest = {
            (line["row"], tuple(line["classes"]), line["seed"], line["case"]): line["rows"]
            for line in self._lines
            if line["version"] == _VERSION and tuple(line["classes"]) in columns
        }
        return [Scored(row, columns[classes], seed, case, rows) for (row, classes, seed, case), rows in latest.items()]


def _whole_lines(path: Path) -> Iterable[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content
