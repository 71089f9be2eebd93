"""Pseudo-labels: what looks agree on, what an organ can be, what a person knows, and the data set that comes out."""

import csv
import json
import os

import numpy as np
import pytest
from small_trees import AFFINE, SETTINGS, save, small_body
from typer.testing import CliRunner

from dsmseg.cli import app
from dsmseg.datasets import choose_datasets, prepare
from dsmseg.datasets.pseudo import labelling, plausibility
from dsmseg.datasets.pseudo.agreement import agree, thick
from dsmseg.datasets.pseudo.labelling import UNKNOWN_ID, Failure, Labelled, label
from dsmseg.datasets.pseudo.plausibility import judge
from dsmseg.datasets.pseudo.table import read_table
from dsmseg.datasets.store import Store
from dsmseg.errors import InputError
from dsmseg.taxonomy import CLASSES, TUMORS, find
from dsmseg.volume import Volume, read_labels, read_scan

SPLEEN, RIGHT, LEFT, LIVER = (find(one).id for one in ("Spleen", "Right Kidney", "Left Kidney", "Liver"))
LIVER_TUMOR = find("Liver Tumor").id


# --- what looks agree on ---------------------------------------------------------------------------------------------


def boxes(*parts):
    labels = np.zeros((30, 30, 30), np.uint8)
    for id, box in parts:
        labels[box] = id
    return labels


def test_most_looks_decide_and_of_equally_many_the_first():
    one, two = (boxes((id, np.s_[5:20, 5:20, 5:20])) for id in (LIVER, SPLEEN))
    np.testing.assert_array_equal(agree([one, two, two], (3,) * 3).labels, two)
    np.testing.assert_array_equal(agree([one, two], (3,) * 3).labels, one)


def test_a_region_that_looks_differ_on_is_unsure_and_a_border_is_not():
    same = (LIVER, np.s_[5:20, 5:20, 5:20])
    longer = boxes(same, (LIVER, np.s_[5:21, 5:20, 5:20]))
    more = boxes(same, (SPLEEN, np.s_[22:28, 5:11, 5:11]))
    plain = boxes(same)
    assert not agree([plain, plain, plain], (3,) * 3).unsure.any()
    assert not agree([plain, longer, plain], (3,) * 3).unsure.any()
    np.testing.assert_array_equal(agree([plain, plain, more], (3,) * 3).unsure, more == SPLEEN)


def test_how_much_looks_agree_is_the_mean_dice_with_what_most_say():
    found = [boxes((LIVER, np.s_[0:10, 0:10, 0:10])), boxes((LIVER, np.s_[0:10, 0:10, 0:5]))]
    assert agree(found, (3,) * 3).agreeing == {LIVER: pytest.approx((1 + 2 / 3) / 2)}


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 3.0), (0.8, 0.8, 5.0), (1.0, 1.2, 2.5)])
def test_what_is_thick_keeps_its_shape_and_nothing_is_added(spacing):
    mask = np.zeros((30, 30, 30), bool)
    mask[3:15, 4:16, 5:17] = True
    plane = np.zeros_like(mask)
    plane[20] = True
    np.testing.assert_array_equal(thick(mask | plane, spacing), mask)
    noise = np.random.default_rng(0).random(mask.shape) < 0.8
    opened = thick(noise, spacing)
    assert not (opened & ~noise).any()
    np.testing.assert_array_equal(thick(opened, spacing), opened)


# --- what an organ can be --------------------------------------------------------------------------------------------


def scan_of(labels, hu):
    array = np.full(labels.shape, -90, np.float32)
    for id, value in hu.items():
        array[labels == id] = value
    return Volume.from_own(array, AFFINE)


@pytest.fixture
def body():
    """Give a scan and its labels, both plausible: a wide grid of 4 mm on which organs lie as in the atlas."""
    labels = np.zeros((70, 50, 60), np.uint8)
    labels[8:16, 10:20, 38:50] = SPLEEN
    labels[50:58, 10:18, 24:36] = RIGHT
    labels[14:22, 10:18, 26:38] = LEFT
    labels[42:62, 20:36, 36:52] = LIVER
    return labels, {SPLEEN: 110.0, RIGHT: 150.0, LEFT: 150.0, LIVER: 100.0}


def against(labels, hu, agreeing=1.0, given=frozenset()):
    ids = np.unique(labels[labels > 0]).tolist()
    reports = judge(scan_of(labels, hu), labels, dict.fromkeys(ids, agreeing), given)
    return {find(one.name).id: one.against for one in reports}


def test_organs_as_they_are_have_nothing_against_them(body):
    assert set(against(*body).values()) == {""}


def test_what_is_too_dense_too_large_elsewhere_or_found_by_one_look_alone_is_named(body):
    labels, hu = body
    assert "HU" in against(labels, hu | {LIVER: 400.0})[LIVER]
    large = labels.copy()
    large[:, 36:] = SPLEEN
    assert "ml" in against(large, hu)[SPLEEN]
    moved = labels.copy()
    moved[labels == LIVER] = 0
    moved[42:62, 20:36, 0:16] = LIVER
    found = against(moved, hu)
    assert "mm from where" in found[LIVER]
    assert not found[SPLEEN]
    assert "other scales" in against(labels, hu, agreeing=0.5)[RIGHT]


def test_what_was_labelled_is_not_judged(body):
    labels, hu = body
    found = against(labels, hu | {LIVER: 400.0}, agreeing=0.5, given=frozenset({LIVER}))
    assert not found[LIVER]
    assert found[RIGHT]


# --- what a person knows ---------------------------------------------------------------------------------------------


def test_a_table_says_what_is_known_of_each_scan(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text("case,labels,names,healthy,drop\na,a.nii.gz,1=liver,liver; kidneys,spleen\nb,,,all,\n")
    known = read_table(path, ["a", "b", "c"])
    assert known["a"].labels == tmp_path / "a.nii.gz"
    assert known["a"].healthy == {LIVER, RIGHT, LEFT}
    assert known["a"].drop == {SPLEEN}
    assert len(known["b"].healthy) == 25
    assert "c" not in known


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,drop\nd,spleen\n", "'d' is none of the scans"),
        ("case,size\na,3\n", "a column 'size'"),
        ("case,drop\na,spleeen\n", "spleeen"),
        ("case,healthy\na,liver tumor\n", "is no organ"),
        ("case,drop\na,spleen\na,liver\n", "two rows"),
    ],
)
def test_a_table_that_says_what_there_is_not_is_refused_in_one_line(tmp_path, text, words):
    path = tmp_path / "known.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_table(path, ["a", "b"])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


# --- the data set that comes out -------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """Write two scans, in which all looks find their organs but for a part of the spleen of the first."""
    truth = {}
    for number, name in enumerate(("one", "two")):
        hu, labels = small_body(number)
        save(tmp_path / "scans" / f"{name}.nii.gz", hu)
        truth[name] = labels
    doubt = truth["one"].copy()
    doubt[8:14, 6:13, 19:24] = 0
    looks = {"one": [truth["one"], truth["one"], doubt], "two": [truth["two"]] * 3}
    arrays = {name: read_scan(tmp_path / "scans" / f"{name}.nii.gz").array for name in truth}

    def look_at(network, card, volume, looks_, device):
        (name,) = (one for one, array in arrays.items() if np.array_equal(array, volume.array))
        return [labels.copy() for labels in looks[name]]

    monkeypatch.setattr(labelling, "look_at", look_at)
    monkeypatch.setattr(plausibility, "_TOO_FAR_MM", 150.0)  # these patients are half as large as a person
    return tmp_path / "scans", truth


def labels_of(output, case):
    return read_labels(output / "labelsTr" / f"{case}.nii.gz").array


def test_what_looks_agree_on_is_labelled_and_what_they_do_not_is_unknown(scans, tmp_path):
    folder, truth = scans
    steps = []
    done = label([folder], tmp_path / "out", progress=lambda *step: steps.append(step))
    assert [one.case for one in done] == ["one", "two"]
    assert steps == [(1, 2), (2, 2)]
    one = labels_of(tmp_path / "out", "one")
    unknown = np.zeros_like(one, bool)
    unknown[8:14, 6:13, 19:24] = True
    np.testing.assert_array_equal(one == UNKNOWN_ID, unknown)
    np.testing.assert_array_equal(one[~unknown], truth["one"][~unknown])
    np.testing.assert_array_equal(labels_of(tmp_path / "out", "two"), truth["two"])
    assert {path.name for path in (tmp_path / "out" / "pictures").iterdir()} == {"one.png", "two.png"}
    np.testing.assert_array_equal(
        read_scan(tmp_path / "out" / "imagesTr" / "one_0000.nii.gz").array, read_scan(folder / "one.nii.gz").array
    )
    with (tmp_path / "out" / "findings.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == "two"]
    assert [row["name"] for row in rows] == ["Spleen", "Right Kidney", "Left Kidney", "Liver"]
    assert all(float(row["agreeing"]) == 1 for row in rows)


def test_the_data_set_can_be_prepared_and_its_unknown_voxels_stay_unknown(scans, tmp_path):
    folder, truth = scans
    table = tmp_path / "known.csv"
    table.write_text("case,healthy,drop\none,liver,\ntwo,,left kidney\n")
    label([folder], tmp_path / "out", table=table)
    found = choose_datasets(tmp_path / "out")
    prepared = prepare(found, tmp_path / "store", SETTINGS)
    assert not [one for each in prepared.datasets for one in each.left_out]
    one, two = Store.open(tmp_path / "store").cases()
    for stored, name in ((one, "one"), (two, "two")):
        count = np.count_nonzero(truth[name] == LIVER)
        assert stored.record.voxels[LIVER] == pytest.approx(count, rel=0.02)
        assert stored.record.case == name
    unknown = one.unknown_codes[one.codes[:]]
    assert np.count_nonzero(unknown) == pytest.approx(6 * 7 * 5, rel=0.2)
    assert two.unknown_codes[two.codes[:]].sum() == pytest.approx(np.count_nonzero(truth["two"] == LEFT), rel=0.02)
    assert {RIGHT, LEFT, SPLEEN, LIVER} <= set(one.record.annotated)
    assert LEFT not in two.record.annotated
    assert not {kind.id for kind in TUMORS} & {*one.record.annotated, *two.record.annotated}
    assert one.record.absent == (LIVER_TUMOR,)
    assert two.record.absent == ()


def test_labels_that_are_given_win_and_tell_of_tumors(scans, tmp_path):
    folder, truth = scans
    given = np.zeros_like(truth["two"])
    given[22:33, 15:25, 18:26] = 1
    given[24:28, 17:21, 20:24] = 2
    save(tmp_path / "given.nii.gz", given)
    table = tmp_path / "known.csv"
    table.write_text('case,labels,names\ntwo,given.nii.gz,"1=liver,2=liver tumor"\n')
    done = label([folder], tmp_path / "out", table=table)
    two = labels_of(tmp_path / "out", "two")
    np.testing.assert_array_equal(two == LIVER, given == 1)
    np.testing.assert_array_equal(two == LIVER_TUMOR, given == 2)
    np.testing.assert_array_equal(two == UNKNOWN_ID, (truth["two"] == LIVER) & (given == 0))
    assert "Liver Tumor" not in done[1].unlabelled
    assert "Liver Tumor" in done[0].unlabelled
    assert next(one for one in done[1].organs if one.name == "Liver").given


def test_a_run_goes_on_where_it_was_and_does_again_what_is_known_otherwise_now(scans, tmp_path):
    folder, _ = scans
    label([folder], tmp_path / "out")
    files = {case: tmp_path / "out" / "labelsTr" / f"{case}.nii.gz" for case in ("one", "two")}
    made = {case: path.stat().st_mtime_ns for case, path in files.items()}
    again = label([folder], tmp_path / "out")
    assert all(isinstance(one, Labelled) for one in again)
    assert {case: path.stat().st_mtime_ns for case, path in files.items()} == made
    table = tmp_path / "known.csv"
    table.write_text("case,drop\ntwo,spleen\n")
    label([folder], tmp_path / "out", table=table)
    assert files["one"].stat().st_mtime_ns == made["one"]
    assert files["two"].stat().st_mtime_ns > made["two"]
    assert SPLEEN not in labels_of(tmp_path / "out", "two")
    index = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert "Spleen" in index["dsmseg"]["unlabelled"]["two"]
    assert index["labels"]["ignore"] == len(CLASSES) + 1 == max(index["labels"].values())


def test_a_scan_that_cannot_be_read_does_not_stop_the_others(scans, tmp_path):
    folder, _ = scans
    content = (folder / "one.nii.gz").read_bytes()
    os.remove(folder / "one.nii.gz")
    (folder / "one.nii.gz").write_bytes(content[: len(content) // 2])
    first, second = label([folder], tmp_path / "out")
    assert isinstance(first, Failure)
    assert "one.nii.gz" in first.why
    assert isinstance(second, Labelled)


def test_an_organ_that_the_scan_cannot_show_is_known_to_be_absent_and_one_that_it_may_show_is_not(scans, tmp_path):
    folder, _ = scans
    (one, _) = label([folder], tmp_path / "out")
    assert "Bladder" not in one.unlabelled  # 220 mm below the kidneys; the scan ends 50 mm below them
    assert "Pancreas" in one.unlabelled


def test_the_command_labels_with_the_packaged_weights(tmp_path):
    hu, _ = small_body(3)
    save(tmp_path / "scans" / "body.nii.gz", hu)
    run = CliRunner().invoke(
        app, ["datasets", "pseudo-label", str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "--json"]
    )
    assert run.exit_code == 0, run.output
    (case,) = json.loads(run.stdout)["cases"]
    assert case["case"] == "body"
    assert labels_of(tmp_path / "out", "body").shape == hu.shape


def test_the_command_tells_what_it_cannot_read_and_ends_with_the_code_of_the_caller_s_mistakes(scans, tmp_path):
    folder, _ = scans
    (folder / "one.nii.gz").write_bytes(b"nothing")
    run = CliRunner().invoke(app, ["datasets", "pseudo-label", str(folder), "-o", str(tmp_path / "out")])
    assert run.exit_code == 2
    assert "one.nii.gz" in run.stderr
    assert "two" in run.stdout
