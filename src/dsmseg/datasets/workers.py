"""Work on many cases at once, in processes of its own, within a limit of memory, and outliving what one case does."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dsmseg import resources
from dsmseg.errors import DsmsegError, InputError

Input = TypeVar("Input")
Output = TypeVar("Output")

_MEMORY_SHARE = 0.6  # of the machine's memory; the rest is for everything else


@dataclass(frozen=True, slots=True)
class Task(Generic[Input]):
    """A piece of work, and the bytes of memory that it takes at most."""

    input: Input
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Done(Generic[Input, Output]):
    """What came of a task: its output, or the error that the caller can mend."""

    input: Input
    output: Output | None
    error: DsmsegError | None = None


def memory_limit() -> int:
    """Give the bytes that all workers together may take: a share of the machine's memory, or of its container's."""
    return int(_MEMORY_SHARE * resources.memory())


def run_all(
    function: Callable[[Input], Output], tasks: Sequence[Task[Input]], workers: int, limit: int | None = None
) -> Iterator[Done[Input, Output]]:
    """Give what comes of each task, as it is done.

    A task that its memory does not allow beside others runs alone. Where a worker is killed (for memory, most often),
    the tasks under way are tried once more, one at a time, and the one that kills again is given up.

    Args:
        function: of a module, so that another process finds it.
        tasks: in the order in which they start.
        workers: processes; with 1 the work is done in this process.
        limit: bytes that may be taken at a time; None is `memory_limit`.

    Raises:
        Exception: what ``function`` raises other than a `DsmsegError`.
    """
    if workers <= 1:
        for task in tasks:
            yield _try(function, task.input)
        return
    pool = _Pool(function, workers, memory_limit() if limit is None else limit)
    try:
        yield from pool.run(tasks)
    finally:
        pool.stop()


def _try(function: Callable[[Input], Output], input: Input) -> Done[Input, Output]:
    try:
        return Done(input, function(input))
    except DsmsegError as error:
        return Done(input, None, error)
    except MemoryError:
        return Done(input, None, _too_large())


def _too_large() -> InputError:
    return InputError("memory ran out for this case", mend="Close other programs, or use a machine with more memory.")


@dataclass(slots=True)
class _Pool(Generic[Input, Output]):
    function: Callable[[Input], Output]
    workers: int
    limit: int
    _executor: ProcessPoolExecutor | None = None
    _running: dict[Future[Done[Input, Output]], Task[Input]] = field(default_factory=dict)

    def run(self, tasks: Sequence[Task[Input]]) -> Iterator[Done[Input, Output]]:
        waiting, suspects = deque(tasks), deque[Task[Input]]()
        while waiting or suspects or self._running:
            if suspects and not self._running:
                yield from self._alone(suspects.popleft())
                continue
            if not suspects:
                self._fill(waiting)
            finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = self._running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    suspects.append(task)
            if suspects:
                suspects.extend(self._running.values())
                self.stop()  # a pool that lost a worker takes no more work

    def _fill(self, waiting: deque[Task[Input]]) -> None:
        while waiting and len(self._running) < self.workers:
            taken = sum(task.memory for task in self._running.values())
            if self._running and taken + waiting[0].memory > self.limit:
                return
            task = waiting.popleft()
            try:
                self._running[self._submit(task)] = task
            except BrokenProcessPool:  # a worker was killed while it had nothing to do
                waiting.appendleft(task)
                if self._running:
                    return  # what is done already is collected first
                self.stop()

    def _alone(self, task: Task[Input]) -> Iterator[Done[Input, Output]]:
        try:
            yield self._submit(task).result()
        except BrokenProcessPool:
            self.stop()
            yield Done(task.input, None, _too_large())

    def _submit(self, task: Task[Input]) -> Future[Done[Input, Output]]:
        return self._start().submit(_try, self.function, task.input)

    def _start(self) -> ProcessPoolExecutor:
        if self._executor is None:
            # Spawned, not forked: a copy of a process that runs threads of its own may hang.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_begin)
        return self._executor

    def stop(self) -> None:
        """End the workers, at once where they are at work: what they write is whole or not there."""
        if self._executor is None:
            return
        if self._running:
            for process in list((self._executor._processes or {}).values()):
                process.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._running.clear()
        self._executor = None


def _begin() -> None:
    """Let a worker end when its parent has, however that ended, and leave Ctrl-C to the parent."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
