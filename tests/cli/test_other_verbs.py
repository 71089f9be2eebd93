"""info, weights, train."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_helpers import one_line, write_scan

from dsmseg import checkpoint, cli, training
from dsmseg.checkpoint import OperatingPoint
from dsmseg.training.recipe import Recipe


def test_info_tells_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["libraries"]["torch"] == torch.__version__
    assert content["cores"] >= 1
    assert content["weights"] == checkpoint.packaged()


def test_info_tells_the_grid_of_the_file_not_of_the_reordered_array(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Axes: down, to the left, to the front.
    affine = np.array([[0, -2.0, 0, 0], [0, 0, 1.0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
    array = np.zeros((10, 20, 30), np.int16)
    array[0, 0, 0], array[1, 1, 1] = -1000, 700
    path = write_scan(tmp_path / "turned.nii.gz", array, affine)
    assert cli.run(["info", str(path), "--weights", str(weights), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["shape"] == [10, 20, 30]
    assert content["spacing_mm"] == [3, 2, 1]
    assert content["orientation"] == "ILA"
    assert content["hu"]["min"] == -1000
    assert content["hu"]["max"] == 700
    assert content["predict"]["grid_at_its_spacing"] == [7, 5, 5]  # RAS, at 6 mm


def test_weights_show_is_the_card_and_verify_accepts_it(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["weights", "show", str(weights), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(weights.with_suffix(".json").read_text())
    assert cli.run(["weights", "verify", str(weights)]) == 0
    assert "sound" in capsys.readouterr().out


def test_weights_list_has_a_row_for_each_packaged_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["weights", "list", "--json"]) == 0
    assert [card["name"] for card in json.loads(capsys.readouterr().out)] == checkpoint.packaged()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "Give either --scans or --store"),
        (["--scans", "a", "--store", "b"], "Give either --scans or --store"),
        (["--scans", "nowhere"], "nowhere"),
        (["--store", "nowhere"], "is no store"),
    ],
)
def test_calibrate_tells_where_held_out_scans_are_missing(
    weights: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["weights", "calibrate", str(weights), *options]) == 2
    assert told in one_line(capsys.readouterr().err)


def test_calibrate_prints_the_points_that_it_writes(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = OperatingPoint(
        threshold=0.25, sensitivity=0.4, false_lesions=0.5, cases=8, lesions=10, searched=False, reason="few"
    )
    card = checkpoint.read(weights).card.model_copy(update={"operating_points": {"Liver Tumor": weak}})
    monkeypatch.setattr("dsmseg.evaluation.validation.calibrate", lambda *_, **__: card)
    monkeypatch.setattr("dsmseg.datasets.labelled.labelled_cases", lambda _: [])
    assert cli.run(["weights", "calibrate", str(weights), "--scans", "x"]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert all(text in row for text in ("Liver Tumor", "0.250", "40% of 10", "0.50", "8", "no: few"))
    assert cli.run(["weights", "calibrate", str(weights), "--scans", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["operating_points"]["Liver Tumor"]["searched"] is False


RECIPE = """
name: tiny
version: "0"
preset: starter
licence: CC0-1.0
batch: {synthetic: 2, phantoms: 1.0}
stage_1: {length: 3 steps}
"""


def test_train_follows_the_recipe_and_its_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    seen = {}

    def fake_train(recipe: Recipe, directory: Path, *, resume: bool, report: Callable[..., None]) -> Path:
        seen.update(length=str(recipe.stage_1.length), seed=recipe.seed, directory=directory, resume=resume)
        report({"stage": 1, "step": 20, "dice of organs": 0.25, "seconds": 2.0, "memory (GB)": 1.5}, 60)
        return directory / "tiny.safetensors"

    monkeypatch.setattr(training, "train", fake_train)
    changes = ["--set", "stage_1.length=60", "--set", "seed=3", "--resume"]
    assert cli.run(["train", str(tmp_path / "tiny.yaml"), *changes]) == 0
    assert seen == {"length": "60 steps", "seed": 3, "directory": Path("runs/tiny"), "resume": True}
    printed = capsys.readouterr()
    assert printed.err == "Stage 1, step 20 of 60: dice of organs 0.250; 1.00 patches/s, 1 min left, 1.5 GB\n"
    assert "runs/tiny/tiny.safetensors" in printed.out


@pytest.mark.parametrize(
    ("recipe", "changes", "word"),
    [
        ("name: [", [], "tiny.yaml"),
        ("just text", [], "tiny.yaml"),
        (RECIPE + "stepz: 3", [], "stepz"),
        (RECIPE, ["--set", "seed"], "KEY=VALUE"),
        (RECIPE, ["--set", "stage_1.length=0"], "1 step"),
        (RECIPE, ["--set", "preset=huge"], "preset"),
    ],
)
def test_a_bad_recipe_is_one_line(
    recipe: str, changes: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(recipe)
    assert cli.run(["train", str(tmp_path / "tiny.yaml"), "-o", str(tmp_path / "run"), *changes]) == 2
    assert word in one_line(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()
