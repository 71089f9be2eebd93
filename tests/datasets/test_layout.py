"""Cases are found by the ends of their paths, wherever they were unpacked, and each file belongs to one data set."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsmseg.datasets.description import by_name, describe
from dsmseg.datasets.layout import WHOLE, case_order, find_datasets, list_files
from dsmseg.errors import InputError
from dsmseg.volume import VOLUME_SUFFIXES

LITS, CT_ORG = by_name("lits"), by_name("ct_org")


def described(images=("images/{case}",), labels=("labels/{case}",), case=r"p\d+", name="own", **layout):
    """Describe a data set whose files lie so."""
    structures = ("liver", "spleen", "kidney_right") if "kind" in layout else ()
    content = {"name": name, "title": "", "citation": "", "licence": "", "where": ""}
    content |= {"layout": {"case": case, "images": images, "labels": labels, **layout}}
    content |= {"labels": {} if structures else {"liver": 1}}
    content |= {"classes": {"Liver": ["liver"], "Spleen": ["spleen"]} if structures else {"Liver": ["liver"]}}
    if layout.get("kind") == "PNG stack":
        content |= {"labels": {"liver": 1}, "classes": {"Liver": ["liver"]}}
    return describe(content, "test")


def touched(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found_in(root, *descriptions):
    return {one.description.name: one for one in find_datasets(root, descriptions)}


def the_cases(root, description):
    """Give image and label of each case, as paths in the folder."""
    found = found_in(root, description).get(description.name)
    if found is None:
        return {}
    assert not found.repeated
    return {
        one.id: (one.image.relative_to(root).as_posix(), one.labels[WHOLE].relative_to(root).as_posix())
        for one in found.cases
    }


# --- where files lie -------------------------------------------------------------------------------------------------

words = st.text("abcXYZ012 -_.é", min_size=1, max_size=8).filter(lambda text: text.strip(". ") and text[0] != ".")


@given(
    st.lists(words, max_size=3),
    st.sets(st.integers(0, 10**6), min_size=1, max_size=5),
    st.sampled_from(VOLUME_SUFFIXES),
    st.sampled_from(VOLUME_SUFFIXES),
)
def test_a_data_set_is_found_in_whatever_folders_it_was_unpacked(tmp_path_factory, above, numbers, image, label):
    root = tmp_path_factory.mktemp("tree")
    inside = "".join(f"{one}/" for one in above)
    expected = {
        f"p{number}": (f"{inside}images/p{number}{image}", f"{inside}labels/p{number}{label}") for number in numbers
    }
    for paths in expected.values():
        touched(root, *paths)
    assert the_cases(root, described()) == expected


def test_a_star_is_any_part_of_one_name_and_never_goes_down_a_folder(tmp_path):
    root = touched(
        tmp_path,
        "scans/p1_art.nii.gz",
        "scans/p2.nii",
        "scans/deep/p3.nii.gz",
        *[f"seg-v2/p{n}.nii" for n in (1, 2, 3)],
    )
    assert the_cases(root, described(("scans/{case}*",), ("seg*/{case}",))) == {
        "p1": ("scans/p1_art.nii.gz", "seg-v2/p1.nii"),
        "p2": ("scans/p2.nii", "seg-v2/p2.nii"),
    }


def test_the_case_is_the_same_wherever_the_pattern_names_it(tmp_path):
    root = touched(tmp_path, "p1/p1_ct.nii", "p1/p2_ct.nii", "p2/p2_ct.nii", "p1/seg.nii", "p2/seg.nii")
    assert the_cases(root, described(("{case}/{case}_ct",), ("{case}/seg",))) == {
        "p1": ("p1/p1_ct.nii", "p1/seg.nii"),
        "p2": ("p2/p2_ct.nii", "p2/seg.nii"),
    }


def test_signs_in_a_pattern_are_themselves(tmp_path):
    root = touched(tmp_path, "a+b (1)/p1.nii", "aab (1)/p2.nii", "[seg]/p1.nii", "s/p2.nii")
    assert list(the_cases(root, described(("a+b (1)/{case}",), ("[seg]/{case}",)))) == ["p1"]


def test_a_pattern_begins_at_a_whole_name(tmp_path):
    root = touched(
        tmp_path, "old_images/p1.nii", "images/xp2.nii", "images/p3.nii", *[f"labels/p{n}.nii" for n in "123"]
    )
    assert list(the_cases(root, described())) == ["p3"]


@pytest.mark.parametrize("name", ["p1.nii.gz.bak", "p1.txt", "p1", "p1.nii.gz.part", "p1.mat", "p1_nii.gz", "p11x.nii"])
def test_files_of_other_kinds_are_passed_over(tmp_path, name):
    root = touched(tmp_path, "images/p9.nii", "labels/p9.nii", f"images/{name}", "labels/p1.nii")
    assert list(the_cases(root, described())) == ["p9"]


@pytest.mark.parametrize("name", ["P1.NII.GZ", "p1.Nii.gz", "P1.nii"])
def test_capitals_of_names_make_no_difference(tmp_path, name):
    root = touched(tmp_path, f"Images/{name}", f"LABELS/{name}")
    (case,) = the_cases(root, described())
    assert case.casefold() == "p1"


@pytest.mark.parametrize(
    "note", ["images/._p1.nii.gz", "__MACOSX/images/p1.nii.gz", ".trash/images/p1.nii.gz", ".p1.nii"]
)
def test_notes_of_systems_are_no_cases(tmp_path, note):
    root = touched(tmp_path, "images/p2.nii.gz", "labels/p2.nii.gz", "labels/p1.nii.gz", note)
    found = found_in(root, described())["own"]
    assert [one.id for one in found.cases] == ["p2"]
    assert list(found.only_labels) == ["p1"]


def test_several_patterns_are_several_places_of_one_data_set(tmp_path):
    root = touched(tmp_path, "Tr/p1.nii", "Va/p2.nii", "labelsTr/p1.nii", "labelsVa/p2.nii")
    own = described(("Tr/{case}", "Va/{case}"), ("labelsTr/{case}", "labelsVa/{case}"))
    assert list(the_cases(root, own)) == ["p1", "p2"]


def test_a_folder_of_files_is_one_image(tmp_path):
    root = touched(
        tmp_path, "p1/DICOM/1.dcm", "p1/DICOM/a/2", "p2/DICOM/x", "seg/p1.nii", "seg/p2.nii.gz", "p3/DICOM.nii"
    )
    assert the_cases(root, described(("{case}/DICOM/",), ("seg/{case}",))) == {
        "p1": ("p1/DICOM", "seg/p1.nii"),
        "p2": ("p2/DICOM", "seg/p2.nii.gz"),
    }


def test_an_empty_folder_is_no_image(tmp_path):
    root = touched(tmp_path, "p1/DICOM/1.dcm", "seg/p1.nii", "seg/p2.nii")
    (root / "p2" / "DICOM").mkdir(parents=True)
    found = found_in(root, described(("{case}/DICOM/",), ("seg/{case}",)))["own"]
    assert list(found.only_labels) == ["p2"]


def test_structures_have_files_of_their_own_and_others_than_those_needed_are_passed_over(tmp_path):
    names = ("p1/ct.nii.gz", *[f"p1/seg/{name}.nii.gz" for name in ("liver", "spleen", "heart", "liver_2")])
    own = described(("{case}/ct",), ("{case}/seg/{structure}",), kind="one file a structure")
    (case,) = found_in(touched(tmp_path, *names), own)["own"].cases
    assert {name: path.name for name, path in case.labels.items()} == {
        "liver": "liver.nii.gz",
        "spleen": "spleen.nii.gz",
    }


def test_cases_come_in_the_order_in_which_people_count(tmp_path):
    numbers = ("10", "2", "1", "0033", "100", "9")
    names = [f"{half}/p{number}.nii" for number in numbers for half in ("images", "labels")]
    assert list(the_cases(touched(tmp_path, *names), described())) == ["p1", "p2", "p9", "p10", "p0033", "p100"]


@given(st.lists(st.text("ab1209_", max_size=6), max_size=8))
def test_any_ids_can_be_put_in_order(ids):
    ordered = sorted(ids, key=case_order)
    assert sorted(ordered) == sorted(ids)
    assert all(case_order(one) <= case_order(other) for one, other in pairwise(ordered))


@given(st.lists(st.text(max_size=4), min_size=2, max_size=6))
@example(["p2\N{SUPERSCRIPT TWO}", "p10"])
@example(["\N{ARABIC-INDIC DIGIT TWO}", "1"])
def test_ids_in_any_script_can_be_put_in_order(ids):
    sorted(ids, key=case_order)


def test_half_a_case_is_known_as_that(tmp_path):
    root = touched(tmp_path, "images/p1.nii", "images/p2.nii", "labels/p2.nii", "labels/p3.nii")
    found = found_in(root, described())["own"]
    assert [one.id for one in found.cases] == ["p2"]
    assert found.only_images == {"p1": root / "images/p1.nii"}
    assert found.only_labels == {"p3": root / "labels/p3.nii"}


def test_a_case_that_is_there_twice_is_taken_once_and_told(tmp_path):
    root = touched(tmp_path, "a/images/p1.nii", "b/images/p1.nii.gz", "a/labels/p1.nii")
    found = found_in(root, described())["own"]
    (case,) = found.cases
    assert case.image == root / "a/images/p1.nii"
    assert found.repeated == {"p1": (root / "b/images/p1.nii.gz",)}


def test_a_case_unpacked_twice_takes_image_and_labels_of_the_same_copy(tmp_path):
    # The first image lies where no labels are.
    root = touched(tmp_path, "a/images/p1.nii", "b/images/p1.nii", "b/labels/p1.nii")
    (case,) = found_in(root, described())["own"].cases
    assert case.image.parts[-3] == case.labels[WHOLE].parts[-3] == "b"


def test_images_alone_are_no_data_set(tmp_path):
    assert found_in(touched(tmp_path, "images/p1.nii", "images/p2.nii"), described()) == {}
    assert found_in(tmp_path / "images", described()) == {}


# --- links and listing -----------------------------------------------------------------------------------------------


def test_linked_files_and_folders_are_found_where_the_link_is(tmp_path):
    touched(tmp_path / "disk", "a.nii", "folder/p2.nii")
    root = touched(tmp_path / "root", "labels/p1.nii", "labels/p2.nii", "images/p3.nii")
    (root / "images/p1.nii").symlink_to(tmp_path / "disk/a.nii")
    (root / "more").mkdir()
    (root / "more" / "images").symlink_to(tmp_path / "disk/folder")
    assert the_cases(root, described()) == {
        "p1": ("images/p1.nii", "labels/p1.nii"),
        "p2": ("more/images/p2.nii", "labels/p2.nii"),
    }


def test_a_link_back_up_ends(tmp_path):
    root = touched(tmp_path, "a/images/p1.nii", "a/labels/p1.nii")
    (root / "a" / "again").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "b").symlink_to(root / "a")
    assert the_cases(root, described()) == {"p1": ("a/images/p1.nii", "a/labels/p1.nii")}


def test_the_folder_itself_may_be_a_link(tmp_path):
    touched(tmp_path / "real", "images/p1.nii", "labels/p1.nii")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list(the_cases(tmp_path / "link", described())) == ["p1"]


@given(
    st.sets(st.lists(st.sampled_from(["a", "b", "c d", "é", "_"]), min_size=1, max_size=4).map("/".join), max_size=8)
)
def test_all_files_are_listed_once_in_order(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("list")
    made = set()
    for name in sorted(names, key=len):
        try:
            touched(root, name)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        if (root / name).is_file():
            made.add(name)
    made = {name for name in made if (root / name).is_file()}
    assert list_files(root) == sorted(made)


def test_a_folder_that_is_none_is_refused_in_one_line(tmp_path):
    for path in (tmp_path / "missing", touched(tmp_path, "file") / "file"):
        with pytest.raises(InputError) as caught:
            list_files(path)
        assert str(caught.value) == f"{path}: is no folder. Give the folder that holds the data set."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused_in_one_line(tmp_path):
    locked = touched(tmp_path, "locked/images/p1.nii") / "locked"
    locked.chmod(0)
    try:
        with pytest.raises(InputError, match="Permission denied") as caught:
            list_files(tmp_path)
    finally:
        locked.chmod(0o700)
    assert str(locked) in str(caught.value)


def test_names_that_are_no_text_are_passed_by(tmp_path):
    root = touched(tmp_path, "images/p1.nii", "labels/p1.nii")
    (root / "images" / os.fsdecode(b"p2\xff.nii")).touch()
    assert list(the_cases(root, described())) == ["p1"]


# --- files that several data sets could own --------------------------------------------------------------------------


def owners(root):
    found = found_in(root, LITS, CT_ORG)
    return {one.image.relative_to(root).as_posix(): name for name, every in found.items() for one in every.cases}


@pytest.mark.parametrize("order", [(LITS, CT_ORG), (CT_ORG, LITS)])
def test_an_image_goes_with_the_labels_beside_it(tmp_path, order):
    root = touched(
        tmp_path,
        *[f"LiTS/Training Batch {1 + n // 2}/{half}-{n}.nii" for n in range(4) for half in ("volume", "segmentation")],
        *[f"OrganSegmentations/{half}-{n}.nii.gz" for n in range(5) for half in ("volume", "labels")],
    )
    found = {one.description.name: one for one in find_datasets(root, order)}
    assert [one.id for one in found["lits"].cases] == list("0123")
    assert [one.id for one in found["ct_org"].cases] == list("01234")
    assert all("LiTS" in one.image.parts for one in found["lits"].cases)
    assert not any(one.repeated or one.only_images or one.only_labels for one in found.values())


@pytest.mark.parametrize("folder", ["", "both/", "v1.0/", "data.2020/ct.org/"])
def test_in_one_folder_the_extension_tells(tmp_path, folder):
    names = ("volume-0.nii", "segmentation-0.nii", "volume-0.nii.gz", "labels-0.nii.gz")
    assert owners(touched(tmp_path, *[folder + name for name in names])) == {
        f"{folder}volume-0.nii": "lits",
        f"{folder}volume-0.nii.gz": "ct_org",
    }


def test_images_without_labels_of_any_data_set_are_nobody_s_case(tmp_path):
    root = touched(tmp_path, "volume-0.nii", "volume-1.nii", "segmentation-1.nii")
    assert owners(root) == {"volume-1.nii": "lits"}


def test_data_sets_of_the_same_layout_in_folders_side_by_side_are_not_mixed(tmp_path):
    root = touched(
        tmp_path,
        "Liver/imagesTr/liver_1.nii.gz",
        "Liver/labelsTr/liver_1.nii.gz",
        "Colon/imagesTr/colon_001.nii.gz",
        "Colon/labelsTr/colon_001.nii.gz",
    )
    found = found_in(root, by_name("msd_liver"), by_name("msd_colon"), by_name("amos22"))
    assert {name: [one.id for one in every.cases] for name, every in found.items()} == {
        "msd_liver": ["liver_1"],
        "msd_colon": ["colon_001"],
    }


# --- whatever else lies there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["a", "z"])
@pytest.mark.parametrize("target", ["data/images", "data/labels", "data"])
def test_a_link_to_a_folder_takes_no_case_away_from_it(tmp_path, link, target):
    root = touched(tmp_path, "data/images/p1.nii", "data/labels/p1.nii")
    (root / link).symlink_to(root / target)
    assert list(the_cases(root, described())) == ["p1"]


@pytest.mark.parametrize("case", [".", "..", ".x"])
def test_an_id_that_would_be_another_folder_of_the_store_or_a_hidden_one_is_no_case(tmp_path, case):
    # A case's folder is STORE/<data set>/<id>: ".." is the store itself, and what begins with a dot is not looked at.
    root = touched(tmp_path, "img1.nii.gz", "seg1.nii.gz", f"img{case}.nii.gz", f"seg{case}.nii.gz")
    assert list(the_cases(root, described(("img{case}",), ("seg{case}",), case="[^/]+"))) == ["1"]


halves = st.sets(
    st.tuples(
        st.sampled_from(["", "a/", "a/b/", "c/"]),
        st.sampled_from(["volume", "segmentation", "labels"]),
        st.integers(0, 3),
        st.sampled_from([".nii", ".nii.gz"]),
    ).map(lambda parts: f"{parts[0]}{parts[1]}-{parts[2]}{parts[3]}"),
    max_size=14,
)


@given(halves)
def test_no_image_is_of_two_data_sets_and_each_label_map_is_of_its_own(tmp_path_factory, names):
    root = touched(tmp_path_factory.mktemp("claims"), *names)
    found = find_datasets(root, [LITS, CT_ORG])
    images = [case.image for one in found for case in one.cases]
    assert len(set(images)) == len(images)
    for one in found:
        stem = {"lits": "segmentation", "ct_org": "labels"}[one.description.name]
        for case in one.cases:
            assert case.image.name.startswith(f"volume-{case.id}.")
            assert case.labels[WHOLE].name.startswith(f"{stem}-{case.id}.")
        assert not {case.id for case in one.cases} & (one.only_images.keys() | one.only_labels.keys())


@given(halves)
@example({"volume-0.nii", "segmentation-0.nii", "labels-2.nii"})
def test_the_order_of_the_descriptions_finds_the_same_cases(tmp_path_factory, names):
    # Each number has labels of one of them only, so nothing but the labels tells whose the image is.
    names = {name for name in names if ("segmentation" in name) <= ("-0" in name or "-1" in name)}
    names = {name for name in names if ("labels" in name) <= ("-2" in name or "-3" in name)}
    names = {name for name in names if "volume" not in name or name.endswith(".nii")}
    root = touched(tmp_path_factory.mktemp("order"), *names)
    forward, backward = found_in(root, LITS, CT_ORG), found_in(root, CT_ORG, LITS)
    for name in ("lits", "ct_org"):
        one, other = forward.get(name), backward.get(name)
        assert (one.cases if one else ()) == (other.cases if other else ())


@pytest.mark.parametrize("order", [(LITS, CT_ORG), (CT_ORG, LITS)])
def test_an_image_is_of_the_data_set_that_has_labels_of_its_case_before_one_that_has_others_nearby(tmp_path, order):
    root = touched(tmp_path, "a/volume-0.nii", "a/labels-2.nii", "segmentations/segmentation-0.nii")
    found = {one.description.name: [case.id for case in one.cases] for one in find_datasets(root, order)}
    assert found == {"lits": ["0"]}
