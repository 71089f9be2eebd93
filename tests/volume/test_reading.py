"""Every format gives the same volume; every file that is no CT volume is refused in one line."""

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from dsmseg.errors import InputError
from dsmseg.volume import Volume, read_labels, read_scan, source_files

AFFINE = np.array([[-0.8, 0.1, 0.0, 30.0], [0.1, 0.8, 0.0, -70.0], [0.0, 0.0, 2.5, 110.0], [0.0, 0.0, 0.0, 1.0]])


def hu(shape=(7, 6, 5)):
    array = np.random.default_rng(0).integers(-900, 1500, shape).astype(np.int16)
    array.flat[0] = -1000
    return array


def write(path, array, affine=AFFINE):
    """Write an array (I, J, K) with a peer library, in the format that the name asks for."""
    plain = path.with_name(path.name.lower())
    if plain.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(array, affine), plain)
        return plain.rename(path)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(plain))
    return plain.rename(path)


def write_header(path, array=None, affine=AFFINE, **fields):
    """Write a NIfTI file, then set fields of its header to what no writer would."""
    image = nibabel.Nifti1Image(hu() if array is None else array, affine)
    data = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ", "a.nrrd", "a.NRRD", "a.mha", "a.mhd", "b.v1.MHA"])
def test_every_format_gives_the_same_volume(tmp_path, name):
    volume = read_scan(write(tmp_path / name, hu()))
    expected = Volume.from_own(hu(), AFFINE)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    np.testing.assert_allclose(volume.own.affine, AFFINE, atol=1e-4)
    assert volume.own.shape == (7, 6, 5)


def test_an_upper_case_mhd_finds_its_data_file(tmp_path):
    write(tmp_path / "a.mhd", hu()).rename(tmp_path / "A.MHD")
    np.testing.assert_array_equal(read_scan(tmp_path / "A.MHD").array, Volume.from_own(hu(), AFFINE).array)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64", ">i2", "int64"])
def test_every_type_of_number_becomes_float32(tmp_path, dtype):
    image = nibabel.Nifti1Image(hu().astype(dtype), AFFINE, dtype=np.dtype(dtype))
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = read_scan(tmp_path / "a.nii.gz")
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, Volume.from_own(hu(), AFFINE).array)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_2_is_read(tmp_path, name):
    nibabel.save(nibabel.Nifti2Image(hu(), AFFINE), tmp_path / name)
    np.testing.assert_array_equal(read_scan(tmp_path / name).array, Volume.from_own(hu(), AFFINE).array)


def test_slope_and_intercept_of_nifti_are_applied(tmp_path):
    path = write_header(tmp_path / "a.nii", (hu() + 1024).astype(np.uint16), scl_slope=0.5, scl_inter=-1024)
    expected = Volume.from_own((hu() + 1024) * 0.5 - 1024, AFFINE).array
    np.testing.assert_allclose(read_scan(path).array, expected)


def test_a_slope_beyond_all_numbers_is_refused(tmp_path, refused):
    refused(write_header(tmp_path / "a.nii", scl_slope=1e38, scl_inter=1e38), "infinite")


def test_the_sform_is_preferred_and_the_qform_suffices(tmp_path):
    image = nibabel.Nifti1Image(hu(), AFFINE)
    image.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]), code=1)
    nibabel.save(image, tmp_path / "both.nii")
    np.testing.assert_allclose(read_scan(tmp_path / "both.nii").own.affine, AFFINE, atol=1e-5)
    image.set_sform(None, code=0)
    nibabel.save(image, tmp_path / "qform.nii")
    np.testing.assert_allclose(read_scan(tmp_path / "qform.nii").spacing, (2.0, 2.0, 2.0))


@pytest.mark.parametrize("skew", [1e-4, 0.02, 0.1])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_axes_a_little_off_right_angles_are_kept(tmp_path, name, skew):
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    affine[1, 2] = skew
    np.testing.assert_allclose(read_scan(write(tmp_path / name, hu(), affine)).affine, affine, atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 6, 5, 1), (7, 6, 5, 1, 1)])
def test_trailing_axes_of_one_are_dropped(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(hu(shape), AFFINE), tmp_path / "a.nii.gz")
    volume = read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, Volume.from_own(hu(shape).reshape(7, 6, 5), AFFINE).array)


def test_a_meta_image_of_four_axes_with_one_volume_is_read(tmp_path):
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(hu().T)]), str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(read_scan(tmp_path / "a.mha").array, hu()[::-1, ::-1])


@pytest.mark.parametrize("padding", [-2048, -3024, -32768])
def test_padding_outside_the_field_of_view_is_fine(tmp_path, padding):
    array = hu()
    array[0] = padding
    assert read_scan(write(tmp_path / "a.nii.gz", array)).array.min() == padding


BAD_ARRAYS = {
    "more than one volume": hu((5, 4, 3, 2)),
    "one slice or less (5 x 4 x 1)": hu((5, 4, 1)),
    "one slice or less (1 x 4 x 3)": hu((1, 4, 3)),
    "one slice or less (5 x 4)": hu((5, 4)),
    "NaN": np.where(hu() > 1400, np.nan, hu()).astype(np.float32),
    "NaN or infinite": np.where(hu() > 1400, -np.inf, hu()),
    "infinite": np.where(hu() > 1400, 1e300, hu()),
    "colors": np.zeros((5, 4, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]),
    "complex": np.zeros((5, 4, 3), dtype=np.complex64),
    "scaled for display": np.abs(hu() % 256).astype(np.uint8),
    "intensities from 0 to 1,": np.linspace(0, 1, 60, dtype=np.float32).reshape(5, 4, 3),
    "not Hounsfield": np.abs(hu()),
    "from -3 to 4": np.linspace(-3, 4, 60).reshape(5, 4, 3),
    "the value -1024 in every voxel": np.full((5, 4, 3), -1024, dtype=np.int16),
}


@pytest.mark.parametrize("words", BAD_ARRAYS)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_an_array_that_is_no_ct_volume_is_refused(tmp_path, refused, words, name):
    nibabel.save(nibabel.Nifti1Image(BAD_ARRAYS[words], AFFINE), tmp_path / name)
    refused(tmp_path / name, words)


BAD_AFFINES = {
    "NaN": np.where(np.eye(4) == 1, np.nan, AFFINE),
    "NaN ": np.where(np.arange(16).reshape(4, 4) == 3, np.inf, AFFINE),
    "spacing of 0": np.diag([0.0, 0.0, 0.0, 1.0]),
    "spacing of 0.8 x 0.8 x 0 ": np.diag([0.8, 0.8, 0.0, 1.0]),
    "90 degrees": np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "35 degrees": np.array([[1.0, 0, 0.7, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "spacing of 0.8 x 0.8 x 31 ": np.diag([0.8, 0.8, 31.0, 1.0]),
    "spacing of 0.04 x 0.8": np.diag([0.04, 0.8, 2.0, 1.0]),
}


@pytest.mark.parametrize("words", BAD_AFFINES)
def test_an_affine_that_places_nothing_is_refused(tmp_path, refused, words):
    rows = {f"srow_{axis}": BAD_AFFINES[words][row] for row, axis in enumerate("xyz")}
    refused(write_header(tmp_path / "a.nii", **rows), words.strip())
    with pytest.raises(InputError, match=words.strip()):
        Volume.from_own(hu(), BAD_AFFINES[words])


@pytest.mark.parametrize(("spacing", "shape"), [(25.0, (2, 2, 121)), (30.0, (45, 45, 38))])
def test_a_grid_larger_than_any_scanner_is_refused(tmp_path, refused, spacing, shape):
    affine = np.diag([spacing, spacing, spacing, 1.0])
    words = " x ".join(f"{size * spacing:.0f}" for size in shape) + " mm, above 3 m along an axis or 2000 liters"
    refused(write(tmp_path / "a.nii.gz", hu(shape), affine), words)
    refused(tmp_path / "a.nii.gz", words, read_labels)
    with pytest.raises(InputError, match=words):
        Volume.from_own(hu(shape), affine)


def test_a_scan_of_a_whole_body_is_read(tmp_path):
    affine = np.diag([20.0, 20.0, 20.0, 1.0])
    assert read_scan(write(tmp_path / "a.nii.gz", hu((42, 42, 105)), affine)).array.shape == (42, 42, 105)


def test_nifti_without_orientation_is_refused_rather_than_guessed(tmp_path, refused):
    refused(write_header(tmp_path / "a.nii", sform_code=0, qform_code=0), "left and right are unknown")


def test_colors_vectors_and_time_in_itk_formats_are_refused(tmp_path, refused):
    color = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), dtype=np.uint8), isVector=True)
    series = sitk.JoinSeries([sitk.GetImageFromArray(hu().T)] * 2)
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(color, str(tmp_path / name))
        refused(tmp_path / name, "colors")
    sitk.WriteImage(series, str(tmp_path / "b.mha"))
    refused(tmp_path / "b.mha", "more than one volume")
    sitk.WriteImage(sitk.GetImageFromArray(hu()[:, :, 0]), str(tmp_path / "c.mha"))
    refused(tmp_path / "c.mha", "one slice or less")


def test_a_path_that_leads_nowhere_is_refused(tmp_path, refused):
    refused(tmp_path / "none.nii.gz", "does not exist")
    refused(tmp_path / "none", "does not exist")
    refused(write(tmp_path / "a.nii", hu()) / "b.nii", "does not exist")


def test_what_is_neither_file_nor_folder_is_refused_unopened(tmp_path, refused):
    for name in ("a.nii.gz", "a.mha", "a.dcm", "a.zip", "a"):
        os.mkfifo(tmp_path / name)
        refused(tmp_path / name, "is no plain file")
    refused(Path(os.devnull), "is no plain file")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_a_name_that_is_no_text_is_read_or_refused_where_itk_would_end_the_process(tmp_path, name):
    folder = tmp_path / "\udcff"
    folder.mkdir()
    path = write(tmp_path / name, hu()).rename(folder / name)
    if ".nii" in name:
        np.testing.assert_array_equal(read_scan(path).array, Volume.from_own(hu(), AFFINE).array)
    else:
        with pytest.raises(InputError, match=rf"/\\xff/{name}: its name is not valid text. Rename it."):
            read_scan(path)


@pytest.mark.parametrize("name", ["a.txt", "a.npy", "a", "a.gz", "a.hdr", "a.nii.bak"])
def test_an_unknown_extension_is_refused(tmp_path, refused, name):
    (tmp_path / name).write_bytes(b"something")
    refused(tmp_path / name, "not of a known kind")


def test_an_absurdly_large_claim_is_refused_before_memory_is_taken(tmp_path, refused):
    path = write_header(tmp_path / "a.nii", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    refused(path, "claims")


def labels(dtype=np.uint8, top=5):
    return np.random.default_rng(0).integers(0, top + 1, (7, 6, 5)).astype(dtype)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize(("top", "kept"), [(5, "uint8"), (300, "uint16")])
def test_whole_numbers_of_any_type_are_labels(tmp_path, name, dtype, top, kept):
    array = labels(np.float64, top).clip(0, 255 if dtype == "uint8" else top).astype(dtype)
    array[0, 0, 0] = 255 if dtype == "uint8" else top
    volume = read_labels(write(tmp_path / name, array))
    np.testing.assert_array_equal(volume.array, Volume.from_own(array, AFFINE).array)
    assert volume.array.dtype == (np.uint8 if dtype == "uint8" else np.dtype(kept))


def test_scaled_labels_are_whole_after_scaling(tmp_path):
    path = write_header(tmp_path / "a.nii", labels(), scl_slope=2.0, scl_inter=1.0)
    np.testing.assert_array_equal(read_labels(path).array, Volume.from_own(labels() * 2 + 1, AFFINE).array)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (labels(np.float32) + 0.5, "not whole"),
        (np.where(labels() == 3, np.nan, labels()), "not whole"),
        (labels(np.int16) - 1, "negative label -1"),
        (labels(np.float64) * 1e9, "the label 5e+09"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path, refused, array, words):
    refused(write(tmp_path / "a.nii.gz", array), words, read_labels)


def test_labels_from_dicom_are_refused(tmp_path, refused):
    refused(tmp_path, "not a label map", read_labels)


def test_real_scans_are_read_in_hu(shared_data, tmp_path):
    scan = read_scan(shared_data / "abdomen_3mm/ct.nii.gz")
    assert scan.array.shape == (122, 101, 112)
    assert scan.array.min() == -1207
    shutil.copy(shared_data / "abdomen_3mm/ct.nii.gz", tmp_path / "SCAN.NII.GZ")
    np.testing.assert_array_equal(read_scan(tmp_path / "SCAN.NII.GZ").array, scan.array)
    assert read_labels(shared_data / "abdomen_3mm/totalseg_labels.nii.gz").array.shape == scan.array.shape


def test_the_files_behind_a_scan_are_told(tmp_path):
    (tmp_path / "one.raw").write_bytes(bytes(8))
    apart = tmp_path / "apart.nrrd"
    apart.write_text("NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: one.raw\n\n")
    listed = tmp_path / "listed.nrrd"
    listed.write_text(apart.read_text().replace("one.raw", "LIST\none.raw"))
    whole = tmp_path / "whole.nii.gz"
    whole.write_bytes(b"anything")
    assert source_files(apart) == [apart, tmp_path / "one.raw"]
    assert source_files(listed) is None
    assert source_files(whole) == [whole]
    (tmp_path / "one.raw").unlink()
    assert source_files(apart) == [apart]
    assert source_files(tmp_path) == [apart, listed, whole]
