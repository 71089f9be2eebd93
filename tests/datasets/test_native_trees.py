"""Each public data set, from its files as they unpack to voxels of the right class at the right place."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import native_trees as native
import nibabel
import numpy as np
import pytest
from native_trees import ANNOTATED, MSD, Body
from pydicom.uid import generate_uid

from dsmseg.datasets import Settings, Store, StoredCase, choose_datasets, prepare, published_cases, verify
from dsmseg.datasets.layout import Found
from dsmseg.taxonomy import CLASSES, find

SETTINGS = Settings(spacing_mm=(4.07, 4.07, 4.07))
PAIRS = [(one.name, f"Left{one.name.removeprefix('Right')}") for one in CLASSES if one.side == "right"]


def patients(dataset: str, *cases: str, region: str = "abdomen", tilt=(0.0, 0.0, 0.0), without=()) -> native.Bodies:
    """Make a patient for each case; no two are the same."""
    return {
        case: native.make_body(native.seed_of(dataset, case), region, without=without).tilted(tilt) for case in cases
    }


def trunks(dataset: str, *cases: str, **options) -> native.Bodies:
    return patients(dataset, *cases, region="trunk", **options)


def _msd(name: str, *cases: str, region: str = "abdomen") -> Callable[[Path], native.Bodies]:
    return lambda root: native.write_msd(root, name, patients(name, *cases, region=region))


TREES: dict[str, Callable[[Path], native.Bodies]] = {
    "btcv": lambda root: native.write_btcv(root, patients("btcv", "0001", "0035", tilt=(3.0, -2.0, 5.0))),
    "chaos": lambda root: native.write_chaos(root, patients("chaos", "1", "21", tilt=(0.0, 0.0, 4.0))),
    "pancreas_ct": lambda root: native.write_pancreas_ct(root, patients("pancreas_ct", "0001", "0082")),
    "ct_org": lambda root: native.write_ct_org(
        root,
        trunks("ct_org", "0")
        | trunks("ct_org", "21", without=["Right Kidney"])
        | patients("ct_org", "139", tilt=(2.0, 0.0, -4.0)),
    ),
    "word": lambda root: native.write_word(root, trunks("word", "word_0001", "word_0007", "word_0100")),
    "amos22": lambda root: native.write_amos22(root, trunks("amos22", "amos_0001", "amos_0008", tilt=(-3.0, 2.0, 0.0))),
    "totalsegmentator_v1": lambda root: native.write_totalsegmentator(
        root, patients("totalsegmentator", "s0000"), version=1, axes="LPS"
    ),
    "totalsegmentator_v2": lambda root: native.write_totalsegmentator(
        root, trunks("totalsegmentator", "s0011"), version=2
    ),
    "abdomenct_1k": lambda root: native.write_abdomenct_1k(
        root,
        patients("abdomenct_1k", "Case_00001", "Case_00403")
        | patients("abdomenct_1k", "Case_01062", without=["Left Kidney"]),
    ),
    "lits": lambda root: native.write_lits(root, patients("lits", "0", "5", "130")),
    "kits19": lambda root: native.write_kits19(
        root, patients("kits19", "case_00000") | patients("kits19", "case_00209", without=["Right Kidney"])
    ),
    "msd_liver": _msd("msd_liver", "liver_0", "liver_101"),
    "msd_lung": _msd("msd_lung", "lung_001", region="chest"),
    "msd_pancreas": _msd("msd_pancreas", "pancreas_001"),
    "msd_hepatic_vessel": _msd("msd_hepatic_vessel", "hepaticvessel_001"),
    "msd_spleen": _msd("msd_spleen", "spleen_2"),
    "msd_colon": _msd("msd_colon", "colon_001"),
}
every_tree = pytest.mark.parametrize("key", TREES)


@dataclass
class Shelf:
    """Trees side by side below one folder, each made when it is first asked for, and one store of all their cases."""

    folder: Path
    store: Path
    bodies: dict[str, native.Bodies] = field(default_factory=dict)
    prepared: dict = field(default_factory=dict)

    def tree(self, key: str) -> Path:
        if key not in self.bodies:
            self.bodies[key] = TREES[key](self.folder / key)
        return self.folder / key

    def found(self, key: str) -> Found:
        (found,) = choose_datasets(self.tree(key))
        return found

    def preparation(self, key: str):
        if key not in self.prepared:
            self.prepared[key] = prepare([self.found(key)], self.store, SETTINGS)
        return self.prepared[key]

    def cases(self, key: str) -> list[tuple[StoredCase, Body]]:
        (prepared,) = self.preparation(key).datasets
        assert not [finding.line for finding in prepared.left_out]
        bodies = self.bodies[key]
        stored = {one.key: one for one in Store.open(self.store).cases()}
        return [(stored[prepared.name, case], body) for case, body in bodies.items()]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    return Shelf(folder / "data", folder / "store")


def name_of(key: str) -> str:
    return key.removesuffix("_v1").removesuffix("_v2")


def places(stored: StoredCase, name: str) -> np.ndarray:
    """Give the mm RAS of all voxels of a class, as (n, 3)."""
    affine = np.array(stored.record.affine)
    return np.argwhere(stored.mask(find(name).id)) @ affine[:3, :3].T + affine[:3, 3]


def shown_voxels(body: Body, stored: StoredCase) -> tuple[np.ndarray, np.ndarray]:
    """Give the patient's voxel, as (3, x, y, z), that each voxel of the store shows, and where it is no close call."""
    affine = np.linalg.inv(body.affine) @ np.array(stored.record.affine)
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in stored.record.shape], indexing="ij"))
    places = np.tensordot(affine[:3, :3], grid, 1) + affine[:3, 3][:, None, None, None]
    clear = np.all(np.abs(places - np.floor(places) - 0.5) > 0.01, axis=0)
    voxels = np.floor(places + 0.5).astype(int)
    return np.clip(voxels, 0, np.array(body.shape)[:, None, None, None] - 1), clear


def check_that_it_lies_as_in(body: Body, stored: StoredCase, name: str, voxels: np.ndarray, clear: np.ndarray) -> None:
    """Check that a class has just the voxels that show the patient's organ, and that none of it was cut off."""
    mask = stored.mask(find(name).id)
    assert stored.record.voxels[find(name).id] == np.count_nonzero(mask), name
    assert np.count_nonzero((mask != body.masks[name][tuple(voxels)]) & clear) == 0, name
    if body.has(name):
        center = native.centroid(mask, np.array(stored.record.affine))
        assert np.linalg.norm(center - body.center(name)) < 3.0, name


def check_all_classes(body: Body, stored: StoredCase, classes) -> None:
    assert {CLASSES[id - 1].name for id in stored.record.annotated} == set(classes)
    assert stored.record.merged == ()
    voxels, clear = shown_voxels(body, stored)
    for name in classes:
        check_that_it_lies_as_in(body, stored, name, voxels, clear)


@every_tree
def test_a_tree_is_known_by_its_layout_and_all_its_labelled_cases_are_found(shelf, key):
    found = shelf.found(key)
    assert found.description.name == name_of(key)
    assert {case.id for case in found.cases} == set(shelf.bodies[key])
    assert {case.id for case in found.cases} <= set(published_cases(name_of(key)))
    assert not found.only_labels
    assert not found.repeated


@every_tree
def test_a_tree_as_it_unpacks_has_nothing_to_find(shelf, key):
    found = shelf.found(key)
    (verified,) = verify(shelf.tree(key), [found])
    assert [finding.line for finding in verified.findings] == []
    assert (verified.name, verified.cases, verified.copies) == (name_of(key), len(shelf.bodies[key]), ())


@every_tree
def test_each_annotated_class_is_where_the_patient_has_it_and_others_are_unknown(shelf, key):
    for stored, body in shelf.cases(key):
        check_all_classes(body, stored, ANNOTATED[key])
        assert stored.record.voxels.keys() == set(stored.record.annotated)


@every_tree
def test_cases_are_taken_without_reservation(shelf, key):
    assert [stored.record.accepted for stored, _ in shelf.cases(key)] == [()] * len(shelf.bodies[key])


@every_tree
def test_the_image_shows_the_patient_where_it_lies(shelf, key):
    for stored, body in shelf.cases(key):
        true = np.clip(body.hu, *SETTINGS.hu_window)[tuple(shown_voxels(body, stored)[0])]
        assert np.corrcoef(true.ravel(), stored.image[:].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("key", [key for key, classes in ANNOTATED.items() if classes & {one for one, _ in PAIRS}])
def test_the_right_of_two_sides_lies_wholly_to_the_right(shelf, key):
    seen = 0
    for stored, _ in shelf.cases(key):
        for right, left in PAIRS:
            if right in ANNOTATED[key] and len(places(stored, right)) and len(places(stored, left)):
                assert places(stored, right)[:, 0].min() > places(stored, left)[:, 0].max()
                seen += 1
    assert seen


@pytest.mark.parametrize(
    ("key", "tumor", "hosts"),
    [
        ("lits", "Liver Tumor", ["Liver"]),
        ("msd_liver", "Liver Tumor", ["Liver"]),
        ("msd_pancreas", "Pancreas Tumor", ["Pancreas"]),
        ("kits19", "Kidney Tumor", ["Right Kidney", "Left Kidney"]),
        ("totalsegmentator_v2", "Kidney Cyst", ["Right Kidney", "Left Kidney"]),
    ],
)
def test_what_grows_in_an_organ_is_of_the_organ_too(shelf, key, tumor, hosts):
    for stored, _ in shelf.cases(key):
        grown = stored.mask(find(tumor).id)
        assert grown.any()
        assert np.logical_or.reduce([stored.mask(find(host).id) for host in hosts])[grown].all()


def test_tumors_beside_vessels_are_not_vessels(shelf):
    for stored, _ in shelf.cases("msd_hepatic_vessel"):
        both = stored.mask(find("Hepatic Vessel").id) & stored.mask(find("Hepatic Vessel Tumor").id)
        assert not both.any()


@pytest.mark.parametrize(
    ("key", "missing", "other"),
    [
        ("ct_org", "Right Kidney", "Left Kidney"),
        ("kits19", "Right Kidney", "Left Kidney"),
        ("abdomenct_1k", "Left Kidney", "Right Kidney"),
    ],
)
def test_a_single_kidney_keeps_its_side_and_the_other_is_known_to_be_missing(shelf, key, missing, other):
    ((stored, body),) = [(stored, body) for stored, body in shelf.cases(key) if not body.has(missing)]
    assert find(missing).id in stored.record.annotated
    assert not len(places(stored, missing))
    assert places(stored, other).mean(axis=0) == pytest.approx(body.center(other), abs=3)


def test_voxels_where_totalsegmentators_masks_overlap_are_of_both_classes(shelf):
    both = [
        stored.mask(find("Right Kidney").id) & stored.mask(find("Liver").id)
        for key in ("totalsegmentator_v1", "totalsegmentator_v2")
        for stored, _ in shelf.cases(key)
    ]
    assert all(mask.any() for mask in both)


def test_no_two_patients_are_taken_for_copies(shelf):
    assert [shelf.preparation(key).copies for key in TREES][-1] == ()
    assert len(Store.open(shelf.store).cases()) == sum(len(bodies) for bodies in shelf.bodies.values())


def test_all_data_sets_below_one_folder_are_told_apart(shelf):
    apart = [shelf.found(key) for key in TREES]
    together = {found.description.name: found for found in choose_datasets(shelf.folder)}
    assert together.keys() == {name_of(key) for key in TREES}
    for name, found in together.items():
        alone = [one for one in apart if one.description.name == name]
        assert sorted(found.cases, key=lambda case: case.id) == sorted(
            (case for one in alone for case in one.cases), key=lambda case: case.id
        )
        assert not found.only_labels
        assert not found.repeated
    assert all(not one.findings for one in verify(shelf.folder, list(together.values()), headers_only=True))


@pytest.mark.parametrize(
    ("key", "inner"),
    [
        ("btcv", "RawData/Training"),
        ("chaos", "CHAOS_Train_Sets/Train_Sets"),
        ("ct_org", "PKG - CT-ORG/CT-ORG/OrganSegmentations"),
        ("word", "WORD-V0.1.0"),
        ("amos22", "amos22"),
        ("totalsegmentator_v2", "Totalsegmentator_dataset_v201"),
        ("lits", "media/nas/01_Datasets/CT/LITS"),
        ("kits19", "kits19/data"),
        ("msd_colon", "Task10_Colon"),
    ],
)
def test_cases_are_the_same_from_the_innermost_folder_that_holds_them(shelf, key, inner):
    (found,) = choose_datasets(shelf.tree(key) / inner)
    assert found.cases == shelf.found(key).cases


def test_a_link_to_a_tree_beside_it_does_not_make_its_cases_double(shelf, tmp_path):
    shutil.copytree(shelf.tree("btcv"), tmp_path / "tree")
    for name in ("a link", "z link"):
        (tmp_path / name).symlink_to(tmp_path / "tree", target_is_directory=True)
    (tmp_path / "tree" / "up").symlink_to(tmp_path, target_is_directory=True)
    (found,) = choose_datasets(tmp_path)
    assert [case.id for case in found.cases] == ["0001", "0035"]
    assert not found.repeated


# --- LiTS and CT-ORG, whose images have the same names ---------------------------------------------------------------


def files_of(folder: Path) -> dict[str, list[tuple[str, str, str]]]:
    return {
        found.description.name: [
            (case.id, str(case.image.relative_to(folder)), str(next(iter(case.labels.values())).relative_to(folder)))
            for case in found.cases
        ]
        for found in choose_datasets(folder)
    }


@pytest.mark.parametrize(
    ("lits", "ct_org"),
    [
        (("LiTS/{0}.nii", "LiTS/{0}.nii"), ("CT-ORG/{0}.nii.gz", "CT-ORG/{0}.nii.gz")),
        (
            ("LiTS/train/{0}.nii.gz", "LiTS/train/{0}.nii.gz"),
            ("CT-ORG/volumes 0-49/{0}.nii.gz", "CT-ORG/labels/{0}.nii.gz"),
        ),
        (("lits/ct/{0}.nii", "lits/masks/{0}.nii"), ("organ/volumes/{0}.nii.gz", "organ/labels/{0}.nii.gz")),
        (("{0}.nii", "{0}.nii"), ("ct_org/{0}.nii.gz", "ct_org/{0}.nii.gz")),
        (("lits/{0}.nii", "lits/{0}.nii"), ("{0}.nii.gz", "{0}.nii.gz")),
        (("{0}.nii", "{0}.nii"), ("{0}.nii.gz", "{0}.nii.gz")),
    ],
)
def test_an_image_called_volume_goes_with_the_labels_nearest_to_it(tmp_path, lits, ct_org):
    expected = {}
    for name, labels, (image_at, labels_at) in (("ct_org", "labels", ct_org), ("lits", "segmentation", lits)):
        expected[name] = []
        for case in ("1", "2", "10"):
            paths = image_at.format(f"volume-{case}"), labels_at.format(f"{labels}-{case}")
            expected[name].append((case, *paths))
            for path in paths:
                native.write_placeholder(tmp_path / path)
    assert files_of(tmp_path) == expected


# --- what is odd in single data sets --------------------------------------------------------------------------------


def one_case(folder: Path) -> StoredCase:
    (found,) = choose_datasets(folder)
    (verified,) = verify(folder, [found])
    assert [finding.line for finding in verified.findings] == []
    (prepared,) = prepare([found], folder / "store", SETTINGS).datasets
    assert [finding.line for finding in prepared.left_out] == []
    (stored,) = Store.open(folder / "store").cases()
    return stored


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("upward", [False, True])
def test_a_png_lies_on_the_slice_of_the_same_rank_whichever_way_the_names_run(tmp_path, seed, upward):
    body = native.make_body(seed, "abdomen")
    native.write_chaos(tmp_path, {"1": body}, upward=upward)
    check_all_classes(body, one_case(tmp_path), ANNOTATED["chaos"])


def test_png_of_one_bit_are_read(tmp_path, shelf):
    import SimpleITK as sitk  # noqa: N813

    folder = tmp_path / "chaos"
    shutil.copytree(shelf.tree("chaos"), folder)
    ground = folder / "CHAOS_Train_Sets" / "Train_Sets" / "CT" / "1" / "Ground"
    for path in ground.iterdir():
        sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(path)) > 0, sitk.sitkUInt8), str(path))
    shutil.rmtree(folder / "CHAOS_Train_Sets" / "Train_Sets" / "CT" / "21")
    check_all_classes(shelf.bodies["chaos"]["1"], one_case(folder), ANNOTATED["chaos"])


def test_chaos_is_read_though_each_of_its_files_claims_a_series_of_its_own(tmp_path):
    body = native.make_body(5, "abdomen")
    native.write_chaos(tmp_path, {"1": body}, SeriesInstanceUID=generate_uid, StudyInstanceUID=generate_uid)
    check_all_classes(body, one_case(tmp_path), ANNOTATED["chaos"])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("reversal", [(), (1,), (2,), (1, 2)], ids=["as told", "rows", "slices", "rows and slices"])
def test_the_hu_under_a_pancreas_tell_how_its_voxels_lie(tmp_path, seed, reversal):
    body = native.make_body(100 + seed, "abdomen")
    native.write_pancreas_ct(tmp_path, {"0001": body})
    (path,) = tmp_path.glob("TCIA*/label0001.nii.gz")
    image = nibabel.load(path)
    native.save_as_is(path, np.flip(image.get_fdata(), reversal), image.affine, "uint8")
    check_all_classes(body, one_case(tmp_path), ANNOTATED["pancreas_ct"])


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAI", "PIR"])
def test_a_pancreas_label_in_another_order_of_axes_lies_right_by_its_header(tmp_path, axes):
    body = native.make_body(11, "abdomen")
    native.write_pancreas_ct(tmp_path, {"0001": body})
    (path,) = tmp_path.glob("TCIA*/label0001.nii.gz")
    untrusted = body.affine.copy()
    untrusted[:3, 3] = 0
    native.save(path, body.masks["Pancreas"], untrusted, axes, "uint8")
    check_all_classes(body, one_case(tmp_path), ANNOTATED["pancreas_ct"])


@pytest.mark.parametrize(("key", "axes"), [("lits", "LPS"), ("ct_org", "RPI"), ("word", "PIR"), ("btcv", "RAI")])
def test_an_organ_has_its_place_and_side_however_the_file_is_flipped(tmp_path, key, axes):
    case = {"lits": "1", "ct_org": "1", "word": "word_0002", "btcv": "0002"}[key]
    body = native.make_body(native.seed_of(axes), "abdomen").tilted((0.0, 3.0, 0.0))
    write = getattr(native, f"write_{key}")
    write(tmp_path, {case: body}, [axes] if key in ("lits", "ct_org") else axes)
    check_all_classes(body, one_case(tmp_path), ANNOTATED[key])


def test_lits_labels_whose_header_lies_elsewhere_are_placed_voxel_upon_voxel(tmp_path):
    body = native.make_body(12, "abdomen")
    native.write_lits(tmp_path, {"3": body}, ["LPS"])
    (path,) = tmp_path.rglob("segmentation-3.nii")
    own = nibabel.load(path).get_fdata(caching="unchanged")
    native.save_as_is(path, own, np.diag([*native.SPACING, 1.0]), "uint8")
    (found,) = choose_datasets(tmp_path)
    prepare([found], tmp_path / "store", SETTINGS)
    (stored,) = Store.open(tmp_path / "store").cases()
    assert stored.record.placing == "voxels"
    check_all_classes(body, stored, ANNOTATED["lits"])


@pytest.mark.parametrize("axes", ["LPS", "PIR", "RAI"])
def test_labels_in_another_order_of_axes_than_their_image_lie_right_by_their_header(tmp_path, axes):
    body = native.make_body(15, "abdomen").tilted((2.0, 0.0, 3.0))
    native.write_btcv(tmp_path, {"0002": body}, "LAS")
    (path,) = tmp_path.rglob("label0002.nii.gz")
    image = nibabel.as_closest_canonical(nibabel.load(path))
    native.save(path, image.get_fdata(), image.affine, axes, "uint8")
    check_all_classes(body, one_case(tmp_path), ANNOTATED["btcv"])


def test_totalsegmentators_masks_take_the_place_of_their_scan(tmp_path):
    body = native.make_body(16, "abdomen")
    (body,) = native.write_totalsegmentator(tmp_path, {"s0012": body}, version=2).values()
    for path in tmp_path.glob("*/s0012/segmentations/*"):
        image = nibabel.load(path)
        native.save_as_is(path, image.get_fdata(), Body(body.hu, image.affine, {}).tilted((1, 1, 0)).affine, "uint8")
    (found,) = choose_datasets(tmp_path)
    prepare([found], tmp_path / "store", SETTINGS)
    (stored,) = Store.open(tmp_path / "store").cases()
    assert stored.record.placing == "axes"
    check_all_classes(body, stored, ANNOTATED["totalsegmentator_v2"])


def test_a_woman_has_no_prostate_and_that_is_known(tmp_path):
    body = native.make_body(13, "trunk", female=True)
    (body,) = native.write_totalsegmentator(tmp_path, {"s0012": body}, version=2).values()
    stored = one_case(tmp_path)
    assert stored.record.voxels[find("Prostate").id] == 0
    check_all_classes(body, stored, ANNOTATED["totalsegmentator_v2"])


def test_a_structure_whose_file_is_missing_is_unknown_and_not_absent(tmp_path):
    body = native.make_body(14, "abdomen")
    (body,) = native.write_totalsegmentator(tmp_path, {"s0012": body}, version=2).values()
    (folder,) = tmp_path.glob("*/s0012/segmentations")
    (folder / "lung_middle_lobe_right.nii.gz").unlink()
    (folder / "spleen.nii.gz").unlink()
    stored = one_case(tmp_path)
    check_all_classes(body, stored, ANNOTATED["totalsegmentator_v2"] - {"Right Lung", "Spleen"})


@pytest.mark.parametrize("name", MSD)
def test_a_decathlon_task_is_found_beside_the_others(shelf, tmp_path, name):
    for one in MSD:
        (tmp_path / "MSD").mkdir(exist_ok=True)
        (tmp_path / "MSD" / MSD[one][0]).symlink_to(shelf.tree(one) / MSD[one][0], target_is_directory=True)
    (found,) = choose_datasets(tmp_path, [name])
    assert {case.id for case in found.cases} == set(shelf.bodies[name])
