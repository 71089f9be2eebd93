"""The verb `dsmseg evaluate`."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import one_line, run_process, write_scan

from dsmseg import checkpoint, cli
from dsmseg.checkpoint import Card, OperatingPoint

LABELS = np.zeros((24, 24, 20), np.uint8)
LABELS[5:15, 5:15, 5:15] = 1
OPTION = ["--labels", "1=liver,2=liver tumor"]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for side, shift in (("predicted", 1), ("reference", 0)):
        (tmp_path / side).mkdir()
        for case in "abc":
            write_scan(tmp_path / side / f"{case}.nii.gz", np.roll(LABELS, shift * (1 + (case == "b")), axis=0))
    return [str(tmp_path / "predicted"), str(tmp_path / "reference"), "-o", str(tmp_path / "out"), "--workers", "1"]


def test_tells_a_table_and_writes_the_files(folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", *folders, *OPTION]) == 0
    told = capsys.readouterr().out
    assert "DSC (%)" in told
    assert "±" in told
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cases.csv", "summary.json", "pictures"}


def test_json_is_the_summary(folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", *folders, *OPTION, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["structures"] == written["structures"]
    assert told["structures"][0]["metrics"]["dsc"]["n"] == 3


def test_a_second_method_is_compared_with_the_first(
    folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", *folders, *OPTION]) == 0
    again = [folders[1], *folders[1:3], str(tmp_path / "second"), *OPTION, "--compare-with", str(tmp_path / "out")]
    assert cli.run(["evaluate", *again, "--workers", "1"]) == 0
    assert "Liver, dsc: +" in capsys.readouterr().out


def test_a_case_that_fails_is_a_line_and_the_others_are_told(
    folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(tmp_path / "predicted" / "b.nii.gz", LABELS[:-1])
    assert cli.run(["evaluate", *folders, *OPTION]) == 2
    printed = capsys.readouterr()
    assert "Liver" in printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("dsmseg: ")]
    assert "b: the prediction has 23 x 24 x 20" in lines[0]
    assert "1 of 3 cases" in lines[1]


BAD = {
    "no such predictions": (["gone", "reference"], [], "gone"),
    "no such references": (["predicted", "gone"], [], "gone"),
    "no names": (["predicted", "reference"], ["--labels", "1=table"], "table"),
    "no class": (["predicted", "reference"], [*OPTION, "--classes", "lever"], "Liver"),
    "a tolerance below zero": (["predicted", "reference"], [*OPTION, "--tolerance", "-1"], "--tolerance"),
    "an overlap above one": (["predicted", "reference"], [*OPTION, "--lesion-iou", "2"], "--lesion-iou"),
    "no such scans": (["predicted", "reference"], [*OPTION, "--scans", "gone"], "gone"),
    "an empty folder": (["empty", "reference"], OPTION, "empty"),
    "text": (["text.nii.gz", "reference/a.nii.gz"], OPTION, "text.nii.gz"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(
    kind: str, folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places, options, word = BAD[kind]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.nii.gz").write_text("prose")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["evaluate", *places, "-o", "out", *options]) == 2
    error = capsys.readouterr().err
    assert word in one_line("\n".join(line for line in error.splitlines() if line.startswith("dsmseg: ")))
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_to_is_one_line(folders, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").write_text("in the way")
    assert cli.run(["evaluate", *folders, *OPTION]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err


def test_needs_no_torch_until_it_draws(folders, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dsmseg import evaluation as e; "
        f"r = e.Request(Path({folders[0]!r}), Path({folders[1]!r}), labels=e.parse_meaning('1=liver')); "
        "print(len(e.evaluate(e.plan(r)).rows)); print('torch' in sys.modules)"
    )
    done = run_process("-c", script)
    assert done.stdout.split() == ["3", "False"], done.stderr


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    """Give weights whose card has an operating point of liver tumors."""
    card = Card(
        name="toy", version="1", preset="starter", stage=2, organs=("Liver",), tumors=("Liver Tumor",),
        text_encoder="x", spacing_mm=(3.0, 3.0, 3.0), hu_windows=((-175.0, 250.0),), window=(32, 32, 32),
        training_data=(), licence="CC0-1.0", figures={},
        operating_points={"Liver Tumor": OperatingPoint(threshold=0.2, least_score=0.3)},
    )  # fmt: skip
    path = tmp_path / "toy.safetensors"
    checkpoint.save(path, {}, card)
    return path


def test_score_maps_are_cut_at_the_operating_point_of_a_card(
    calibrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = np.where(LABELS, 0.4, 0.05).astype(np.float32)
    scores[20:22, 20:22, 17:19] = 0.25  # above the threshold, below the least mean score
    for side, array in (("predicted", scores), ("reference", LABELS)):
        (tmp_path / side).mkdir()
        write_scan(tmp_path / side / "a.nii.gz", array)
    folders = [str(tmp_path / "predicted"), str(tmp_path / "reference"), "-o", str(tmp_path / "out"), "--workers", "1"]
    what = ["--labels", "1=liver tumor", "--scores-of", "liver tumor", "--json"]
    found = []
    for card in ([], ["--card", str(calibrated)]):
        assert cli.run(["evaluate", *folders, *what, *card]) == 0
        summary = json.loads(capsys.readouterr().out)
        found.append(summary["structures"][0]["metrics"]["dsc"]["mean"])
    assert found == [0.0, 1.0]
    assert (summary["settings"]["score_threshold"], summary["settings"]["least_score"]) == (0.2, 0.3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--card", "starter", "--scores-of", "liver tumor"], "no operating point of Liver Tumor"),
        (["--card", "starter"], "--scores-of"),
    ],
)
def test_a_card_that_does_not_tell_where_to_cut_is_refused(
    folders, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", *folders, *OPTION, *options]) == 2
    assert told in one_line(capsys.readouterr().err)
