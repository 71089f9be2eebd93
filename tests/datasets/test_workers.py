"""Work is done whatever one piece of it does, within a limit of memory, and ends with its parent."""

import os
import signal
import time
from pathlib import Path

import pytest

from dsmseg.datasets.workers import Task, memory_limit, run_all
from dsmseg.errors import InputError


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


def stay(task: tuple[Path, int]) -> int:
    """Leave a mark for as long as the work lasts, and tell how many there were."""
    folder, number = task
    mark = folder / str(number)
    mark.touch()
    time.sleep(0.2)
    seen = len(list(folder.iterdir()))
    mark.unlink()
    return seen


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
    tasks = [Task((tmp_path, number), memory=60) for number in range(4)]
    assert [done.output for done in run_all(stay, tasks, 3, limit=100)] == [1, 1, 1, 1]
    assert max(done.output for done in run_all(stay, tasks, 2, limit=1000)) == 2


def test_a_task_larger_than_all_memory_runs_alone(tmp_path) -> None:
    tasks = [Task((tmp_path, number), memory=500) for number in range(2)]
    assert [done.output for done in run_all(stay, tasks, 2, limit=100)] == [1, 1]


def test_the_limit_is_a_part_of_the_machine_s_memory() -> None:
    assert 0 < memory_limit() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
