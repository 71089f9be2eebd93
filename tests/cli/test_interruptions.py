"""Ctrl-C, termination, memory, our own faults."""

import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import one_line, raising, run_process, write_scan

from dsmseg import cli, inference
from dsmseg.inference import prediction, segmenter


def test_control_c_is_one_line_and_130(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference.Segmenter, "load", raising(KeyboardInterrupt()))
    assert cli.run(["predict", str(scan), "-o", str(tmp_path / "out")]) == 130
    assert "interrupted" in one_line(capsys.readouterr().err)


def test_memory_that_runs_out_is_the_callers_to_mend(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference.Segmenter, "load", raising(MemoryError()))
    assert cli.run(["predict", str(scan), "-o", str(tmp_path / "out")]) == 2
    assert "memory" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("text", ["DefaultCPUAllocator: can't allocate memory", "CUDA out of memory."])
def test_memory_that_runs_out_in_torch_is_one_line_too(
    text: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference.Segmenter, "load", raising(RuntimeError(text)))
    assert cli.run(["predict", str(scan), "-o", str(tmp_path / "out")]) == 2
    assert "memory ran out" in one_line(capsys.readouterr().err)


def test_memory_that_runs_out_in_the_network_is_a_failed_case(
    scan: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "SlidingWindow", raising(torch.OutOfMemoryError("CUDA out of memory.")))
    assert cli.run(["predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]) == 2
    line = one_line(capsys.readouterr().err)
    assert "scan.nii.gz: memory ran out for this scan" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="limits are read as Linux tells them")
def test_a_scan_for_which_a_limit_from_outside_is_too_low_is_refused_before_anything_is_computed(
    weights: Path, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "ct.nii.gz", np.full((300, 300, 500), -1000, dtype=np.int16))
    program = "import resource, sys, dsmseg.inference; from dsmseg import cli, resources;"
    # What loading has mapped differs from machine to machine: 700 MB more.
    limit = "n = int(open('/proc/self/statm').read().split()[0]) * 4096 + (700 << 20);"
    program += limit + "resource.setrlimit(resource.RLIMIT_AS, (n, n));"
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]
    done = run_process("-c", f"{program} sys.exit(cli.run({arguments!r}))")
    assert done.returncode == 2, done.stderr
    assert "GB can be had here" in one_line(done.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error",
    [
        ImportError("torch/lib.so: failed to map segment from shared object"),
        OSError("Could not find/load shared object file 'libllvmlite.so'"),
    ],
)
def test_too_little_memory_to_load_the_libraries_is_told(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(inference, "find_cases", raising(error))
    assert cli.run(["predict", str(scan), "-o", str(tmp_path / "out")]) == 2
    assert "memory does not even suffice to load the libraries" in one_line(capsys.readouterr().err)


def test_what_was_finished_before_a_fault_is_told(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_scan(tmp_path / f"{name}.nii.gz")
    read_scan = prediction.read_scan

    def read_but_b(path):
        if path.name == "b.nii.gz":
            raise ValueError("a fault")
        return read_scan(path)

    monkeypatch.setattr(prediction, "read_scan", read_but_b)
    arguments = ["predict", str(tmp_path), "-o", str(tmp_path / "out"), "--weights", str(weights), "--json"]
    with pytest.raises(ValueError, match="a fault"):
        cli.run(arguments)
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["case"] == "a"


def test_one_segmentation_at_most_is_held_while_the_next_is_computed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c", "d"):
        write_scan(tmp_path / f"{name}.nii.gz")
    seen: list[weakref.ref[np.ndarray]] = []
    segment = inference.Segmenter.segment

    def watch(*arguments, **options):
        assert all(one() is None for one in seen[:-1])  # the last one is being written
        segmentation = segment(*arguments, **options)
        seen.append(weakref.ref(segmentation.organs))
        return segmentation

    monkeypatch.setattr(inference.Segmenter, "segment", watch)
    assert cli.run(["predict", str(tmp_path), "-o", str(tmp_path / "out"), "--weights", str(weights)]) == 0
    assert len(seen) == 4


@pytest.mark.skipif(os.name == "nt", reason="there, SIGTERM ends a process at once")
def test_a_request_to_terminate_is_one_line_and_143_and_what_is_being_written_is_finished(
    scan: Path, weights: Path, tmp_path: Path
) -> None:
    arguments = ["dsmseg", "predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]
    script = (
        "import os, signal, sys; from dsmseg import cli; from dsmseg.inference import segmentation;"
        f"sys.argv = {arguments!r}; write = segmentation.write_json;"
        "segmentation.write_json = lambda *a: (os.kill(os.getpid(), signal.SIGTERM), write(*a)); cli.main()"
    )
    done = run_process("-c", script)
    assert done.returncode == 143
    assert done.stderr.splitlines()[0] == "scan (1 of 1)"
    assert "terminated" in one_line("\n".join(done.stderr.splitlines()[1:]))
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nii.gz", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scan"}
    assert {path.name for path in (tmp_path / "out" / "scan").iterdir()} == inference.segmentation.files_of("nifti")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal there")
@pytest.mark.parametrize("moment", [pytest.param("write_nifti", marks=pytest.mark.slow), "replacing_folder"])
def test_a_run_that_is_killed_leaves_no_half_case_and_goes_on_when_it_is_started_again(
    moment: str, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz")
    output = tmp_path / "out"
    arguments = ["dsmseg", "predict", str(tmp_path / "scans"), "-o", str(output), "--weights", str(weights)]
    # Dies in the middle of the first case, or at the beginning of the second one.
    script = (
        "import os, signal, sys; from dsmseg import cli; from dsmseg.inference import segmentation;"
        f"sys.argv = {arguments!r}; calls = []; real = segmentation.{moment};"
        "die = lambda: os.kill(os.getpid(), signal.SIGKILL);"
        f"last = dict(write_nifti=3, replacing_folder=2)[{moment!r}];"
        f"segmentation.{moment} = lambda *a, **o: (calls.append(0), len(calls) == last and die(), real(*a, **o))[2];"
        "cli.main()"
    )
    assert run_process("-c", script).returncode == -signal.SIGKILL
    whole = inference.segmentation.files_of("nifti")
    for folder in output.iterdir():
        assert folder.name.startswith(".") or {path.name for path in folder.iterdir()} == whole
    assert run_process("-m", "dsmseg", *arguments[1:]).returncode == 0
    assert {path.name for path in output.iterdir()} == {"a", "b"}
    assert all({path.name for path in (output / name).iterdir()} == whole for name in "ab")


@pytest.mark.skipif(os.name == "nt", reason="a shell closes the stream")
def test_without_an_error_stream_it_runs() -> None:
    command = f'"{sys.executable}" -m dsmseg weights list 2>&-'
    assert subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, check=False).returncode == 0  # noqa: S603


def test_our_own_fault_exits_with_1_and_asks_to_report_it() -> None:
    script = (
        "import sys; from dsmseg import checkpoint, cli; sys.argv = ['dsmseg', 'weights', 'list'];"
        "checkpoint.packaged = lambda: 1 / 0; cli.main()"
    )
    done = run_process("-c", script)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("dsmseg: ")
    assert "report" in lines[-1]


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes break in another way there")
@pytest.mark.parametrize("arguments", [["--help"], ["weights", "list"]])
def test_a_reader_that_leaves_is_no_error_message(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dsmseg", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)  # noqa: S603
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""
