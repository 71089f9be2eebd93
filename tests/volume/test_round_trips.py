"""What goes into RAS, to another spacing and into a file comes back on the scan's own grid, exactly."""

import itertools
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import slicerio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dsmseg.errors import InputError, OutputError
from dsmseg.volume import (
    Segment,
    Volume,
    read_labels,
    read_scan,
    resample,
    resample_onto,
    write_nifti,
    write_seg_nrrd,
)

AXIS_ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1.0, -1.0), repeat=3)))
quickly = settings(max_examples=25, deadline=None)


def affine_of(order, signs, spacing, degrees=(0.0, 0.0, 0.0), skew=0.0, origin=(-120.5, 33.25, 710.0)):
    """Build an affine: voxel axis i runs along world axis order[i], then turned and skewed a little."""
    axes = np.zeros((3, 3))
    axes[list(order), range(3)] = signs
    turned = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ axes
    turned[:, 2] += skew * turned[:, 0]
    affine = np.eye(4)
    affine[:3, :3] = turned * spacing
    affine[:3, 3] = origin
    return affine


spacings = st.tuples(*[st.floats(0.3, 10.0)] * 3)
affines = st.builds(
    lambda axes, spacing, degrees, skew, origin: affine_of(*axes, spacing, degrees, skew, origin),
    st.sampled_from(AXIS_ORDERS),
    spacings,
    st.tuples(*[st.floats(-40.0, 40.0)] * 3),
    st.sampled_from((0.0, 1e-7, 1e-5, 1e-3, 0.03, 0.15)),
    st.tuples(*[st.floats(-1000.0, 1000.0)] * 3),
)
shapes = st.tuples(*[st.integers(2, 8)] * 3)


def labels_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 46, shape).astype(np.uint8)


def world(affine, index):
    return affine[:3, :3] @ index + affine[:3, 3]


@pytest.mark.parametrize(("order", "signs"), AXIS_ORDERS)
def test_every_axis_order_becomes_ras_and_comes_back(order, signs):
    affine = affine_of(order, signs, (0.8, 1.5, 4.0))
    array = labels_of((3, 4, 5))
    volume = Volume.from_own(array, affine)
    np.testing.assert_allclose(volume.affine[:3, :3], np.diag(volume.spacing))
    np.testing.assert_array_equal(volume.to_own(volume.array), array)
    for own_index in itertools.product((0, 2), (0, 3), (0, 4)):
        index = np.linalg.solve(volume.affine, [*world(affine, np.array(own_index)), 1.0])[:3]
        assert volume.array[tuple(np.rint(index).astype(int))] == array[own_index]


@quickly
@given(affines, shapes)
def test_any_oblique_grid_comes_back_from_ras_exactly(affine, shape):
    array = labels_of(shape)
    volume = Volume.from_own(array, affine)
    np.testing.assert_array_equal(volume.to_own(volume.array), array)
    assert all(stride > 0 for stride in volume.array.strides + volume.to_own(volume.array).strides)
    corner = np.linalg.solve(affine, volume.affine @ [0, 0, 0, 1])[:3]
    np.testing.assert_allclose(corner, np.rint(corner), atol=1e-9)
    assert volume.array[0, 0, 0] == array[tuple(np.rint(corner).astype(int))]
    np.testing.assert_allclose(volume.grid.voxel_volume_ml, abs(np.linalg.det(affine)) / 1000)


@quickly
@given(affines, shapes, st.sampled_from((".nii", ".nii.gz")))
def test_labels_written_as_nifti_lie_on_the_files_own_grid(tmp_path_factory, affine, shape, ending):
    path = tmp_path_factory.mktemp("round") / f"labels{ending}"
    own = labels_of(shape)
    volume = Volume.from_own(own, affine)
    write_nifti(path, volume.array, volume)
    peer = nibabel.load(path)
    np.testing.assert_array_equal(np.asanyarray(peer.dataobj), own)
    assert peer.get_data_dtype() == np.uint8
    np.testing.assert_allclose(peer.affine, affine, atol=1e-4)
    if peer.header["qform_code"] > 0:
        np.testing.assert_allclose(peer.get_qform(), affine, atol=2e-3)
    back = read_labels(path)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-3)


@quickly
@given(affines, shapes)
def test_a_scan_read_from_nifti_gives_its_voxels_and_affine_back(tmp_path_factory, affine, shape):
    folder = tmp_path_factory.mktemp("scan")
    own = np.random.default_rng(1).integers(-1000, 2000, shape).astype(np.int16)
    own.flat[0] = -1000
    nibabel.save(nibabel.Nifti1Image(own, affine), folder / "ct.nii.gz")
    volume = read_scan(folder / "ct.nii.gz")
    assert volume.array.dtype == np.float32
    write_nifti(folder / "back.nii.gz", volume.array, volume)
    peer = nibabel.load(folder / "back.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(peer.dataobj), own)
    np.testing.assert_allclose(peer.affine, affine, atol=1e-4)


@quickly
@given(affines, shapes, st.booleans())
def test_resampling_to_the_same_spacing_changes_nothing(affine, shape, nearest):
    volume = Volume.from_own(labels_of(shape), affine)
    same = resample(volume, volume.spacing, nearest=nearest)
    np.testing.assert_array_equal(same.array, volume.array)
    np.testing.assert_allclose(same.affine, volume.affine, atol=1e-9)


@quickly
@given(affines, shapes, spacings)
def test_labels_resampled_there_and_back_lie_on_the_scans_grid(affine, shape, spacing):
    volume = Volume.from_own(labels_of(shape), affine)
    other = resample(volume, spacing, nearest=True)
    back = resample_onto(other, volume.grid, nearest=True)
    assert back.array.shape == volume.array.shape
    assert volume.to_own(back.array).shape == shape
    np.testing.assert_array_equal(back.affine, volume.affine)
    assert set(np.unique(back.array)) <= set(np.unique(other.array)) <= set(np.unique(volume.array))


@quickly
@given(affines, shapes)
def test_seg_nrrd_keeps_labels_and_any_affine(tmp_path_factory, affine, shape):
    path = tmp_path_factory.mktemp("slicer") / "organs.seg.nrrd"
    own = labels_of(shape)
    volume = Volume.from_own(own, affine)
    write_seg_nrrd(path, volume.array, volume, [Segment(1, "spleen", (10, 20, 30))])
    peer = slicerio.read_segmentation(str(path))
    np.testing.assert_array_equal(peer["voxels"], own)
    np.testing.assert_allclose(peer["ijkToLPS"], np.diag([-1, -1, 1, 1]) @ affine, rtol=1e-12, atol=1e-12)
    back = read_labels(path)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-6)


def test_slicerio_reads_names_colors_and_extents_of_seg_nrrd(tmp_path):
    labels = np.zeros((6, 7, 8), dtype=np.uint8)
    labels[1:3, 2:5, 4] = 7
    volume = Volume.from_own(labels, np.diag([2.0, 2.0, 3.0, 1.0]))
    segments = [Segment(7, "small\nbowel", (255, 0, 51)), Segment(9, "tumor", (0, 0, 255))]
    write_seg_nrrd(tmp_path / "x.seg.nrrd", labels, volume, segments)
    bowel, tumor = slicerio.read_segmentation(str(tmp_path / "x.seg.nrrd"))["segments"]
    assert (bowel["name"], bowel["labelValue"], bowel["layer"]) == ("small bowel", 7, 0)
    assert bowel["color"] == pytest.approx([1.0, 0.0, 0.2])
    assert bowel["extent"] == [1, 2, 2, 4, 4, 4]
    assert (tumor["name"], tumor["extent"]) == ("tumor", [0, -1, 0, -1, 0, -1])


def test_itk_and_nibabel_place_what_is_written_alike(tmp_path):
    volume = Volume.from_own(labels_of((4, 5, 6)), affine_of((1, 2, 0), (1, -1, -1), (0.7, 2.5, 0.9), (5, -8, 3)))
    write_nifti(tmp_path / "x.nii.gz", volume.array, volume)
    write_seg_nrrd(tmp_path / "x.seg.nrrd", volume.array, volume, [])
    for name in ("x.nii.gz", "x.seg.nrrd"):
        image = sitk.ReadImage(str(tmp_path / name))
        point = np.array(image.TransformIndexToPhysicalPoint((3, 2, 5))) * (-1, -1, 1)
        np.testing.assert_allclose(point, world(volume.own.affine, np.array((3, 2, 5))), atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
def test_nifti_keeps_the_type_of_the_array(tmp_path, dtype):
    volume = Volume.from_own(labels_of((4, 5, 6)).astype(dtype), np.eye(4))
    write_nifti(tmp_path / "x.nii.gz", volume.array, volume)
    peer = nibabel.load(tmp_path / "x.nii.gz")
    assert peer.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(peer.dataobj), volume.array)


def test_names_travel_in_a_comment_that_readers_pass_over(tmp_path):
    volume = Volume.from_own(labels_of((4, 5, 6)), np.eye(4))
    write_nifti(tmp_path / "x.nii.gz", volume.array, volume, names={2: "right kidney", 1: "spleen"})
    (comment,) = nibabel.load(tmp_path / "x.nii.gz").header.extensions
    assert json.loads(comment.get_content()) == {"labels": {"1": "spleen", "2": "right kidney"}}
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "x.nii.gz"))).T
    np.testing.assert_array_equal(array, volume.array)


def test_a_mask_is_written_as_uint8(tmp_path):
    volume = Volume.from_own(labels_of((4, 5, 6)), np.eye(4))
    write_nifti(tmp_path / "x.nii", volume.array > 20, volume)
    assert nibabel.load(tmp_path / "x.nii").get_data_dtype() == np.uint8


def test_what_does_not_fit_is_not_written(tmp_path):
    volume = Volume.from_own(labels_of((4, 5, 6)), np.eye(4))
    with pytest.raises(InputError, match="does not fit"):
        write_nifti(tmp_path / "x.nii", volume.array[1:], volume)
    with pytest.raises(InputError, match="float64"):
        write_nifti(tmp_path / "x.nii", volume.array.astype(float), volume)
    with pytest.raises(InputError, match=r"\.nii\.gz"):
        write_nifti(tmp_path / "x.mha", volume.array, volume)
    with pytest.raises(InputError, match=r"\.seg\.nrrd"):
        write_seg_nrrd(tmp_path / "x.nrrd", volume.array, volume, [])
    with pytest.raises(InputError, match="0 to 255"):
        write_seg_nrrd(tmp_path / "x.seg.nrrd", volume.array.astype(np.int32) + 300, volume, [])
    with pytest.raises(InputError, match="0 to 255"):
        write_seg_nrrd(tmp_path / "x.seg.nrrd", volume.array, volume, [Segment(0, "air", (0, 0, 0))])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_a_folder_is_an_output_error_and_stays(tmp_path):
    volume = Volume.from_own(labels_of((4, 5, 6)), np.eye(4))
    (tmp_path / "x.nii").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_nifti(tmp_path / "x.nii", volume.array, volume)
    assert [path.name for path in tmp_path.iterdir()] == ["x.nii"]
