"""One line, exit code 2, nothing half-written."""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from cli_helpers import AFFINE, one_line, write_scan

from dsmseg import cli, inference


def empty_file(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def prose(path: Path) -> Path:
    path.write_text("This is not a scan. " * 50)
    return path


def cut_short(path: Path) -> Path:
    content = write_scan(path.with_name("whole.nii.gz")).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def bad_checksum(path: Path) -> Path:
    content = bytearray(write_scan(path.with_name("whole.nii.gz")).read_bytes())
    content[-8] ^= 0xFF
    path.write_bytes(content)
    return path


def too_large(path: Path) -> Path:
    """A header that promises 27 TB."""
    image = nibabel.load(write_scan(path.with_name("whole.nii")))
    header = image.header.copy()
    header["dim"][1:4] = 30000
    path.write_bytes(header.binaryblock + bytes(1000))
    return path


def folder_of_prose(path: Path) -> Path:
    path.mkdir()
    prose(path / "notes.txt")
    return path


def folder_of_junk_dicom(path: Path) -> Path:
    path.mkdir()
    for number in range(3):
        (path / f"{number}.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"junk" * 40)
    return path


def empty_folder(path: Path) -> Path:
    path.mkdir()
    return path


def zip_with(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
        return path

    return write


def detached_header(path: Path) -> Path:
    path.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = gone.raw\n"
    )
    return path


def array_of(array: np.ndarray) -> Callable[[Path], Path]:
    return lambda path: write_scan(path, array)


def flat_affine(path: Path) -> Path:
    affine = AFFINE.copy()
    affine[2, 2] = 0
    image = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), None)
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = affine[:3]
    image.header["pixdim"][1:4] = 3, 3, 0
    path.write_bytes(image.header.binaryblock + bytes(4) + bytes(1024))
    return path


BAD_SCANS = {
    "a path that does not exist": ("gone.nii.gz", lambda path: path),
    "a text file": ("notes.txt", prose),
    "text named NIfTI": ("notes.nii", prose),
    "text named NRRD": ("notes.nrrd", prose),
    "text named MetaImage": ("notes.mha", prose),
    "text named zip": ("notes.zip", prose),
    "an empty NIfTI": ("empty.nii.gz", empty_file),
    "an empty NRRD": ("empty.nrrd", empty_file),
    "a NIfTI cut short": ("cut.nii.gz", cut_short),
    "a NIfTI with a bad gzip checksum": ("flipped.nii.gz", bad_checksum),
    "a header larger than any memory": ("large.nii", too_large),
    "a 2D image": ("flat.nii.gz", array_of(np.zeros((16, 16), np.int16))),
    "a 4D series": ("series.nii.gz", array_of(np.zeros((8, 8, 8, 5), np.int16))),
    "nothing but NaN": ("nan.nii.gz", array_of(np.full((8, 8, 8), np.nan, np.float32))),
    "an affine without volume": ("flat_affine.nii", flat_affine),
    "a header without its data": ("detached.mhd", detached_header),
    "an empty folder": ("nothing", empty_folder),
    "a folder without scans": ("notes", folder_of_prose),
    "a folder of broken DICOM": ("junk", folder_of_junk_dicom),
    "a zip without a scan": ("notes.zip", zip_with("notes.txt", b"nothing")),
    "a zip that climbs out of its folder": ("climb.zip", zip_with("../../climbed.dcm", b"\0" * 128 + b"DICM")),
    "an empty zip": ("empty.zip", lambda path: (zipfile.ZipFile(path, "w").close(), path)[1]),
    "a gzip of prose": ("prose.nii.gz", lambda path: (path.write_bytes(gzip.compress(b"prose" * 200)), path)[1]),
}


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_a_bad_scan_is_one_line_that_names_it(
    kind: str, weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name, make = BAD_SCANS[kind]
    (tmp_path / "input").mkdir()
    path = make(tmp_path / "input" / name)
    output = tmp_path / "out"
    assert cli.run(["predict", str(path), "-o", str(output), "--weights", str(weights)]) == 2
    # capfd: what C libraries print on the file descriptor counts as well.
    assert name in one_line(capfd.readouterr().err)
    assert not output.exists() or not any(output.iterdir())
    assert not (tmp_path / "climbed.dcm").exists()


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_info_refuses_a_bad_scan_in_one_line(
    kind: str, weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name, make = BAD_SCANS[kind]
    (tmp_path / "input").mkdir()
    path = make(tmp_path / "input" / name)
    assert cli.run(["info", str(path), "--weights", str(weights)]) == 2
    printed = capfd.readouterr()
    assert name in one_line(printed.err)
    assert printed.out == ""


def make_pickle(path: Path) -> str:
    torch.save({"weight": torch.zeros(2)}, path / "weights.pt")
    return str(path / "weights.pt")


def make_damaged(path: Path, weights: Path) -> str:
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    (path / "damaged.safetensors").write_bytes(content)
    (path / "damaged.json").write_bytes(weights.with_suffix(".json").read_bytes())
    return str(path / "damaged.safetensors")


def test_bad_weights_are_one_line(
    scan: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lonely = tmp_path / "lonely.safetensors"
    lonely.write_bytes(weights.read_bytes())
    bad = {
        "no-such-name": "no-such-name",
        "gone.safetensors": str(tmp_path / "gone.safetensors"),
        "lonely": str(lonely),
        "pickle": make_pickle(tmp_path),
        "sha256": make_damaged(tmp_path, weights),
    }
    for word, name in bad.items():
        for verb in (["predict", str(scan), "-o", str(tmp_path / "out"), "--weights"], ["weights", "verify"]):
            assert cli.run([*verb, name]) == 2
            assert word in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--classes", "lever"], "Liver"),
        (["--classes", ""], "no class"),
        (["--classes", "liver tumor"], "liver tumor"),
        (["--overlap", "1.5"], "1.5"),
        (["--overlap", "nan"], "nan"),
        (["--overlap", "much"], "--overlap"),
        (["--format", "png"], "--format"),
        (["--device", "tpu"], "--device"),
        (["--shiny"], "--shiny"),
    ],
)
def test_a_bad_option_is_one_line(
    options: list[str], word: str, scan: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]
    assert cli.run([*arguments, *options]) == 2
    assert word in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["predict"], ["predict", "scan.nii"], ["prophesy"], ["weights"], ["weights", "show"]]
)
def test_a_command_line_that_lacks_something_is_one_line_that_leads_to_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    assert "--help" in one_line(capsys.readouterr().err)


def test_an_output_that_cannot_be_written_to_is_found_before_anything_is_computed(
    scan: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(inference.Segmenter, "__call__", lambda *_, **__: pytest.fail("it computed"))
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        assert cli.run(["predict", str(scan), "-o", str(output), "--weights", str(weights)]) == 2
        assert str(output) in one_line(capsys.readouterr().err)


def test_overwrite_spares_a_folder_that_dsmseg_did_not_write(
    scan: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "out" / "scan" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years")
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights), "--overwrite"]
    assert cli.run(arguments) == 2
    assert "scan" in one_line(capsys.readouterr().err)
    assert precious.read_text() == "years"


@pytest.mark.skipif(os.name == "nt", reason="names of bytes are a POSIX matter")
def test_a_name_that_is_not_text_can_be_printed(weights: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/torn\xff.nii"
    Path(os.fsdecode(path)).write_bytes(b"n" * 400)
    command = [sys.executable, "-m", "dsmseg", "predict", path, "-o", tmp_path / "out", "--weights", weights, "--json"]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    assert done.returncode == 2, done.stderr
    one_line(done.stderr.decode())
    assert json.loads(done.stdout)["cases"][0]["case"] == "torn\udcff"
