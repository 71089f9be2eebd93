"""A case folder is written whole or not at all."""

import errno
import json

import numpy as np
import pytest

from dsmseg.errors import OutputError
from dsmseg.inference import Segmenter, segmentation
from dsmseg.volume import read_labels, read_scan

FILES = {"organs.nii.gz", "tumors.nii.gz", "anomaly.nii.gz", "unexplained.nii.gz", "statistics.json", "run.json"}


@pytest.fixture
def result(make_network, make_card, phantom, write_scan):
    hu = phantom()
    hu[12:16, 16:20, 16:20] = 350
    card = make_card(stage=2, tumors=("Liver Tumor",))
    return Segmenter(make_network(stage=2), card, device="cpu")(write_scan(hu, axcodes="LPS", name="in/ct.nii.gz"))


def names_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_folder_holds_the_layers_the_figures_and_the_record(result, tmp_path):
    folder = result.save(tmp_path / "out" / "case")
    assert names_in(folder) == FILES
    assert names_in(folder.parent) == {"case"}
    assert np.array_equal(read_labels(folder / "organs.nii.gz").array, result.organs)
    assert np.array_equal(read_labels(folder / "tumors.nii.gz").array, result.tumors)
    for name in ("anomaly", "unexplained"):
        stored, score = nibabel_array(folder / f"{name}.nii.gz"), getattr(result, name)
        assert np.abs(stored - result.volume.to_own(score)).max() <= 0.51 / 255  # in steps of 1/255
    assert json.loads((folder / "run.json").read_text()) == result.run
    assert json.loads((folder / "statistics.json").read_text()) == result.statistics()


def nibabel_array(path) -> np.ndarray:
    import nibabel

    return np.asarray(nibabel.load(path).dataobj)


def test_statistics_agree_with_the_saved_labels(result, tmp_path):
    folder = result.save(tmp_path / "case")
    statistics = json.loads((folder / "statistics.json").read_text())
    labels, hu = read_labels(folder / "organs.nii.gz"), result.volume.array
    for row in statistics["organs"]:
        found = labels.array == row["id"]
        assert row["voxels"] == found.sum() > 0
        assert row["volume_ml"] == pytest.approx(found.sum() * labels.grid.voxel_volume_ml, abs=1e-3)
        assert row["mean_hu"] == pytest.approx(hu[found].mean(), abs=0.01)
    assert {row["name"]: row["truncated"] for row in statistics["organs"]} == {
        "Spleen": False,
        "Liver": False,
        "Aorta": True,
    }
    assert [row["name"] for row in statistics["lesions"]] == ["Liver Tumor"]


def test_seg_nrrd_holds_the_label_layers_for_3d_slicer(result, tmp_path):
    folder = result.save(tmp_path / "case", file_format="seg.nrrd")
    assert names_in(folder) == {
        "organs.seg.nrrd",
        "tumors.seg.nrrd",
        "anomaly.nii.gz",
        "unexplained.nii.gz",
        "statistics.json",
        "run.json",
    }
    assert b"Name:=Liver\n" in (folder / "organs.seg.nrrd").read_bytes()
    assert np.array_equal(read_labels(folder / "organs.seg.nrrd").array, result.organs)


def test_an_existing_folder_is_refused_and_untouched(result, tmp_path):
    folder = result.save(tmp_path / "case")
    (folder / "run.json").write_text("mine")
    with pytest.raises(OutputError, match=r"case: exists already.*--overwrite"):
        result.save(folder)
    assert (folder / "run.json").read_text() == "mine"


def test_with_overwrite_the_whole_folder_is_replaced(result, tmp_path):
    folder = result.save(tmp_path / "case", file_format="seg.nrrd")
    result.save(folder, overwrite=True)
    assert names_in(folder) == FILES
    assert names_in(tmp_path) == {"in", "case"}


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_case_folder_is_never_overwritten(result, tmp_path, kind):
    target = tmp_path / "case"
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.txt").write_text("precious")
    if kind == "folder":
        (tmp_path / "documents").rename(target)
    elif kind == "file":
        target.write_text("precious")
    else:
        target.symlink_to(tmp_path / "documents")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="no case folder"):
        result.save(target, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["write_nifti", "write_json"])
def test_a_full_disk_is_one_line_and_leaves_all_as_it_was(result, tmp_path, monkeypatch, overwrite, step):
    folder = tmp_path / "case"
    if overwrite:
        result.save(folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(path, *_, **__):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segmentation, step, fail)
    with pytest.raises(OutputError, match=r"case: cannot be written \(No space left on device\)") as caught:
        result.save(folder, overwrite=overwrite)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert names_in(tmp_path) == ({"in", "case"} if overwrite else {"in"})


def test_an_error_from_a_writer_names_the_case_folder_and_not_the_temporary_one(result, tmp_path, monkeypatch):
    def fail(path, *_, **__):
        raise OutputError("cannot be written (Input/output error)", where=path, mend="Replace the disk.")

    monkeypatch.setattr(segmentation, "write_nifti", fail)
    with pytest.raises(OutputError, match="case: cannot be written") as caught:
        result.save(tmp_path / "case")
    assert caught.value.where == tmp_path / "case"


def test_when_the_last_rename_fails_the_old_folder_comes_back(result, tmp_path, monkeypatch):
    folder = result.save(tmp_path / "case")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    rename = segmentation.os.rename

    def fail_for_the_new_one(source, target):
        if target == folder and "-old." not in str(source):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(segmentation.os, "rename", fail_for_the_new_one)
    with pytest.raises(OutputError, match="Input/output error"):
        result.save(folder, overwrite=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert names_in(tmp_path) == {"in", "case"}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
def test_an_interruption_between_the_renames_costs_no_result(result, tmp_path, monkeypatch, moment, number):
    folder = result.save(tmp_path / "case")
    rename, renames = segmentation.os.rename, []

    def interrupt(source, target):
        renames.append(source)
        if moment == "before" and len(renames) == number:
            raise KeyboardInterrupt
        rename(source, target)
        if moment == "after" and len(renames) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(segmentation.os, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        result.save(folder, overwrite=True)
    assert names_in(folder) == FILES
    assert names_in(tmp_path) == {"in", "case"}


def test_when_not_even_the_old_folder_can_be_put_back_it_is_kept(result, tmp_path, monkeypatch):
    folder = result.save(tmp_path / "case")
    rename, renames = segmentation.os.rename, []

    def fail_after_the_first(source, target):
        renames.append(source)
        if len(renames) > 1:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(segmentation.os, "rename", fail_after_the_first)
    with pytest.raises(OutputError, match="Input/output error"):
        result.save(folder, overwrite=True)
    (old,) = tmp_path.glob(".*-old.case")
    assert names_in(old) == FILES


def test_a_case_folder_with_a_file_of_its_users_is_never_overwritten(result, tmp_path):
    folder = result.save(tmp_path / "case")
    (folder / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"case: holds mine\.txt, which dsmseg did not write"):
        result.save(folder, overwrite=True)
    assert (folder / "mine.txt").read_text() == "precious"


def test_a_place_that_cannot_exist_is_one_line(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        result.save(tmp_path / "file" / "case")


def test_the_scan_itself_is_not_changed(result, tmp_path):
    before = (tmp_path / "in/ct.nii.gz").read_bytes()
    result.save(tmp_path / "in" / "result")
    assert (tmp_path / "in/ct.nii.gz").read_bytes() == before
    assert np.array_equal(read_scan(tmp_path / "in/ct.nii.gz").array, result.volume.array)
