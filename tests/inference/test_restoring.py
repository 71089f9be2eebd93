"""Restoring is linear interpolation between voxel centers, and the best class of each voxel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dsmseg.inference import restoring
from dsmseg.inference.restoring import Interpolation, restore_field, restore_labels
from dsmseg.volume import Grid


def a_grid(shape, spacing, origin, rotation=None) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    affine[:3, 3] = origin
    return Grid(shape, affine)


def by_map_coordinates(field, source: Grid, target: Grid):
    """The slow reference: place each target voxel by the affines alone."""
    voxels = np.indices(target.shape).reshape(3, -1)
    to_source = np.linalg.inv(source.affine) @ target.affine
    positions = to_source[:3, :3] @ voxels + to_source[:3, 3:]
    return ndimage.map_coordinates(field, positions, order=1, mode="nearest").reshape(target.shape)


sizes = st.tuples(*[st.integers(1, 9)] * 3)
spacings = st.tuples(*[st.floats(0.4, 5)] * 3)
origins = st.tuples(*[st.floats(-4, 4)] * 3)


@settings(deadline=None)
@given(sizes, sizes, spacings, spacings, origins, st.integers(0, 99))
def test_a_field_is_restored_as_map_coordinates_would(source_size, target_size, coarse, fine, origin, seed):
    source, target = a_grid(source_size, coarse, (0, 0, 0)), a_grid(target_size, fine, origin)
    field = np.random.default_rng(seed).random(source_size, dtype=np.float32)
    restored = restore_field(torch.from_numpy(field), Interpolation.between(source, target))
    np.testing.assert_allclose(restored, by_map_coordinates(field, source, target), atol=1e-4)


@settings(deadline=None)
@given(sizes, sizes, spacings, spacings, origins, st.integers(0, 99))
def test_labels_are_the_best_class_of_the_restored_fields(source_size, target_size, coarse, fine, origin, seed):
    source, target = a_grid(source_size, coarse, (0, 0, 0)), a_grid(target_size, fine, origin)
    fields = np.random.default_rng(seed).random((3, *source_size), dtype=np.float32)
    labels = restore_labels(torch.from_numpy(fields), [6, 2, 9], Interpolation.between(source, target))

    scores = np.stack([by_map_coordinates(field, source, target) for field in fields])
    top = np.sort(scores, axis=0)
    clear = (np.abs(top[-1] - 0.5) > 1e-4) & (top[-1] - top[-2] > 1e-4)
    expected = np.where(scores.max(axis=0) > 0.5, np.array([6, 2, 9])[scores.argmax(axis=0)], 0)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels[clear], expected[clear])


@pytest.mark.parametrize("value", [0.0, 0.5, 0.75, 1.0])
def test_constant_fields_stay_constant_up_to_the_outermost_voxel(value):
    source, target = a_grid((4, 5, 6), (3, 3, 3), (0, 0, 0)), a_grid((20, 21, 22), (0.7, 0.9, 1.1), (-1, -1, -1))
    interpolation = Interpolation.between(source, target)
    field = torch.full((4, 5, 6), value)
    assert np.allclose(restore_field(field, interpolation), value, atol=1e-6)
    assert (restore_labels(field[None], [7], interpolation) == (7 if value > 0.5 else 0)).all()


def test_the_same_grid_gives_the_same_values():
    grid = a_grid((4, 5, 6), (3, 2, 1), (5, 6, 7))
    field = torch.rand(4, 5, 6)
    assert np.array_equal(restore_field(field, Interpolation.between(grid, grid)), field.numpy())


def test_slabs_do_not_show(monkeypatch):
    source, target = a_grid((8, 9, 7), (3, 3, 3), (0, 0, 0)), a_grid((30, 31, 32), (0.7, 0.8, 0.6), (0, 0, 0))
    interpolation = Interpolation.between(source, target)
    fields = torch.rand(4, 8, 9, 7, generator=torch.Generator().manual_seed(0))
    whole = restore_labels(fields, [1, 2, 3, 4], interpolation), restore_field(fields[0], interpolation)
    monkeypatch.setattr(restoring, "_SLAB_VOXELS", 1500)
    sliced = restore_labels(fields, [1, 2, 3, 4], interpolation), restore_field(fields[0], interpolation)
    assert np.array_equal(whole[0], sliced[0])
    np.testing.assert_allclose(whole[1], sliced[1], atol=1e-6)


def test_no_classes_give_an_empty_layer():
    grid = a_grid((4, 5, 6), (3, 3, 3), (0, 0, 0))
    assert not restore_labels(torch.zeros(0, 4, 5, 6), [], Interpolation.between(grid, grid)).any()


def test_oblique_grids_with_the_same_axes_are_restored():
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    source = a_grid((5, 6, 7), (3, 3, 3), (1, 2, 3), rotation)
    target = a_grid((12, 13, 9), (1, 1, 2), (2, 3, 4), rotation)
    field = np.random.default_rng(0).random(source.shape, dtype=np.float32)
    restored = restore_field(torch.from_numpy(field), Interpolation.between(source, target))
    np.testing.assert_allclose(restored, by_map_coordinates(field, source, target), atol=1e-4)


def test_grids_with_other_axes_are_refused():
    turned = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    with pytest.raises(ValueError, match="different axes"):
        Interpolation.between(a_grid((4, 4, 4), (1, 1, 1), (0, 0, 0)), a_grid((4, 4, 4), (1, 1, 1), (0, 0, 0), turned))
