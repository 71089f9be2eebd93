"""What a run writes about itself: log.jsonl and log.csv, TensorBoard and MLflow where they are asked for."""

import csv
import io
import json
import statistics
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dsmseg.errors import InputError, OutputError
from dsmseg.files import write_atomically
from dsmseg.training.course_settings import Reporting
from dsmseg.training.state import Position

Report = Callable[[dict[str, float], int], None]
"""Is given each entry of the log, and how many steps the stage has."""
_LOG, _TABLE = "log.jsonl", "log.csv"


class Journal:
    """Means over the last steps, a line every so many steps. A resumed run goes on without what came after its state.

    Use it as a context manager. ``position`` is that of the state that the run goes on from.
    """

    def __init__(self, directory: Path, position: Position, plan: Reporting, report: Report | None) -> None:
        self.directory, self.every, self.report = directory, plan.log_every, report
        self._entries = [one for one in _read(directory / _LOG) if Position(one["stage"], one["step"]) <= position]
        self._steps: list[dict[str, float]] = []
        self._boards = _Boards(directory, position) if plan.tensorboard else None
        self._tracker = _open_tracker() if plan.mlflow else None
        text = "".join(f"{json.dumps(entry)}\n" for entry in self._entries)
        write_atomically(directory / _LOG, lambda path: path.write_text(text, "utf-8"))

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the table, however it ended."""
        if self._boards is not None:
            self._boards.close()
        with suppress(OutputError) if error is not None else nullcontext():  # the first error is the one to tell
            self._write_table()

    def record(self, stage: int, step: int, steps: int, terms: dict[str, float]) -> None:
        """Take what was measured in a step; ``step`` counts those that are done, of ``steps``."""
        self._steps.append(terms)
        if step % self.every and step != steps:
            return
        names = dict.fromkeys(name for one in self._steps for name in one)
        means = {name: statistics.fmean(one[name] for one in self._steps if name in one) for name in names}
        self._steps.clear()
        self.enter(stage, step, steps, means)

    def enter(self, stage: int, step: int, steps: int, values: dict[str, float]) -> None:
        """Write a row of its own, at once: values that are no mean over steps, such as a validation's."""
        entry = {"stage": stage, "step": step, **{name: float(f"{value:.6g}") for name, value in values.items()}}
        self._entries.append(entry)
        self._append(entry)
        self._tell_others(stage, step, values)
        if self.report is not None:
            self.report(entry, steps)

    def _tell_others(self, stage: int, step: int, values: dict[str, float]) -> None:
        """Tell TensorBoard and MLflow. What goes wrong with them is told once, and does not end the run."""
        try:
            if self._boards is not None:
                for name, value in values.items():
                    self._boards.of(stage).add_scalar(name, value, step)
            if self._tracker is not None:
                self._tracker.log_metrics({f"stage {stage}/{name}": value for name, value in values.items()}, step=step)
        except Exception as error:  # noqa: BLE001
            warnings.warn(f"TensorBoard and MLflow are told no more: {error}", stacklevel=2)
            self._boards = self._tracker = None

    def _append(self, entry: dict[str, float]) -> None:
        path = self.directory / _LOG
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot be written ({reason})", where=path, mend="Make space, then --resume.") from error

    def _write_table(self) -> None:
        columns = list(dict.fromkeys(name for entry in self._entries for name in entry))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self._entries)
        write_atomically(self.directory / _TABLE, lambda path: path.write_text(text.getvalue(), "utf-8"))


def _read(path: Path) -> list[dict[str, Any]]:
    """Read a log; a last line that was cut is left out."""
    entries = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def _open_tracker() -> Any:
    """Give MLflow, which finds its server and experiment in its own environment variables."""
    try:
        import mlflow
    except ImportError as error:
        raise InputError("reporting.mlflow needs MLflow", mend="Install it: pip install mlflow") from error
    return mlflow


class _Boards:
    """TensorBoard's files, a folder a stage. What an earlier run wrote of steps after ``position`` is hidden."""

    def __init__(self, directory: Path, position: Position) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            mend = 'Install it: pip install "dsmseg[train]"'
            raise InputError("reporting.tensorboard needs TensorBoard", mend=mend) from error
        self._make, self._directory, self._position = SummaryWriter, directory / "tensorboard", position
        self._open: dict[int, Any] = {}
        for stage in range(position.stage, 3):  # what was told too early is hidden at once
            if (self._directory / f"stage_{stage}").exists():
                self.of(stage)

    def of(self, stage: int) -> Any:
        """Give a stage's writer."""
        if stage not in self._open:
            first = self._position.steps + 1 if stage == self._position.stage else 0
            self._open[stage] = self._make(str(self._directory / f"stage_{stage}"), purge_step=first)
        return self._open[stage]

    def close(self) -> None:
        """Write what is left."""
        for one in self._open.values():
            one.close()
