import contextlib
import itertools
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmseg.errors import InputError
from dsmseg.taxonomy import CLASSES, ORGANS, TUMORS, Code, StructureClass, by_id, find, find_all, parse

TOML = files("dsmseg").joinpath("taxonomy.toml").read_text(encoding="utf-8")
DATA = Path(__file__).parents[1] / "../shared/data"
PAPER = Path(__file__).parents[1] / "../shared/paper/dsm.txt"
NAMES = [(one, name) for one in CLASSES for name in (one.name, *one.aliases)]

TOTALSEGMENTATOR = {
    "spleen": 1,
    "kidney_right": 2,
    "kidney_left": 3,
    "gallbladder": 4,
    "liver": 6,
    "stomach": 7,
    "pancreas": 11,
    "adrenal_gland_right": 12,
    "adrenal_gland_left": 13,
    "esophagus": 5,
    "small_bowel": 19,
    "duodenum": 14,
    "colon": 18,
    "urinary_bladder": 21,
    "prostate": 22,
    "kidney_cyst_left": 28,
    "kidney_cyst_right": 28,
    "aorta": 8,
    "inferior_vena_cava": 9,
    "portal_vein_and_splenic_vein": 10,
}


def test_ids_are_1_to_45_organs_before_tumors():
    assert [one.id for one in CLASSES] == list(range(1, 46))
    assert CLASSES == ORGANS + TUMORS
    assert [one.kind for one in CLASSES] == ["organ"] * 25 + ["tumor"] * 20


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text")
def test_names_are_those_of_the_paper_in_its_order():
    section = (
        PAPER.read_text(encoding="utf-8").split("4.2.3. Class Prompt Alignment")[1].split("Unlike other models")[0]
    )
    lists = re.findall(r"are \[(.*?)\]", section, flags=re.DOTALL)
    names = [" ".join(name.split()) for name in re.findall("\u2018([^\u2019]+)\u2019", " ".join(lists))]
    assert [one.name for one in CLASSES] == names


@pytest.mark.skipif(not DATA.exists(), reason="needs the shared test data")
def test_prompts_are_those_of_the_shared_clip_embeddings():
    names = json.loads((DATA / "clip/names.json").read_text(encoding="utf-8"))
    assert [one.prompt for one in CLASSES] == [f"A computerized tomography of a {name}" for name in names]


def test_every_tumor_has_organs_as_hosts_and_no_organ_has_any():
    organs = {one.name for one in ORGANS}
    assert all(one.hosts and organs.issuperset(one.hosts) for one in TUMORS)
    assert not any(one.hosts for one in ORGANS)
    assert find("kidney tumor").hosts == ("Right Kidney", "Left Kidney")
    assert find("hepatic vessel tumor").hosts == ("Liver", "Hepatic Vessel")


def test_side_is_set_just_where_the_name_says_it():
    for one in CLASSES:
        assert one.side == next((side for side in ("left", "right") if side in one.name.casefold().split()), None)


def test_paired_organs_share_their_code_and_differ_in_laterality():
    for one in ORGANS:
        twin = {"left": "right", "right": "left"}.get(one.side or "")
        if twin is None:
            assert one.laterality is None
        else:
            other = find(one.name.casefold().replace(one.side or "", twin))
            assert other.snomed == one.snomed
            assert other.laterality != one.laterality


@given(
    pair=st.sampled_from(NAMES),
    separator=st.sampled_from([" ", "_", "-", " / ", "", "  "]),
    case=st.sampled_from([str.upper, str.lower, str.title, str.swapcase]),
    article=st.sampled_from(["", "the ", "The "]),
)
def test_case_and_separators_make_no_difference(pair, separator, case, article):
    one, name = pair
    spelling = case(separator.join(name.split()))
    assert find(spelling if separator == "" else article + spelling) is one


@given(pair=st.sampled_from(NAMES), data=st.data())
def test_the_order_of_words_makes_no_difference(pair, data):
    one, name = pair
    assert find(" ".join(data.draw(st.permutations(name.split())))) is one


@pytest.mark.parametrize("pair", [pair for pair in NAMES if len(pair[1]) > 2], ids=lambda pair: pair[1])
def test_a_plural_means_the_same(pair):
    one, name = pair
    assert find(name if name.endswith("s") else name + "s") is one


@pytest.mark.parametrize("alias", [alias for one in CLASSES for alias in one.aliases])
def test_no_alias_is_found_without_its_entry(alias):
    assert parse(TOML.replace(f'"{alias}"', '"some other name"')).lookup(alias) == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("R kidney", "Right Kidney"),
        ("celiac trunk", "Celiac Truck"),
        ("coeliac axis", "Celiac Truck"),
        ("cancer of the gallbladder", "Gall Bladder Tumor"),
        ("IVC", "Postcava"),
        ("hepatic vessels", "Hepatic Vessel"),
        ("left femoral head", "Left Head of Femur"),
        ("renal cell carcinoma", "Kidney Tumor"),
        ("RCC", "Kidney Tumor"),
        ("HCC", "Liver Tumor"),
        ("PDAC", "Pancreas Tumor"),
        ("oesophageal cancer", "Esophagus Tumor"),
        ("tumour of the small bowel", "Small Intestinal Neoplasm"),
        ("pulmonary nodules", "Lung Tumor"),
        ("suprarenal mass", "Adrenal Tumor"),
    ],
)
def test_radiologists_words_are_understood(text, name):
    assert find(text).name == name


@pytest.mark.parametrize(("name", "id"), TOTALSEGMENTATOR.items())
def test_totalsegmentator_names_of_the_same_structure_are_understood(name, id):
    assert find(name) is by_id(id)


@pytest.mark.skipif(not DATA.exists(), reason="needs the shared test data")
def test_no_other_totalsegmentator_name_is_taken_for_a_class():
    names = json.loads((DATA / "totalsegmentator_v2_ids.json").read_text(encoding="utf-8")).values()
    for name in set(names) - TOTALSEGMENTATOR.keys():
        with pytest.raises(InputError):
            find(name)


def test_an_ambiguous_word_is_refused_with_its_candidates():
    with pytest.raises(InputError, match=r"means 2 classes: Right Kidney, Left Kidney\. Name one of them\."):
        find("kidney")


@pytest.mark.parametrize(
    ("text", "suggestion"), [("lvier", "Liver"), ("right kidny", "Right Kidney"), ("spleeen tumor", "Spleen Tumor")]
)
def test_a_misspelling_is_refused_with_a_suggestion(text, suggestion):
    with pytest.raises(InputError, match=f"no class is called '{text}'. Did you mean .*{suggestion}"):
        find(text)


@given(text=st.text())
def test_any_text_is_either_found_or_refused_as_input(text):
    with contextlib.suppress(InputError):
        assert find(text) in CLASSES
    with contextlib.suppress(InputError):
        assert set(find_all(text)) <= set(CLASSES)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("kidney", [2, 3]),
        ("Kidneys", [2, 3]),
        ("both lungs", [16, 17]),
        ("adrenal glands", [12, 13]),
        ("femoral heads", [23, 24]),
        ("organs", list(range(1, 26))),
        ("tumours", list(range(26, 46))),
        ("all", list(range(1, 46))),
        ("HCC, liver; kidneys, right kidney,", [2, 3, 6, 31]),
    ],
)
def test_find_all_resolves_lists_and_groups_in_the_order_of_ids(text, ids):
    assert [one.id for one in find_all(text)] == ids


@given(st.lists(st.sampled_from(CLASSES), min_size=1))
def test_find_all_of_single_names_agrees_with_find(classes: list[StructureClass]):
    found = find_all(",".join(one.name for one in classes))
    assert set(found) == {find(one.name) for one in classes}


@pytest.mark.parametrize("text", ["", " , ;", "liver, xyzzy"])
def test_find_all_refuses_a_list_with_nothing_or_with_something_unknown(text):
    with pytest.raises(InputError):
        find_all(text)


@pytest.mark.parametrize("id", [0, 46, -1])
def test_ids_outside_the_taxonomy_are_refused(id):
    with pytest.raises(InputError, match="Ids are 1 to 45"):
        by_id(id)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("id = 7\n", "id = 8\n", "not 1, 2, 3, ... in order"),
        ('hosts = ["Stomach"]', 'hosts = ["Stomache"]', "hosts of Stomach Tumor"),
        ('hosts = ["Stomach"]', 'hosts = ["Lung Tumor"]', "hosts of Stomach Tumor"),
        ('hosts = ["Stomach"]', "", "hosts of Stomach Tumor"),
        ('aliases = ["RK"]', 'aliases = ["liver"]', "claimed twice"),
        ('aliases = ["RK"]', 'aliases = ["kidney"]', "claimed twice"),
        ('kidneys = ["Right Kidney"', 'kidneys = ["Third Kidney"', "unknown classes: Third Kidney"),
    ],
)
def test_a_faulty_taxonomy_is_refused(old, new, fault):
    assert old in TOML
    with pytest.raises(InputError, match=fault):
        parse(TOML.replace(old, new))


def _lab(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """CIE L*a*b* of an sRGB color under D65."""
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color))
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def _difference(one: StructureClass, other: StructureClass) -> float:
    return sum((a - b) ** 2 for a, b in zip(_lab(one.color), _lab(other.color), strict=True)) ** 0.5


def test_colors_can_be_told_apart_and_tumors_stand_out_from_their_hosts():
    assert all(0 <= value <= 255 for one in CLASSES for value in one.color)
    assert all(_difference(one, other) > 10 for one, other in itertools.combinations(CLASSES, 2))
    assert all(_difference(tumor, find(host)) > 70 for tumor in TUMORS for host in tumor.hosts)


def test_snomed_codes_mean_in_pydicom_what_they_mean_here():
    concepts = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    meanings = {(value, meaning) for terms in concepts.values() for value, (meaning, *_) in terms.items()}
    known = {value for value, _ in meanings}
    sides = {one.laterality for one in CLASSES if one.laterality is not None}
    codes = {one.snomed for one in CLASSES if one.snomed is not None} | sides
    assert {code.value for code in codes} - known == {"110765007"}
    assert {(code.value, code.meaning) for code in codes if code.value in known} <= meanings
    assert find("hepatic vessel").snomed is None


def _verhoeff_sum(value: str) -> int:
    """Zero for a number with a valid Verhoeff check digit, which every SNOMED CT id ends in. By dihedral group D5."""
    total = 0
    for place, digit in enumerate(map(int, reversed(value))):
        for _ in range(place % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        if total < 5:
            total = (total + digit) % 5 + (5 if digit >= 5 else 0)
        else:
            total = (total - digit) % 5 + (0 if digit >= 5 else 5)
    return total


def test_snomed_codes_have_valid_check_digits():
    codes: set[Code] = {code for one in CLASSES for code in (one.snomed, one.laterality) if code is not None}
    assert codes
    assert all(code.scheme == "SCT" and _verhoeff_sum(code.value) == 0 for code in codes)


def test_importing_the_taxonomy_loads_no_heavy_library():
    heavy = "{'torch', 'numpy', 'pydantic', 'difflib'}"
    code = f"import sys, dsmseg.taxonomy; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
