"""A zip gives what its folder gives; a zip that climbs, swells, lies or is broken is refused, and nothing is left."""

import errno
import os
import stat
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dsmseg.volume import archive, read_scan


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path_factory, monkeypatch):
    """Give every test a temporary folder of its own, and check that nothing is left in it."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def slices(tmp_path, dicom_series):
    return sorted(dicom_series().write(tmp_path / "slices").iterdir())


def zipped(path, slices, extra=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for place in slices:
            target.write(place, f"study/series 1/{place.name}")
        for name, content in extra:
            target.writestr(name, content)
    return path


def test_a_zip_gives_the_volume_of_its_folder(tmp_path, slices):
    junk = [("__MACOSX/study/._IM0000", b"apple"), ("study/DICOMDIR", b"x"), ("notes.txt", b"x"), ("study/empty/", b"")]
    volume = read_scan(zipped(tmp_path / "A.ZIP", slices, junk))
    expected = read_scan(slices[0].parent)
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_array_equal(volume.affine, expected.affine)


def test_a_zip_made_on_windows_is_read(tmp_path, slices):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as target:
        for place in slices:
            entry = zipfile.ZipInfo("x")
            entry.filename = f"study\\{place.name}"
            target.writestr(entry, place.read_bytes())
    assert read_scan(tmp_path / "a.zip").array.shape == (10, 8, 6)


@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/out", "C:/out", "C:out", "..\\out", "a\\..\\..\\out", "\\\\host\\share\\out"]
)
def test_a_zip_that_climbs_out_is_refused(tmp_path, slices, refused, name):
    before = set(tmp_path.rglob("*"))
    path = tmp_path / "a.zip"
    zipped(path, slices)
    with zipfile.ZipFile(path, "a") as target:
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        target.writestr(entry, b"escaped")
    refused(path, "leads out of the zip")
    assert set(tmp_path.rglob("*")) - before == {path}


def test_a_zip_with_a_link_is_refused(tmp_path, slices, refused):
    link = zipfile.ZipInfo("study/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(zipped(tmp_path / "a.zip", slices, [(link, "/etc")]), "leads out of the zip")


def test_a_zip_that_says_it_is_too_large_is_refused(tmp_path, slices, refused, monkeypatch):
    monkeypatch.setattr(archive, "UNPACKED_LIMIT_BYTES", 1000)
    refused(zipped(tmp_path / "a.zip", slices), "unpacks to more than")


def test_a_zip_of_too_many_files_is_refused(tmp_path, slices, refused, monkeypatch):
    monkeypatch.setattr(archive, "ENTRY_LIMIT", 3)
    refused(zipped(tmp_path / "a.zip", slices), "unpacks to more than")


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path, slices, refused):
    path = zipped(tmp_path / "a.zip", slices, [("bomb", bytes(1 << 20))])
    data = path.read_bytes()
    assert data.count(struct.pack("<L", 1 << 20)) == 2
    path.write_bytes(data.replace(struct.pack("<L", 1 << 20), struct.pack("<L", 10)))
    refused(path, "damaged zip")


def test_the_bytes_that_come_out_are_counted(tmp_path, slices, refused, monkeypatch):
    path = zipped(tmp_path / "a.zip", slices)
    monkeypatch.setattr(archive, "UNPACKED_LIMIT_BYTES", 1000)
    # The sizes in the header are what a liar would set to zero.
    monkeypatch.setattr(archive, "sum", lambda _: 0, raising=False)
    refused(path, "unpacks to more than")


def test_an_encrypted_zip_is_refused(tmp_path, slices, refused):
    path = zipped(tmp_path / "a.zip", slices)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(signature, at + 4)
    path.write_bytes(data)
    refused(path, "encrypted")


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -30, -2000])
def test_a_zip_that_is_cut_short_is_refused(tmp_path, slices, refused, keep):
    path = zipped(tmp_path / "a.zip", slices)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "damaged zip")


def test_a_zip_with_a_wrong_byte_is_refused(tmp_path, slices, refused):
    path = zipped(tmp_path / "a.zip", slices)
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF
    path.write_bytes(data)
    refused(path, "damaged zip")


def test_a_file_that_is_no_zip_is_refused(tmp_path, refused):
    (tmp_path / "a.zip").write_text("not a zip")
    refused(tmp_path / "a.zip", "damaged zip")


def test_a_zip_with_the_same_name_twice_is_refused(tmp_path, slices, refused):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "a.zip", [*slices, slices[0]])
    refused(path, "cannot be unpacked (File exists). Unpack it yourself")


def test_a_zip_that_uses_a_file_as_a_folder_is_refused(tmp_path, refused):
    refused(zipped(tmp_path / "a.zip", [], [("a", b"x"), ("a/b", b"x")]), "Unpack it yourself")


def test_a_zip_with_a_name_longer_than_a_file_may_have_is_refused(tmp_path, refused):
    refused(zipped(tmp_path / "a.zip", [], [("a" * 300, b"x")]), "cannot be unpacked (File name too long). Unpack it")


def test_a_full_temporary_folder_is_told_as_such(tmp_path, slices, refused, monkeypatch):
    def no_room(self, *_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = zipped(tmp_path / "a.zip", slices)
    monkeypatch.setattr(Path, "mkdir", no_room)
    refused(path, "cannot be unpacked (No space left on device). Make room in the temporary folder")


def test_a_temporary_folder_that_cannot_be_made_is_told_as_such(tmp_path, slices, refused, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    refused(zipped(tmp_path / "a.zip", slices), "no temporary folder can be made (No such file or directory). Point")


@pytest.mark.parametrize("extra", [[], [("notes.txt", b"x"), ("ct.nii.gz", b"x")]])
def test_a_zip_without_a_scan_is_refused(tmp_path, refused, extra):
    refused(zipped(tmp_path / "a.zip", [], extra), "no DICOM images")


def test_a_faulty_series_in_a_zip_names_the_zip(tmp_path, slices, refused):
    refused(zipped(tmp_path / "a.zip", [slices[0]]), "one CT slice only")
