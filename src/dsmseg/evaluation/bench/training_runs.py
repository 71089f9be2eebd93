"""Which trainings a table needs: rows that differ in Stage 2 alone share their Stage 1."""

from dataclasses import dataclass
from pathlib import Path

from dsmseg import checkpoint
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.data import Data
from dsmseg.evaluation.bench.tables import Row, Table
from dsmseg.model import ABLATIONS, TABLE_5
from dsmseg.training import load_recipe, train
from dsmseg.training.journal import Report
from dsmseg.training.recipe import Recipe


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


def run_of(row: Row, table: Table) -> TrainingRun:
    """Give the run whose weights a row scores with."""
    run = _run_of(row)
    if not table.supervised:
        return run
    if row.method == "dsm":
        kept = ("stage_1=null", f"ablation={row.ablation}")
    else:
        kept = ("stage_1=null", f"method={row.method}")
    return TrainingRun(f"{run.name}_supervised", (*kept, "store.protocol=supervised"), run)


def recipe_of(run: TrainingRun, path: Path, data: Data, seed: int, directory: Path, settings: list[str]) -> Recipe:
    """Read the recipe of a run: the bench's, with the caller's settings, then the run's own."""
    own = [f"name={run.name}", f"seed={seed}", f"store.path={data.store.absolute()}"]
    if data.splits is not None:
        own.append(f"store.splits={data.splits.absolute()}")
    if run.whole:
        own.append(f"stage_2.length={_both_stages(load_recipe(path, settings))}")
    if run.start is not None:
        own.append(f"start={weights_of(run.start, seed, directory).absolute()}")
    return load_recipe(path, [*settings, *own, *run.settings])


def train_run(
    run: TrainingRun, recipe_path: Path, data: Data, seed: int, directory: Path, settings: list[str], report: Report
) -> Path:
    """Train a run and what it starts from, as far as that is not done; give its weights.

    Raises:
        InputError: a folder holds a run of another recipe, or the data cannot be read.
        StoppedError: it was asked to stop, and has saved.
    """
    for one in run.order():
        weights = weights_of(one, seed, directory)
        if not weights.exists():
            recipe = recipe_of(one, recipe_path, data, seed, directory, settings)
            train(recipe, weights.parent, resume=(weights.parent / "state.safetensors").exists(), report=report)
    return weights_of(run, seed, directory)


def weights_of(run: TrainingRun, seed: int, directory: Path) -> Path:
    """Say where a run's weights lie."""
    return directory / "runs" / f"seed_{seed}" / run.name / f"{run.name}.safetensors"


def trained_on(weights: Path) -> tuple[str, ...]:
    """Name the classes that weights were trained for, as their card says."""
    card = checkpoint.load(weights).card
    return (*card.organs, *card.tumors)


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


def _both_stages(recipe: Recipe) -> str:
    """Give how long both stages last, as a recipe has it."""
    lengths = [stage.length for _, stage in recipe.stages]
    if len({one.unit for one in lengths}) != 1:
        raise InputError("gives its two stages' lengths in steps and in epochs", where=recipe.name, mend="Take one.")
    return f"{sum(one.count for one in lengths)} {lengths[0].unit}"
