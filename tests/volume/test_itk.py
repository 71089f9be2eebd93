"""NRRD and MetaImage whose header leaves the place in space open: refused, where ITK would take identity and 1 mm."""

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from dsmseg.volume import read_scan

HU = np.random.default_rng(0).integers(-1000, 1500, (7, 6, 5)).astype(np.int16)
SPACING = np.array([0.8, 0.7, 2.5])


def write(path):
    """Write a coronal scan."""
    image = sitk.GetImageFromArray(HU.T)
    image.SetSpacing(SPACING.tolist())
    image.SetDirection((1, 0, 0, 0, 0, 1, 0, -1, 0))
    sitk.WriteImage(image, str(path))
    return path


def replace_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_nrrd_without_space_is_refused_rather_than_guessed(tmp_path, refused):
    nrrd.write(str(tmp_path / "a.nrrd"), HU, {"spacings": [1.0, 1.0, 2.0]})
    refused(tmp_path / "a.nrrd", "left and right are unknown")


def test_nrrd_without_directions_is_refused_rather_than_guessed(tmp_path, refused):
    nrrd.write(str(tmp_path / "a.nrrd"), HU, {"space": "left-posterior-superior"})
    refused(tmp_path / "a.nrrd", "names no space directions, so left and right are unknown")


@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize(
    ("tag", "words"),
    [
        (b"ElementSpacing", "names no ElementSpacing, so the size of its voxels is unknown"),
        (b"TransformMatrix", "names no TransformMatrix, so left and right are unknown"),
    ],
)
def test_a_meta_image_without_its_grid_is_refused_rather_than_guessed(tmp_path, refused, name, tag, words):
    data = write(tmp_path / name).read_bytes()
    assert data.count(tag) == 1
    # ITK passes over a tag in another case as over any that it does not know.
    for other in (b"Comment", tag.lower()):
        (tmp_path / name).write_bytes(data.replace(tag, other))
        refused(tmp_path / name, words)


@pytest.mark.parametrize(
    ("tag", "other"),
    [("ElementSpacing", "ElementSize"), ("TransformMatrix", "Rotation"), ("TransformMatrix", "Orientation")],
)
def test_a_meta_image_may_name_its_grid_in_other_words(tmp_path, tag, other):
    path = replace_text(write(tmp_path / "a.mhd"), tag, other)
    expected = np.diag([-1, -1, 1]) @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) * SPACING
    np.testing.assert_allclose(read_scan(path).own.affine[:3, :3], expected, atol=1e-6)


GRID_FAULTS = {
    "a flat direction": ("TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 1 0 0 0 1 0 0 1 0"),
    "a zero spacing": ("ElementSpacing = 1 1 1", "ElementSpacing = 1 1 0"),
    "a negative spacing": ("ElementSpacing = 1 1 1", "ElementSpacing = -1 1 1"),
    "a spacing of NaN": ("ElementSpacing = 1 1 1", "ElementSpacing = 1 1 nan"),
    "an absurd spacing": ("ElementSpacing = 1 1 1", "ElementSpacing = 1 1 31"),
}


@pytest.mark.parametrize("fault", GRID_FAULTS)
def test_a_meta_image_with_a_grid_of_nowhere_is_refused(tmp_path, refused, fault):
    sitk.WriteImage(sitk.GetImageFromArray(HU.T), str(tmp_path / "a.mhd"))
    refused(replace_text(tmp_path / "a.mhd", *GRID_FAULTS[fault]), "spacing")
