"""A table from nothing: train, score, write. What an earlier call has finished is kept."""

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from dsmseg import __version__, checkpoint, resources
from dsmseg.datasets.prepare import alone
from dsmseg.datasets.verify import Progress
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.data import Data, Reference
from dsmseg.evaluation.bench.layout import Scored, summarize, write_page
from dsmseg.evaluation.bench.pictures import Found, Shown, draw_side_by_side, reach_of
from dsmseg.evaluation.bench.scoring import found_mask, score_case
from dsmseg.evaluation.bench.tables import Column, Row, Table
from dsmseg.evaluation.bench.training_runs import Trainings, run_of, what_is_learned
from dsmseg.files import write_atomically, write_json
from dsmseg.inference import UNSEEN, UnseenRule, processor, soft_maps
from dsmseg.training.recipe import Recipe

_Place = tuple[Column, Reference, dict[str, Any]]

_SCORES, _SETTINGS = "scores.jsonl", "bench.json"
_VERSION = 1  # of what a row of scores means; rows of another one are scored anew


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
        unseen = sorted({name for one in plan.table.columns if not one.seen for name in one.classes})
        plan.directory.mkdir(parents=True, exist_ok=True)
        with alone(plan.directory):
            _keep_to(plan, recipe)
            needed = {one.name: one for row in rows for one in run_of(row, plan.table).order()}
            for seed in plan.all_seeds:
                for one in needed.values():
                    trainings.check(one, seed, unseen)
            return _run(plan, rows, cases, trainings, unseen, progress)


def _run(
    plan: Plan,
    rows: Sequence[Row],
    cases: Mapping[Column, Sequence[Reference]],
    trainings: Trainings,
    unseen: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    scores = _Scores(plan.directory / _SCORES)
    places = [
        (column, one, _identity(column, one, plan.unseen)) for column, several in cases.items() for one in several
    ]
    current: dict[tuple[str, int], str] = {}  # the weights of each row and seed
    summary: dict[str, Any] = {}
    whole = trainings.whole_recipe()
    for seed in plan.all_seeds:
        for row in rows:

            def report(entry: dict[str, float], steps: int, title: str = f"{row.title}, seed {seed}") -> None:
                stage, step = int(entry["stage"]), int(entry["step"])
                progress(f"{title}: Stage {stage}, step {step} of {steps}", step, steps)

            weights = trainings.train(run_of(row, plan.table), seed, report)
            loaded = checkpoint.load(weights)
            _refuse_leaks(weights, (*loaded.card.organs, *loaded.card.tumors), unseen)
            sha256 = current[row.key, seed] = str(loaded.card.sha256)
            missing = [place for place in places if not scores.has(place[2], sha256)]
            network = checkpoint.network(loaded) if missing else None
            for done, (column, one, identity) in enumerate(missing, start=1):
                if network is not None:
                    scores.add(identity, sha256, score_case(network, loaded.card, one, column, plan.unseen))
                    progress(f"{row.title}, seed {seed}: scored {one.dataset} {one.files.id}", done, len(missing))
            scored = [
                Scored.of(key, column, of_seed, one.files.id, found)
                for (key, of_seed), sha in current.items()
                for column, one, identity in places
                if (found := scores.get(identity, sha)) is not None
            ]
            summary = summarize(plan.table, scored) | {"made_by": _made_by(plan, whole)}
            write_json(plan.directory / f"{plan.table.name}.json", summary)
            write_page(plan.directory / f"{plan.table.name}.md", plan.table, summary)
    _draw(plan, rows, places, trainings, scores, current, progress)
    return summary


def _draw(
    plan: Plan,
    rows: Sequence[Row],
    places: Sequence[_Place],
    trainings: Trainings,
    scores: "_Scores",
    current: Mapping[tuple[str, int], str],
    progress: Progress,
) -> None:
    """Draw the largest tumor of each column as each row found it, if that was not drawn yet of these weights."""
    first = current[rows[0].key, plan.first_seed]
    sizes = {
        number: max((row["voxels"] for row in scores.get(identity, first) or ()), default=0)
        for number, (column, _, identity) in enumerate(places)
        if column.classes
    }
    largest = [
        places[max((number for number in sizes if places[number][0] is column), key=lambda number: sizes[number])]
        for column in plan.table.columns
        if column.classes
    ]
    path = plan.directory / f"{plan.table.name}.png"
    drawn = {
        "weights": [current[row.key, plan.first_seed] for row in rows],
        "cases": [identity for _, _, identity in largest],
    }
    record = path.with_suffix(".drawn.json")
    if path.exists() and record.exists() and json.loads(record.read_text(encoding="utf-8")) == drawn:
        return
    loaded = [checkpoint.load(trainings.weights(run_of(row, plan.table), plan.first_seed)) for row in rows]
    networks = [(one.card, checkpoint.network(one)) for one in loaded]
    shown = []
    for done, (column, one, _) in enumerate(largest):
        progress(f"Drawing {column.title}", done, len(largest))
        case = one.load()
        tumor, reference = next(iter(case.classes(column)))
        found = {}
        for row, (card, network) in zip(rows, networks, strict=True):
            maps = soft_maps(network, card, case.image, [tumor], unseen=plan.unseen)
            reach = reach_of(maps.probabilities[tumor.name], reference, case.body)
            found[row.title] = Found(found_mask(maps, tumor, case.body), reach)
        shown.append(Shown(column.title, case.image, tumor, reference, found))
    if shown:
        try:
            draw_side_by_side(path, shown)
        except InputError as error:  # matplotlib is an extra: the table does not wait for it
            progress(str(error), len(largest), len(largest))
            return
        write_json(record, drawn)


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


def _refuse_leaks(weights: Path, trained_on: Sequence[str], unseen: Sequence[str]) -> None:
    """Unseen means unseen: weights whose card names a kind that is to be so are not scored.

    Raises:
        InputError: they do.
    """
    if leaked := sorted(set(unseen) & set(trained_on)):
        raise InputError(
            f"was trained on {leaked[0]}, which is to stay unseen", where=weights, mend="Remove it, and train anew."
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


class _Scores:
    """The file of scores: a line for each case of each column and weights, holding a row for each class."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, list[dict[str, Any]]] = {}
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        lines = list(_whole_lines(text))
        whole = "".join(json.dumps(one) + "\n" for one in lines)
        if whole != text:  # what a killed run left of its last line goes
            write_atomically(path, lambda temporary: temporary.write_text(whole, encoding="utf-8"))
        for line in lines:
            rows = line.pop("rows")
            self._rows[_key(line)] = rows

    def has(self, identity: dict[str, Any], weights: str) -> bool:
        return _key(identity | {"weights": weights}) in self._rows

    def get(self, identity: dict[str, Any], weights: str) -> list[dict[str, Any]] | None:
        return self._rows.get(_key(identity | {"weights": weights}))

    def add(self, identity: dict[str, Any], weights: str, rows: list[dict[str, Any]]) -> None:
        line = identity | {"weights": weights}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | {"rows": rows}) + "\n")
        self._rows[_key(line)] = rows


def _key(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True)


def _whole_lines(text: str) -> Iterable[dict[str, Any]]:
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and "rows" in content:
            yield content
