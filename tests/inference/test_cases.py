"""Every scan becomes one case with a name of its own."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.errors import InputError
from dsmseg.inference.cases import _unique_names, find_cases

DICOM = b"\0" * 128 + b"DICM"


@pytest.fixture
def tree(tmp_path):
    """Write empty scans, DICOM files (names ending in .dicom-like numbers) and others below tmp_path."""

    def write(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(DICOM if path.name.startswith("IM") else b"")
        return tmp_path

    return write


def names_of(*inputs: Path) -> list[str]:
    return [case.name for case in find_cases(inputs)]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".zip", ".NII.GZ"])
def test_a_file_is_named_by_its_stem(tree, suffix):
    folder = tree(f"a.b{suffix}")
    assert names_of(folder / f"a.b{suffix}") == ["a.b"]


def test_a_folder_of_dicom_files_is_one_case_with_the_folders_name(tree):
    folder = tree("series.1/IM0001", "series.1/IM0002", "series.1/readme.txt") / "series.1"
    assert [(case.name, case.path) for case in find_cases([folder])] == [("series.1", folder)]


def test_a_dicom_folder_is_found_by_suffix_where_files_have_no_mark(tree):
    assert names_of(tree("series/1.dcm") / "series") == ["series"]


def test_a_folder_of_cases_gives_scans_and_dicom_folders_sorted_and_nothing_else(tree):
    folder = tree(
        "b.nii.gz",
        "a.nrrd",
        "c/IM1",
        "d/deeper/IM1",
        "e/notes.txt",
        "f/ct.nii.gz",
        ".hidden.nii.gz",
        ".cache/IM1",
        "notes.txt",
        "a.seg.nrrd",
    )
    assert names_of(folder) == ["a", "b", "c", "d", "ct"]


def test_cases_in_folders_of_their_own_are_told_apart(tree):
    assert names_of(tree("s1/ct.nii.gz", "s1/parts/liver.nii.gz", "s2/ct.nii.gz")) == ["s1_ct", "s2_ct"]


def test_equal_names_get_their_parents_in_front(tree):
    folder = tree("abdomen_3mm/ct.nii.gz", "chest_lidc0001/ct.nii.gz", "dicom_series/ct/IM1", "other.nii.gz")
    inputs = [
        folder / "abdomen_3mm/ct.nii.gz",
        folder / "chest_lidc0001/ct.nii.gz",
        folder / "dicom_series/ct",
        folder / "other.nii.gz",
    ]
    assert names_of(*inputs) == ["abdomen_3mm_ct", "chest_lidc0001_ct", "dicom_series_ct", "other"]


def test_neighbors_that_differ_in_format_alone_keep_it_in_their_names(tree):
    assert names_of(tree("ct.nii.gz", "ct.nrrd")) == ["ct_nii_gz", "ct_nrrd"]


def test_a_scan_that_is_given_twice_is_one_case(tree):
    folder = tree("a.nii.gz")
    assert names_of(folder / "a.nii.gz", folder, folder / "." / "a.nii.gz") == ["a"]


parts = st.sampled_from(["a", "A", "b", "a_b", "b_a", "a_b_2"])


@settings(deadline=None)
@given(
    st.sets(st.tuples(parts, parts, st.sampled_from(["a", "b", "a_b"]), st.sampled_from([".nii", ".nii.gz", ".mha"])))
)
def test_names_never_collide_not_even_without_case(tails):
    paths = [Path("/", one, two, f"{stem}{suffix}") for one, two, stem, suffix in sorted(tails)]
    names = _unique_names(paths)
    assert len({name.casefold() for name in names}) == len(paths)
    assert all(name and "/" not in name for name in names)


def test_a_missing_input_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_cases([tmp_path / "none.nii.gz"])


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no scans"):
        find_cases([tmp_path])


def test_a_folder_with_several_scans_among_cases_is_told_and_not_passed_over(tree):
    folder = tree("cases/s1/ct.nii.gz", "cases/s2/ct.nii.gz", "cases/s2/labels.nii.gz") / "cases"
    with pytest.raises(InputError, match=r"s2: holds 2 scans\. Name the one to segment"):
        find_cases([folder])


def test_results_of_dsmseg_are_no_cases(tree):
    folder = tree("cases/a.nii.gz", "cases/a/organs.nii.gz", "cases/a/tumors.nii.gz", "cases/a/run.json") / "cases"
    assert names_of(folder) == ["a"]
    with pytest.raises(InputError, match="is a result of dsmseg"):
        find_cases([folder / "a"])


def test_a_linked_scan_has_the_links_name_and_is_still_one_case(tree):
    folder = tree("store/3f9a.nii.gz", "patients/notes.txt")
    link = folder / "patients" / "anna.nii.gz"
    link.symlink_to(folder / "store" / "3f9a.nii.gz")
    assert [(case.name, case.path) for case in find_cases([folder / "patients"])] == [("anna", link)]
    assert names_of(link, folder / "store" / "3f9a.nii.gz") == ["anna"]


def test_two_dots_behind_a_link_lead_where_the_file_system_says(tree):
    folder = tree("store/ct.nii.gz", "store/deep/notes.txt", "here/notes.txt")
    (folder / "here" / "link").symlink_to(folder / "store" / "deep")
    (case,) = find_cases([folder / "here" / "link" / ".." / "ct.nii.gz"])
    assert case.path == folder / "store" / "ct.nii.gz"


def test_the_working_directory_and_the_one_above_have_their_own_names(tree, monkeypatch):
    folder = tree("series/IM1", "series/deep/notes.txt") / "series"
    monkeypatch.chdir(folder)
    assert names_of(Path(".")) == ["series"]
    monkeypatch.chdir(folder / "deep")
    assert names_of(Path("..")) == ["series"]


def test_a_name_that_is_too_long_is_told():
    with pytest.raises(InputError, match="File name too long"):
        find_cases([Path("a" * 300 + ".nii.gz")])


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file of Linux")
def test_a_file_that_gives_an_error_when_it_is_read_is_told():
    with pytest.raises(InputError, match="is no scan"):
        find_cases([Path("/proc/self/mem")])


def test_what_only_a_system_needs_is_passed_over(tree):
    folder = tree("cases/a/ct.nii.gz", "cases/a/._ct.nii.gz", "cases/__MACOSX/IM1", "cases/b/.cache/IM1") / "cases"
    assert names_of(folder) == ["ct"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_listed_is_told_by_its_name(tree):
    folder = tree("cases/a.nii.gz", "cases/locked/ct.nii.gz") / "cases"
    (folder / "locked").chmod(0)
    try:
        for given in (folder, folder / "locked", folder / "locked" / "ct.nii.gz"):
            with pytest.raises(InputError, match=r"locked.*: cannot be read \(Permission denied\)"):
                find_cases([given])
    finally:
        (folder / "locked").chmod(0o700)


def test_a_file_that_is_no_scan_is_told(tree):
    with pytest.raises(InputError, match="no scan"):
        find_cases([tree("notes.txt") / "notes.txt"])
