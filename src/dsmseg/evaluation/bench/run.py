"""A table from nothing: train, score, write. What an earlier call has finished is kept."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from dsmseg import __version__, resources
from dsmseg.checkpoint import OperatingPoint
from dsmseg.datasets.prepare import alone
from dsmseg.datasets.verify import Progress
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.contenders import Contender, Points, identity_of
from dsmseg.evaluation.bench.data import Data, Reference
from dsmseg.evaluation.bench.layout import Scored, summarize
from dsmseg.evaluation.bench.page import write_page
from dsmseg.evaluation.bench.pictures import Found, Shown, draw_side_by_side, reach_of
from dsmseg.evaluation.bench.score_file import ScoreFile
from dsmseg.evaluation.bench.scoring import found_mask, score_case
from dsmseg.evaluation.bench.tables import Column, Row, Table
from dsmseg.evaluation.bench.training_runs import Trainings, run_of, what_is_learned
from dsmseg.files import write_json
from dsmseg.inference import UNSEEN, UnseenRule, processor
from dsmseg.taxonomy import find
from dsmseg.training.recipe import Recipe

_SCORES, _SETTINGS = "scores.jsonl", "bench.json"
_VERSION = 2  # of what a row of scores means; rows of another one are scored anew


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    data: see `dsmseg.evaluation.bench.data`. directory: gets runs, scores and tables. seeds: as many trainings of each
    row. first_seed: of the first of them. rows: keys of the rows; none for all. settings: changes of the recipe,
    ``key=value``. recipe: the recipe; None:
    the packaged one of the scale. unseen: how DSM answers for a kind that it was not trained on, see `soft_maps`.
    """

    table: Table
    data: Data
    directory: Path
    seeds: int = 1
    first_seed: int = 0
    rows: tuple[str, ...] = ()
    settings: Sequence[str] = field(default_factory=list)
    recipe: Path | None = None
    unseen: UnseenRule = UNSEEN

    @property
    def all_seeds(self) -> range:
        """Give the seeds to run."""
        return range(self.first_seed, self.first_seed + self.seeds)


def run_table(plan: Plan, progress: Progress) -> dict[str, Any]:
    """Run what is missing of a table, and write it; gives the summary that ``<table>.json`` holds.

    ``runs/`` gets the trainings, ``scores.jsonl`` a row for each class of each case and method, as it goes;
    ``<table>.json`` and ``<table>.md`` the table beside the paper's own figures, anew after each method. Stopped at any
    point, it goes on with the same call.

    Raises:
        InputError: there are no cases, the folder holds a bench of other settings, another process is at work in it, or
            weights were trained on what a column calls unseen.
        StoppedError: it was asked to stop while training; what was learned is saved.
    """
    packaged = files("dsmseg.evaluation.bench").joinpath(f"{plan.data.scale}.yaml")
    with as_file(packaged) as path:
        trainings = Trainings(plan.recipe or path, plan.settings, plan.data, plan.directory)
        recipe = trainings.whole_recipe()
        rows, cases = plan.table.built(plan.rows), plan.data.cases(plan.table)
        plan.directory.mkdir(parents=True, exist_ok=True)
        with alone(plan.directory):
            _keep_to(plan, recipe)
            trained = [row for row in rows if row.free is None]
            needed = {one.name: one for row in trained for one in run_of(row, plan.table).order()}
            for seed in plan.all_seeds:
                for one in needed.values():
                    trainings.check(one, seed, plan.table.unseen)
            return _run(_Bench(plan, cases, trainings, progress), rows)


@dataclass(frozen=True, slots=True)
class _Place:
    """A case of a column. identity: all that decides its scores but who is scored."""

    column: Column
    reference: Reference
    identity: dict[str, Any]

    @property
    def name(self) -> tuple[str, str]:
        """Column and case, as `Scored` names them."""
        return self.column.title, self.reference.files.id


class _Bench:
    """One table being run."""

    def __init__(
        self, plan: Plan, cases: Mapping[Column, Sequence[Reference]], trainings: Trainings, progress: Progress
    ) -> None:
        self.plan, self.trainings, self.progress = plan, trainings, progress
        self.scores = ScoreFile(plan.directory / _SCORES)
        self.places = [
            _Place(column, one, _identity(column, one, plan.unseen))
            for column, several in cases.items()
            for one in several
        ]
        self.validation = plan.data.validation()
        names = dict.fromkeys(name for column in cases for name in column.classes)
        self.classes = [find(name) for name in names]
        self.unseen = plan.table.unseen
        self.scored: list[Scored] = []

    def contender(self, row: Row, seed: int) -> Contender:
        """Train a row as far as that is not done."""
        if row.free is not None:
            return Contender.untrained(row, row.free)

        def report(entry: dict[str, float], steps: int) -> None:
            stage, step = int(entry["stage"]), int(entry["step"])
            self.progress(f"{row.title}, seed {seed}: Stage {stage}, step {step} of {steps}", step, steps)

        weights = self.trainings.train(run_of(row, self.plan.table), seed, report)
        return Contender.trained(row, weights, self.plan.unseen, self.unseen)

    def points(self, one: Contender) -> Points:
        """Give the operating points of who is scored."""
        key = {"version": _VERSION, "unseen": self.plan.unseen}
        return one.points(self.classes, self.validation, self.scores, key)

    def score(self, one: Contender, seed: int) -> None:
        """Score what is missing of a row and seed."""
        points = self.points(one)
        all_ = [(place, _of(place, one, points)) for place in self.places]
        missing = [(place, identity) for place, identity in all_ if not self.scores.has(identity)]
        for done, (place, identity) in enumerate(missing, start=1):
            self.scores.add(identity, score_case(one.method, place.reference, place.column, points))
            told = f"{one.row.title}, seed {seed}: scored {place.reference.dataset} {place.reference.files.id}"
            self.progress(told, done, len(missing))
        for place, identity in all_:
            rows = self.scores.get(identity) or []
            self.scored.append(Scored.of(one.row.key, place.column, seed, place.reference.files.id, rows))

    def draw(self, contenders: Sequence[Contender]) -> None:
        """Draw the largest tumor of each column as each row found it, if that was not drawn yet of these weights."""
        largest = [
            max((place for place in self.places if place.column is column), key=self._size)
            for column in self.plan.table.columns
            if column.classes
        ]
        path = self.plan.directory / f"{self.plan.table.name}.png"
        drawn = {
            "weights": [one.weights for one in contenders],
            "cases": [place.identity for place in largest],
        }
        record = path.with_suffix(".drawn.json")
        if path.exists() and record.exists() and json.loads(record.read_text(encoding="utf-8")) == drawn:
            return
        shown = []
        for done, place in enumerate(largest):
            self.progress(f"Drawing {place.column.title}", done, len(largest))
            shown.append(self._shown(place, contenders))
        if shown:
            try:
                draw_side_by_side(path, shown)
            except InputError as error:  # matplotlib is an extra: the table does not wait for it
                self.progress(str(error), len(largest), len(largest))
                return
            write_json(record, drawn)

    def _size(self, place: _Place) -> int:
        """Give the voxels of a case's tumor, as the first that scored it counted them."""
        return max((one.voxels for one in self.scored if (one.column, one.case) == place.name), default=0)

    def _shown(self, place: _Place, contenders: Sequence[Contender]) -> Shown:
        case = place.reference.load()
        tumor, reference = next(iter(case.classes(place.column)))
        found = {}
        for one in contenders:
            scores = one.method(case, [tumor]).scores.get(tumor.name)
            if scores is not None:
                point = self.points(one).get(tumor.name, OperatingPoint())
                mask = found_mask(scores, case.body, point, case.image.grid.voxel_volume_ml)
                found[one.row.title] = Found(mask, reach_of(scores, reference, case.body))
        return Shown(place.column.title, case.image, tumor, reference, found)


def _run(bench: _Bench, rows: Sequence[Row]) -> dict[str, Any]:
    plan, whole = bench.plan, bench.trainings.whole_recipe()
    summary: dict[str, Any] = {}
    first: list[Contender] = []
    for seed in plan.all_seeds:
        for row in rows:
            one = bench.contender(row, seed)
            bench.score(one, seed)
            first += [one] if seed == plan.first_seed else []
            summary = summarize(plan.table, bench.scored) | {"made_by": _made_by(plan, whole)}
            write_json(plan.directory / f"{plan.table.name}.json", summary)
            write_page(plan.directory / f"{plan.table.name}.md", plan.table, summary)
    bench.draw(first)
    return summary


def _of(place: _Place, one: Contender, points: Points) -> dict[str, Any]:
    """Give the whole identity of a case's scores."""
    return place.identity | {"weights": one.weights, "points": identity_of(points, place.column.classes)}


def _keep_to(plan: Plan, recipe: Recipe) -> None:
    """Let a folder hold one bench: of one scale, recipe and data.

    Raises:
        InputError: it holds another.
    """
    path = plan.directory / _SETTINGS
    now = {"scale": plan.data.scale, "data": plan.data.version(), "recipe": what_is_learned(recipe)}
    if not path.exists():
        write_json(path, now)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    with suppress(ValidationError, KeyError):  # what is no recipe any more is another one
        # A setting that there was not yet had the value that is its default now.
        before["recipe"] = what_is_learned(Recipe.model_validate(recipe.record() | before["recipe"]))
    for name, value in json.loads(json.dumps(now)).items():
        if before.get(name) != value:
            raise InputError(
                f"holds a bench of another {name}", where=plan.directory, mend="Choose another folder, or its settings."
            )


def _identity(column: Column, reference: Reference, unseen: UnseenRule) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "dataset": reference.dataset,
        "case": reference.files.id,
        "files": reference.state(),
        "classes": list(column.classes),
        "unseen": unseen,
    }


def _made_by(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    return {
        "dsmseg": __version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "scale": plan.data.scale,
        "seeds": plan.seeds,
        "recipe": recipe.name,
        "preset": recipe.preset,
        "lengths": [str(stage.length) for _, stage in recipe.stages],
        "settings": list(plan.settings),
        "masks": "at operating points",
        "unseen": plan.unseen,
        "cores": resources.cores(),
        "processor": processor(),
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
