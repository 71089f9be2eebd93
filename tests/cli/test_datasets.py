"""dsmseg datasets list, verify, prepare."""

import json
import sys
from importlib.resources import files
from pathlib import Path

import native_trees as native
import pytest
from cli_helpers import one_line, run_process

from dsmseg import cli
from dsmseg.datasets import packaged


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    native.write_msd(root, "msd_spleen", {"spleen_2": native.make_body(1, "abdomen")})
    return root


@pytest.fixture
def faulty(tmp_path) -> Path:
    native.write_msd(tmp_path / "tree", "msd_spleen", {"spleen_2": native.make_body(1, "abdomen").mirrored(1)})
    return tmp_path / "tree"


def test_list_has_a_row_for_each_public_data_set(capsys) -> None:
    assert cli.run(["datasets", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [one.name for one in packaged()]


def test_list_as_json_is_complete(capsys) -> None:
    assert cli.run(["datasets", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["datasets"]}
    assert rows["lits"]["paper"] == {"training": 52, "testing": 79}
    assert rows["msd_colon"]["classes"] == ["Colon Tumor"]
    assert all(row["citation"] and row["licence"] and row["where"] for row in rows.values())


def test_list_of_one_tells_where_to_get_it_and_its_traps(capsys) -> None:
    assert cli.run(["datasets", "list", "lits"]) == 0
    printed = capsys.readouterr().out
    assert "competitions.codalab.org" in printed
    assert "28-47" in printed


def test_a_name_that_is_unknown_gets_the_nearest(capsys) -> None:
    assert cli.run(["datasets", "list", "AMOS"]) == 2
    assert "amos22" in one_line(capsys.readouterr().err)


def test_verify_of_a_clean_tree_is_0_and_of_a_faulty_one_2(tree, faulty, capsys) -> None:
    assert cli.run(["datasets", "verify", str(tree), "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["msd_spleen", "1", "41", "0"]
    assert cli.run(["datasets", "verify", str(faulty), "--workers", "1"]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("msd_spleen spleen_2: orientation: front and back")
    assert printed.err.splitlines()[-1].endswith("1 findings. Each line on stdout tells how to mend it.")


def test_verify_as_json_is_one_document(faulty, capsys) -> None:
    assert cli.run(["datasets", "verify", str(faulty), "--workers", "1", "--json"]) == 2
    (dataset,) = json.loads(capsys.readouterr().out)["datasets"]
    assert [(one["case"], one["check"]) for one in dataset["findings"]] == [("spleen_2", "orientation")]


def test_headers_only_reads_no_voxels(faulty, capsys) -> None:
    assert cli.run(["datasets", "verify", str(faulty), "--workers", "1", "--headers-only"]) == 0
    assert "voxels" not in capsys.readouterr().err


def test_prepare_writes_then_keeps(tree, tmp_path, capsys) -> None:
    command = [
        "datasets",
        "prepare",
        str(tree),
        "-o",
        str(tmp_path / "s"),
        "--spacing",
        "4",
        "--workers",
        "1",
        "--json",
    ]
    for key in ("written", "up_to_date"):
        assert cli.run(command) == 0
        (dataset,) = json.loads(capsys.readouterr().out)["datasets"]
        assert dataset[key] == ["spleen_2"]


def test_prepare_tells_what_it_leaves_out_and_takes_it_when_told_to(faulty, tmp_path, capsys) -> None:
    command = ["datasets", "prepare", str(faulty), "-o", str(tmp_path / "s"), "--spacing", "4", "--workers", "1"]
    assert cli.run(command) == 2
    assert "1 cases are left out" in capsys.readouterr().err.splitlines()[-1]
    assert cli.run([*command, "--accept", "orientation"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["msd_spleen", "1", "0", "0"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--spacing", "0"], "--spacing"),
        (["--spacing", "nan"], "--spacing"),
        (["--hu-window", "5"], "--hu-window"),
        (["--hu-window=250,-175"], "--hu-window"),
        (["--hu-window=nan,250"], "--hu-window"),
        (["--accept", "grid"], "orientation"),
        (["--only", "lit"], "lits"),
        (["--only", "lits"], "volume-{case}"),
        (["--workers", "0"], "--workers"),
        (["--description", "missing.toml"], "missing.toml"),
    ],
)
def test_a_bad_option_is_one_line_and_writes_nothing(tree, tmp_path, capsys, options, word) -> None:
    store = tmp_path / "store"
    assert cli.run(["datasets", "prepare", str(tree), "-o", str(store), *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert word in one_line(error + "\n")
    assert not store.exists()


def test_an_error_in_a_worker_is_told_as_in_this_process(tree, tmp_path, capsys) -> None:
    bodies = {f"spleen_{number}": native.make_body(number, "abdomen") for number in (2, 3)}
    native.write_msd(tmp_path / "tree", "msd_spleen", bodies)
    for path in (tmp_path / "tree").rglob("labelsTr/*.nii.gz"):
        path.write_bytes(b"nothing")
    told = []
    for workers in ("1", "2"):
        options = ["-o", str(tmp_path / workers), "--workers", workers]
        assert cli.run(["datasets", "prepare", str(tmp_path / "tree"), *options]) == 2
        told.append(sorted(capsys.readouterr().out.splitlines()))
    assert told[0] == told[1]
    assert sum("damaged, cut short" in line for line in told[0]) == 2


@pytest.mark.parametrize("verb", [["verify"], ["prepare", "-o", "store"]])
def test_a_folder_without_data_sets_or_none_at_all_is_one_line(verb, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for folder, words in (("empty", "holds no data set that is known"), ("missing", "is no folder")):
        assert cli.run(["datasets", verb[0], folder, *verb[1:]]) == 2
        assert words in one_line(capsys.readouterr().err.splitlines()[-1] + "\n")
    assert not (tmp_path / "store").exists()


def test_list_of_one_as_json_is_its_row_in_the_list(capsys) -> None:
    assert cli.run(["datasets", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["datasets"]
    for row in (rows[0], rows[-1]):
        assert cli.run(["datasets", "list", row["name"], "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == row


@pytest.mark.parametrize("verb", [["verify"], ["prepare", "-o", "store"]])
@pytest.mark.parametrize(("name", "nearest"), [("MSD_Spleen", "msd_spleen"), ("kits", "kits19"), ("LITS", "lits")])
def test_only_of_an_unknown_name_gets_the_nearest(tree, tmp_path, capsys, monkeypatch, verb, name, nearest) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["datasets", verb[0], str(tree), *verb[1:], "--only", name]) == 2
    assert f"no data set is called '{name}'. Did you mean {nearest}?" in one_line(capsys.readouterr().err)[:200]


def test_only_takes_several_and_looks_for_no_other(tree, tmp_path, capsys) -> None:
    assert cli.run(["datasets", "verify", str(tree), "--workers", "1", "--json", "--only", "msd_spleen"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["datasets"]] == ["msd_spleen"]
    assert cli.run(["datasets", "verify", str(tree), "--only", "msd_spleen", "--only", "msd_lung"]) == 2
    assert "msd_lung" in one_line(capsys.readouterr().err.splitlines()[-1])


def test_a_description_of_ones_own_is_used_in_place_of_the_package_s(tree, tmp_path, capsys) -> None:
    packaged_text = (files("dsmseg.datasets") / "public" / "msd_spleen.toml").read_text(encoding="utf-8")
    own = tmp_path / "own.toml"
    own.write_text(packaged_text.replace('name = "msd_spleen"', 'name = "own"'), encoding="utf-8")
    assert cli.run(["datasets", "verify", str(tree), "--description", str(own), "--workers", "1", "--json"]) == 0
    (dataset,) = json.loads(capsys.readouterr().out)["datasets"]
    assert (dataset["name"], dataset["cases"]) == ("own", 1)
    own.write_text(packaged_text.replace("[layout]", "[layuot]"), encoding="utf-8")
    assert cli.run(["datasets", "verify", str(tree), "--description", str(own)]) == 2
    assert "'layuot' is no setting; the nearest is 'layout'" in one_line(capsys.readouterr().err.splitlines()[-1])


def test_prepare_as_json_tells_all_that_the_table_tells(faulty, tree, tmp_path, capsys) -> None:
    command = [
        "datasets",
        "prepare",
        str(faulty),
        "-o",
        str(tmp_path / "s"),
        "--spacing",
        "4",
        "--workers",
        "1",
        "--json",
    ]
    assert cli.run(command) == 2
    content = json.loads(capsys.readouterr().out)
    (dataset,) = content["datasets"]
    assert set(content) == {"datasets", "copies"}
    assert set(dataset) == {"name", "written", "up_to_date", "left_out", "gone"}
    (left_out,) = dataset["left_out"]
    assert set(left_out) == {"case", "check", "what", "mend"}
    assert (left_out["case"], left_out["check"]) == ("spleen_2", "orientation")


def test_a_store_of_other_settings_is_refused_and_stays_as_it_was(tree, tmp_path, capsys) -> None:
    command = ["datasets", "prepare", str(tree), "-o", str(tmp_path / "s"), "--workers", "1"]
    assert cli.run([*command, "--spacing", "4"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    for options in (["--spacing", "5"], ["--spacing", "4", "--hu-window=-100,250"]):
        capsys.readouterr()
        assert cli.run([*command, *options]) == 2
        assert "was prepared with 4 x 4 x 4 mm and HU -175 to 250" in one_line(capsys.readouterr().err.splitlines()[-1])
    assert {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()} == before


def test_a_folder_with_something_else_is_no_store(tree, tmp_path, capsys) -> None:
    (tmp_path / "thesis.tex").touch()
    assert cli.run(["datasets", "prepare", str(tree), "-o", str(tmp_path), "--workers", "1"]) == 2
    assert "holds something else than a store" in one_line(capsys.readouterr().err.splitlines()[-1])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_without_the_extra_prepare_tells_what_to_install_and_list_and_verify_work(
    tree, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "blosc2", None)
    assert cli.run(["datasets", "list"]) == 0
    assert cli.run(["datasets", "verify", str(tree), "--workers", "1"]) == 0
    capsys.readouterr()
    assert cli.run(["datasets", "prepare", str(tree), "-o", str(tmp_path / "s"), "--workers", "1"]) == 2
    assert "datasets]" in one_line(capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "s").exists()


def test_what_is_printed_is_results_on_stdout_and_progress_on_stderr(tree, tmp_path, capsys) -> None:
    assert (
        cli.run(["datasets", "prepare", str(tree), "-o", str(tmp_path / "s"), "--spacing", "4", "--workers", "1"]) == 0
    )
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["name", "written", "up", "to", "date", "left", "out"]
    assert "msd_spleen spleen_2" in printed.err.splitlines()


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["verify", "--help"], ["prepare", "--help"]])
def test_help_imports_no_heavy_library(arguments) -> None:
    arguments = ["datasets", *arguments]
    script = f"import sys; from dsmseg import cli; cli.run({arguments!r}); print(*sys.modules, file=sys.stderr)"
    loaded = set(run_process("-c", script).stderr.split())
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "scipy", "nibabel", "SimpleITK", "safetensors", "blosc2"}
