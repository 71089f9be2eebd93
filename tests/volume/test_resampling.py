"""Resampling: constants, ramps, centers, borders, and agreement with peers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dsmseg.errors import InputError
from dsmseg.volume import Grid, Volume, resample, resample_onto

quickly = settings(max_examples=25, deadline=None)
spacings = st.tuples(*[st.floats(0.3, 10.0)] * 3)
shapes = st.tuples(*[st.integers(2, 14)] * 3)


def volume_of(array, spacing=(1.0, 1.0, 1.0)):
    return Volume.from_own(array, np.diag([*spacing, 1.0]))


def points(volume):
    """World coordinates (X, Y, Z, 3) of every voxel of a volume."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), axis=-1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


@quickly
@given(shapes, spacings, spacings)
def test_constants_stay_and_centers_coincide(shape, old, new):
    volume = volume_of(np.full(shape, -731.5, dtype=np.float32), old)
    result = resample(volume, new)
    np.testing.assert_allclose(result.array, -731.5, rtol=1e-6)
    np.testing.assert_allclose(result.spacing, new)
    sizes = [max(1, round(n * s / t)) for n, s, t in zip(shape, volume.spacing, new, strict=True)]
    assert np.abs(np.array(result.array.shape) - sizes).max() <= 1e-9
    middle = [volume.affine @ [*((np.array(volume.array.shape) - 1) / 2), 1.0]]
    np.testing.assert_allclose([result.affine @ [*((np.array(result.array.shape) - 1) / 2), 1.0]], middle, atol=1e-6)


@quickly
@given(st.tuples(*[st.integers(12, 24)] * 3), st.tuples(*[st.floats(0.4, 3.0)] * 3))
def test_linear_ramps_stay_exact_away_from_the_border(shape, new):
    volume = volume_of(np.zeros(shape, dtype=np.float32))
    slope = np.array([3.0, -2.0, 0.5])
    ramp = Volume((points(volume) @ slope).astype(np.float32), volume.affine, volume.own)
    result = resample(ramp, new)
    place = points(result)
    inside = np.all((place >= 3) & (place <= np.array(shape) - 4), axis=-1)
    np.testing.assert_allclose(result.array[inside], (place @ slope)[inside], atol=1e-3)


@quickly
@given(shapes, st.tuples(*[st.floats(0.3, 1.0)] * 3))
def test_a_finer_grid_is_plain_linear_interpolation(shape, new):
    volume = volume_of(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    result = resample(volume, new)
    peer = ndimage.map_coordinates(volume.array, np.moveaxis(points(result), -1, 0), order=1, mode="nearest")
    np.testing.assert_allclose(result.array, peer, atol=1e-5)


@quickly
@given(shapes, spacings, spacings)
def test_labels_take_the_nearest_voxel_and_keep_their_type(shape, old, new):
    labels = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    volume = volume_of(labels, old)
    result = resample(volume, new, nearest=True)
    assert result.array.dtype == np.uint16
    place = points(result) / volume.spacing
    index = np.clip(np.floor(place + 0.5 + 1e-9), 0, np.array(shape) - 1)
    tie = np.abs(place - np.floor(place) - 0.5).min(axis=-1) < 1e-6
    peer = labels[tuple(np.moveaxis(index.astype(int), -1, 0))]
    np.testing.assert_array_equal(result.array[~tie], peer[~tie])


def test_a_pattern_finer_than_the_new_grid_is_averaged_not_picked():
    stripes = np.zeros((48, 8, 8), dtype=np.float32)
    stripes[::2] = 1000.0
    result = resample(volume_of(stripes), (4.0, 1.0, 1.0)).array
    np.testing.assert_allclose(result[2:-2], 500.0, atol=1e-2)


def test_total_mass_survives_a_coarser_grid():
    array = np.zeros((30, 30, 30), dtype=np.float32)
    array[10:19, 12:20, 9:17] = 100.0
    volume = volume_of(array)
    result = resample(volume, (3.0, 3.0, 2.0))
    assert result.array.sum() * result.grid.voxel_volume_ml == pytest.approx(
        array.sum() * volume.grid.voxel_volume_ml, rel=1e-3
    )


@quickly
@given(st.permutations(range(3)), spacings)
def test_the_layout_in_memory_makes_no_difference(order, new):
    array = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    back = np.argsort(order)
    odd = np.ascontiguousarray(array.transpose(order)).transpose(back)
    expected = resample(volume_of(array), new).array
    np.testing.assert_allclose(resample(volume_of(odd), new).array, expected, atol=1e-5)


def test_a_map_comes_back_on_the_scans_grid():
    scan = volume_of(np.zeros((21, 18, 33), dtype=np.float32), (0.7, 0.7, 2.5))
    coarse = resample(scan, (3.0, 3.0, 3.0))
    place = points(coarse)
    ramp = Volume(place[..., 2].astype(np.float32), coarse.affine, coarse.own)
    fine = resample_onto(ramp, scan.grid)
    assert fine.array.shape == scan.array.shape
    np.testing.assert_allclose(fine.array[:, :, 1:-1], points(scan)[:, :, 1:-1, 2], atol=1e-3)


@pytest.mark.parametrize("spacing", [(1, 1), (0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1)])
def test_a_spacing_that_is_none_is_refused(spacing):
    with pytest.raises(InputError, match="spacing"):
        resample(volume_of(np.zeros((3, 3, 3))), spacing)


def test_grids_that_are_turned_against_each_other_are_refused():
    volume = volume_of(np.zeros((9, 9, 9), dtype=np.float32))
    turned = volume.affine.copy()
    turned[:2, :2] = [[0.9, -0.4], [0.4, 0.9]]
    with pytest.raises(InputError, match="same axes"):
        resample_onto(volume, Grid((9, 9, 9), turned))
