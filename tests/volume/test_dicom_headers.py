"""What is taken for DICOM, and headers whose text ITK or numpy would stumble over."""

import os

import pytest

from dsmseg.errors import InputError
from dsmseg.volume import read_scan
from dsmseg.volume.dicom import looks_like_dicom


@pytest.mark.parametrize("text", [b"nan", b"-inf", b"1e400", b"1e300", b"high"])
def test_a_position_that_is_no_number_in_mm_is_refused(tmp_path, dicom_series, refused, text):
    series = dicom_series()
    series.datasets[2].ImagePositionPatient = [0, 0, 9876543]
    for path in series.write(tmp_path).iterdir():
        path.write_bytes(path.read_bytes().replace(b"9876543", text.rjust(7)))
    refused(tmp_path, "lacks a usable position")


def test_what_looks_like_dicom_is_told_by_extension_mark_or_first_group(tmp_path, dicom_series):
    marked, bare = sorted(dicom_series(slices=2).write(tmp_path).iterdir())
    bare.write_bytes(bare.read_bytes()[132:])
    named = [tmp_path / f"a{extension}" for extension in (".dcm", ".DICOM", ".ima")]
    others = [tmp_path / "notes.txt", tmp_path / "a"]
    for path in (*named, *others):
        path.write_bytes(b"something")
    assert all(looks_like_dicom(path) for path in (marked, bare, *named))
    assert not any(looks_like_dicom(path) for path in others)


def test_what_cannot_be_read_does_not_look_like_dicom(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "folder.dcm").mkdir()
    for path in (tmp_path / "pipe.dcm", tmp_path / "folder.dcm", tmp_path / "none.dcm", tmp_path / ("a" * 300)):
        assert not looks_like_dicom(path)


def test_one_old_file_without_the_mark_is_refused_with_advice(tmp_path, dicom_series, refused):
    path = dicom_series().write(tmp_path) / "IM0000"
    path.write_bytes(path.read_bytes()[132:])
    refused(path, "is one DICOM file")


def test_a_slice_whose_name_is_no_text_is_refused_where_itk_would_end_the_process(tmp_path, dicom_series):
    path = dicom_series().write(tmp_path) / "IM0000"
    path.rename(path.with_name("IM\udcff"))
    with pytest.raises(InputError, match=r"IM\\xff: its name is not valid text. Rename it."):
        read_scan(tmp_path)
