"""The workers of a run on a cluster: Ray's actors, who is at which case, and what happens when one dies."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Any, cast

import torch

from dsmseg.errors import DsmsegError, InputError
from dsmseg.inference.cases import Case
from dsmseg.inference.prediction import CaseProgress, CaseResult, Target, find_done, segment_case
from dsmseg.inference.segmenter import Segmenter

_ATTEMPTS = 3
_CORES_A_WORKER = 4  # more workers would take more memory, and hardly be faster together
_GLANCE_SECONDS = 0.3
_START_SECONDS = 600
_FAREWELL_SECONDS = 10
_DYING_SECONDS = 0.3  # Ray tells a death some hundredths of a second before it

_Node = Mapping[str, float]


class _Worker:
    """An actor: a process somewhere on the cluster. While one thread segments, the other one answers."""

    def __init__(self, cores: int) -> None:
        torch.set_num_threads(cores)
        self._at = (0, 0)

    def join(self, load: Mapping[str, Any], target: Target) -> dict[str, Any]:
        """Load the network, and tell all that decides the result."""
        if not target.output.is_dir():
            raise InputError(
                "a worker does not see this folder",
                where=target.output,
                mend="Choose one that all machines of the cluster share under the same path.",
            )
        self._target, self._segmenter = target, Segmenter.load(**load)
        return self._segmenter.settings()

    def find_done(self, cases: Sequence[Case]) -> set[Case]:
        return find_done(cases, self._target, self._segmenter)

    def segment(self, case: Case, again: bool) -> CaseResult:
        self._at = (0, 0)
        try:  # The one before may have died with its work done.
            if again and find_done([case], self._target, self._segmenter):
                return CaseResult(case, self._target.folder(case), None, 0.0)
        except DsmsegError as error:
            return CaseResult(case, None, None, 0.0, error)
        return segment_case(case, self._target, self._segmenter, self._note)

    def glance(self) -> tuple[int, int]:
        """Tell (windows done, windows in all) of the case under way."""
        return self._at

    def _note(self, _: Case, done: int, total: int) -> None:
        self._at = (done, total)


@dataclass(frozen=True, slots=True)
class Hiring:
    """``hire`` starts a worker, and gives it with the answer to its `join`; ``count`` is how many may work at once."""

    hire: Callable[[], tuple[Any, Any]]
    count: int


def hiring(ray: Any, workers: int | None, load: Mapping[str, Any], target: Target) -> Hiring:
    """Say how workers are started on the cluster that ``ray`` is connected to; a GPU each where there are any.

    Raises:
        InputError: it does not hold as many.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    device = load.get("device", "auto")
    gpus = int(device == "cuda" or (device == "auto" and any(node.get("GPU", 0) >= 1 for node in nodes)))
    count, cores = share(nodes, workers, gpus)
    kind = ray.remote(_Worker).options(num_cpus=cores, num_gpus=gpus, max_restarts=0, max_concurrency=2)

    def hire() -> tuple[Any, Any]:
        worker = kind.remote(cores)
        return worker, worker.join.remote(load, target)

    return Hiring(hire, count)


def share(nodes: Sequence[_Node], workers: int | None, gpus: int) -> tuple[int, int]:
    """Give the number of workers, and the cores of each, which all machines' cores are shared out among.

    Raises:
        InputError: the cluster does not hold as many.
    """

    def room(cores: int) -> int:
        return sum(int(min(node.get("CPU", 0) // cores, node.get("GPU", 0) // gpus if gpus else inf)) for node in nodes)

    sizes = range(int(max((node.get("CPU", 0) for node in nodes), default=0)), 0, -1)
    if workers is None:
        usual = 1 if gpus else _CORES_A_WORKER
        workers = next((room(cores) for cores in range(usual, 0, -1) if room(cores)), 1)
    if workers < 1:
        raise InputError(f"{workers} workers do nothing", mend="Give 1 or more.")
    fitting = next((cores for cores in sizes if room(cores) >= workers), None)
    if fitting is None:
        each = "a core and a GPU" if gpus else "a core"
        raise InputError(
            f"the cluster holds {room(1)} workers with {each} each, not {workers}",
            mend="Ask for fewer, or add machines to it.",
        )
    return workers, fitting


@dataclass(slots=True)
class Crew:
    """The workers, by the answers that are awaited from them.

    Attributes:
        lost: how many workers each case has cost.
    """

    ray: Any
    hiring: Hiring
    lost: Counter[Case] = field(default_factory=Counter)
    _settings: dict[str, Any] | None = None
    _false_starts: int = 0
    _began: dict[Case, float] = field(default_factory=dict)
    _shown: dict[Case, tuple[int, int]] = field(default_factory=dict)
    _joining: dict[Any, Any] = field(default_factory=dict)
    _working: dict[Any, tuple[Any, Case]] = field(default_factory=dict)
    _idle: list[Any] = field(default_factory=list)

    def check(self, cases: Sequence[Case]) -> set[Case]:
        """Start a first worker, and let it find what is done.

        Raises:
            DsmsegError: as for `predict_on_cluster`.
        """
        while True:
            while not self._idle:
                self._hire(1)
                for answer in self._next():
                    self._join(answer)
            try:
                return cast(set[Case], self._answer(self._idle[0].find_done.remote(cases)))
            except self._deaths() as error:
                self._idle.clear()
                self._count_false_start(error)

    def segment(self, cases: Sequence[Case], show: CaseProgress | None) -> Iterator[CaseResult]:
        """Give each case to the next free worker, and its result when it comes."""
        waiting = deque(cases)
        while waiting or self._working:
            while self._idle and waiting:
                worker, case = self._idle.pop(), waiting.popleft()
                self._began.setdefault(case, perf_counter())
                self._working[worker.segment.remote(case, self.lost[case] > 0)] = worker, case
            self._hire(len(waiting) + len(self._working))
            for answer in self._next():
                if answer in self._joining:
                    self._join(answer)
                elif isinstance(result := self._take(answer), Case):
                    waiting.append(result)  # behind the others, which may need less memory
                else:
                    yield result
            if show is not None:
                self._show(show)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """At the end, end all workers; what they are at is lost."""
        try:
            yield
        finally:
            workers = [*self._joining.values(), *self._idle, *(worker for worker, _ in self._working.values())]
            for worker in workers:
                self.ray.kill(worker)
            self.lost.update(case for _, case in self._working.values())
            if self._working:
                self.ray.wait(list(self._working), num_returns=len(self._working), timeout=_FAREWELL_SECONDS)
                time.sleep(_DYING_SECONDS)

    def _hire(self, wanted: int) -> None:
        while len(self._joining) + len(self._working) + len(self._idle) < min(self.hiring.count, wanted):
            worker, answer = self.hiring.hire()
            self._joining[answer] = worker

    def _next(self) -> Sequence[Any]:
        """Wait a moment for the next answers, and for long where nobody works yet."""
        awaited = [*self._joining, *self._working]
        ready, _ = self.ray.wait(awaited, timeout=_GLANCE_SECONDS if self._working else _START_SECONDS)
        if not ready and not self._working:
            raise InputError(
                f"no worker has started within {_START_SECONDS // 60} minutes",
                where="the cluster",
                mend="Wait until its machines are free, or ask for fewer workers.",
            )
        return cast(Sequence[Any], ready)

    def _join(self, answer: Any) -> None:
        worker = self._joining.pop(answer)
        try:
            settings = self._answer(answer)
        except self._deaths() as error:
            self._count_false_start(error)
            return
        if self._settings not in (None, settings):
            raise _disagreement(self._settings or {}, settings)
        self._settings = settings
        self._idle.append(worker)

    def _count_false_start(self, error: Exception) -> None:
        self._false_starts += 1
        if self._false_starts >= _ATTEMPTS:
            raise InputError(
                f"workers die as they start ({_last_line(error)})",
                where="the cluster",
                mend="See that every machine has this version of dsmseg and memory for its workers.",
            ) from error

    def _take(self, answer: Any) -> CaseResult | Case:
        """Give what came of a case, or the case itself where it is to be tried again."""
        worker, case = self._working.pop(answer)
        try:
            result = self._answer(answer)
        except self._deaths() as error:
            self.ray.kill(worker)  # One that merely cannot be reached must not write any more.
            self.lost[case] += 1
            if self.lost[case] < _ATTEMPTS:
                return case
            failure = InputError(
                f"the worker died, {_ATTEMPTS} times ({_last_line(error)})",
                where=case.path,
                mend="Most often that is memory: ask for fewer workers, or give the scan to a machine with more of it.",
            )
            return CaseResult(case, None, None, perf_counter() - self._began[case], failure)
        self._idle.append(worker)
        self._false_starts = 0
        return cast(CaseResult, result)

    def _show(self, show: CaseProgress) -> None:
        glances = {worker.glance.remote(): case for worker, case in self._working.values()}
        if not glances:
            return
        ready, _ = self.ray.wait(list(glances), num_returns=len(glances), timeout=_GLANCE_SECONDS)
        for glance in ready:
            with suppress(*self._deaths()):
                done, total = self._answer(glance)
                if total and self._shown.get(case := glances[glance]) != (done, total):
                    self._shown[case] = done, total
                    show(case, done, total)

    def _answer(self, awaited: Any) -> Any:
        """Give what a worker has answered, or raise what it has raised."""
        try:
            return self.ray.get(awaited)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, DsmsegError):
                raise error.cause from None
            raise

    def _deaths(self) -> tuple[type[Exception], ...]:
        kinds = self.ray.exceptions
        return kinds.RayActorError, kinds.WorkerCrashedError, kinds.NodeDiedError, kinds.OutOfMemoryError


def _last_line(error: Exception) -> str:
    """Give the first sentence of the last line: what Ray has to say is long."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(". ")[0].rstrip(".") if lines else type(error).__name__


def _disagreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> InputError:
    name = next(name for name in {**one, **other} if one.get(name) != other.get(name))
    return InputError(
        f"the workers would give different results (one has {name} {one.get(name)}, another {other.get(name)})",
        where="the cluster",
        mend="Give all machines the same versions and the same kind of processor or GPU, or set the device.",
    )
