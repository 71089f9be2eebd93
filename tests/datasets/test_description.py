"""A data set's description is whole and right, or refused in one line that names the setting and how to mend it."""

import copy
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmseg.datasets.description import by_name, describe, packaged, read_description
from dsmseg.datasets.layout import find_datasets
from dsmseg.errors import InputError
from dsmseg.taxonomy import CLASSES, find

PUBLIC = files("dsmseg.datasets").joinpath("public")
OWN = """
name = "own"
title = "Own"
citation = "none"
licence = "ours"
where = "here"

[table_1]
training = 3

[layout]
case = 'p\\d+'
images = ["images/{case}"]
labels = ["labels/{case}"]

[labels]
liver = 1
kidneys = 2
tumor = 3

[classes]
"Liver" = ["liver", "tumor"]
"Liver Tumor" = ["tumor"]

[[separated]]
labels = ["kidneys"]
right = "Right Kidney"
left = "Left Kidney"
rule = "kidneys"

[[holds]]
dataset = "lits"
scans = 2
found = "id"
ids = ["p1", "p2"]
other_ids = ["1", "2"]
source = "we know"
"""


def sides(parting):
    return parting.right, parting.left


def written(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path, text):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_description(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    assert caught.value.mend
    return line


# --- those that come with the package --------------------------------------------------------------------------------


def test_each_packaged_file_is_valid_and_listed_once_in_the_order():
    names = [one.name for one in packaged()]
    assert len(set(names)) == len(names) == 16
    assert {f"{name}.toml" for name in names} == {path.name for path in PUBLIC.iterdir() if path.name.endswith(".toml")}


@pytest.mark.parametrize("one", packaged(), ids=lambda one: one.name)
def test_a_packaged_description_says_where_from_and_under_which_terms(one):
    assert one.title
    assert one.licence
    assert one.citation
    assert "://" in one.where
    assert re.fullmatch(r"10\.\d{4,}/\S+", one.doi)
    assert one.published
    assert one.annotated_ids == tuple(sorted(find(name).id for name in one.annotated))


@pytest.mark.parametrize("one", packaged(), ids=lambda one: one.name)
def test_a_packaged_organ_takes_its_annotated_tumors_in(one):
    organs = dict(one.classes) | {side: parting.labels for parting in one.separated for side in sides(parting)}
    for name, labels in one.classes.items():
        for host in set(find(name).hosts) & set(organs) - {"Hepatic Vessel"}:  # those tumors lie beside the vessels
            paired = [organs[other] for other in organs if find(other).snomed == find(host).snomed]
            assert set(labels) <= {label for those in paired for label in those}, f"{name} lies outside of {host}"


@pytest.mark.parametrize("one", packaged(), ids=lambda one: one.name)
def test_scans_that_a_data_set_holds_are_of_a_known_one_and_as_many_as_it_says(one):
    for held in one.holds:
        other = by_name(held.dataset)
        assert other.name != one.name
        assert held.source
        assert len(set(held.ids)) == len(held.ids)
        assert (held.found == "id") == bool(held.ids)
        if held.ids:
            assert held.scans == len(held.ids)
        for own, theirs in held.pairs:
            assert re.fullmatch(one.layout.case, own)
            assert re.fullmatch(other.layout.case, theirs)


@pytest.mark.parametrize("one", packaged(), ids=lambda one: one.name)
def test_withdrawn_cases_could_be_found_and_say_why(one):
    for case, why in one.withdrawn.items():
        assert re.fullmatch(one.layout.case, case)
        assert why


def test_a_data_set_is_found_by_its_name():
    for one in packaged():
        assert by_name(one.name) == one


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("LiTS", "lits"),
        ("kits", "kits19"),
        ("AbdomenCT-1K", "abdomenct_1k"),
        ("amos", "amos22"),
        ("pancreas-ct", "pancreas_ct"),
        ("total_segmentator", "totalsegmentator"),
    ],
)
def test_a_name_that_is_not_quite_one_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(InputError) as caught:
        by_name(name)
    assert str(caught.value) == f"no data set is called '{name}'. Did you mean {nearest}?"


def test_a_name_like_none_is_refused_with_all_of_them():
    with pytest.raises(InputError) as caught:
        by_name("?")
    assert all(one.name in str(caught.value) for one in packaged())


# --- one of your own -------------------------------------------------------------------------------------------------


def test_a_description_of_your_own_is_read_as_those_of_the_package(tmp_path):
    one = read_description(written(tmp_path, OWN))
    assert one.annotated == ("Liver", "Liver Tumor", "Right Kidney", "Left Kidney")
    assert one.structures == ("liver", "tumor", "kidneys")
    assert one.holds[0].pairs == (("p1", "1"), ("p2", "2"))
    assert one.layout.placing == ("header",)
    assert one.published is None


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        # A setting that is misspelt: the nearest is named.
        ("titel", "title", "'titel' is no setting; the nearest is 'title'"),
        ("[clases]", "[classes]", "'clases' is no setting; the nearest is 'classes'"),
        ('images = ["images/{case}"]\nkinds = 1', 'images = ["images/{case}"]', "'layout.kinds' is no setting"),
        ("cases = ", "case = ", "the nearest is 'case'"),
        ("image = [", "images = [", "'layout.image' is no setting; the nearest is 'images'"),
        ("rigth = ", "right = ", "'separated.0.rigth' is no setting; the nearest is 'right'"),
        ("scan = 2", "scans = 2", "'holds.0.scan' is no setting; the nearest is 'scans'"),
        ("trainings = 3", "training = 3", "'table_1.trainings' is no setting; the nearest is 'training'"),
        # A setting that is missing.
        ("", 'licence = "ours"\n', "'licence': Field required"),
        ("", 'labels = ["labels/{case}"]\n', "'layout.labels': Field required"),
        ("", 'rule = "kidneys"\n', "'separated.0.rule': Field required"),
        # A setting of another kind or beyond its range.
        ("name = 7", 'name = "own"', "'name': Input should be a valid string"),
        ('name = "My own"', 'name = "own"', "'name': "),
        ('name = "../own"', 'name = "own"', "'name': "),
        ("training = -3", "training = 3", "'table_1.training': Input should be greater than or equal to 0"),
        ("liver = 0", "liver = 1", "'labels.liver': Input should be greater than or equal to 1"),
        ("liver = 65536", "liver = 1", "'labels.liver': Input should be less than or equal to 65535"),
        ("liver = 1.5", "liver = 1", "'labels.liver': "),
        ("images = []", 'images = ["images/{case}"]', "'layout.images': "),
        ('"Liver" = []', '"Liver" = ["liver", "tumor"]', "'classes.Liver': "),
        ('rule = "kidney"', 'rule = "kidneys"', "'separated.0.rule': Input should be 'kidneys', 'lungs'"),
        ('found = "name"', 'found = "id"', "'holds.0.found': Input should be 'id' or 'content'"),
        # Patterns.
        ('images = ["images/*"]', 'images = ["images/{case}"]', "the pattern 'images/*' has no {case}"),
        ('labels = ["labels/p1"]', 'labels = ["labels/{case}"]', "the pattern 'labels/p1' has no {case}"),
        ('images = ["/images/{case}"]', 'images = ["images/{case}"]', "must be relative"),
        ('images = ["../images/{case}"]', 'images = ["images/{case}"]', "must be relative"),
        ('labels = ["{case}/{structure}"]', 'labels = ["labels/{case}"]', "{structure} belongs in the labels of"),
        ("case = 'p(\\d+)'", "case = 'p\\d+'", "case must not hold groups; write (?:...)"),
        ("case = 'p[0-'", "case = 'p\\d+'", "case 'p[0-' is no regular expression"),
        # Labels and classes.
        ('"Liver Tumor" = ["tumour"]', '"Liver Tumor" = ["tumor"]', "'tumour' is none of the labels (liver, kidneys"),
        ('labels = ["kidney"]', 'labels = ["kidneys"]', "'kidney' is none of the labels"),
        ('"Livr" = ', '"Liver" = ', "no class is called 'Livr'. Did you mean Liver?"),
        ('"liver" = ', '"Liver" = ', "write 'Liver' for 'liver'"),
        ('"Hepatic Tumor" = ', '"Liver Tumor" = ', "write 'Liver Tumor' for 'Hepatic Tumor'"),
        ('"kidneys" = ', '"Liver" = ', "means 2 classes: Right Kidney, Left Kidney"),
        ('"Right Kidney" = ', '"Liver" = ', "a class is made up twice"),
        ("tumor = 1", "tumor = 3", "two labels have the same id"),
        ('right = "Left Kidney"', 'right = "Right Kidney"', "twice|are not the right and left of an organ"),
        ('right = "Spleen"', 'right = "Right Kidney"', "'Spleen' and 'Left Kidney' are not the right and left"),
        ('right = "Right Lung"', 'right = "Right Kidney"', "'Right Lung' and 'Left Kidney' are not the right and left"),
        ('other_ids = ["1"]', 'other_ids = ["1", "2"]', "'holds.0': other_ids must be as many as ids"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(tmp_path, wrong, right, words):
    assert OWN.count(right) == 1
    line = refusal(tmp_path, OWN.replace(right, wrong))
    assert any(one in line for one in words.split("|")), line


def test_a_rule_for_another_organ_than_the_one_to_be_parted_is_refused(tmp_path):
    line = refusal(tmp_path, OWN.replace('rule = "kidneys"', 'rule = "lungs"'))
    assert "lungs" in line
    assert "Right Kidney" in line


def test_an_optional_structure_that_no_class_needs_is_refused(tmp_path):
    # Misspelt, it would make its class unknown in every case that lacks the file.
    content = tomllib.loads(OWN) | {"labels": {}}
    content["layout"] |= {"kind": "one file a structure", "labels": ["{case}/{structure}"]}
    assert describe(content | {"optional": ["tumor"]}, "own.toml").optional == ("tumor",)
    with pytest.raises(InputError, match="'tumour'") as caught:
        describe(content | {"optional": ["tumour"]}, "own.toml")
    assert "\n" not in str(caught.value)


def test_a_withdrawn_case_that_could_not_be_one_is_refused():
    content = tomllib.loads(OWN)
    assert describe(content | {"withdrawn": {"p7": "faulty"}}, "own.toml").withdrawn == {"p7": "faulty"}
    with pytest.raises(InputError, match="'7'") as caught:
        describe(content | {"withdrawn": {"7": "faulty"}}, "own.toml")
    assert "\n" not in str(caught.value)


def test_sides_in_the_wrong_order_are_refused(tmp_path):
    turned = OWN.replace('right = "Right', 'right = "Left').replace('left = "Left', 'left = "Right')
    assert "are not the right and left of an organ" in refusal(tmp_path, turned)


def test_a_data_set_without_labels_or_classes_is_refused(tmp_path):
    content = tomllib.loads(OWN)
    for missing, words in (("labels", "labels are missing"), ("classes", "no class is annotated")):
        less = copy.deepcopy(content)
        del less[missing]
        if missing == "classes":
            del less["separated"]
        with pytest.raises(InputError, match=words) as caught:
            describe(less, "own.toml")
        assert "\n" not in str(caught.value)


def test_structures_of_their_own_need_no_ids_and_the_pattern_names_them(tmp_path):
    content = tomllib.loads(OWN) | {"labels": {}}
    content["layout"] |= {"kind": "one file a structure"}
    with pytest.raises(InputError, match=r"\{structure\} belongs in"):
        describe(content, "own.toml")
    content["layout"] |= {"labels": ["{case}/{structure}"]}
    assert describe(content, "own.toml").structures == ("liver", "tumor", "kidneys")


@pytest.mark.parametrize(
    "text", ["name = ", "no toml at all", "[layout", OWN + 'name = "twice"\n[layout]\n', "\x00", "- a\n- b"]
)
def test_what_is_no_toml_is_refused_with_the_place(tmp_path, text):
    assert "is no TOML" in refusal(tmp_path, text)


def test_a_file_that_is_no_text_or_not_there_or_a_folder_is_refused(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary.toml", tmp_path / "missing.toml", tmp_path):
        with pytest.raises(InputError, match="cannot be read") as caught:
            read_description(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_an_empty_file_is_refused_by_the_first_setting_that_it_lacks(tmp_path):
    assert "'name': Field required" in refusal(tmp_path, "")


SETTINGS = [
    (),
    ("layout",),
    ("table_1",),
    ("separated", 0),
    ("holds", 0),
]


@given(st.sampled_from(SETTINGS), st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=14))
def test_any_unknown_setting_is_refused_with_its_place_and_a_setting_that_exists(place, key):
    content = tomllib.loads(OWN)
    section = content
    for part in place:
        section = section[part]
    known = describe(content, "own.toml")
    for part in place:
        known = known[part] if isinstance(part, int) else getattr(known, part)
    if key in type(known).model_fields:
        return
    section[key] = 1
    with pytest.raises(InputError) as caught:
        describe(content, "own.toml")
    where = ".".join(str(part) for part in (*place, key))
    match = re.search(r"'([^']*)' is no setting; the nearest is '([^']*)'", str(caught.value))
    assert match[1] == where
    assert match[2] in type(known).model_fields


@pytest.mark.parametrize("case", ["(?i)p\\\\d+", "(?x) p", "p\\\\1", "(?P=case)", "*", "p{2"])
def test_a_case_that_could_not_be_searched_for_is_refused_and_never_crashes(tmp_path, case):
    text = OWN.replace("case = 'p\\d+'", f'case = "{case}"')
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "p1.nii.gz").touch()
    path, lines = written(tmp_path, text), []
    try:
        find_datasets(tmp_path / "data", [read_description(path)])
    except InputError as error:
        lines.append(str(error))
    assert all(str(path) in line and "\n" not in line for line in lines)


@pytest.mark.parametrize("case", [".*", ".+", r"[^x]*", r"\d*", "s.*", r"[^x/]?[^x]+"])
def test_the_id_of_a_case_is_never_empty_and_never_a_path(tmp_path, case):
    # It is the name of the case's folder in the store.
    data = tmp_path / "data"
    for half in ("images", "labels"):
        for name in (".nii.gz", "a.nii.gz", "images/b.nii.gz", "sub/b.nii.gz", "7.nii.gz"):
            path = data / half / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (data / f"case{half}.nii.gz").touch()
    text = OWN.replace("case = 'p\\d+'", f"case = '{case}'")
    text = text.replace('["images/{case}"]', '["images/{case}", "{case}caseimages"]')
    text = text.replace('["labels/{case}"]', '["labels/{case}", "{case}caselabels"]')
    try:
        description = read_description(written(tmp_path, text))
    except InputError:
        return
    for found in find_datasets(data, [description]):
        for files_of in found.cases:
            assert files_of.id
            assert Path(files_of.id).name == files_of.id


def test_every_class_can_be_described(tmp_path):
    for one in CLASSES:
        text = OWN.replace('"Liver" = ["liver", "tumor"]\n"Liver Tumor"', f'"{one.name}"')
        text = text[: text.index("[[separated]]")]
        assert read_description(written(tmp_path, text)).annotated_ids == (one.id,)


# --- all names, and all mistakes of one letter -----------------------------------------------------------------------


def test_the_order_names_each_packaged_file_once():
    listed = PUBLIC.joinpath("order.txt").read_text(encoding="utf-8").split()
    assert listed == [one.name for one in packaged()]
    assert sorted(f"{name}.toml" for name in listed) == sorted(
        path.name for path in PUBLIC.iterdir() if path.name.endswith(".toml")
    )


def test_packaged_classes_are_called_as_the_taxonomy_calls_them():
    names = {one.name for one in CLASSES}
    for one in packaged():
        content = tomllib.loads(PUBLIC.joinpath(f"{one.name}.toml").read_text(encoding="utf-8"))
        parted = [part[side] for part in content.get("separated", ()) for side in ("right", "left")]
        used = [*content["classes"], *parted]
        assert set(used) <= names, one.name
        assert len(set(used)) == len(used), one.name


@given(st.data())
def test_a_name_with_one_wrong_letter_is_refused_with_the_right_name(data):
    name = data.draw(st.sampled_from([one.name for one in packaged()]))
    place = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.sampled_from(["", "x", "q", name[place].upper() + "q"]))
    typed = name[:place] + letter + name[place + 1 :]
    if typed == name:
        return
    with pytest.raises(InputError) as caught:
        by_name(typed)
    assert str(caught.value) == f"no data set is called '{typed}'. Did you mean {name}?"
