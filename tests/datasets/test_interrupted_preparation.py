"""A preparation that is killed again and again ends with the store of one that ran through."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import native_trees as native
import pytest

from dsmseg.datasets import Store

CASES = [f"word_{number:04d}" for number in range(1, 9)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    native.write_word(root, {case: native.make_body(native.seed_of(case), "abdomen") for case in CASES})
    return root


@pytest.fixture(scope="module")
def whole(tree, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("stores") / "whole"
    assert start(tree, store, workers=1).wait() == 0
    return store


def start(tree: Path, store: Path, *, workers: int) -> subprocess.Popen[bytes]:
    options = ["-o", str(store), "--spacing", "3", "--workers", str(workers)]
    command = [sys.executable, "-m", "dsmseg", "datasets", "prepare", str(tree), *options]
    with log(store).open("wb") as errors:
        # A session of its own, so that its workers are found when it is gone.
        return subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )


def log(store: Path) -> Path:
    return store.with_suffix(".log")


def contents(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def workers_end(session: int, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_bytes_and_leaves_no_remains(tree, whole, tmp_path) -> None:
    store, chance, interrupted = tmp_path / "store", random.Random(3), 0
    for turn in range(20):
        process = start(tree, store, workers=1 + turn % 2)
        try:
            process.wait(chance.uniform(0.5, 2.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            interrupted += 1
        assert workers_end(process.pid), "a worker outlives its parent"
        done = sorted(store.glob("word/[!.]*")) if store.exists() else []
        if len(done) >= len(CASES) - 1:  # so that every turn has something to interrupt
            for folder in done[:: 1 + turn % 3]:
                shutil.rmtree(folder)
    assert interrupted >= 8
    assert start(tree, store, workers=2).wait() == 0, log(store).read_text()
    assert contents(store) == contents(whole)
    assert {path.name for path in store.rglob(".*")} == {".lock"}


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_what_was_finished_stays(tree, whole, tmp_path) -> None:
    store = tmp_path / "store"
    process = start(tree, store, workers=2)
    while not list(store.glob("word/[!.]*/case.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert workers_end(process.pid)
    if process.returncode != 0:  # it may just have been done
        assert process.returncode == 130
        assert log(store).read_text().splitlines()[-1].startswith("dsmseg: interrupted.")
    assert Store.open(store).cases()
    assert start(tree, store, workers=1).wait() == 0
    assert contents(store) == contents(whole)


@pytest.mark.slow
def test_the_number_of_workers_makes_no_difference(tree, whole, tmp_path) -> None:
    assert start(tree, tmp_path / "store", workers=3).wait() == 0
    assert contents(tmp_path / "store") == contents(whole)
