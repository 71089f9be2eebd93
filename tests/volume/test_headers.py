"""A file's grid from its header alone is the grid that reading all of it finds."""

import nibabel
import numpy as np
import pytest
import SimpleITK

from dsmseg.volume import Grid, read_grid, read_scan, write_nifti
from dsmseg.volume.grid import Volume

AFFINE = np.array([[-0.8, 0.1, 0, 20], [0.1, 0.8, 0.05, -30], [0, -0.1, 2.5, 100], [0, 0, 0, 1.0]])


def hu():
    return np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)


def same(one: Grid, other: Grid) -> bool:
    return one.shape == other.shape and np.allclose(one.affine, other.affine, atol=1e-5)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti(tmp_path, name, kind) -> None:
    nibabel.save(kind(hu(), AFFINE), tmp_path / name)
    assert same(read_grid(tmp_path / name), read_scan(tmp_path / name).own)


def test_nifti_with_an_extension(tmp_path) -> None:
    volume = Volume.from_own(hu(), AFFINE)
    write_nifti(tmp_path / "scan.nii.gz", volume.array, volume, names={1: "a name " * 50})
    assert same(read_grid(tmp_path / "scan.nii.gz"), read_scan(tmp_path / "scan.nii.gz").own)


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha", "scan.mhd"])
def test_nrrd_and_metaimage(tmp_path, name) -> None:
    image = SimpleITK.GetImageFromArray(hu().T)
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetOrigin((10, -20, 30))
    SimpleITK.WriteImage(image, tmp_path / name)
    assert same(read_grid(tmp_path / name), read_scan(tmp_path / name).own)


def test_a_dicom_folder(tmp_path, dicom_series) -> None:
    folder = dicom_series(orientation=(1, 0, 0, 0, -1, 0)).write(tmp_path / "series")
    assert same(read_grid(folder), read_scan(folder).own)


def test_files_that_begin_alike_are_told_apart_by_their_length(tmp_path) -> None:
    nibabel.save(nibabel.Nifti1Image(hu(), AFFINE), tmp_path / "whole.nii")
    content = (tmp_path / "whole.nii").read_bytes()
    (tmp_path / "cut.nii").write_bytes(content[:600])
    assert read_grid(tmp_path / "whole.nii").shape == (9, 8, 7)
    with pytest.raises(Exception, match="cut short"):
        read_grid(tmp_path / "cut.nii")


def test_a_grid_can_be_changed_without_changing_the_next(tmp_path) -> None:
    nibabel.save(nibabel.Nifti1Image(hu(), AFFINE), tmp_path / "scan.nii")
    read_grid(tmp_path / "scan.nii").affine[:] = 0
    np.testing.assert_allclose(read_grid(tmp_path / "scan.nii").affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("scan.nii.gz", b"", "is an empty file"),
        ("scan.nii.gz", b"no gzip at all", "damaged"),
        ("scan.nii", b"x" * 1000, "damaged"),
        ("scan.nrrd", b"NRRD0004\n", "damaged"),
        ("scan.mha", b"ObjectType = Image\n", ""),
        ("scan.txt", b"x", "is not of a known kind"),
        ("missing.nii", None, "does not exist"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, refused, name, content, words) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, words, read_grid)


def test_a_header_without_an_orientation_is_refused_under_its_own_name(tmp_path, refused) -> None:
    image = nibabel.Nifti1Image(hu(), None)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    for name in ("one.nii", "other.nii"):
        nibabel.save(image, tmp_path / name)
        refused(tmp_path / name, "orientation", read_grid)
