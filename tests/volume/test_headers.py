"""A file's grid from its header alone is the grid that reading all of it finds."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dsmseg.errors import InputError
from dsmseg.volume import Grid, read_grid, read_labels, read_scan, write_nifti
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


# --- any file: the same grid, or the same refusal --------------------------------------------------------------------


def outcome(read, path):
    """Give the grid, or None where it is refused in one line."""
    lines = []
    try:
        return read(path)
    except InputError as error:
        lines.append(str(error))
    assert all(str(path) in line and "\n" not in line for line in lines)
    return None


def check_alike(path) -> None:
    """Check that what can be read has the same grid by its header, and that no header is worse than its refusal."""
    grid, scan = outcome(read_grid, path), outcome(read_scan, path)
    if scan is not None:
        assert grid is not None
        assert grid.shape == scan.own.shape
        np.testing.assert_array_equal(grid.affine, scan.own.affine)


turns = st.tuples(*[st.floats(-30, 30)] * 3)
spacings = st.tuples(*[st.floats(0.3, 10.0)] * 3)


@settings(max_examples=30)
@given(
    st.tuples(*[st.integers(2, 9)] * 3),
    turns,
    spacings,
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from((1, -1))] * 3),
    st.sampled_from(("scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha", "scan.mhd")),
)
def test_any_grid_is_the_same_from_the_header_alone(tmp_path_factory, shape, degrees, spacing, order, signs, name):
    path = tmp_path_factory.mktemp("grid") / name
    directions = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()[:, list(order)] * signs
    array = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    if ".nii" in name:
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = directions * spacing, (12.5, -300.25, 71.0)
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    else:
        image = SimpleITK.GetImageFromArray(array.T)
        image.SetSpacing(spacing)
        image.SetDirection(directions.ravel().tolist())
        image.SetOrigin((12.5, -300.25, 71.0))
        SimpleITK.WriteImage(image, path)
    check_alike(path)
    assert read_grid(path).shape == shape
    assert read_grid(path).spacing == pytest.approx(spacing, rel=1e-4)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha"])
def test_damage_anywhere_in_the_header_never_gives_another_grid_than_reading_all(tmp_path, name):
    array = hu()
    if ".nii" in name:
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), tmp_path / name)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.T), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    random = np.random.default_rng(5)
    for number in range(150):
        damaged = bytearray(content)
        for place in random.integers(0, min(352, len(content)), 1 + number % 3):
            damaged[place] = random.integers(256)
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(damaged)
        check_alike(path)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.8, 0.99])
def test_a_file_that_is_cut_short_never_gives_another_grid(tmp_path, name, share):
    if ".nii" in name:
        nibabel.save(nibabel.Nifti1Image(hu(), AFFINE), tmp_path / name)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(hu().T), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    check_alike(tmp_path / name)
    if not name.endswith(".gz"):
        assert outcome(read_grid, tmp_path / name) is None


@pytest.mark.parametrize("shape", [(9, 8, 7, 1), (9, 8, 7, 2), (9, 8), (9, 8, 1)])
def test_what_is_not_one_volume_is_refused_from_the_header(tmp_path, shape):
    path = tmp_path / "scan.nii.gz"
    array = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    check_alike(path)
    grid = outcome(read_grid, path)
    assert (grid is not None) == (shape == (9, 8, 7, 1))


@pytest.mark.parametrize("dtype", ["complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]], ids=str)
def test_colors_and_complex_numbers_are_refused_from_the_header(tmp_path, refused, dtype):
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 8, 7), dtype), AFFINE), tmp_path / "scan.nii")
    refused(tmp_path / "scan.nii", "instead of one number a voxel", read_grid)


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.0), (0.001, 1, 1), (1, 1, 400), (float("nan"), 1, 1)])
def test_a_spacing_that_cannot_be_is_refused_from_the_header(tmp_path, spacing):
    nibabel.save(nibabel.Nifti1Image(hu(), np.eye(4)), tmp_path / "scan.nii")
    content = bytearray((tmp_path / "scan.nii").read_bytes())
    rows = np.zeros((3, 4), "<f4")
    rows[:, :3] = np.diag(spacing)
    content[280:328] = rows.tobytes()
    (tmp_path / "scan.nii").write_bytes(content)
    check_alike(tmp_path / "scan.nii")
    assert outcome(read_grid, tmp_path / "scan.nii") is None


def test_a_metaimage_whose_voxels_are_elsewhere_or_gone(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(hu().T), tmp_path / "scan.mhd")
    check_alike(tmp_path / "scan.mhd")
    (tmp_path / "scan.raw").unlink(missing_ok=True)
    (tmp_path / "scan.zraw").unlink(missing_ok=True)
    check_alike(tmp_path / "scan.mhd")
    assert outcome(read_grid, tmp_path / "scan.mhd") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda series: series,
        lambda series: series.every(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]) and series,
        lambda series: series.move(2, (0, 0, 1.7)),
        lambda series: series.move(3, (4, 0, 0)),
        lambda series: series.drop("PixelSpacing"),
        lambda series: series.drop("ImagePositionPatient"),
        lambda series: series.every(Modality="MR"),
        lambda series: series.every(PixelSpacing=[0.8, 400]),
        lambda series: series.every(Rows=1),
    ],
    ids=["whole", "sagittal", "uneven", "sheared", "no spacing", "no position", "no CT", "no real spacing", "one row"],
)
def test_a_dicom_series_has_the_same_grid_or_refusal_from_its_headers(tmp_path, dicom_series, change):
    folder = change(dicom_series()).write(tmp_path / "series")
    check_alike(folder)


@pytest.mark.parametrize("content", [None, "notes.txt", "IM0001"])
def test_a_folder_without_a_series_is_refused(tmp_path, refused, content):
    (tmp_path / "series").mkdir()
    if content:
        (tmp_path / "series" / content).write_bytes(b"x" * 300)
    refused(tmp_path / "series", "", read_grid)


def test_the_real_scans_have_the_grid_that_their_headers_tell(shared_data):
    for name in ("abdomen_3mm/ct.nii.gz", "dicom_series/ct", "labelmaps/s0328.nii.gz"):
        path = shared_data / name
        if path.exists():
            grid = read_grid(path)
            whole = read_labels(path) if "labelmaps" in name else read_scan(path)
            assert grid.shape == whole.own.shape
            np.testing.assert_allclose(grid.affine, whole.own.affine, atol=1e-6)
