"""dsmseg synth phantom, tumor, gallery."""

import json

import nibabel
import numpy as np
import pytest

from dsmseg import cli
from dsmseg.taxonomy import find

LIVER = find("Liver").id


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """Give the folder of a small synthetic case."""
    folder = tmp_path_factory.mktemp("synth") / "body"
    assert cli.run(["synth", "phantom", "-o", str(folder), "--seed", "3", "--spacing", "4,4,5", "--whole"]) == 0
    return folder


@pytest.fixture(scope="module")
def with_tumor(body):
    """Give the folder of that case with a liver tumor."""
    folder = body.with_name("tumor")
    assert cli.run(tumor(body, folder)) == 0
    return folder


def tumor(body, output, *more: str, kind: str = "Liver Tumor", label: int | None = LIVER) -> list[str]:
    chosen = [] if label is None else ["--label", str(label)]
    mask = str(body / "organs.nii.gz")
    return [
        "synth", "tumor", str(body / "ct.nii.gz"), "--organ-mask", mask, "--kind", kind,
        "-o", str(output), *chosen, *more,
    ]  # fmt: skip


def voxels(path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_a_phantom_is_a_scan_with_its_organs_on_one_grid(body) -> None:
    image, organs, tumors = (nibabel.load(body / f"{name}.nii.gz") for name in ("ct", "organs", "tumors"))
    assert image.shape == organs.shape == tumors.shape
    assert np.array_equal(image.affine, organs.affine)
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(image.affine), (4, 4, 5))
    assert {LIVER, find("Spleen").id, find("Aorta").id} <= set(np.unique(np.asarray(organs.dataobj)).tolist())
    assert not np.asarray(tumors.dataobj).any()
    record = json.loads((body / "record.json").read_text("utf-8"))
    assert record["seed"] == 3
    assert record["coverage"] == "abdomen"


def test_the_same_seed_gives_the_same_voxels(body, tmp_path) -> None:
    assert cli.run(["synth", "phantom", "-o", str(tmp_path / "b"), "--seed", "3", "--spacing", "4,4,5", "--whole"]) == 0
    for name in ("ct", "organs"):
        np.testing.assert_array_equal(voxels(tmp_path / "b" / f"{name}.nii.gz"), voxels(body / f"{name}.nii.gz"))


def test_a_tumor_stays_in_its_organ_and_changes_nothing_far_away(body, with_tumor) -> None:
    mask = voxels(with_tumor / "tumor.nii.gz") > 0
    before, after = voxels(body / "ct.nii.gz"), voxels(with_tumor / "ct.nii.gz")
    assert mask.any()
    assert not (mask & (voxels(body / "organs.nii.gz") != LIVER)).any()
    assert not (mask & (voxels(with_tumor / "organ.nii.gz") == 0)).any()
    assert after.dtype == np.int16
    assert (before != after)[mask].mean() > 0.5
    places = np.argwhere(mask)
    far = np.ones(mask.shape, bool)
    low, high = np.maximum(places.min(0) - 25, 0), places.max(0) + 26
    far[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = False
    np.testing.assert_array_equal(before[far], after[far])
    record = json.loads((with_tumor / "record.json").read_text("utf-8"))
    assert record["kind"] == "Liver Tumor"
    assert sum(lesion["volume_ml"] for lesion in record["lesions"]) == pytest.approx(mask.sum() * 0.08, rel=0.02)


def test_a_scan_in_another_orientation_keeps_its_own_grid(body, with_tumor, tmp_path) -> None:
    for name in ("ct", "organs"):
        image = nibabel.load(body / f"{name}.nii.gz")
        flipped = np.asarray(image.dataobj)[::-1, ::-1]
        affine = image.affine.copy()
        affine[:3, 3] += affine[:3, 0] * (flipped.shape[0] - 1) + affine[:3, 1] * (flipped.shape[1] - 1)
        affine[:3, :2] *= -1
        nibabel.save(nibabel.Nifti1Image(flipped, affine), tmp_path / f"{name}.nii.gz")
    assert cli.run(tumor(tmp_path, tmp_path / "out")) == 0
    own = nibabel.load(tmp_path / "out" / "tumor.nii.gz")
    np.testing.assert_allclose(own.affine, nibabel.load(tmp_path / "ct.nii.gz").affine)
    np.testing.assert_array_equal(np.asarray(own.dataobj)[::-1, ::-1], voxels(with_tumor / "tumor.nii.gz"))


def test_a_label_map_becomes_scans_that_differ_from_seed_to_seed(body, tmp_path) -> None:
    for seed in ("1", "2"):
        made = ["synth", "body", str(body / "organs.nii.gz"), "--ids", "dsmseg", "-o", str(tmp_path / seed)]
        assert cli.run([*made, "--seed", seed, "--spacing", "5"]) == 0
    first, second = (voxels(tmp_path / seed / "ct.nii.gz") for seed in ("1", "2"))
    assert first.shape == second.shape
    assert np.abs(first.astype(float) - second).mean() > 20
    organs = voxels(tmp_path / "1" / "organs.nii.gz")
    assert {LIVER, find("Spleen").id, find("Right Kidney").id} <= set(np.unique(organs).tolist())
    assert -20 < np.median(first[organs == LIVER]) < 180
    right, left = (np.argwhere(organs == find(f"{side} Kidney").id).mean(axis=0) for side in ("Right", "Left"))
    assert right[0] > left[0]  # RAS: x grows to the right


def test_a_label_map_with_other_ids_is_refused(body, tmp_path, capsys) -> None:
    image = nibabel.load(body / "organs.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj) + np.uint8(90), image.affine), tmp_path / "other.nii.gz")
    assert cli.run(["synth", "body", str(tmp_path / "other.nii.gz"), "--ids", "dsmseg", "-o", str(tmp_path / "o")]) == 2
    assert "no organ of the taxonomy" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_what_is_read_is_never_replaced(body, capsys) -> None:
    before = {path: path.read_bytes() for path in body.iterdir()}
    assert cli.run(tumor(body, body, "--overwrite")) == 2
    assert "holds ct.nii.gz, which is read" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in body.iterdir()} == before


def test_what_is_there_is_not_written_over(body, capsys) -> None:
    before = (body / "ct.nii.gz").read_bytes()
    assert cli.run(["synth", "phantom", "-o", str(body), "--seed", "4", "--spacing", "6,6,6"]) == 2
    assert capsys.readouterr().err.strip().endswith("exists. Add --overwrite, or choose another folder.")
    assert (body / "ct.nii.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("label", "kind", "more", "told"),
    [
        (None, "Liver Tumor", [], "labels. Say which is the organ: --label"),
        (200, "Liver Tumor", [], "holds no label 200"),
        (LIVER, "liver", [], "'liver' is an organ"),
        (LIVER, "heart tumor", [], "heart tumor"),
        (LIVER, "Liver Tumor", ["--diameter", "-3"], "diameter"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(body, tmp_path, capsys, label, kind, more, told) -> None:
    assert cli.run(tumor(body, tmp_path / "out", *more, kind=kind, label=label)) == 2
    error = capsys.readouterr().err
    assert told in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_grid_is_refused(body, tmp_path, capsys) -> None:
    image = nibabel.load(body / "organs.nii.gz")
    affine = image.affine.copy()
    affine[0, 3] += 8
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "organs.nii.gz")
    nibabel.save(nibabel.load(body / "ct.nii.gz"), tmp_path / "ct.nii.gz")
    assert cli.run(tumor(tmp_path, tmp_path / "out")) == 2
    assert "does not lie on the grid of" in capsys.readouterr().err


def test_an_empty_mask_is_refused(body, tmp_path, capsys) -> None:
    image = nibabel.load(body / "organs.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), tmp_path / "organs.nii.gz")
    nibabel.save(nibabel.load(body / "ct.nii.gz"), tmp_path / "ct.nii.gz")
    assert cli.run(tumor(tmp_path, tmp_path / "out", label=None)) == 2
    assert "is empty" in capsys.readouterr().err


@pytest.mark.parametrize("spacing", ["1,1", "a,b,c", "0,1,1", "1,1,99"])
def test_an_impossible_spacing_is_refused(spacing, tmp_path, capsys) -> None:
    assert cli.run(["synth", "phantom", "-o", str(tmp_path / "b"), "--spacing", spacing]) == 2
    assert "spacing" in capsys.readouterr().err


def test_a_benchmark_tells_how_to_go_on(tmp_path, monkeypatch, capsys) -> None:
    from dsmseg.synthesis import benchmark

    monkeypatch.setattr(benchmark, "write_benchmark", lambda output, *_, **__: benchmark.Written(output, 3, 2, {}))
    assert cli.run(["synth", "benchmark", "-o", str(tmp_path / "bench")]) == 0
    assert "3 cases made, 2 kept" in (told := capsys.readouterr().out)
    assert f"dsmseg datasets prepare {tmp_path / 'bench'}" in told
