"""A folder that describes itself is understood by the names that it gives its labels, or refused in one line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_trees import SETTINGS, save, small_body

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
def test_voxels_of_which_nothing_is_known_are_refused_in_either_form(tmp_path, name):
    for number, content in enumerate(
        (NNUNET | {"labels": LABELS | {name: 2}}, MSD | {"labels": {"1": "liver", "2": name}})
    ):
        line = refusal(index(tmp_path / str(number), content))
        assert "ignore" in line.casefold()


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
