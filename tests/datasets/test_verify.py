"""Each fault that a data set can have is told, and only that one, with the case and how to mend it."""

import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import native_trees as native
import nibabel
import numpy as np
import pydicom
import pytest
from native_trees import BTCV, SIDES, Body

from dsmseg.datasets import Check, Finding, Settings, Store, choose_datasets, prepare, published_cases, verify
from dsmseg.datasets.verification import content

SETTINGS = Settings(spacing_mm=(4.0, 4.0, 4.0))
SOUND, FAULTY = "0001", "0002"


def check_lines(findings: Iterable[Finding]) -> None:
    """Check that each finding is one line: data set, case, check, what was found, how to mend it."""
    for finding in findings:
        place = finding.dataset if finding.case is None else f"{finding.dataset} {finding.case}"
        assert finding.line.startswith(f"{place}: {finding.check}: ")
        assert "\n" not in finding.line
        assert finding.line.endswith(".")
        assert ".." not in finding.line.replace("...", "").replace("../", "")
        assert finding.mend
        assert finding.check in get_args(Check)


def findings_of(folder: Path, **options) -> list[Finding]:
    verified = verify(folder, choose_datasets(folder), **options)
    findings = [finding for one in verified for finding in one.findings]
    check_lines(findings)
    return findings


def keys(findings: Iterable[Finding]) -> list[tuple[str, str | None, str]]:
    return [(finding.dataset, finding.case, finding.check) for finding in findings]


def the_only(findings: Sequence[Finding], dataset: str, case: str | None, check: Check) -> Finding:
    assert keys(findings) == [(dataset, case, check)], [finding.line for finding in findings]
    return findings[0]


def person(*words: object, region: str = "abdomen") -> Body:
    return native.make_body(native.seed_of(*words), region)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Give a tree of BTCV with two patients, which nobody changes."""
    folder = tmp_path_factory.mktemp("clean")
    native.write_btcv(folder, {case: person("btcv", case) for case in (SOUND, FAULTY)})
    return folder


@pytest.fixture
def tree(clean, tmp_path):
    """Give a copy of the clean tree, to plant faults in."""
    shutil.copytree(clean, tmp_path / "tree")
    return tmp_path / "tree"


def image_of(folder: Path, case: str = FAULTY) -> Path:
    return folder / "RawData" / "Training" / "img" / f"img{case}.nii.gz"


def labels_of(folder: Path, case: str = FAULTY) -> Path:
    return folder / "RawData" / "Training" / "label" / f"label{case}.nii.gz"


# --- faults of one case, in files or voxels --------------------------------------------------------------------------


def rewritten(change: Callable[[Body], Body]) -> Callable[[Path], None]:
    """Write the faulty case anew, as if the patient were another."""
    return lambda folder: native.write_btcv(folder, {FAULTY: change(person("btcv", FAULTY))}) and None


def relabelled(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Callable[[Path], None]:
    """Change voxels and affine of the label file of the faulty case."""

    def plant(folder: Path) -> None:
        image = nibabel.load(labels_of(folder))
        array, affine = change(image.get_fdata().astype(np.uint8), image.affine.copy())
        native.save_as_is(labels_of(folder), array, affine, "uint8")

    return plant


def shifted(mm: Sequence[float]) -> Callable[[Path], None]:
    def change(array, affine):
        affine[:3, 3] += mm
        return array, affine

    return relabelled(change)


def with_exchanged(one: str, other: str) -> Callable[[Body], Body]:
    return lambda body: body.with_mask(one, body.masks[other]).with_mask(other, body.masks[one])


def with_hu(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Body], Body]:
    return lambda body: replace(body, hu=np.rint(change(body.hu.astype(float))).astype(np.int16))


def _padded_raw_values(hu: np.ndarray) -> np.ndarray:
    """Give what a scanner stores: HU + 1024 within its round field of view, -2000 around it."""
    x, y, _ = np.ogrid[tuple(slice(-1, 1, complex(size)) for size in hu.shape)]
    return np.where(x**2 + y**2 < 1.15, hu + 1024, -2000)


def cut_short(path_of: Callable[[Path], Path]) -> Callable[[Path], None]:
    """Cut off the end of a file: its header stays whole."""

    def plant(folder: Path) -> None:
        content = path_of(folder).read_bytes()
        path_of(folder).write_bytes(content[: int(0.7 * len(content))])

    return plant


def replaced(path_of: Callable[[Path], Path], content: bytes) -> Callable[[Path], None]:
    return lambda folder: path_of(folder).write_bytes(content) and None


def broken_link(folder: Path) -> None:
    image_of(folder).unlink()
    image_of(folder).symlink_to("/nowhere/img.nii.gz")


@dataclass(frozen=True)
class Fault:
    check: Check
    plant: Callable[[Path], None]
    words: str  # that the finding says
    in_headers: bool = False


FAULTS = {
    "labels that lie 30 mm off": Fault("grid", shifted((0, 0, 30)), "30.0 mm off", in_headers=True),
    "labels that lie one voxel off": Fault("grid", shifted((4.5, 0, 0)), "4.5 mm off", in_headers=True),
    "labels of another size": Fault(
        "grid", relabelled(lambda array, affine: (array[:-3], affine)), "voxels", in_headers=True
    ),
    "labels that are mirrored by their header": Fault(
        "grid", relabelled(lambda array, affine: (array, affine @ np.diag([-1, 1, 1, 1]))), "mm off", in_headers=True
    ),
    "an id that the data set does not have": Fault(
        "labels", relabelled(lambda array, affine: (np.where(array == 7, 99, array), affine)), "hold 99"
    ),
    "two ids that the data set does not have": Fault(
        "labels",
        relabelled(lambda array, affine: (np.where(array == 7, 14, np.where(array == 4, 200, array)), affine)),
        "14, 200",
    ),
    "empty labels": Fault("empty", relabelled(lambda array, affine: (0 * array, affine)), "empty"),
    "raw values with padding": Fault("intensities", rewritten(with_hu(_padded_raw_values)), "HU"),
    "raw values without padding": Fault(
        "intensities", rewritten(with_hu(lambda hu: hu + 1024)), "not Hounsfield units"
    ),
    "values between 0 and 1, times 255": Fault(
        "intensities", rewritten(with_hu(lambda hu: np.clip((hu + 160) / 400, 0, 1) * 255)), "scaled for display"
    ),
    "a tenth of HU": Fault("intensities", rewritten(with_hu(lambda hu: hu / 10)), "not Hounsfield units"),
    "three times HU": Fault("intensities", rewritten(with_hu(lambda hu: 3 * hu)), "HU"),
    "HU with the sign turned": Fault("intensities", rewritten(with_hu(lambda hu: -hu)), "HU"),
    "left and right exchanged": Fault("orientation", rewritten(lambda body: body.mirrored(0)), "left and right"),
    "front and back exchanged": Fault("orientation", rewritten(lambda body: body.mirrored(1)), "front and back"),
    "a patient upside down": Fault("orientation", rewritten(lambda body: body.mirrored(2)), "top and bottom"),
    "kidneys exchanged": Fault("orientation", rewritten(with_exchanged(*SIDES["kidneys"])), "Right Kidney"),
    "adrenal glands exchanged": Fault("orientation", rewritten(with_exchanged(*SIDES["adrenal"])), "Right Adrenal"),
    "an image that is cut short": Fault("unreadable", cut_short(image_of), "img0002"),
    "labels that are cut short": Fault("unreadable", cut_short(labels_of), "label0002"),
    "a link to an image that is gone": Fault("unreadable", broken_link, "img0002", in_headers=True),
    "an empty file as image": Fault("unreadable", replaced(image_of, b""), "img0002", in_headers=True),
    "a page of HTML as image": Fault("unreadable", replaced(image_of, b"<html>404</html>"), "img0002", in_headers=True),
    "a page of HTML as labels": Fault(
        "unreadable", replaced(labels_of, gzip.compress(b"<html>404</html>")), "label0002", in_headers=True
    ),
}
every_fault = pytest.mark.parametrize("name", FAULTS)


def test_a_clean_tree_has_nothing_to_find(tree):
    (verified,) = verify(tree, choose_datasets(tree))
    assert verified.findings == ()
    assert verified.copies == ()
    assert (verified.name, verified.cases, verified.published) == ("btcv", 2, 30)


@every_fault
def test_a_fault_is_told_with_its_case_and_nothing_else_is(tree, name):
    fault = FAULTS[name]
    fault.plant(tree)
    finding = the_only(findings_of(tree), "btcv", FAULTY, fault.check)
    assert fault.words in finding.what


@every_fault
def test_headers_alone_tell_just_the_faults_of_headers(tree, name):
    fault = FAULTS[name]
    fault.plant(tree)
    assert keys(findings_of(tree, headers_only=True)) == ([("btcv", FAULTY, fault.check)] if fault.in_headers else [])


@every_fault
def test_a_case_with_a_fault_is_left_out_of_the_store_for_it_and_the_others_are_not(tree, tmp_path, name):
    fault = FAULTS[name]
    fault.plant(tree)
    (prepared,) = prepare(choose_datasets(tree), tmp_path / "store", SETTINGS).datasets
    check_lines(prepared.left_out)
    the_only(prepared.left_out, "btcv", FAULTY, fault.check)
    assert prepared.written == (SOUND,)
    assert [one.key for one in Store.open(tmp_path / "store").cases()] == [("btcv", SOUND)]


@pytest.mark.parametrize(
    "name",
    ["an id that the data set does not have", "empty labels", "left and right exchanged", "raw values with padding"],
)
def test_a_case_is_taken_in_spite_of_a_check_that_is_accepted_and_says_so(tree, tmp_path, name):
    fault = FAULTS[name]
    fault.plant(tree)
    prepare(choose_datasets(tree), tmp_path / "store", SETTINGS, accept=[fault.check])
    accepted = {one.record.case: one.record.accepted for one in Store.open(tmp_path / "store").cases()}
    assert accepted[SOUND] == ()
    (line,) = accepted[FAULTY]
    assert line.startswith(f"btcv {FAULTY}: {fault.check}: ")
    assert fault.words in line


def test_several_faults_of_a_tree_are_all_told(tree):
    FAULTS["empty labels"].plant(tree)
    image = nibabel.load(labels_of(tree, SOUND))
    array = image.get_fdata()
    array[array == 7] = 99
    native.save_as_is(labels_of(tree, SOUND), array, image.affine, "uint8")
    native.write_btcv(tree, {"0003": person("btcv", "0003").mirrored(0)})
    assert sorted(keys(findings_of(tree)), key=str) == [
        ("btcv", SOUND, "labels"),
        ("btcv", FAULTY, "empty"),
        ("btcv", "0003", "orientation"),
    ]


def test_workers_find_what_one_process_finds(tree):
    FAULTS["left and right exchanged"].plant(tree)
    found = choose_datasets(tree)
    assert verify(tree, found, workers=2) == verify(tree, found, workers=1)


def test_progress_counts_to_the_end(tree):
    told = []
    verify(tree, choose_datasets(tree), progress=lambda *step: told.append(step))
    assert [step for step in told if step[0] == "headers"][-1] == ("headers", 2, 2)
    assert [step for step in told if step[0] == "voxels"] == [("voxels", 1, 2), ("voxels", 2, 2)]
    told.clear()
    verify(tree, choose_datasets(tree), headers_only=True, progress=lambda *step: told.append(step))
    assert {step[0] for step in told} == {"headers"}


@pytest.mark.parametrize("what", ["two\nlines", "tabs\tand  spaces\r\n"])
def test_a_finding_is_one_line_whatever_it_tells(what):
    line = Finding("btcv", "0001", "unreadable", what, "Look\nat it.").line
    assert "\n" not in line
    assert "  " not in line


# --- which cases are there -------------------------------------------------------------------------------------------


def many(clean: Path, folder: Path, cases: Iterable[str]) -> Path:
    """Fill a tree with the files of one patient under many names; only their headers will be read."""
    for path_of in (image_of, labels_of):
        for case in cases:
            path_of(folder, case).parent.mkdir(parents=True, exist_ok=True)
            os.link(path_of(clean, SOUND), path_of(folder, case))
    return folder


@pytest.mark.parametrize(
    "missing", [["0022"], ["0003", "0040"], ["0001", "0002", "0003", "0004", "0005", "0006", "0007"]]
)
def test_published_cases_that_are_not_there_are_told(clean, tmp_path, missing):
    folder = many(clean, tmp_path, [case for case in published_cases("btcv") if case not in missing])
    finding = the_only(findings_of(folder, headers_only=True), "btcv", None, "count")
    assert f"{30 - len(missing)} of 30" in finding.what
    assert all(case in finding.what for case in missing[:6])
    assert "synapse" in finding.mend


def test_a_whole_data_set_lacks_nothing_and_a_small_part_is_taken_as_one_on_purpose(clean, tmp_path):
    published = published_cases("btcv")
    assert findings_of(many(clean, tmp_path / "whole", published), headers_only=True) == []
    assert findings_of(many(clean, tmp_path / "part", published[:14]), headers_only=True) == []


def test_a_case_that_dataset_json_lists_and_that_is_not_there_is_told(tmp_path):
    native.write_msd(tmp_path, "msd_spleen", {case: person(case) for case in ("spleen_2", "spleen_10")})
    assert findings_of(tmp_path, headers_only=True) == []
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / "Task09_Spleen" / part / "spleen_10.nii.gz").unlink()
    finding = the_only(findings_of(tmp_path), "msd_spleen", "spleen_10", "count")
    assert "dataset.json" in finding.what


@pytest.mark.parametrize("content", ["{", "[]", '{"training": 3}', '{"training": [{}]}', "\xff", "null"])
def test_a_dataset_json_that_is_not_understood_is_passed_over(tmp_path, content):
    native.write_msd(tmp_path, "msd_spleen", {"spleen_2": person("spleen_2")})
    (tmp_path / "Task09_Spleen" / "dataset.json").write_text(content, encoding="latin-1")
    assert findings_of(tmp_path, headers_only=True) == []


@pytest.mark.parametrize("as_objects", [True, False])
def test_cases_in_dataset_json_are_known_however_they_are_written(tmp_path, as_objects):
    native.write_msd(tmp_path, "msd_colon", {"colon_001": person("colon_001")})
    paths = [f"./imagesTr/{case}.nii.gz" for case in ("colon_001", "colon_005")]
    training = [{"image": path, "label": path.replace("images", "labels")} for path in paths] if as_objects else paths
    (tmp_path / "Task10_Colon" / "dataset.json").write_text(json.dumps({"training": training}), encoding="utf-8")
    the_only(findings_of(tmp_path, headers_only=True), "msd_colon", "colon_005", "count")


@pytest.mark.parametrize(("removed", "words"), [(image_of, "no image"), (labels_of, "no labels")])
def test_half_a_case_is_told_with_where_the_other_half_belongs(tree, removed, words):
    removed(tree).unlink()
    finding = the_only(findings_of(tree), "btcv", FAULTY, "layout")
    assert words in finding.what
    assert "img0002" in finding.line
    assert "label0002" in finding.line


def test_a_case_that_is_there_twice_is_told_with_both_places(tree):
    other = tree / "copy" / "imagesTr" / "img0002.nii.gz"
    other.parent.mkdir(parents=True)
    shutil.copy(image_of(tree), other)
    finding = the_only(findings_of(tree), "btcv", FAULTY, "layout")
    assert "more than once" in finding.what
    assert {str(other), str(image_of(tree))} & set(finding.what.replace(",", " ").split())


def test_an_archive_that_was_unpacked_into_itself_is_told(tmp_path):
    native.write_abdomenct_1k(tmp_path, {"Case_00001": person("Case_00001")})
    part = tmp_path / "AbdomenCT-1K-ImagePart1"
    (part / "Case_00010_0000.nii.gz").unlink()
    shutil.copytree(part, part / part.name)
    the_only(findings_of(tmp_path), "abdomenct_1k", "Case_00001", "layout")


def test_a_structure_that_one_case_lacks_and_the_others_have_is_told(tmp_path):
    bodies = {case: person(case) for case in ("s0011", "s0012", "s0013")}
    native.write_totalsegmentator(tmp_path, bodies, version=2)
    (lacking,) = tmp_path.glob("*/s0012/segmentations")
    (lacking / "spleen.nii.gz").unlink()
    (lacking / "heart.nii.gz").unlink()  # which no class needs
    finding = the_only(findings_of(tmp_path), "totalsegmentator", "s0012", "layout")
    assert "spleen" in finding.what
    assert "heart" not in finding.what


def test_a_withdrawn_case_is_told_and_not_prepared(tmp_path):
    native.write_pancreas_ct(tmp_path, {case: person("pancreas", case) for case in ("0002", "0025")})
    finding = the_only(findings_of(tmp_path), "pancreas_ct", "0025", "withdrawn")
    assert "0002" in finding.what
    (prepared,) = prepare(choose_datasets(tmp_path), tmp_path / "store", SETTINGS).datasets
    assert prepared.written == ("0002",)
    the_only(prepared.left_out, "pancreas_ct", "0025", "withdrawn")


# --- faults of single data sets --------------------------------------------------------------------------------------


def test_a_header_that_lost_the_voxel_size_is_told(tmp_path):
    native.write_lits(tmp_path, {"27": person("27")})
    thin = native.make_body(5, "abdomen")
    height = int(np.argwhere(thin.masks["Liver"])[:, 2].mean())
    across = [np.linspace(0, size - 1, 512).round().astype(int) for size in thin.shape[:2]]
    box = np.ix_(*across, np.arange(height - 9, height + 9))
    lost = Body(thin.hu[box], np.eye(4), {name: mask[box] for name, mask in thin.masks.items()})
    native.write_lits(tmp_path, {"28": lost}, ["RAS"])
    finding = the_only(findings_of(tmp_path), "lits", "28", "spacing")
    assert "1 x 1 x 1 mm" in finding.what
    the_only(findings_of(tmp_path, headers_only=True), "lits", "28", "spacing")


@pytest.mark.parametrize("lies", ["elsewhere", "with axes in other directions"])
def test_lits_labels_with_another_header_are_told_once_and_prepared_where_they_belong(tmp_path, lies):
    body = person("lits")
    native.write_lits(tmp_path, {"3": body}, ["LPS"])
    (path,) = tmp_path.rglob("segmentation-3.nii")
    image = nibabel.load(path)
    affine = np.diag([*native.SPACING, 1.0])
    if lies == "elsewhere":
        affine = image.affine.copy()
        affine[:3, 3] += 40
    native.save_as_is(path, image.get_fdata(), affine, "uint8")
    finding = the_only(findings_of(tmp_path), "lits", "3", "grid")
    assert "header" in finding.mend
    (prepared,) = prepare(choose_datasets(tmp_path), tmp_path / "store", SETTINGS).datasets
    assert prepared.written == ("3",)
    (stored,) = Store.open(tmp_path / "store").cases()
    assert stored.record.placing == ("axes" if lies == "elsewhere" else "voxels")
    (line,) = stored.record.accepted
    assert line.startswith("lits 3: grid: ")
    places = native.centroid(stored.mask(6), np.array(stored.record.affine))
    assert places == pytest.approx(body.center("Liver"), abs=3)


def test_masks_of_one_case_that_all_lie_off_its_image_are_one_finding(tmp_path):
    bodies = {case: person(case) for case in ("s0011", "s0012")}
    native.write_totalsegmentator(tmp_path, bodies, version=2)
    for path in tmp_path.glob("*/s0012/segmentations/*.nii.gz"):
        image = nibabel.load(path)
        affine = image.affine.copy()
        affine[:3, 3] += 2
        native.save_as_is(path, image.get_fdata(), affine, "uint8")
    the_only(findings_of(tmp_path), "totalsegmentator", "s0012", "grid")


def test_a_stack_of_png_that_lacks_a_slice_is_told(tmp_path):
    native.write_chaos(tmp_path, {case: person("chaos", case) for case in ("1", "2")})
    next(tmp_path.rglob("CT/2/Ground/liver_GT_003.png")).unlink()
    finding = the_only(findings_of(tmp_path), "chaos", "2", "grid")
    assert "voxels" in finding.what


def test_a_png_that_is_damaged_is_told(tmp_path):
    native.write_chaos(tmp_path, {case: person("chaos", case) for case in ("1", "2")})
    next(tmp_path.rglob("CT/2/Ground/liver_GT_003.png")).write_bytes(b"no picture")
    finding = the_only(findings_of(tmp_path), "chaos", "2", "unreadable")
    assert "liver_GT_003" in finding.what


def test_a_stack_of_black_png_is_empty(tmp_path):
    bodies = {case: person("chaos", case) for case in ("1", "2")}
    native.write_chaos(tmp_path, bodies)
    nothing = native.in_order(np.zeros(bodies["2"].shape, bool), bodies["2"].affine, "LPI")[0]
    native.write_png_stack(next(tmp_path.rglob("CT/2/Ground")), nothing)
    the_only(findings_of(tmp_path), "chaos", "2", "empty")


def test_a_series_that_is_no_ct_is_told(tmp_path):
    native.write_chaos(tmp_path, {case: person("chaos", case) for case in ("1", "2")})
    for path in next(tmp_path.rglob("CT/2/DICOM_anon")).iterdir():
        slice_ = pydicom.dcmread(path)
        slice_.Modality = "MR"
        slice_.save_as(path)
    finding = the_only(findings_of(tmp_path), "chaos", "2", "unreadable")
    assert "MR" in finding.what


def test_a_series_that_lacks_a_slice_is_told(tmp_path):
    native.write_pancreas_ct(tmp_path, {case: person("pancreas", case) for case in ("0001", "0002")})
    next(tmp_path.rglob("PANCREAS_0002/*/*/1-020.dcm")).unlink()
    finding = the_only(findings_of(tmp_path), "pancreas_ct", "0002", "unreadable")
    assert "missing slices" in finding.what


def test_labels_of_another_series_are_told(tmp_path):
    native.write_pancreas_ct(tmp_path, {case: person("pancreas", case) for case in ("0001", "0002")})
    (path,) = tmp_path.rglob("label0002.nii.gz")
    shutil.copy(path.with_name("label0001.nii.gz"), path)
    the_only(findings_of(tmp_path), "pancreas_ct", "0002", "grid")


def test_structures_that_are_all_empty_are_told(tmp_path):
    bodies = {case: person(case) for case in ("s0011", "s0012")}
    bodies["s0012"] = replace(
        bodies["s0012"], masks={name: np.zeros_like(mask) for name, mask in bodies["s0012"].masks.items()}
    )
    native.write_totalsegmentator(tmp_path, bodies, version=2)
    the_only(findings_of(tmp_path), "totalsegmentator", "s0012", "empty")


# --- mirrored patients -----------------------------------------------------------------------------------------------

WRITERS: dict[str, tuple[str, Callable[[Path, Body], object]]] = {
    "btcv": ("abdomen", lambda root, body: native.write_btcv(root, {"0001": body})),
    "chaos": ("abdomen", lambda root, body: native.write_chaos(root, {"1": body})),
    "pancreas_ct": ("abdomen", lambda root, body: native.write_pancreas_ct(root, {"0001": body})),
    "ct_org": ("abdomen", lambda root, body: native.write_ct_org(root, {"0": body})),
    "word": ("trunk", lambda root, body: native.write_word(root, {"word_0001": body})),
    "amos22": ("abdomen", lambda root, body: native.write_amos22(root, {"amos_0001": body})),
    "totalsegmentator": ("chest", lambda root, body: native.write_totalsegmentator(root, {"s0011": body}, 2)),
    "abdomenct_1k": ("abdomen", lambda root, body: native.write_abdomenct_1k(root, {"Case_00001": body})),
    "lits": ("abdomen", lambda root, body: native.write_lits(root, {"0": body})),
    "kits19": ("abdomen", lambda root, body: native.write_kits19(root, {"case_00000": body})),
    "msd_liver": ("abdomen", lambda root, body: native.write_msd(root, "msd_liver", {"liver_0": body})),
    "msd_lung": ("chest", lambda root, body: native.write_msd(root, "msd_lung", {"lung_001": body})),
    "msd_pancreas": ("abdomen", lambda root, body: native.write_msd(root, "msd_pancreas", {"pancreas_001": body})),
    "msd_hepatic_vessel": (
        "abdomen",
        lambda root, body: native.write_msd(root, "msd_hepatic_vessel", {"hepaticvessel_001": body}),
    ),
    "msd_spleen": ("abdomen", lambda root, body: native.write_msd(root, "msd_spleen", {"spleen_2": body})),
    "msd_colon": ("abdomen", lambda root, body: native.write_msd(root, "msd_colon", {"colon_001": body})),
}
# Of what these annotate nothing lies to one side for certain.
MIDDLE_ONLY = ("pancreas_ct", "kits19", "msd_lung", "msd_pancreas", "msd_colon")


def mirrored_findings(folder: Path, dataset: str, seed: int, *axes: int) -> list[Finding]:
    region, write = WRITERS[dataset]
    write(folder, native.make_body(seed, region).mirrored(*axes))
    findings = findings_of(folder)
    assert {finding.check for finding in findings} <= {"orientation"}
    return findings


@pytest.mark.parametrize("dataset", WRITERS)
def test_a_patient_turned_by_half_about_the_long_axis_is_told_in_every_data_set(tmp_path, dataset):
    told = " ".join(finding.what for finding in mirrored_findings(tmp_path, dataset, 500, 0, 1))
    assert "front and back" in told
    assert ("left and right" in told) == (dataset not in MIDDLE_ONLY)


@pytest.mark.parametrize("dataset", [name for name in WRITERS if name not in MIDDLE_ONLY])
def test_a_mirrored_patient_is_told_wherever_an_organ_has_its_side(tmp_path, dataset):
    (finding,) = mirrored_findings(tmp_path, dataset, 501, 0)
    assert finding.what.startswith("left and right are exchanged")


@pytest.mark.parametrize("seed", [502, 503])
@pytest.mark.parametrize("dataset", ["btcv", "word", "amos22", "totalsegmentator", "abdomenct_1k"])
def test_a_patient_upside_down_is_told_wherever_organs_lie_above_each_other(tmp_path, dataset, seed):
    (finding,) = mirrored_findings(tmp_path, dataset, seed, 2)
    assert finding.what.startswith("top and bottom are exchanged")


@pytest.mark.parametrize(
    "without", [(), SIDES["kidneys"], ("Spleen",), ("Liver",), ("Spleen", "Left Kidney", "Stomach")]
)
@pytest.mark.parametrize("dataset", ["btcv", "abdomenct_1k", "ct_org"])
def test_a_patient_who_lacks_organs_is_no_fault(tmp_path, dataset, without):
    region, write = WRITERS[dataset]
    write(tmp_path, native.make_body(505, region, without=without))
    assert findings_of(tmp_path) == []


# --- the same scan twice ---------------------------------------------------------------------------------------------


def test_a_scan_that_is_there_twice_is_told_though_it_was_turned_and_resampled(tree):
    body = person("btcv", SOUND)
    native.write_btcv(tree, {FAULTY: body.resampled((1.3, 0.8, 0.9)).tilted((4, 0, 3))}, axes="PIR")
    finding = the_only(findings_of(tree), "btcv", SOUND, "duplicate")
    assert f"btcv/{FAULTY}" in finding.what
    (verified,) = verify(tree, choose_datasets(tree))
    ((first, second, likeness),) = verified.copies
    assert (first, second) == (f"btcv/{SOUND}", f"btcv/{FAULTY}")
    assert likeness > 0.97


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_a_scan_that_is_there_twice_is_told_though_it_was_mirrored(tree, axes):
    native.write_btcv(tree, {FAULTY: person("btcv", SOUND).mirrored(*axes).resampled((0.9, 1.2, 1.1))})
    found = keys(findings_of(tree))
    assert found[0] == ("btcv", SOUND, "duplicate")
    assert set(found[1:]) == {("btcv", FAULTY, "orientation")}


def test_headers_alone_do_not_tell_duplicates(tree):
    shutil.copy(image_of(tree, SOUND), image_of(tree))
    shutil.copy(labels_of(tree, SOUND), labels_of(tree))
    the_only(findings_of(tree), "btcv", SOUND, "duplicate")
    assert findings_of(tree, headers_only=True) == []


def test_a_scan_that_two_data_sets_hold_is_told_of_one_of_them(tree):
    native.write_pancreas_ct(tree, {"0009": person("btcv", SOUND)})
    finding = the_only(findings_of(tree), "btcv", SOUND, "duplicate")
    assert "pancreas_ct/0009" in finding.what


@pytest.mark.parametrize("structure", ["Gall Bladder", "Aorta", "Right Kidney"])
def test_a_few_stray_voxels_of_a_structure_do_not_make_a_scan_one_without_hu(tree, tmp_path, structure):
    body = person("btcv", FAULTY)
    stray = np.zeros(body.shape, bool)
    x, y, z = np.argwhere(body.masks["Left Lung"])[-1]
    stray[x, y, z] = True
    native.write_btcv(tree, {FAULTY: body.with_mask(structure, stray)})
    assert findings_of(tree) == []
    (prepared,) = prepare(choose_datasets(tree), tmp_path / "store", SETTINGS).datasets
    assert prepared.left_out == ()


def copies_of(folder: Path) -> dict[str, set[tuple[str, str]]]:
    verified = verify(folder, choose_datasets(folder))
    assert [finding.line for one in verified for finding in one.findings] == []
    return {one.name: {pair[:2] for pair in one.copies} for one in verified}


def test_a_copy_that_is_declared_is_told_and_is_no_fault(tmp_path):
    body = person("lits", 3)
    native.write_lits(tmp_path / "LiTS", {"3": body, "4": person("lits", 4)})
    native.write_ct_org(tmp_path / "CT-ORG", {"3": body, "131": person("ct_org", 131)}, ["RPI"])
    pair = ("ct_org/3", "lits/3")
    assert copies_of(tmp_path) == {"ct_org": {pair}, "lits": {pair}}
    prepared = prepare(choose_datasets(tmp_path), tmp_path / "store", SETTINGS)
    assert {one.name: one.written for one in prepared.datasets} == {"ct_org": ("3", "131"), "lits": ("3", "4")}
    assert [one[:2] for one in prepared.copies] == [pair]


def test_a_copy_under_another_id_than_the_declared_one_is_told(tmp_path):
    body = person("lits", 7)
    native.write_lits(tmp_path / "LiTS", {"7": body})
    native.write_ct_org(tmp_path / "CT-ORG", {"5": body})
    finding = the_only(findings_of(tmp_path), "ct_org", "5", "duplicate")
    assert "lits/7" in finding.what


def test_a_copy_that_is_declared_by_content_is_no_fault(tmp_path):
    body = person("pancreas_001")
    native.write_msd(tmp_path / "MSD", "msd_pancreas", {"pancreas_001": body})
    native.write_abdomenct_1k(tmp_path / "A1K", {"Case_00500": body})
    assert copies_of(tmp_path)["abdomenct_1k"] == {("abdomenct_1k/Case_00500", "msd_pancreas/pancreas_001")}


def test_two_data_sets_that_both_hold_a_third_share_its_scans_without_fault(tmp_path):
    body = person("lits", 3)
    native.write_ct_org(tmp_path / "CT-ORG", {"3": body})
    native.write_msd(tmp_path / "MSD", "msd_liver", {"liver_3": body})
    native.write_abdomenct_1k(tmp_path / "A1K", {"Case_00500": body})
    names = {"abdomenct_1k/Case_00500", "ct_org/3", "msd_liver/liver_3"}
    assert set().union(*(set(pair) for pairs in copies_of(tmp_path).values() for pair in pairs)) == names


# --- several data sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers_only", [True, False])
def test_a_finding_belongs_to_its_data_set(tree, headers_only):
    native.write_pancreas_ct(tree, {"0002": person("pancreas", 2)})
    FAULTS["labels that lie 30 mm off"].plant(tree)
    verified = verify(tree, choose_datasets(tree), headers_only=headers_only)
    assert {one.name: keys(one.findings) for one in verified} == {
        "btcv": [("btcv", FAULTY, "grid")],
        "pancreas_ct": [],
    }


def test_a_fault_does_not_hide_the_same_fault_of_another_data_sets_case_with_the_same_id(tree):
    native.write_pancreas_ct(tree, {FAULTY: person("pancreas", 2)})
    FAULTS["an empty file as image"].plant(tree)
    (path,) = tree.rglob("TCIA*/label0002.nii.gz")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert sorted(keys(findings_of(tree))) == [
        ("btcv", FAULTY, "unreadable"),
        ("pancreas_ct", FAULTY, "unreadable"),
    ]


def test_every_check_has_its_fault_in_these_tests():
    planted = {fault.check for fault in FAULTS.values()}
    assert set(get_args(Check)) == planted | {"count", "layout", "withdrawn", "spacing", "duplicate"}
    assert len(BTCV) == 13


def test_bowel_full_of_contrast_is_no_spine_in_front():
    x, y = np.mgrid[0:80, 0:80]
    mask = np.repeat(((x - 39.5) ** 2 / 35**2 + (y - 39.5) ** 2 / 28**2 < 1)[:, :, None], 20, axis=2)
    hu = np.where(mask, 40.0, -1000.0).astype(np.float32)
    hu[35:45, 14:24] = 400  # the spine, at the back
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    body = content.Body(mask, None, flanks=False)
    assert content._spine_in_front(hu[:, ::-1], body, affine) > 50
    hu[30:50, 50:62, :14] = 450  # drunk contrast: dense things lie 15 mm in front of the middle
    assert content._spine_in_front(hu, body, affine) is None


def test_kidneys_behind_the_middle_tell_that_dense_bowel_is_no_spine():
    mask = np.zeros((40, 40, 20), bool)
    mask[5:35, 5:35] = True
    body, affine = content.Body(mask, None, flanks=False), np.diag([3.0, 3.0, 3.0, 1.0])
    both = ("Right Kidney", "Left Kidney")
    assert content._kidneys_behind({both: np.array([60.0, 36.0, 30.0])}, body, affine)  # the body's middle is at 58.5
    assert not content._kidneys_behind({both: np.array([60.0, 80.0, 30.0])}, body, affine)
    assert not content._kidneys_behind({("Liver",): np.array([60.0, 36.0, 30.0])}, body, affine)
