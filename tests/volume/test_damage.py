"""A file that is cut short, spoilt or mislabelled is refused in one line, whatever its library thinks of it."""

import gzip
import tracemalloc

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.errors import InputError
from dsmseg.volume import read_scan

HU = np.random.default_rng(0).integers(-1000, 1500, (9, 8, 7)).astype(np.int16)
RAS = HU[::-1, ::-1]


def write(path, packed=False):
    sitk.WriteImage(sitk.GetImageFromArray(HU.T), str(path), packed)
    return path


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def spoil(path, place, value):
    data = bytearray(path.read_bytes())
    data[place] ^= value
    path.write_bytes(data)
    return path


def write_nrrd(path, **fields):
    space = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": np.zeros(3)}
    nrrd.write(str(path), HU, {**space, **fields})
    return path


DAMAGES = {
    "an empty .nii": lambda folder: cut(write(folder / "a.nii"), 0),
    "an empty .nii.gz": lambda folder: cut(write(folder / "a.nii.gz"), 0),
    "an empty .nrrd": lambda folder: cut(write(folder / "a.nrrd"), 0),
    "an empty .mha": lambda folder: cut(write(folder / "a.mha"), 0),
    "a cut .nii": lambda folder: cut(write(folder / "a.nii"), -1),
    "a .nii of half a header": lambda folder: cut(write(folder / "a.nii"), 200),
    "a cut .nii.gz": lambda folder: cut(write(folder / "a.nii.gz"), -100),
    "a .nii.gz without its checksum": lambda folder: cut(write(folder / "a.nii.gz"), -4),
    "a .nii.gz with a wrong checksum": lambda folder: spoil(write(folder / "a.nii.gz"), -6, 0xFF),
    "a .nii.gz with a wrong byte": lambda folder: spoil(write(folder / "a.nii.gz"), -200, 0xFF),
    "a .nii.gz that is not packed": lambda folder: write(folder / "a.nii").rename(folder / "a.nii.gz"),
    "a .nii that is packed": lambda folder: write(folder / "a.nii.gz").rename(folder / "b.nii"),
    "a .nii with a wrong magic": lambda folder: spoil(write(folder / "a.nii"), 345, 0x55),
    "a .nii with an unknown type": lambda folder: spoil(write(folder / "a.nii"), 70, 0xFB),
    "a .nii with a negative size": lambda folder: spoil(write(folder / "a.nii"), 43, 0x80),
    "a .nii of text": lambda folder: folder.joinpath("a.nii").write_text("scan\n" * 200) and folder / "a.nii",
    "a .nrrd of text": lambda folder: folder.joinpath("a.nrrd").write_text("scan\n" * 200) and folder / "a.nrrd",
    "a .mha of text": lambda folder: folder.joinpath("a.mha").write_text("scan\n" * 200) and folder / "a.mha",
    "a cut .nrrd": lambda folder: cut(write(folder / "a.nrrd"), -50),
    "a cut packed .nrrd": lambda folder: cut(write_nrrd(folder / "a.nrrd", encoding="gzip"), -50),
    "a packed .nrrd with a wrong byte": lambda folder: spoil(write_nrrd(folder / "a.nrrd", encoding="gzip"), -90, 0xFF),
    "a cut .mha": lambda folder: cut(write(folder / "a.mha"), -50),
    "a .mha of half a header": lambda folder: cut(write(folder / "a.mha"), 60),
    "a .mhd whose data file is short": lambda folder: (
        cut(write(folder / "a.mhd").with_suffix(".raw"), 300) and folder / "a.mhd"
    ),
    "a .mhd whose data file is missing": lambda folder: (
        write(folder / "a.mhd").with_suffix(".raw").unlink() or folder / "a.mhd"
    ),
}
WORDS = {"empty": "empty file", "missing": "data file a.raw is missing"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_nothing_else_is_printed(tmp_path, refused, capfd, damage):
    words = next((words for key, words in WORDS.items() if key in damage), "damaged")
    refused(DAMAGES[damage](tmp_path), words)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", [-10, -90, -300])
@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_packed_voxels_with_a_wrong_byte_are_refused_though_itk_takes_them(tmp_path, refused, name, place):
    write(tmp_path / name, packed=True)
    np.testing.assert_array_equal(read_scan(tmp_path / name).array, RAS)
    refused(spoil(tmp_path / name, place, 0xFF), "damaged")


@pytest.mark.parametrize("name", ["a.mhd", "a.nrrd"])
def test_packed_voxels_in_a_file_of_their_own_are_read_and_checked(tmp_path, refused, name):
    if name == "a.nrrd":
        write_nrrd(tmp_path / "a.nhdr", encoding="gzip")
        (tmp_path / "a.nhdr").rename(tmp_path / name)
    else:
        write(tmp_path / name, packed=True)
    np.testing.assert_array_equal(read_scan(tmp_path / name).array, RAS)
    (data,) = set(tmp_path.iterdir()) - {tmp_path / name}
    refused(cut(data, -20).parent / name, "damaged")
    data.unlink()
    refused(tmp_path / name, f"data file {data.name} is missing")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_nifti_header_that_claims_more_than_the_file_can_hold_takes_no_memory(tmp_path, refused, name):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((1000, 1000, 100))
    header.set_sform(np.eye(4), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    data = header.binaryblock + bytes(10_000)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    tracemalloc.start()
    try:
        refused(tmp_path / name, "damaged")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_text_header_that_claims_more_than_the_file_holds_is_refused_unread(
    tmp_path, refused, monkeypatch, name, packed
):
    data = write(tmp_path / name, packed).read_bytes()
    assert data.count(b" 9 8 7\n") == 1
    (tmp_path / name).write_bytes(data.replace(b" 9 8 7\n", b" 9 8 8\n"))
    monkeypatch.setattr(sitk.ImageFileReader, "Execute", lambda _: pytest.fail("took memory for what is not there"))
    refused(tmp_path / name, "damaged")


def test_a_gzip_of_zeros_stays_below_the_largest_ratio(tmp_path):
    array = np.zeros((200, 200, 200), dtype=np.int16)
    array[0, 0, 0] = -1000
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(array, np.eye(4)).to_bytes(), 9))
    assert path.stat().st_size * 1000 < array.nbytes
    np.testing.assert_array_equal(read_scan(path).array, array)


def test_voxels_written_as_text_are_read_though_their_length_is_unknown(tmp_path):
    path = write_nrrd(tmp_path / "a.nrrd", encoding="ascii")
    np.testing.assert_array_equal(read_scan(path).array, RAS)


def check_scan_or_line(path):
    try:
        volume, line = read_scan(path), None
    except InputError as error:
        volume, line = None, str(error)
    if line is None:
        assert np.isfinite(volume.array).all()
        assert np.isfinite(volume.affine).all()
    else:
        assert str(path) in line
        assert "\n" not in line


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 540), st.integers(1, 255))
def test_no_byte_of_a_nifti_header_can_cause_anything_but_a_clear_line(tmp_path_factory, place, value):
    path = spoil(write(tmp_path_factory.mktemp("spoilt") / "a.nii.gz"), 0, 0)
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[place] ^= value
    path.write_bytes(gzip.compress(bytes(data), 1))
    check_scan_or_line(path)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(("a.nrrd", "a.mha")), st.integers(0, 330), st.integers(1, 127))
def test_no_byte_of_a_text_header_can_cause_anything_but_a_clear_line(tmp_path_factory, name, place, value):
    path = spoil(write(tmp_path_factory.mktemp("spoilt") / name), place, value)
    check_scan_or_line(path)
