"""Work is done whatever one piece of it does, within a limit of memory, and ends with its parent."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from dsmseg.datasets.workers import Task, memory_limit, run_all
from dsmseg.errors import InputError

pytestmark = pytest.mark.slow


def square(number: int) -> int:
    return number * number


def refuse_odd(number: int) -> int:
    if number % 2:
        raise InputError(f"{number} is odd", mend="Give an even number.")
    return number


def run_out(number: int) -> int:
    if number == 2:
        raise MemoryError
    return number


def break_down(number: int) -> int:
    raise ValueError(number)


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return number


def stay(task: tuple[Path, int, int]) -> int:
    """Leave a mark for as long as the work lasts, a while or until there are enough, and tell how many there were."""
    folder, number, enough = task
    mark = folder / str(number)
    mark.touch()
    until = time.monotonic() + (10 if enough > 1 else 0.2)
    seen = 1
    while time.monotonic() < until and (enough == 1 or seen < enough):
        time.sleep(0.02)
        seen = max(seen, len(list(folder.iterdir())))
    if enough > 1:
        time.sleep(0.1)  # so that the other one sees this one too
    mark.unlink()
    return seen


def note(task: tuple[Path, str, float]) -> str:
    """Note when the work begins and ends, and do in between what the name says."""
    folder, name, seconds = task
    what, _, number = name.partition(" ")
    _append(folder, f"begin {number} {os.getpid()}")
    time.sleep(seconds)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "break":
        raise ValueError(name)
    _append(folder, f"end {number} {os.getpid()}")
    return number


def _append(folder: Path, text: str) -> None:
    """Write a line whole, whoever else writes."""
    descriptor = os.open(folder / "notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def notes(folder: Path) -> list[list[str]]:
    """Give what was noted: begin or end, number, process."""
    return [line.split() for line in (folder / "notes").read_text().splitlines()]


def gone(process: int, seconds: float = 15.0) -> bool:
    """Wait for a process to end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def outputs(function, inputs, workers, **options):
    return {done.input: done.output for done in run_all(function, [Task(one) for one in inputs], workers, **options)}


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_done_once(workers) -> None:
    assert outputs(square, range(10), workers) == {number: number * number for number in range(10)}
    assert outputs(square, [], workers) == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_caller_can_mend_does_not_stop_the_others(workers) -> None:
    results = list(run_all(refuse_odd, [Task(number) for number in range(6)], workers))
    assert {done.input: str(done.error) for done in results if done.error} == {
        number: f"{number} is odd. Give an even number." for number in (1, 3, 5)
    }
    assert {done.input: done.output for done in results if not done.error} == {0: 0, 2: 2, 4: 4}


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_runs_out_is_told_for_its_case(workers) -> None:
    results = {done.input: done for done in run_all(run_out, [Task(number) for number in range(4)], workers)}
    assert "memory ran out" in str(results[2].error)
    assert [results[number].output for number in (0, 1, 3)] == [0, 1, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_our_own_faults_are_raised(workers) -> None:
    with pytest.raises(ValueError, match="7"):
        list(run_all(break_down, [Task(7)], workers))


def test_a_worker_that_is_killed_costs_its_own_task_alone() -> None:
    results = {done.input: done for done in run_all(die_at_three, [Task(number) for number in range(8)], 2)}
    assert "memory ran out" in str(results.pop(3).error)
    assert {number: done.output for number, done in results.items()} == {
        number: number for number in (0, 1, 2, 4, 5, 6, 7)
    }


def test_no_more_runs_at_a_time_than_memory_allows(tmp_path) -> None:
    tasks = [Task((tmp_path, number, 1), memory=60) for number in range(4)]
    assert [done.output for done in run_all(stay, tasks, 3, limit=100)] == [1, 1, 1, 1]
    tasks = [Task((tmp_path, number, 2), memory=60) for number in range(2)]
    assert max(done.output for done in run_all(stay, tasks, 2, limit=1000)) == 2


def test_a_task_larger_than_all_memory_runs_alone(tmp_path) -> None:
    tasks = [Task((tmp_path, number, 1), memory=500) for number in range(2)]
    assert [done.output for done in run_all(stay, tasks, 2, limit=100)] == [1, 1]


def test_the_limit_is_a_part_of_the_machine_s_memory() -> None:
    assert 0 < memory_limit() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_tasks_under_way_never_take_more_memory_than_there_is(tmp_path) -> None:
    sizes = [3, 5, 9, 2, 4, 14, 1, 6, 5]  # 14 is beyond the limit by itself
    tasks = [Task((tmp_path, f"do {number}", 0.4), size) for number, size in enumerate(sizes)]
    assert sorted(done.output for done in run_all(note, tasks, 4, limit=10)) == list("012345678")
    running: Counter[int] = Counter()
    most = 0
    for what, number, _ in notes(tmp_path):
        running[int(number)] += 1 if what == "begin" else -1
        taken = [sizes[one] for one, count in running.items() if count]
        assert sum(taken) <= 10 or taken == [14]
        most = max(most, len(taken))
    assert most > 1


def test_several_tasks_that_kill_their_workers_are_told_and_the_rest_is_done(tmp_path) -> None:
    names = ["die 0", "die 1", "do 2"]
    results = list(run_all(note, [Task((tmp_path, name, 0.01)) for name in names], 2))
    told = {done.input[1]: done for done in results}
    assert len(results) == len(told) == len(names)
    for name, done in told.items():
        assert (done.error is not None) == name.startswith("die")
        assert done.output == (None if done.error else name.removeprefix("do "))


def test_a_worker_that_is_killed_while_it_has_nothing_to_do_costs_nothing(tmp_path) -> None:
    found = []
    for done in run_all(note, [Task((tmp_path, f"do {number}", 0.0)) for number in range(6)], 2):
        found.append(done.output)
        if len(found) in (2, 4):
            time.sleep(0.2)  # by now none is at work
            child = multiprocessing.active_children()[0]
            child.kill()
            child.join()
            time.sleep(0.2)
    assert sorted(found) == list("012345")


def test_a_fault_of_our_own_ends_the_other_workers_in_the_midst_of_their_work(tmp_path) -> None:
    tasks = [Task((tmp_path, "break 0", 0.0)), *[Task((tmp_path, f"do {number}", 60.0)) for number in (1, 2)]]
    with pytest.raises(ValueError, match="break 0"):
        list(run_all(note, tasks, 2))
    assert all(what == "begin" and gone(int(process)) for what, _, process in notes(tmp_path))


def test_who_takes_no_more_results_leaves_no_worker_behind(tmp_path) -> None:
    tasks = [Task((tmp_path, "do 0", 0.0)), *[Task((tmp_path, f"do {number}", 60.0)) for number in (1, 2)]]
    run = run_all(note, tasks, 2)
    assert next(run).output == "0"
    run.close()
    assert all(gone(int(process)) for _, _, process in notes(tmp_path))
