"""A folder that describes itself is understood by the names that it gives its labels, or refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from small_trees import SETTINGS, SPACING_MM, save, small_body

from dsmseg.datasets import Store, choose_datasets, prepare, verify
from dsmseg.datasets.description import by_name
from dsmseg.datasets.foreign import describe_foreign, describe_index
from dsmseg.errors import InputError
from dsmseg.taxonomy import CLASSES, find

NNUNET = {"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz"}
MSD = {"modality": {"0": "CT"}, "numTraining": 1, "training": []}


def index(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def described(tmp_path, labels, base=NNUNET, folder="Dataset001_Own", **more):
    """Describe a data set with these labels; of nnU-Net's form they are name -> id, of MSD's id -> name."""
    return describe_index(index(tmp_path / folder, base | {"labels": labels} | more))


def ids_of(description):
    """Give the ids that make up each class, and those that are parted."""
    classes = {name: {description.labels[label] for label in labels} for name, labels in description.classes.items()}
    parted = {
        (one.right, one.left, one.rule): {description.labels[label] for label in one.labels}
        for one in description.separated
    }
    return classes, parted


def refusal(path, read=describe_index):
    with pytest.raises(InputError) as caught:
        read(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    assert caught.value.mend
    return line


def understood(path):
    """Give the classes of a data set; None where it is refused in one line."""
    lines = []
    try:
        return describe_index(path).annotated
    except InputError as error:
        lines.append(str(error))
    assert all(str(path) in line and "\n" not in line for line in lines)
    return None


# --- names of labels -------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=12, unique=True), st.booleans())
def test_each_class_is_known_by_its_own_name_in_either_form(tmp_path_factory, classes, is_msd):
    names = {one.name: number for number, one in enumerate(classes, start=1)}
    folder = tmp_path_factory.mktemp("index")
    if is_msd:
        found = described(folder, {"0": "background"} | {str(id): name for name, id in names.items()}, MSD)
    else:
        found = described(folder, {"background": 0, **names})
    assert set(found.annotated) == set(names)
    for name, ids in ids_of(found)[0].items():
        assert names[name] in ids
        # Beside its own, an organ holds the ids of its tumors only.
        assert all(name in find(other).hosts for other, id in names.items() if id in ids and other != name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("liver", "Liver"),
        ("left_kidney", "Left Kidney"),
        ("kidney_left", "Left Kidney"),
        ("gallbladder", "Gall Bladder"),
        ("hepatic vessels", "Hepatic Vessel"),
        ("pancreatic cancer", "Pancreas Tumor"),
        ("Lung_Nodule_Tumor", None),
        ("spine", None),
        ("heart", None),
    ],
)
def test_names_are_looked_up_as_in_the_taxonomy_and_unknown_ones_are_left_out(tmp_path, name, meant):
    found = described(tmp_path, {"background": 0, name: 1, "spleen": 2})
    assert set(found.classes) == {"Spleen"} | ({meant} if meant else set())
    assert found.labels == {name: 1, "spleen": 2}


def test_an_organ_takes_its_tumors_in(tmp_path):
    found = described(tmp_path, {"background": 0, "liver": 1, "liver tumor": 2, "spleen": 3})
    assert ids_of(found)[0] == {"Liver": {1, 2}, "Liver Tumor": {2}, "Spleen": {3}}


def test_a_tumor_is_no_part_of_the_vessels_that_it_lies_beside(tmp_path):
    found = described(tmp_path, {"background": 0, "liver": 1, "hepatic vessel": 2, "hepatic vessel tumor": 3})
    assert ids_of(found)[0] == {"Liver": {1, 3}, "Hepatic Vessel": {2}, "Hepatic Vessel Tumor": {3}}


@pytest.mark.parametrize("word", ["tumor", "tumour", "cancer", "mass", "Tumors"])
@pytest.mark.parametrize(("organ", "meant"), [("liver", "Liver Tumor"), ("pancreas", "Pancreas Tumor")])
def test_a_bare_tumor_is_that_of_the_organ_beside_it(tmp_path, word, organ, meant):
    # The bladder has no class of tumors, so it cannot be the bladder's.
    found = described(tmp_path, {"background": 0, organ: 1, word: 2, "bladder": 3})
    assert ids_of(found)[0] == {find(organ).name: {1, 2}, meant: {2}, "Bladder": {3}}


@pytest.mark.parametrize(
    ("folder", "name", "meant"),
    [
        ("Task06_Lung", "Lung", "Lung Tumor"),
        ("Task06_Lung", None, "Lung Tumor"),
        ("Dataset010_Colon", None, "Colon Tumor"),
        ("whatever", "PancreasTumour", "Pancreas Tumor"),
        ("Dataset220_KiTS2023", "Kidney", "Kidney Tumor"),
    ],
)
def test_a_bare_tumor_alone_is_that_of_the_data_set_s_name(tmp_path, folder, name, meant):
    base = MSD if name is None else MSD | {"name": name}
    found = described(tmp_path, {"0": "background", "1": "cancer"}, base, folder)
    assert list(found.classes) == [meant]


def test_a_bare_tumor_beside_two_organs_that_have_tumors_is_left_out(tmp_path):
    found = described(tmp_path, {"background": 0, "liver": 1, "pancreas": 2, "tumor": 3})
    assert ids_of(found)[0] == {"Liver": {1}, "Pancreas": {2}}


@pytest.mark.parametrize(
    ("name", "right", "left", "rule"),
    [
        ("kidneys", "Right Kidney", "Left Kidney", "kidneys"),
        ("kidney", "Right Kidney", "Left Kidney", "kidneys"),
        ("lungs", "Right Lung", "Left Lung", "lungs"),
        ("adrenal_glands", "Right Adrenal Gland", "Left Adrenal Gland", "adrenal glands"),
        ("adrenals", "Right Adrenal Gland", "Left Adrenal Gland", "adrenal glands"),
        ("heads of femur", "Right Head of Femur", "Left Head of Femur", "heads of femur"),
    ],
)
def test_a_label_of_both_sides_is_parted(tmp_path, name, right, left, rule):
    assert ids_of(described(tmp_path, {"background": 0, name: 4})) == ({}, {(right, left, rule): {4}})


def test_parted_kidneys_take_their_tumors_and_cysts_in(tmp_path):
    found = described(tmp_path, {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3})
    assert ids_of(found) == (
        {"Kidney Tumor": {2}, "Kidney Cyst": {3}},
        {("Right Kidney", "Left Kidney", "kidneys"): {1, 2, 3}},
    )


def test_regions_are_the_ids_that_they_list(tmp_path):
    # As nnU-Net writes KiTS: a region holds the ids of what lies inside it.
    labels = {"background": 0, "liver": [1, 2, 3], "liver tumor": [2], "spleen": 7, "vessel": [3]}
    found = described(tmp_path, labels, regions_class_order=[1, 2, 7, 3])
    assert ids_of(found)[0] == {"Liver": {1, 2, 3}, "Liver Tumor": {2}, "Spleen": {7}}
    assert set(found.labels.values()) == {1, 2, 3, 7}


def test_regions_of_both_sides_are_parted_whole(tmp_path):
    labels = {"background": 0, "kidney": [1, 2, 3], "kidney tumor": [2]}
    assert ids_of(described(tmp_path, labels)) == (
        {"Kidney Tumor": {2}},
        {("Right Kidney", "Left Kidney", "kidneys"): {1, 2, 3}},
    )


def test_a_region_of_both_sides_beside_each_side_is_no_contradiction(tmp_path):
    labels = {"background": 0, "kidneys": [1, 2], "right kidney": 1, "left kidney": 2}
    classes, parted = ids_of(described(tmp_path, labels))
    assert classes == {"Right Kidney": {1}, "Left Kidney": {2}}
    assert parted == {}


def test_two_names_of_one_class_make_it_up_together(tmp_path):
    found = described(tmp_path, {"background": 0, "liver": 1, "hepatic": 2, "Liver": 3})
    assert ids_of(found)[0] == {"Liver": {1, 2, 3}}


def test_equal_names_in_msd_s_form_are_all_taken(tmp_path):
    found = described(tmp_path, {"0": "background", "1": "liver", "2": "spleen", "3": "spleen"}, MSD)
    assert ids_of(found)[0] == {"Liver": {1}, "Spleen": {2, 3}}


# --- layouts ---------------------------------------------------------------------------------------------------------


def fill(folder, cases, suffix):
    for case in cases:
        hu, labels = small_body(int(case.split("_")[1]))
        save(folder / "imagesTr" / f"{case}{suffix}.nii.gz", hu)
        save(folder / "labelsTr" / f"{case}.nii.gz", labels)


BODY = {"background": 0, "spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 6}


@pytest.mark.parametrize("where", ["inside", "above"])
def test_an_nnunet_folder_is_prepared_without_more(tmp_path, where):
    folder = tmp_path / "raw" / "Dataset077_Belly"
    index(folder, NNUNET | {"labels": BODY})
    fill(folder, ["belly_1", "belly_2"], "_0000")
    save(folder / "imagesTs" / "belly_9_0000.nii.gz", small_body(9)[0])
    start = folder if where == "inside" else folder.parent
    (found,) = choose_datasets(start)
    assert [one.id for one in found.cases] == ["belly_1", "belly_2"]
    assert found.description.name == "dataset077_belly"
    assert not found.only_images
    assert verify(start, [found])[0].findings == ()
    assert prepare([found], tmp_path / "store", SETTINGS).datasets[0].written == ("belly_1", "belly_2")
    case = Store.open(tmp_path / "store").cases()[0]
    assert case.record.annotated == (1, 2, 3, 6)
    assert case.mask(6).sum() == (small_body(1)[1] == 6).sum()


def test_an_msd_folder_is_prepared_without_more_and_its_list_is_checked(tmp_path):
    folder = tmp_path / "Task20_Belly"
    labels = {str(id): name for name, id in BODY.items()}
    training = [{"image": f"./imagesTr/belly_{n}.nii.gz", "label": f"./labelsTr/belly_{n}.nii.gz"} for n in (1, 2)]
    index(folder, MSD | {"labels": labels, "training": training})
    fill(folder, ["belly_1"], "")
    (found,) = choose_datasets(folder)
    assert [one.id for one in found.cases] == ["belly_1"]
    (finding,) = verify(folder, [found])[0].findings
    assert (finding.check, finding.case) == ("count", "belly_2")


def test_two_folders_side_by_side_keep_their_cases_and_the_meaning_of_their_labels(tmp_path):
    for name, labels in (("Dataset001_A", {"spleen": 1}), ("Dataset002_B", {"liver": 1})):
        index(tmp_path / name, NNUNET | {"labels": {"background": 0} | labels})
    fill(tmp_path / "Dataset001_A", ["a_1"], "_0000")
    fill(tmp_path / "Dataset002_B", ["b_2"], "_0000")
    found = {one.description.name: one for one in choose_datasets(tmp_path)}
    assert {name: [case.id for case in one.cases] for name, one in found.items()} == {
        "dataset001_a": ["a_1"],
        "dataset002_b": ["b_2"],
    }


def test_two_folders_whose_names_are_alike_but_for_their_signs_are_told_apart_or_refused(tmp_path):
    for name, case in (("Task 1", "a_1"), ("task-1", "b_2")):
        index(tmp_path / name, NNUNET | {"labels": BODY})
        fill(tmp_path / name, [case], "_0000")
    try:
        names = [one.description.name for one in choose_datasets(tmp_path)]
    except InputError:
        return
    assert len(set(names)) == len(names) == 2


def test_the_name_is_that_of_the_folder_however_it_is_given(tmp_path, monkeypatch):
    folder = tmp_path / "Dataset077_Belly"
    index(folder, NNUNET | {"labels": BODY})
    fill(folder, ["belly_1"], "_0000")
    monkeypatch.chdir(folder)
    (found,) = choose_datasets(Path())
    assert found.description.name == "dataset077_belly"


def test_a_folder_like_totalsegmentator_s_with_other_ids_is_understood(tmp_path):
    for case in ("patient one", "B-2"):
        save(tmp_path / "own" / case / "ct.nii.gz", small_body(1)[0])
        for structure, id in (("spleen", 1), ("liver", 6), ("kidney_left", 3)):
            mask = (small_body(1)[1] == id).astype("uint8")
            save(tmp_path / "own" / case / "segmentations" / f"{structure}.nii.gz", mask)
    for start in (tmp_path, tmp_path / "own"):
        (found,) = choose_datasets(start)
        assert [one.id for one in found.cases] == ["B-2", "patient one"]
        assert found.description.name == "own"
        assert set(found.description.annotated) == {"Spleen", "Liver", "Left Kidney"}
        assert found.description.published is None
    assert prepare([found], tmp_path / "store", SETTINGS).datasets[0].written == ("B-2", "patient one")
    case = Store.open(tmp_path / "store").cases()[0]
    assert case.record.annotated == (1, 3, 6)


def test_totalsegmentator_s_own_ids_are_the_public_data_set(tmp_path):
    save(tmp_path / "s0001" / "ct.nii.gz", small_body(1)[0])
    save(tmp_path / "s0001" / "segmentations" / "liver.nii.gz", (small_body(1)[1] == 6).astype("uint8"))
    (found,) = choose_datasets(tmp_path)
    assert found.description == by_name("totalsegmentator")


def test_a_folder_that_says_nothing_is_refused_with_what_to_do(tmp_path):
    save(tmp_path / "scan.nii.gz", small_body(1)[0])
    assert describe_foreign(tmp_path) == []
    line = refusal(tmp_path, choose_datasets)
    assert "holds no data set that is known" in line
    assert "--description" in line


# --- refusals --------------------------------------------------------------------------------------------------------

LABELS = {"background": 0, "liver": 1}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"text"',
        "{}",
        NNUNET,
        {"labels": LABELS},
        NNUNET | {"labels": None},
        NNUNET | {"labels": []},
        NNUNET | {"labels": {}},
        NNUNET | {"labels": ["background", "liver"]},
        NNUNET | {"labels": {"liver": None}},
        NNUNET | {"labels": {"liver": "one"}},
        NNUNET | {"labels": {"liver": {"id": 1}}},
        NNUNET | {"labels": {"liver": [[1]]}},
        NNUNET | {"labels": {"liver": -1}},
        NNUNET | {"labels": {"liver": 70000}},
        NNUNET | {"labels": {"background": 0}},
        NNUNET | {"labels": {"background": 0, "heart": 1}},
        NNUNET | {"labels": {"background": 0, "tumor": 1}},
        MSD | {"labels": {"zero": "liver"}},
        MSD | {"labels": {"1": "liver", "x": "spleen"}},
    ],
    ids=str,
)
def test_an_index_that_cannot_be_used_is_refused_in_one_line(tmp_path, content):
    refusal(index(tmp_path / "Dataset001_Own", content))


@pytest.mark.parametrize("channels", [["CT"], "CT", 1, True, {"0": None}, {"0": ["CT"]}], ids=str)
@pytest.mark.parametrize("key", ["modality", "channel_names"])
def test_channels_in_another_form_are_understood_or_refused_in_one_line(tmp_path, key, channels):
    path = index(tmp_path / "own", {key: channels, "labels": LABELS})
    assert understood(path) in (None, ("Liver",))


@pytest.mark.parametrize("channels", [{"0": "MR"}, {"0": "MRI"}, {"0": "CT", "1": "PET"}, {"0": "T1 mri"}])
@pytest.mark.parametrize("key", ["modality", "channel_names"])
def test_what_is_not_one_ct_is_refused(tmp_path, key, channels):
    line = refusal(index(tmp_path / "own", {key: channels, "labels": LABELS}))
    assert "not of a CT" in line


@pytest.mark.parametrize("name", ["ignore", "Ignore", "IGNORE"])
def test_voxels_of_which_nothing_is_known_are_read_in_either_form(tmp_path, name):
    for number, content in enumerate(
        (NNUNET | {"labels": {"liver": 1, name: 2}}, MSD | {"labels": {"1": "liver", "2": name}})
    ):
        found = describe_index(index(tmp_path / str(number), content))
        assert found.annotated == ("Liver",)
        assert found.labels[found.unknown] == 2


@pytest.mark.parametrize("own", [None, 3, "absent", ["absent"]])
def test_what_is_not_dsmseg_s_own_word_of_cases_is_passed_over(tmp_path, own):
    found = describe_index(index(tmp_path / "own", NNUNET | {"labels": {"liver": 1}, "dsmseg": own}))
    assert (found.absent, found.unlabelled) == ({}, {})


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-5, 70000)
        | st.floats()
        | st.sampled_from(["liver", "kidney", "CT", "1"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["liver", "tumor", "kidneys", "0", "1", "background"]), inner, max_size=4)
        ),
        max_leaves=8,
    ),
    st.sampled_from(["channel_names", "modality"]),
)
def test_whatever_the_labels_are_they_are_understood_or_refused_in_one_line(tmp_path_factory, labels, key):
    path = index(tmp_path_factory.mktemp("any") / "own", {key: {"0": "CT"}, "labels": labels})
    assert understood(path) != ()


def test_an_index_that_is_no_text_is_refused(tmp_path):
    path = index(tmp_path, "")
    path.write_bytes(b"\xff\xfe{")
    assert "is no dataset.json" in refusal(path)


# --- from the files to voxels of a class -----------------------------------------------------------------------------

ROOM = {"cava": np.s_[16:18, 11:14, 8:20], "spine": np.s_[18:22, 4:9, :]}


def patient(number):
    """Give HU, and masks of what may be labelled; the tumor grows in the left kidney, the mass in the liver."""
    hu, labels = small_body(number)
    masks = {name: labels == id for name, id in (("spleen", 1), ("right", 2), ("left", 3), ("liver", 6))}
    masks |= {name: np.zeros(hu.shape, bool) for name in (*ROOM, "tumor", "mass")}
    for name, box in ROOM.items():
        masks[name][box] = True
    hu[masks["cava"]] = 150
    masks["tumor"][10:13, 7:10, 5:9] = True
    masks["mass"][25:29, 17:21, 21:25] = True
    return hu, masks


def label_map(masks, ids):
    """Give an array with each id where its mask is, the later ones over the earlier."""
    labels = np.zeros(masks["liver"].shape, np.uint8)
    for id, names in ids.items():
        for name in names:
            labels[masks[name]] = id
    return labels


def the_prepared_case(start, store):
    (found,) = choose_datasets(start)
    assert verify(start, [found])[0].findings == ()
    (done,) = prepare([found], store, SETTINGS).datasets
    assert done.left_out == ()
    (case,) = Store.open(store).cases()
    return case


def assert_is(case, name, mask):
    """Check that a class is of this mask, by its voxels and where they lie in mm."""
    stored, affine = case.mask(find(name).id), np.array(case.record.affine)
    assert stored.sum() == mask.sum(), name
    lies = affine[:3, :3] @ np.argwhere(stored).mean(axis=0) + affine[:3, 3]
    np.testing.assert_allclose(lies, SPACING_MM * np.argwhere(mask).mean(axis=0), atol=1e-3, err_msg=name)


def test_an_nnunet_data_set_with_regions_becomes_voxels_of_the_right_classes(tmp_path):
    folder = tmp_path / "Dataset300_Renal"
    labels = {"background": 0, "kidneys": [1, 2], "kidney tumor": [2], "IVC": 3, "spine": 4, "liver": 5}
    index(folder, NNUNET | {"labels": labels, "regions_class_order": [1, 2, 3, 4, 5]})
    hu, masks = patient(1)
    ids = {1: ["right", "left"], 2: ["tumor"], 3: ["cava"], 4: ["spine"], 5: ["liver"]}
    save(folder / "imagesTr" / "r_1_0000.nii.gz", hu)
    save(folder / "labelsTr" / "r_1.nii.gz", label_map(masks, ids))
    case = the_prepared_case(folder, tmp_path / "store")
    names = {"Right Kidney": "right", "Left Kidney": "left", "Kidney Tumor": "tumor", "Postcava": "cava"}
    for name, mask in (names | {"Liver": "liver"}).items():
        assert_is(case, name, masks[mask])
    assert case.record.annotated == tuple(sorted(find(name).id for name in (*names, "Liver")))
    assert case.record.merged == ()


def test_an_msd_task_that_nobody_knows_becomes_voxels_of_the_right_classes(tmp_path):
    folder = tmp_path / "Task20_Belly"
    labels = {"0": "background", "1": "liver", "2": "cancer", "3": "spine"}
    training = [{"image": "./imagesTr/belly_1.nii.gz", "label": "./labelsTr/belly_1.nii.gz"}]
    index(folder, MSD | {"labels": labels, "training": training})
    hu, masks = patient(2)
    ids = {1: ["liver"], 2: ["mass"], 3: ["spine"]}
    save(folder / "imagesTr" / "belly_1.nii.gz", hu)
    save(folder / "labelsTr" / "belly_1.nii.gz", label_map(masks, ids))
    case = the_prepared_case(tmp_path, tmp_path / "store")
    names = {"Liver": "liver", "Liver Tumor": "mass"}
    for name, mask in names.items():
        assert_is(case, name, masks[mask])
    assert case.record.annotated == tuple(sorted(find(name).id for name in names))


def test_files_like_totalsegmentator_s_become_voxels_of_the_right_classes(tmp_path):
    hu, masks = patient(3)
    files = {"liver": "liver", "spleen": "spleen", "kidney_right": "right", "kidney_left": "left"}
    files |= {"inferior_vena_cava": "cava", "vertebrae_L1": "spine"}
    save(tmp_path / "own" / "patient 7" / "ct.nii.gz", hu)
    for name, mask in files.items():
        save(tmp_path / "own" / "patient 7" / "segmentations" / f"{name}.nii.gz", masks[mask].astype(np.uint8))
    case = the_prepared_case(tmp_path / "own", tmp_path / "store")
    names = {"Liver": "liver", "Spleen": "spleen", "Right Kidney": "right", "Left Kidney": "left", "Postcava": "cava"}
    for name, mask in names.items():
        assert_is(case, name, masks[mask])
    assert case.record.annotated == tuple(sorted(find(name).id for name in names))


@pytest.mark.parametrize("labels", [{"lungs": 1, "cancer": 2}, {"heart": 1, "cancer": 2}, {"cancer": 2}], ids=str)
def test_a_bare_cancer_in_a_task_of_the_lung_is_the_lung_s_and_lungs_take_it_in(tmp_path, labels):
    indexed = {"0": "background"} | {str(id): name for name, id in labels.items()}
    classes, parted = ids_of(described(tmp_path, indexed, MSD, "Task06_Lung"))
    assert classes == {"Lung Tumor": {2}}
    assert parted == ({("Right Lung", "Left Lung", "lungs"): {1, 2}} if "lungs" in labels else {})


@pytest.mark.parametrize(
    ("name", "meant"), [("IVC", "Postcava"), ("kidney_right", "Right Kidney"), ("inferior_vena_cava", "Postcava")]
)
def test_aliases_are_understood_in_either_form(tmp_path, name, meant):
    assert described(tmp_path, {"background": 0, name: 1}).annotated == (meant,)
    assert described(tmp_path, {"0": "background", "1": name}, MSD).annotated == (meant,)


@given(
    st.dictionaries(
        st.sampled_from(["liver", "liver tumor", "spleen", "organ", "label 1", "label 2", "label 3"]),
        st.sets(st.integers(1, 4), min_size=1).map(sorted),
        min_size=1,
    )
)
@example({"liver": [1, 2], "label 2": [1]})
def test_no_id_of_a_region_is_lost(tmp_path_factory, regions):
    regions = {"liver": [1, 2]} | regions
    found = described(tmp_path_factory.mktemp("regions"), {"background": 0} | regions)
    tumor = set(regions.get("liver tumor", ()))
    assert set(found.labels.values()) == {id for ids in regions.values() for id in ids}
    assert ids_of(found)[0]["Liver"] == set(regions["liver"]) | tumor
    assert ids_of(found)[0].get("Liver Tumor", set()) == tumor


# --- refusals of a whole folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (NNUNET | {"channel_names": {"0": "MR"}, "labels": LABELS}, "is of MR, not of a CT"),
        (NNUNET | {"channel_names": {"0": "CT", "1": "PET"}, "labels": LABELS}, "is of CT, PET, not of a CT"),
        (MSD | {"modality": {"0": "MRI"}, "labels": {"1": "liver"}}, "is of MRI, not of a CT"),
        (NNUNET | {"labels": LABELS | {"ignore": [2, 3]}}, "is no dataset.json"),
        ('{"labels": ', "is no dataset.json"),
        (NNUNET | {"labels": {"background": 0, "heart": 1, "spine": 2}}, "no class is annotated"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() else "",
)
@pytest.mark.parametrize("where", ["inside", "above"])
def test_a_folder_that_cannot_be_used_is_refused_in_one_line_that_names_its_index(tmp_path, content, words, where):
    folder = tmp_path / "raw" / "Dataset001_Own"
    path = index(folder, content)
    for name in ("imagesTr/own_1_0000.nii.gz", "labelsTr/own_1.nii.gz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(InputError) as caught:
        choose_datasets(folder if where == "inside" else folder.parent)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channel", ["PET", "T1", "T2", "FLAIR", "ADC", "ultrasound", "SPECT", "functional MRI", "MR"])
def test_one_channel_of_another_kind_of_scan_is_refused(tmp_path, channel):
    for key in ("modality", "channel_names"):
        assert "not of a CT" in refusal(index(tmp_path / key, {key: {"0": channel}, "labels": LABELS}))
