"""A training run, read from top to bottom: its stages, their steps, and what is saved on the way."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmseg import checkpoint, resources
from dsmseg.errors import DsmsegError, InputError
from dsmseg.files import write_json
from dsmseg.training.card import describe
from dsmseg.training.faults import NotFiniteError
from dsmseg.training.interruption import Interruption, StoppedError
from dsmseg.training.journal import Journal, Report
from dsmseg.training.launching import anywhere, launch
from dsmseg.training.learner import Learner
from dsmseg.training.measuring import learner_of
from dsmseg.training.patches import Batch
from dsmseg.training.pictures import draw_answer, require_matplotlib
from dsmseg.training.prompts import text_embeddings
from dsmseg.training.reading import load_recipe
from dsmseg.training.recipe import Recipe
from dsmseg.training.sources import Data, drawn, loader, open_data
from dsmseg.training.state import Position, State, load_state
from dsmseg.training.validation import Validator, best_of, open_held_out

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_RECIPE, _STATE = "recipe.json", "state.safetensors"


def train(recipe: Recipe, directory: Path, *, resume: bool = False, report: Report | None = None) -> Path:
    """Train what ``recipe`` says in ``directory``; gives the path of the weights.

    Writes ``recipe.json``, ``log.jsonl`` and ``log.csv`` (losses every few steps), ``state.safetensors``, and after
    each stage the averaged weights with their card. With held-out cases, also the best of the averaged weights, and
    operating points on the cards. The run may be stopped at any time and goes on with ``resume``,
    from the last state, with the same batches: it ends as if it had not been stopped. ``report`` is given each entry of
    the log.

    Raises:
        InputError: the folder holds another run or another recipe's, the data cannot be read, a loss is no number.
        WeightsError: the folder's state is damaged, or what to start from is, or does not fit the preset.
        OutputError: the folder cannot be written to.
        StoppedError: it was asked to stop, by Ctrl-C or SIGTERM, and has saved.
    """
    begun = _state_to_go_on_from(recipe, directory, resume=resume)
    position = begun.position if begun else Position()
    data = {number: open_data(recipe, number) for number, _ in recipe.stages}
    for number, _ in recipe.stages:  # what the card would refuse at the end is refused now
        describe(recipe, number, data[number], steps=0)
    held_out = open_held_out(recipe)
    if recipe.reads_text:
        text_embeddings(recipe)
    if recipe.reporting.pictures_every:
        require_matplotlib()
    fabric = launch(recipe.hardware)
    if anywhere(fabric, fabric.broadcast(position) != position):
        what = "is not the same for all processes of this run"
        raise InputError(what, where=directory, mend="Name a folder that all machines share.")
    with Interruption() as interruption, ExitStack() as closing:
        run = _Run(fabric, recipe, directory, interruption, Validator(recipe, held_out, fabric.device))
        for number, stage in recipe.stages:
            if number < position.stage:
                run.weights = _weights_of(recipe, directory, number)
                continue
            learner = learner_of(fabric, recipe, number, stage, data[number])
            if begun and position.stage == number:
                learner.fill(begun, directory / _STATE)
            elif run.weights is not None:
                learner.start_from(run.weights)
            if run.log is None and fabric.is_global_zero:  # nothing is written before all is known to fit together
                write_json(directory / _RECIPE, recipe.record())
                run.log = closing.enter_context(Journal(directory, position, recipe.reporting, report))
            first = position.steps if position.stage == number else 0
            run.validator.begin(best_of(_weights_of(recipe, directory, number)), goes_on=first > 0)
            run.stage(learner, data[number], first=first)
    if run.weights is None:
        raise RuntimeError("a recipe has a stage")
    return run.weights


@dataclass(slots=True)
class _Run:
    """What the stages of a run share. weights: what the next stage starts from. log: kept by one process alone."""

    fabric: "Fabric"
    recipe: Recipe
    directory: Path
    interruption: Interruption
    validator: Validator
    weights: Path | None = field(init=False)
    log: Journal | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Start from the recipe's weights, if it names some."""
        self.weights = self.recipe.start

    def stage(self, learner: Learner, data: Data, *, first: int) -> None:
        """Go through the steps of a stage from ``first`` on; save now and then, and whenever something ends it."""
        steps = learner.schedule.steps
        fabric = self.fabric
        batches = loader(data, self.recipe, range(first, steps), rank=fabric.global_rank, ranks=fabric.world_size)
        row = drawn(batches)
        try:
            for step in range(first, steps):
                asked = time.perf_counter()
                own = self._next(row, learner, step, first)
                waited = time.perf_counter() - asked
                placed = [batch.on(fabric.device) for batch in own]
                terms = learner.step(placed, step)
                done = step + 1
                spent = {"seconds": time.perf_counter() - asked, "seconds waited": waited}
                self._record(learner, done, terms | spent | {"memory (GB)": resources.peak_memory() / 1e9})
                self._draw(learner, placed[0], done)
                self._validate(learner, data, done)
                stops = anywhere(fabric, self.interruption.asked)
                if stops or done == steps or done % self.recipe.reporting.state_every == 0:
                    self._save(learner.state(done))
                if stops and done < steps:
                    raise self._stopped(learner, done)
        except NotFiniteError as error:
            raise error.kept_in(self.directory) from error
        self._finish(learner, data, max(first, steps))

    def _next(self, row: Iterator[list[Batch]], learner: Learner, step: int, first: int) -> list[Batch]:
        """Give this process's part of a step. If one process cannot, all save what is learned, and stop."""
        own, error = _fetched(row)
        if not anywhere(self.fabric, error is not None):
            return own
        if step > first:
            self._save(learner.state(step))
        if anywhere(self.fabric, self.interruption.asked):  # the loader's processes were asked to stop as well
            raise self._stopped(learner, step)
        raise error or _elsewhere()

    def _first_alone(self, write: Callable[[], object]) -> None:
        """Let one process write for all; if it cannot, all stop."""
        error: DsmsegError | None = None
        if self.fabric.is_global_zero:
            try:
                write()
            except DsmsegError as caught:
                error = caught
        if anywhere(self.fabric, error is not None):
            raise error or _elsewhere()

    def _record(self, learner: Learner, done: int, terms: dict[str, float]) -> None:
        def write() -> None:
            if self.log is not None:
                self.log.record(learner.number, done, learner.schedule.steps, terms)

        self._first_alone(write)

    def _draw(self, learner: Learner, batch: Batch, done: int) -> None:
        every = self.recipe.reporting.pictures_every
        if every and done % every == 0:
            answer = learner.answer(batch)  # all processes: parameters may be spread over them
            picture = self.directory / "pictures" / f"stage_{learner.number}_step_{done}.png"
            self._first_alone(lambda: draw_answer(picture, batch, answer))

    def _validate(self, learner: Learner, data: Data, done: int) -> None:
        """Try the averaged weights on held-out cases, before the state is saved: who goes on from it has been here."""
        if not self.validator.is_due(done):
            return
        state = learner.weights()  # all processes: parameters may be spread over them
        card = describe(self.recipe, learner.number, data, steps=done)

        def try_out() -> None:
            figures = self.validator.try_out(state, card)
            if self.log is not None:
                self.log.enter(learner.number, done, learner.schedule.steps, figures)

        self._first_alone(try_out)

    def _save(self, state: State) -> None:
        self._first_alone(lambda: state.save(self.directory / _STATE))

    def _finish(self, learner: Learner, data: Data, steps: int) -> None:
        """Write the stage's weights with their card."""
        weights = _weights_of(self.recipe, self.directory, learner.number)
        state = learner.weights()
        card = describe(self.recipe, learner.number, data, steps=steps)
        last = learner.number == self.recipe.stages[-1][0]

        def stop_if_asked(_done: int, _cases: int) -> None:
            if self.interruption.asked:  # the state of the last step is saved: who goes on comes here again
                raise self._stopped(learner, steps)

        def write() -> None:
            checkpoint.save(weights, state, card)
            if last:
                self.validator.finish(weights, progress=stop_if_asked)

        self._first_alone(write)
        self.weights = weights

    def _stopped(self, learner: Learner, done: int) -> StoppedError:
        return StoppedError(
            f"stopped after step {done} of {learner.schedule.steps} of Stage {learner.number}; all is saved",
            where=self.directory, mend="Go on with the same command and --resume.",
        )  # fmt: skip


def _fetched(row: Iterator[list[Batch]]) -> tuple[list[Batch], DsmsegError | None]:
    try:
        return next(row), None
    except DsmsegError as error:
        return [], error


def _elsewhere() -> InputError:
    return InputError("another process of this run had to stop", mend="Its own line tells why.")


def _state_to_go_on_from(recipe: Recipe, directory: Path, *, resume: bool) -> State | None:
    path = directory / _STATE
    if not path.exists():
        return None
    if not resume:
        raise InputError("holds a run already", where=directory, mend="Add --resume, or choose another folder.")
    _refuse_other_recipe(recipe, directory / _RECIPE)
    return load_state(path)


def _refuse_other_recipe(recipe: Recipe, path: Path) -> None:
    """A run may last longer or shorter, find its data elsewhere, be tried on other cases, and compute elsewhere."""
    before, now = (_what_decides(one.record()) for one in (load_recipe(path), recipe))  # JSON is YAML
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise InputError(
            f"was started with another '{changed[0]}'", where=path, mend="Take its recipe, or choose another folder."
        )


def _what_decides(record: dict[str, Any]) -> dict[str, Any]:
    kept = {
        name: value for name, value in record.items() if name not in ("data", "validation", "hardware", "reporting")
    }
    for name in ("stage_1", "stage_2"):
        if kept[name]:
            kept[name] = {key: value for key, value in kept[name].items() if key not in ("length", "cool_down")}
    return kept | {"hardware.precision": record["hardware"]["precision"]}


def _weights_of(recipe: Recipe, directory: Path, stage: int) -> Path:
    last = recipe.stages[-1][0]
    return directory / (f"{recipe.name}.safetensors" if stage == last else f"{recipe.name}_stage_{stage}.safetensors")
