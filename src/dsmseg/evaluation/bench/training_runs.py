"""Which trainings a table needs, and their recipes: rows that differ in Stage 2 alone share their Stage 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmseg.checkpoint.storage import card_path
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.data import Data
from dsmseg.evaluation.bench.tables import Row, Table
from dsmseg.files import write_json
from dsmseg.model import ABLATIONS, TABLE_5
from dsmseg.taxonomy import find
from dsmseg.training import load_recipe, train
from dsmseg.training.journal import Report
from dsmseg.training.prompts import text_embeddings
from dsmseg.training.recipe import Recipe
from dsmseg.training.sources import open_data

_OURS = ("name", "seed", "method", "ablation", "start", "store", "bodies", "classes")
_ELSEWHERE = (
    "data",
    "validation",
    "hardware",
    "reporting",
    "store",
    "start",
)  # where a run computes and lies, not what it learns


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One training.

    settings: over the bench's recipe. start: the run whose weights it starts from. whole: its one stage is as long as
    both of DSM's, so that all methods learn for as long.
    """

    name: str
    settings: tuple[str, ...]
    start: "TrainingRun | None" = None
    whole: bool = False

    def order(self) -> list["TrainingRun"]:
        """Give all runs that lead to this one, and it, in the order in which they are to be done."""
        return [*(self.start.order() if self.start else ()), self]


@dataclass(frozen=True, slots=True)
class Trainings:
    """The trainings of a bench.

    recipe: a file. settings: changes of it, ``key=value``. directory: of the bench; a run lies in ``runs/seed_K/NAME``.
    """

    recipe: Path
    settings: Sequence[str]
    data: Data
    directory: Path

    def whole_recipe(self) -> Recipe:
        """Read the recipe with both of DSM's stages.

        Raises:
            InputError: it has not both, or sets what is the bench's to set.
        """
        for setting in self.settings:
            name = setting.partition("=")[0].split(".")[0]
            if name in _OURS:
                raise InputError(f"'{name}' is the bench's to set", where=f"--set {setting}", mend="Leave it out.")
        recipe = load_recipe(self.recipe, list(self.settings))
        if recipe.method != "dsm" or len(recipe.stages) != 2 or recipe.start is not None:
            raise InputError(
                "is no recipe of DSM's two stages, both from chance", where=self.recipe, mend="See bench/mini.yaml."
            )
        return recipe

    def of(self, run: TrainingRun, seed: int) -> Recipe:
        """Give the recipe of a run: the bench's, with the caller's settings, then the run's own.

        Raises:
            InputError: the recipe cannot be read, or the data hold nothing to train on.
        """
        whole = self.whole_recipe()
        own = [f"name={run.name}", f"seed={seed}", *self._places()]
        if run.whole:
            placed = load_recipe(self.recipe, [*self.settings, *self._places()])
            steps = sum(
                stage.length.steps(open_data(placed, number).epoch(whole.batch.size))
                if stage.length.unit == "epochs"
                else stage.length.count
                for number, stage in whole.stages
            )
            own.append(f"stage_2.length={steps} steps")
        if run.start is not None:
            own.append(f"start={self.weights(run.start, seed).absolute()}")
        return load_recipe(self.recipe, [*self.settings, *own, *run.settings])

    def check(self, run: TrainingRun, seed: int, unseen: Sequence[str]) -> None:
        """Find before the first step what would stop a run, or make its figures worthless; not of what it starts from.

        Raises:
            InputError: the data hold nothing to train on, or label a kind that is to stay unseen; the text is missing;
                the folder holds another recipe's run; several processes are asked for.
        """
        recipe = self.of(run, seed)
        for number, _ in recipe.stages:
            labelled = open_data(recipe, number).annotated
            if leaked := [name for name in unseen if find(name).id in labelled]:
                what = f"labels {leaked[0]}, which is to stay unseen"
                raise InputError(what, where=self.data.store, mend="Leave that data set out.")
        if recipe.reads_text:
            text_embeddings(recipe)
        self._refuse_other_run(run, seed, recipe)
        if not self._is_done(run, seed):
            self._refuse_several_processes(run, seed, recipe)

    def train(self, run: TrainingRun, seed: int, report: Report) -> Path:
        """Train a run and what it starts from, as far as that is not done; give its weights.

        Raises:
            InputError: the data cannot be read.
            StoppedError: it was asked to stop, and has saved.
        """
        for one in run.order():
            if not self._is_done(one, seed):
                train(self.of(one, seed), self.weights(one, seed).parent, resume=True, report=report)
        return self.weights(run, seed)

    def weights(self, run: TrainingRun, seed: int) -> Path:
        """Say where a run's weights lie."""
        return self.directory / "runs" / f"seed_{seed}" / run.name / f"{run.name}.safetensors"

    def _is_done(self, run: TrainingRun, seed: int) -> bool:
        weights = self.weights(run, seed)
        return weights.exists() and card_path(weights).exists()  # the card is written last

    def _places(self) -> list[str]:
        places = [f"store.path={self.data.store.absolute()}", "store.protocol=clean"]
        return places if self.data.splits is None else [*places, f"store.splits={self.data.splits.absolute()}"]

    def _refuse_other_run(self, run: TrainingRun, seed: int, recipe: Recipe) -> None:
        path = self.weights(run, seed).parent / "recipe.json"
        if not path.exists():
            return
        before, now = (what_is_learned(one) for one in (load_recipe(path), recipe))
        if changed := [name for name in now if before.get(name) != now[name]]:
            raise InputError(
                f"was trained with another '{changed[0]}'", where=path, mend="Take its recipe, or another folder (-o)."
            )

    def _refuse_several_processes(self, run: TrainingRun, seed: int, recipe: Recipe) -> None:
        processes = recipe.hardware.devices * recipe.hardware.nodes
        if processes > 1:
            folder = self.weights(run, seed).parent
            path = folder.with_suffix(".json")
            write_json(path, recipe.record())
            raise InputError(
                f"asks for {processes} processes, and a bench trains in one",
                where="hardware",
                mend=f"Train this run yourself (dsmseg train {path} -o {folder}), then call again.",
            )


def what_is_learned(recipe: Recipe) -> dict[str, Any]:
    """Give the settings that decide a result, as JSON holds them, but for where its data lie."""
    return {name: value for name, value in recipe.record().items() if name not in _ELSEWHERE}


def run_of(row: Row, table: Table) -> TrainingRun:
    """Give the run whose weights a row scores with."""
    run = _run_of(row)
    if not table.supervised:
        return run
    kept = f"ablation={row.ablation}" if row.method == "dsm" else f"method={row.method}"
    return TrainingRun(f"{run.name}_supervised", (kept, "stage_1=null", "store.protocol=supervised"), run)


def _run_of(row: Row) -> TrainingRun:
    if row.method == "sml":
        backbone = TrainingRun("swin_unetr", ("method=swin_unetr", "stage_1=null"), whole=True)
        return TrainingRun("sml", ("method=sml", "stage_1=null"), backbone)
    if row.method != "dsm":
        return TrainingRun(str(row.method), (f"method={row.method}", "stage_1=null"), whole=True)
    plain = not TABLE_5[ABLATIONS[row.ablation]].get("state_space", True)
    stage_1 = TrainingRun(
        "stage_1_without_kmm" if plain else "stage_1",
        (f"ablation={'without_kmm' if plain else 'full'}", "stage_2=null"),
    )
    return TrainingRun(row.ablation, (f"ablation={row.ablation}", "stage_1=null"), stage_1)
