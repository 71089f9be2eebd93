"""A folder run on a cluster gives what the run in one process gives, whatever dies on the way."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dsmseg.errors import InputError, OutputError, WeightsError
from dsmseg.inference import Segmenter, crew, find_cases, predict
from dsmseg.inference.cluster import predict_on_cluster
from dsmseg.inference.crew import share

LOAD = {"weights": "starter", "device": "cpu", "classes": "liver, spleen"}


@pytest.fixture(scope="module")
def ray():
    """Run Ray once, with two cores, for all tests."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=2, object_store_memory=80 << 20, **quiet)
    yield ray
    ray.shutdown()


@pytest.fixture
def write_case(phantom, write_scan):
    def write(name, shape=(36, 36, 36)):
        return write_scan(phantom(shape), name=f"cases/{name}.nii.gz")

    return write


def contents(folder: Path) -> dict[str, object]:
    """Give all that a case folder holds, without what differs from run to run."""
    held: dict[str, object] = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}
    run = json.loads((folder / "run.json").read_text())
    return {**held, "run.json": {name: value for name, value in run.items() if name not in ("date", "seconds")}}


def workers() -> list[int]:
    """Give the pids of this Ray's processes that hold a worker: it names them, and their parent's parent is us."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # of those that end meanwhile
            pid = int(path.parent.name)
            if path.read_bytes().startswith(b"ray::_Worker") and parent(parent(pid)) == os.getpid():
                found.append(pid)
    return found


def all_end() -> bool:
    """Tell whether no worker stays; one that is killed while it starts takes its time."""
    until = time.monotonic() + 20
    while workers() and time.monotonic() < until:
        time.sleep(0.1)
    return not workers()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("always", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_gives_the_same_bytes_and_outlives_bad_scans_and_dying_workers(
    ray, write_case, tmp_path, monkeypatch, always
):
    monkeypatch.setattr(crew, "_GLANCE_SECONDS", 0.1)
    for name, length in {"a": 36, "killed_once": 90, **({"killed_always": 120} if always else {})}.items():
        path = write_case(name, (36, 36, length))
    path.with_name("damaged.nii.gz").write_bytes(b"damaged")
    found, killed = find_cases([path.parent]), []

    def kill(case, done, total):
        assert 0 < done <= total
        if case.name == "killed_always" or (case.name == "killed_once" and case.name not in killed):
            leftover = tmp_path / "out" / f".{len(killed):08x}.{case.name}"
            leftover.mkdir()  # as if the worker had been writing
            (pid,) = workers()
            os.kill(pid, signal.SIGKILL)
            killed.append(case.name)

    options = {"address": "local", "workers": 1, "load": LOAD, "progress": kill}
    results = {one.case.name: one for one in predict_on_cluster(found, tmp_path / "out", **options)}
    assert sorted(killed) == ["killed_always"] * 3 * always + ["killed_once"]
    assert {name for name, one in results.items() if one.error is None} == {"a", "killed_once"}
    assert isinstance(results["damaged"].error, InputError)
    assert results["damaged"].error.where == path.with_name("damaged.nii.gz")
    if always:
        assert "died, 3 times" in str(results["killed_always"].error)
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"a", "killed_once"}

    segmenter = Segmenter.load(**LOAD)
    good = [case for case in found if case.name in ("a", "killed_once")]
    for one in predict(good, tmp_path / "alone", segmenter=segmenter):
        assert results[one.case.name].directory == tmp_path / "out" / one.case.name
        assert contents(results[one.case.name].directory) == contents(one.directory)


@pytest.mark.slow
def test_a_run_that_is_left_ends_its_workers_and_goes_on_where_it_was(ray, write_case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        path = write_case(name)
    found, output = find_cases([path.parent, write_case("c", (36, 36, 120))]), Path("out")
    results = predict_on_cluster(found, output, address="local", workers=2, load=LOAD)
    first = next(results)
    results.close()
    assert all_end()
    assert first.directory == output / first.case.name
    assert [entry.name for entry in output.iterdir()] == [first.case.name]

    written = first.directory.stat().st_mtime_ns
    again = list(predict_on_cluster(found[:2], output, address="local", workers=1, load=LOAD))
    assert {one.case.name: one.unchanged for one in again} == {case.name: case == first.case for case in found[:2]}
    assert first.directory.stat().st_mtime_ns == written

    (first.directory / "statistics.json").unlink()
    with pytest.raises(OutputError, match="exists already"):
        predict_on_cluster(found, output, address="local", load=LOAD)
    assert all_end()
    assert not (output / "c").exists()


def test_what_the_workers_refuse_is_raised_here(ray, write_case, tmp_path):
    cases = find_cases([write_case("a")])
    with pytest.raises(WeightsError, match="no packaged weights are named 'others'"):
        predict_on_cluster(cases, tmp_path / "new" / "out", address="local", load={"weights": "others"})
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="holds 2 workers with a core each, not 3"):
        predict_on_cluster(cases, tmp_path / "new" / "out", address="local", workers=3, load=LOAD)


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "expected"),
    [
        ([{"CPU": 2}], None, 0, (1, 2)),
        ([{"CPU": 10}], None, 0, (2, 5)),
        ([{"CPU": 8}, {"CPU": 8}], None, 0, (4, 4)),
        ([{"CPU": 8}, {"CPU": 8}], 3, 0, (3, 4)),
        ([{"CPU": 8}, {"CPU": 2}, {}], 2, 0, (2, 4)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 64}], None, 1, (2, 8)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 4, "GPU": 8}], None, 1, (6, 1)),
    ],
)
def test_workers_share_the_cores_and_gpus_of_each_machine(nodes, workers, gpus, expected):
    assert share(nodes, workers, gpus) == expected


@pytest.mark.parametrize(("workers", "gpus"), [(0, 0), (3, 0), (None, 1)])
def test_workers_that_the_cluster_does_not_hold_are_refused(workers, gpus):
    with pytest.raises(InputError, match="workers"):
        share([{"CPU": 2}], workers, gpus)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_where_no_cluster_answers_it_is_told_at_once(tmp_path, monkeypatch, address):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(InputError, match=f"cluster {address}: Ray does not start or answer"):
        predict_on_cluster([], tmp_path / "out", address=address, load={})
    assert not (tmp_path / "out").exists()


def test_without_ray_it_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"dsmseg\[cluster\]"):
        predict_on_cluster([], tmp_path / "out", address="local", load={})
    assert not (tmp_path / "out").exists()
