"""Folders of predictions beside folders of references."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from folders import AFFINE, LABELS, SHAPE, case_folder, liver_with_tumor, references, save
from shapes import cube
from sklearn.metrics import roc_auc_score

from dsmseg import evaluation
from dsmseg.errors import InputError
from dsmseg.evaluation import Figures, Request, Settings
from dsmseg.evaluation.labels import meaning_of
from dsmseg.evaluation.maps import LabelMaps, Layer
from dsmseg.evaluation.pairing import case_name, find_sources, pair
from dsmseg.evaluation.policy import Presence
from dsmseg.evaluation.regions import body_region, dilated
from dsmseg.evaluation.tables import by_group, by_structure
from dsmseg.taxonomy import find, find_all
from dsmseg.volume import read_scan

CASES = {"a1": liver_with_tumor(), "a2": liver_with_tumor(shift=1), "a10": liver_with_tumor(tumor=False)}


def run(request: Request, *, workers: int = 1) -> dict[tuple[str, str], Figures]:
    found = evaluation.evaluate(evaluation.plan(request), workers=workers)
    return {(row.case, row.name): row for row in found.rows}


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return references(tmp_path / "Dataset001_Small", CASES)


@pytest.mark.parametrize("slicer", [False, True])
def test_case_folders_that_equal_the_reference_are_perfect(reference: Path, tmp_path: Path, slicer: bool) -> None:
    for name, labels in CASES.items():
        case_folder(tmp_path / "predicted" / f"{name}_0000", labels, slicer=slicer)
    rows = run(Request(tmp_path / "predicted", reference))
    assert len(rows) == 6
    for (case, name), row in rows.items():
        if (case, name) == ("a10", "Liver Tumor"):
            assert row.presence is Presence.NEITHER
            assert row.values["dsc"] is None
            assert row.values["false_lesions_healthy"] == 0
        else:
            assert (row.values["dsc"], row.values["nsd"], row.values["hd95_mm"]) == (1, 1, 0)


def test_a_tumor_belongs_to_its_host_on_both_sides(reference: Path, tmp_path: Path) -> None:
    """The prediction found no tumor, but the liver with all that is in it."""
    for name, labels in CASES.items():
        save(tmp_path / "predicted" / f"{name}.nii.gz", (labels > 0).astype(np.uint8))
    rows = run(Request(tmp_path / "predicted", reference))
    assert all(rows[case, "Liver"].values["dsc"] == 1 for case in CASES)
    assert rows["a1", "Liver Tumor"].presence is Presence.MISSED
    assert rows["a1", "Liver Tumor"].values["dsc"] == 0
    assert rows["a1", "Liver Tumor"].values["hd95_mm"] == pytest.approx(np.linalg.norm(np.array(SHAPE) * (2, 2, 3)))


def test_a_missing_prediction_is_missed_unless_it_is_left_out(reference: Path, tmp_path: Path) -> None:
    save(tmp_path / "predicted" / "a1.nii.gz", CASES["a1"])
    save(tmp_path / "predicted" / "other.nii.gz", CASES["a1"])
    request = Request(tmp_path / "predicted", reference)
    made = evaluation.plan(request)
    assert (made.missing, made.extra) == (("a2", "a10"), ("other",))
    rows = run(request)
    assert rows["a2", "Liver"].values["dsc"] == 0
    assert rows["a10", "Liver Tumor"].values["dsc"] is None
    left = run(Request(tmp_path / "predicted", reference, skip_missing=True))
    assert {case for case, _ in left} == {"a1"}


def test_score_maps_are_measured_as_scikit_learn_does(reference: Path, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    scores = {
        name: (0.4 * chance.random(SHAPE) + 0.5 * (labels == 2)).astype(np.float32) for name, labels in CASES.items()
    }
    for name, map_ in scores.items():
        save(tmp_path / "predicted" / f"{name}.nii.gz", map_)
    rows = run(Request(tmp_path / "predicted", reference))
    assert {name for _, name in rows} == {"Liver Tumor"}
    row, truth = rows["a1", "Liver Tumor"], CASES["a1"] == 2
    inside = body_region(read_scan(reference / "imagesTr" / "a1_0000.nii.gz"))
    host = dilated(CASES["a1"] > 0, (2.0, 2.0, 3.0))
    for name, region in (("auroc", inside), ("auroc_host", host)):
        expected = roc_auc_score(truth[region], scores["a1"][region])
        assert row.values[name] == pytest.approx(expected, abs=3e-5)
    assert row.values["dsc"] == pytest.approx(
        2 * (truth & (scores["a1"] >= 0.5)).sum() / (truth.sum() + (scores["a1"] >= 0.5).sum())
    )
    assert row.values["ece"] is not None
    assert row.froc is not None
    assert rows["a10", "Liver Tumor"].values["auroc"] is None


def test_the_anomaly_of_case_folders_is_measured_against_any_tumor(reference: Path, tmp_path: Path) -> None:
    for name, labels in CASES.items():
        anomaly = np.where(labels == 2, 200, 20).astype(np.uint8)
        case_folder(tmp_path / "predicted" / name, labels, anomaly=anomaly)
    rows = run(Request(tmp_path / "predicted", reference))
    row = rows["a1", "Any Tumor, by anomaly"]
    assert (row.values["auroc"], row.values["fpr95"], row.values["auroc_host"]) == (1, 0, 1)
    assert "ece" not in row.values


def test_workers_make_no_difference(reference: Path, tmp_path: Path) -> None:
    for name, labels in CASES.items():
        save(tmp_path / "predicted" / f"{name}.nii.gz", np.roll(labels, 1, axis=0))
    request = Request(tmp_path / "predicted", reference)
    one, two = run(request), run(request, workers=2)
    assert {key: row.values for key, row in one.items()} == {key: row.values for key, row in two.items()}
    assert list(one) == list(two)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_flipped_and_reordered_axes_are_the_same_grid(
    reference: Path, tmp_path: Path, axes: tuple[int, int, int]
) -> None:
    image = nibabel.Nifti1Image(CASES["a1"], AFFINE)
    turned = image.as_reoriented(np.array([[axes.index(axis), -1 if axis == 1 else 1] for axis in range(3)]))
    (tmp_path / "predicted").mkdir()
    nibabel.save(turned, tmp_path / "predicted" / "a1.nii.gz")
    rows = run(Request(tmp_path / "predicted", reference, skip_missing=True))
    assert rows["a1", "Liver"].values["dsc"] == 1


def test_one_case_that_cannot_be_measured_does_not_stop_the_others(reference: Path, tmp_path: Path) -> None:
    save(tmp_path / "predicted" / "a1.nii.gz", CASES["a1"][:-1])
    save(tmp_path / "predicted" / "a2.nii.gz", CASES["a2"])
    moved = AFFINE.copy()
    moved[0, 3] = 7
    save(tmp_path / "predicted" / "a10.nii.gz", CASES["a10"], moved)
    found = evaluation.evaluate(evaluation.plan(Request(tmp_path / "predicted", reference)))
    assert {row.case for row in found.rows} == {"a2"}
    assert "a1: the prediction has 31 x 28 x 24 voxels where the reference has 32 x 28 x 24" in str(found.failed["a1"])
    assert "7.0 mm beside" in str(found.failed["a10"])


def test_where_all_fail_the_first_reason_is_told(reference: Path, tmp_path: Path) -> None:
    save(tmp_path / "predicted" / "a1.nii.gz", CASES["a1"][:-1])
    with pytest.raises(InputError, match="31 x 28 x 24"):
        evaluation.evaluate(evaluation.plan(Request(tmp_path / "predicted", reference, skip_missing=True)))


def test_names_come_from_an_option_where_nothing_else_tells(tmp_path: Path) -> None:
    one, other = save(tmp_path / "r" / "x.nii.gz", CASES["a1"]), save(tmp_path / "p" / "y.nii.gz", CASES["a1"])
    with pytest.raises(InputError, match="--labels"):
        evaluation.plan(Request(other, one))
    rows = run(Request(other, one, labels=evaluation.parse_meaning("1=liver, 2=liver tumour")))
    assert {name for _, name in rows} == {"Liver", "Liver Tumor"}


@pytest.mark.parametrize("text", ["liver", "1=", "a=liver", "1=table", "gone.json"])
def test_an_option_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        evaluation.parse_meaning(text)


def test_structures_that_predictions_do_not_look_for_are_told_or_asked_for(reference: Path, tmp_path: Path) -> None:
    index = {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}
    save(tmp_path / "predicted" / "a1.nii.gz", (CASES["a1"] > 0).astype(np.uint8))
    (tmp_path / "predicted" / "dataset.json").write_text(json.dumps(index))
    request = Request(tmp_path / "predicted", reference, skip_missing=True)
    assert evaluation.plan(request).not_predicted == ("Liver Tumor",)
    rows = run(Request(tmp_path / "predicted", reference, skip_missing=True, classes=find_all("liver tumor")))
    assert rows["a1", "Liver Tumor"].values["dsc"] == 0


def test_sides_that_a_data_set_merges_are_measured_as_one(tmp_path: Path) -> None:
    kidneys = cube(SHAPE, (3, 9), (8, 14), (5, 15)) * 1 + cube(SHAPE, (20, 26), (8, 14), (5, 15)) * 2
    reference = references(tmp_path / "d", {"k": (kidneys > 0).astype(np.uint8)}, {"background": 0, "kidneys": 1})
    save(tmp_path / "p" / "k.nii.gz", kidneys.astype(np.uint8))
    (tmp_path / "p" / "dataset.json").write_text(json.dumps({"labels": {"left kidney": 1, "right kidney": 2}}))
    forth = run(Request(tmp_path / "p", reference))
    assert forth["k", "Right Kidney + Left Kidney"].values["dsc"] == 1
    back = run(Request(reference / "labelsTr", tmp_path / "p"))
    assert back["k", "Right Kidney + Left Kidney"].values["dsc"] == 1


def test_a_kidneys_tumor_belongs_to_the_side_that_it_touches() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[20:26, 8:14, 5:15], labels[3:9, 8:14, 5:15], labels[8:11, 9:12, 6:9] = 1, 2, 3
    meaning = meaning_of({"right kidney": (1,), "left kidney": (2,), "kidney tumor": (3,)})
    maps = LabelMaps(SHAPE, [Layer(labels, meaning)])
    for name, wanted in (("right kidney", labels == 1), ("left kidney", labels >= 2)):
        structure = (find(name).id,)
        found = np.zeros(SHAPE, bool)
        box = maps.box(structure)
        found[box] = maps.mask(structure, box)
        assert np.array_equal(found, wanted)


def test_totalsegmentators_lobes_make_lungs() -> None:
    meaning = meaning_of({"lung_upper_lobe_left": (10,), "lung_lower_lobe_left": (11,), "rib_left_1": (92,)})
    assert meaning.labels == {(find("left lung").id,): frozenset({10, 11})}
    assert meaning.unknown == ("rib_left_1",)


@pytest.mark.parametrize(
    ("file", "name"),
    [("a_0000.nii.gz", "a"), ("b.seg.nrrd", "b"), ("c.d.nrrd", "c.d"), ("volume-3.nii", "volume-3"), ("x", "x")],
)
def test_case_names(file: str, name: str) -> None:
    assert case_name(Path(file)) == name


def test_roles_in_names_make_no_difference_where_no_name_is_in_both(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        save(tmp_path / "r" / f"segmentation-{number}.nii", CASES["a1"])
        save(tmp_path / "p" / f"volume-{number}.nii.gz", CASES["a1"])
    pairs = pair(find_sources(tmp_path / "p"), find_sources(tmp_path / "r"))
    assert [(a.name, b.name) for a, b in pairs.pairs if b] == [(f"segmentation-{n}", f"volume-{n}") for n in (1, 2, 10)]


@pytest.mark.parametrize(
    ("files", "word"),
    [((), "no label maps"), (("a.nii.gz", "a.nrrd"), "twice"), (("case/organs.dcm",), "DICOM SEG")],
)
def test_folders_that_cannot_be_used_are_refused(tmp_path: Path, files: tuple[str, ...], word: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=word):
        find_sources(tmp_path)


def test_summaries_are_means_over_cases_and_over_structures_of_a_case(reference: Path, tmp_path: Path) -> None:
    for name, labels in CASES.items():
        save(tmp_path / "p" / f"{name}.nii.gz", np.roll(labels, 1, axis=0))
    rows = evaluation.evaluate(evaluation.plan(Request(tmp_path / "p", reference))).rows
    liver = next(one for one in by_structure(rows) if one["name"] == "Liver")
    values = [row.values["dsc"] for row in rows if row.name == "Liver"]
    assert liver["metrics"]["dsc"]["mean"] == pytest.approx(np.mean(values))
    assert liver["metrics"]["dsc"]["se"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    assert liver["metrics"]["dsc"]["n"] == 3
    assert by_group(rows) == []  # one structure a group


def test_what_is_written_can_be_read_and_compared(reference: Path, tmp_path: Path) -> None:
    outputs = []
    for method, shift in (("one", 1), ("two", 3)):
        for name, labels in CASES.items():
            moved = np.roll(labels, shift if name != "a1" else shift + 1, axis=0)
            save(tmp_path / method / f"{name}.nii.gz", moved)
        request = Request(tmp_path / method, reference, settings=Settings(tolerance_mm=3))
        found = evaluation.evaluate(evaluation.plan(request))
        outputs.append((found, request, tmp_path / f"out_{method}"))
        summary = evaluation.write_tables(outputs[-1][2], found, request)
        assert json.loads((outputs[-1][2] / "summary.json").read_text()) == summary
        assert all(one["prediction_sha256"] for one in summary["inputs"])
        with (outputs[-1][2] / "cases.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == 6
        assert rows[0]["case"] == "a1"  # in the order that people count: a1, a2, a10
        assert rows[-1]["case"] == "a10"
    differences = evaluation.compare(outputs[0][0], outputs[1][2])
    liver = next(one for one in differences if (one["name"], one["metric"]) == ("Liver", "dsc"))
    assert liver["n"] == 3
    assert liver["difference"] > 0
    with pytest.raises(InputError, match=r"cases\.csv"):
        evaluation.compare(outputs[0][0], tmp_path)


def test_pictures_of_best_median_and_worst(reference: Path, tmp_path: Path) -> None:
    for shift, (name, labels) in enumerate(CASES.items()):
        save(tmp_path / "p" / f"{name}.nii.gz", np.roll(labels, shift, axis=0))
    found = evaluation.evaluate(evaluation.plan(Request(tmp_path / "p", reference)))
    stale = tmp_path / "pictures" / "old.png"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    drawn = evaluation.draw_pictures(tmp_path / "pictures", found)
    assert [path.name for path in drawn] == [
        "organs_best.png", "organs_median.png", "organs_worst.png", "tumors_best.png", "tumors_worst.png"
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert not stale.exists()


def test_label_maps_among_score_maps_and_scores_out_of_range_fail_alone(reference: Path, tmp_path: Path) -> None:
    save(tmp_path / "p" / "a1.nii.gz", np.full(SHAPE, 0.25, np.float32))
    save(tmp_path / "p" / "a2.nii.gz", np.full(SHAPE, 1.5, np.float32))
    save(tmp_path / "p" / "a10.nii.gz", np.zeros(SHAPE, np.uint8))
    found = evaluation.evaluate(evaluation.plan(Request(tmp_path / "p", reference)))
    assert set(found.failed) == {"a2"}
    assert "1.5" in str(found.failed["a2"])


def test_scores_of_several_classes_must_be_told_apart(tmp_path: Path) -> None:
    labels = {**LABELS, "tumor": 2, "kidney tumor": 3}
    reference = references(tmp_path / "d", {"a1": CASES["a1"]}, labels)
    save(tmp_path / "p" / "a1.nii.gz", np.full(SHAPE, 0.25, np.float32))
    with pytest.raises(InputError, match="--scores-of"):
        evaluation.plan(Request(tmp_path / "p", reference))
    rows = run(Request(tmp_path / "p", reference, scores_of=find("liver tumor")))
    assert rows["a1", "Liver Tumor"].values["auroc"] == 0.5
    assert rows["a1", "Liver Tumor"].values["fpr95"] == 1
