import gzip
import json
import os
import signal
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from dsmseg import checkpoint, cli, inference, training
from dsmseg.inference import segmenter
from dsmseg.model import PRESETS, build
from dsmseg.taxonomy import ORGANS
from dsmseg.text import packaged_embeddings
from dsmseg.training.recipe import Recipe

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)  # noqa: S603


def write_scan(path: Path, array: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    """A ball of soft tissue in air."""
    if array is None:
        distance = np.linalg.norm(np.indices((24, 24, 20)).T - [10, 12, 12], axis=-1).T
        array = np.where(distance < 9, 50, -1000).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights: they run, and find what they find."""
    torch.manual_seed(0)
    config = replace(PRESETS["starter"], stage=1)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    network = build(config, torch.from_numpy(packaged_embeddings()))
    card = checkpoint.Card(
        name="untrained",
        version="0",
        preset="starter",
        stage=1,
        organs=tuple(organ.name for organ in ORGANS),
        tumors=(),
        text_encoder="none",
        spacing_mm=(6, 6, 6),
        hu_windows=((-175, 250), (-1000, 1000)),
        window=(32, 32, 32),
        training_data=(),
        licence="Apache-2.0",
        figures={},
    )
    checkpoint.save(path, network.state_dict(), card)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scan.nii.gz")


# --- what help costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["train", "--help"], ["weights", "--help"]])
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    script = f"import sys; from dsmseg import cli; cli.run({arguments!r}); print(*sys.modules, file=sys.stderr)"
    loaded = set(run_process("-c", script).stderr.split())
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "scipy", "nibabel", "SimpleITK", "safetensors", "matplotlib"}


def test_predict_imports_neither_monai_nor_lightning_nor_matplotlib(scan: Path, weights: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]
    script = f"import sys; from dsmseg import cli; code = cli.run({arguments!r}); print(*sys.modules); sys.exit(code)"
    done = run_process("-c", script)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"monai", "lightning", "lightning_fabric", "matplotlib", "transformers"}


def test_no_argument_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "predict" in capsys.readouterr().out


def test_the_module_is_the_command() -> None:
    done = run_process("-m", "dsmseg", "predict", "--help")
    assert done.returncode == 0
    assert "Usage: dsmseg predict" in done.stdout


# --- predict ---------------------------------------------------------------------------------------------------------


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
    assert names == {"organs.nii.gz", "tumors.nii.gz", "anomaly.nii.gz", "statistics.json", "run.json"}
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
    assert cli.run(arguments) == 2
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


# --- bad input -------------------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """The one line on stderr, and that it is one."""
    (line,) = text.splitlines()
    assert line.startswith("dsmseg: ")
    assert "Traceback" not in line
    return line


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


# --- the other verbs -------------------------------------------------------------------------------------------------


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


RECIPE = """
name: tiny
version: "1"
preset: starter
steps: 40
licence: Apache-2.0
data: .
bodies: [{name: one, labels: l.nii.gz, image: i.nii.gz, licence: CC0-1.0, source: nobody}]
"""


def test_train_follows_the_recipe_and_its_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    seen = {}

    def fake_train(recipe: Recipe, directory: Path, *, resume: bool, report: Callable[..., None]) -> Path:
        seen.update(steps=recipe.steps, seed=recipe.seed, directory=directory, resume=resume)
        report({"step": 20, "dice": 0.25})
        return directory / "tiny.safetensors"

    monkeypatch.setattr(training, "train", fake_train)
    changes = ["--set", "steps=60", "--set", "seed=3", "--resume"]
    assert cli.run(["train", str(tmp_path / "tiny.yaml"), *changes]) == 0
    assert seen == {"steps": 60, "seed": 3, "directory": Path("runs/tiny"), "resume": True}
    printed = capsys.readouterr()
    assert printed.err == "step 20 of 60: dice 0.250\n"
    assert "runs/tiny/tiny.safetensors" in printed.out


@pytest.mark.parametrize(
    ("recipe", "changes", "word"),
    [
        ("name: [", [], "tiny.yaml"),
        ("just text", [], "tiny.yaml"),
        (RECIPE + "stepz: 3", [], "stepz"),
        (RECIPE, ["--set", "steps"], "KEY=VALUE"),
        (RECIPE, ["--set", "steps=0"], "steps"),
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


# --- interruptions and faults ----------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


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
    monkeypatch.setattr(segmenter, "sliding_window", raising(torch.OutOfMemoryError("CUDA out of memory.")))
    assert cli.run(["predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]) == 2
    line = one_line(capsys.readouterr().err)
    assert "scan.nii.gz: memory ran out for this scan" in line
    assert not (tmp_path / "out").exists()


def test_what_was_finished_before_a_fault_is_told(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_scan(tmp_path / f"{name}.nii.gz")
    read_scan = segmenter.read_scan

    def read_but_b(path):
        if path.name == "b.nii.gz":
            raise ValueError("a fault")
        return read_scan(path)

    monkeypatch.setattr(segmenter, "read_scan", read_but_b)
    arguments = ["predict", str(tmp_path), "-o", str(tmp_path / "out"), "--weights", str(weights), "--json"]
    with pytest.raises(ValueError, match="a fault"):
        cli.run(arguments)
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["case"] == "a"


def test_one_segmentation_is_dropped_before_the_next_is_computed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_scan(tmp_path / f"{name}.nii.gz")
    seen: list[weakref.ref[np.ndarray]] = []
    segment = inference.Segmenter.__call__

    def watch(*arguments, **options):
        assert all(one() is None for one in seen)
        segmentation = segment(*arguments, **options)
        seen.append(weakref.ref(segmentation.organs))
        return segmentation

    monkeypatch.setattr(inference.Segmenter, "__call__", watch)
    assert cli.run(["predict", str(tmp_path), "-o", str(tmp_path / "out"), "--weights", str(weights)]) == 0
    assert len(seen) == 2


@pytest.mark.skipif(os.name == "nt", reason="there, SIGTERM ends a process at once")
def test_a_request_to_terminate_is_one_line_and_143_and_leaves_nothing_half_written(
    scan: Path, weights: Path, tmp_path: Path
) -> None:
    arguments = ["dsmseg", "predict", str(scan), "-o", str(tmp_path / "out"), "--weights", str(weights)]
    script = (
        "import os, signal, sys; from dsmseg import cli; from dsmseg.inference import segmentation;"
        f"sys.argv = {arguments!r};"
        "segmentation.write_json = lambda *_: os.kill(os.getpid(), signal.SIGTERM); cli.main()"
    )
    done = run_process("-c", script)
    assert done.returncode == 143
    assert done.stderr.splitlines()[0] == "scan (1 of 1)"
    assert "terminated" in one_line("\n".join(done.stderr.splitlines()[1:]))
    assert {path.name for path in tmp_path.iterdir()} == {"scan.nii.gz"}


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
