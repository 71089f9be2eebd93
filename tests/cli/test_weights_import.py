"""weights import, and what the other verbs make of its result."""

import json
from pathlib import Path

import pytest
import torch
from cli_helpers import one_line

from dsmseg import checkpoint, cli
from dsmseg.checkpoint import storage
from dsmseg.model.swin_unetr import SwinUNETR


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as MONAI's users save it."""
    torch.manual_seed(0)
    state = SwinUNETR(input_channels=1, feature_size=12).state_dict()
    path = tmp_path_factory.mktemp("monai") / "swin_unetr.pt"
    torch.save({"state_dict": state | {"out.conv.conv.bias": torch.zeros(14)}}, path)
    return path


@pytest.fixture(scope="module")
def backbone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imported") / "backbone.safetensors"
    checkpoint.import_backbone(source, path)
    return path


def test_import_tells_what_it_wrote_and_what_it_left_away(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "backbone.safetensors"
    assert cli.run(["weights", "import", str(source), "-o", str(target), "--licence", "CC-BY-4.0"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"{target} (encoder and decoder; feature size 12, input channels 1)" in printed.out
    assert "out.conv.conv.bias" in printed.out
    assert checkpoint.verify(target).licence == "CC-BY-4.0"


def test_import_json_is_the_card(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "backbone.safetensors"
    assert cli.run(["weights", "import", str(source), "-o", str(target), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads(target.with_suffix(".json").read_text())
    assert card["licence"] == "unknown"


def test_show_and_verify_understand_a_backbone(backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["weights", "show", str(backbone), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(backbone.with_suffix(".json").read_text())
    assert cli.run(["weights", "verify", str(backbone)]) == 0
    assert capsys.readouterr().out.startswith("backbone is sound: sha256 ")
    assert cli.run(["weights", "verify", str(backbone), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["name"], told["sound"]) == ("backbone", "backbone", True)


def test_list_shows_a_backbone_among_the_packaged_weights(
    backbone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_FOLDER", backbone.parent)
    assert cli.run(["weights", "list"]) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["backbone", "-", "backbone", "-", "-", "-"]


def test_predict_and_info_refuse_a_backbone_in_one_line(
    backbone: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["predict", str(scan), "-o", str(tmp_path / "out")], ["info", str(scan)]):
        assert cli.run([*arguments, "--weights", str(backbone)]) == 2
        line = one_line(capsys.readouterr().err)
        assert str(backbone) in line
        assert "backbone alone" in line
    assert not (tmp_path / "out").exists()


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


BAD_CHECKPOINTS = {
    "a path that does not exist": lambda path: path,
    "a folder": lambda path: (path.mkdir(), path)[1],
    "an empty file": lambda path: (path.touch(), path)[1],
    "a text file": lambda path: (path.write_text("This is no checkpoint. " * 50), path)[1],
    "a pickled network": lambda path: saved(torch.nn.Linear(2, 2), path),
    "another network": lambda path: saved(torch.nn.Linear(2, 2).state_dict(), path),
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_one_line_that_names_it(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = BAD_CHECKPOINTS[kind](tmp_path / "bad.pt")
    assert cli.run(["weights", "import", str(path), "-o", str(tmp_path / "out" / "b.safetensors")]) == 2
    printed = capfd.readouterr()
    assert "bad.pt" in one_line(printed.err)
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "b.safetensors"
    assert cli.run(["weights", "import", str(source), "-o", str(target)]) == 2
    assert "cannot be written" in one_line(capsys.readouterr().err)
