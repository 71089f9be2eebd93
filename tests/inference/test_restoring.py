"""Restoring is linear interpolation between voxel centers, and the best class of each voxel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dsmseg.inference import boxes
from dsmseg.inference.restoring import Interpolation, Restoring, erase, restore_field, restore_labels
from dsmseg.inference.soft_masks import SoftMasks
from dsmseg.volume import Grid

STEP = 0.51 / 255
SOURCE, WHOLE = ((slice(0, 1), slice(0, 1), slice(0, length)) for length in (5, 13))


def a_grid(shape, spacing, origin, rotation=None) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    affine[:3, 3] = origin
    return Grid(shape, affine)


def restored_field(field, interpolation):
    restored = np.zeros(interpolation.target_shape, dtype=np.uint8)
    restore_field(field.permute(2, 1, 0).contiguous(), interpolation, restored)
    return restored.T / 255


def restored_labels(fields, ids, interpolation, scores=None):
    labels = np.zeros(interpolation.target_shape, dtype=np.uint8)
    masks = SoftMasks.of(fields)
    restore_labels(masks, ids, masks.boxes(), interpolation, labels, scores)
    return labels.T


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
    restored = restored_field(torch.from_numpy(field), Interpolation.between(source, target))
    np.testing.assert_allclose(restored, by_map_coordinates(field, source, target), atol=STEP)


@settings(deadline=None)
@given(sizes, sizes, spacings, spacings, origins, st.integers(0, 99))
def test_labels_are_the_best_class_of_the_restored_fields(source_size, target_size, coarse, fine, origin, seed):
    source, target = a_grid(source_size, coarse, (0, 0, 0)), a_grid(target_size, fine, origin)
    fields = np.random.default_rng(seed).random((3, *source_size), dtype=np.float32)
    labels = restored_labels(torch.from_numpy(fields), [6, 2, 9], Interpolation.between(source, target))

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
    assert np.allclose(restored_field(field, interpolation), value, atol=STEP)
    assert (restored_labels(field[None], [7], interpolation) == (7 if value > 0.5 else 0)).all()


def test_the_same_grid_gives_the_same_values():
    grid = a_grid((4, 5, 6), (3, 2, 1), (5, 6, 7))
    field = torch.rand(4, 5, 6)
    np.testing.assert_allclose(restored_field(field, Interpolation.between(grid, grid)), field.numpy(), atol=STEP)


def test_slabs_do_not_show(monkeypatch):
    source, target = a_grid((8, 9, 7), (3, 3, 3), (0, 0, 0)), a_grid((30, 31, 32), (0.7, 0.8, 0.6), (0, 0, 0))
    interpolation = Interpolation.between(source, target)
    fields = torch.rand(4, 8, 9, 7, generator=torch.Generator().manual_seed(0))
    whole = restored_labels(fields, [1, 2, 3, 4], interpolation), restored_field(fields[0], interpolation)
    monkeypatch.setattr(boxes, "_SLAB_VOXELS", 1500)
    sliced = restored_labels(fields, [1, 2, 3, 4], interpolation), restored_field(fields[0], interpolation)
    assert np.array_equal(whole[0], sliced[0])
    np.testing.assert_allclose(whole[1], sliced[1], atol=2 * STEP)


@settings(deadline=None)
@given(sizes, sizes, spacings, spacings, origins, st.integers(0, 99), st.integers(1, 4))
def test_slices_that_come_a_few_at_a_time_give_what_all_at_once_give(
    source_size, target_size, coarse, fine, origin, seed, at_once
):
    source, target = a_grid(source_size, coarse, (0, 0, 0)), a_grid(target_size, fine, origin)
    interpolation = Interpolation.between(source, target)
    fields = torch.from_numpy(np.random.default_rng(seed).random((2, *source_size), dtype=np.float32))
    labels = np.zeros(interpolation.target_shape, dtype=np.uint8)
    restoring, covered = Restoring(interpolation), []
    for new in range(0, source_size[2], at_once):
        start, stop = max(0, new - 1), min(new + at_once, source_size[2])
        rows, part = restoring.advance(start, stop)
        covered += range(rows.start, rows.stop)
        masks = SoftMasks.of(fields[..., start:stop])
        restore_labels(masks, [3, 4], masks.boxes(), part, labels[rows])
    assert covered == list(range(target_size[2]))
    differs = restored_labels(fields, [3, 4], interpolation) != labels.T
    scores = np.stack([by_map_coordinates(field, source, target) for field in fields.numpy()])
    top = np.sort(scores, axis=0)
    assert ((np.abs(top[-1] - 0.5) < 1e-4) | (top[-1] - top[-2] < 1e-4))[differs].all()


def test_scores_are_the_probability_of_the_label_where_there_is_one():
    grid = a_grid((2, 1, 1), (3, 3, 3), (0, 0, 0))
    fields = torch.tensor([[0.6, 0.4], [0.8, 0.2]]).reshape(2, 2, 1, 1)
    scores = np.zeros((1, 1, 2), dtype=np.uint8)
    labels = restored_labels(fields, [1, 2], Interpolation.between(grid, grid), scores)
    assert labels.ravel().tolist() == [2, 0]
    assert scores.ravel().tolist() == [204, 0]


def test_what_is_erased_is_one_label_as_far_as_the_mask_reaches():
    source, target = a_grid((5, 1, 1), (3, 3, 3), (0, 0, 0)), a_grid((13, 1, 1), (1, 3, 3), (0, 0, 0))
    interpolation = Interpolation.between(source, target)
    where = np.array([0, 1, 0, 0, 0], dtype=bool).reshape(1, 1, 5)
    labels = np.array([7] * 5 + [2] + [7] * 7, dtype=np.uint8).reshape(1, 1, 13)
    half = labels.copy()
    erase(labels, 7, where, SOURCE, interpolation, over=0.0, within=WHOLE)
    assert labels.ravel().tolist() == [7, 0, 0, 0, 0, 2] + [7] * 7
    erase(half, 7, where, SOURCE, interpolation, over=0.5, within=WHOLE)
    assert half.ravel().tolist() == [7, 7, 0, 0, 0, 2] + [7] * 7
    only_there = np.full((1, 1, 13), 7, dtype=np.uint8)
    erase(only_there, 7, where, SOURCE, interpolation, over=0.0, within=(slice(0, 1), slice(0, 1), slice(4, 9)))
    assert only_there.ravel().tolist() == [7, 7, 7, 7, 0, 0, *[7] * 7]


def test_no_classes_give_an_empty_layer():
    grid = a_grid((4, 5, 6), (3, 3, 3), (0, 0, 0))
    assert not restored_labels(torch.zeros(0, 4, 5, 6), [], Interpolation.between(grid, grid)).any()


def test_oblique_grids_with_the_same_axes_are_restored():
    angle = np.deg2rad(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    source = a_grid((5, 6, 7), (3, 3, 3), (1, 2, 3), rotation)
    target = a_grid((12, 13, 9), (1, 1, 2), (2, 3, 4), rotation)
    field = np.random.default_rng(0).random(source.shape, dtype=np.float32)
    restored = restored_field(torch.from_numpy(field), Interpolation.between(source, target))
    np.testing.assert_allclose(restored, by_map_coordinates(field, source, target), atol=STEP)


def test_grids_with_other_axes_are_refused():
    turned = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    with pytest.raises(ValueError, match="different axes"):
        Interpolation.between(a_grid((4, 4, 4), (1, 1, 1), (0, 0, 0)), a_grid((4, 4, 4), (1, 1, 1), (0, 0, 0), turned))


thresholds = st.floats(0.02, 0.95)


@settings(deadline=None)
@given(sizes, sizes, spacings, spacings, st.lists(thresholds, min_size=1, max_size=3), st.integers(0, 99))
def test_of_classes_above_their_thresholds_the_one_that_came_farthest_to_certainty_wins(
    source_size, target_size, coarse, fine, above, seed
):
    source, target = a_grid(source_size, coarse, (0, 0, 0)), a_grid(target_size, fine, (0, 0, 0))
    fields = np.random.default_rng(seed).random((len(above), *source_size), dtype=np.float32)
    interpolation = Interpolation.between(source, target)
    labels, scores = (np.zeros(interpolation.target_shape, dtype=np.uint8) for _ in range(2))
    masks = SoftMasks.of(torch.from_numpy(fields), above)
    ids = list(range(1, len(above) + 1))
    restore_labels(masks, ids, masks.boxes(), interpolation, labels, scores)

    probabilities = np.stack([by_map_coordinates(field, source, target) for field in fields])
    bars = np.array(above)[:, None, None, None]
    come = np.sort((probabilities - bars) / (1 - bars), axis=0)
    best = ((probabilities - bars) / (1 - bars)).argmax(axis=0)
    clear = np.abs(come[-1]) > 1e-4
    if len(above) > 1:
        clear &= come[-1] - come[-2] > 1e-4
    expected = np.where(come[-1] > 0, best + 1, 0)
    assert np.array_equal(labels.T[clear], expected[clear])
    shown = clear & (expected > 0)
    won = np.take_along_axis(probabilities, best[None], axis=0)[0]
    np.testing.assert_allclose(scores.T[shown] / 255, won[shown], atol=STEP)
    assert not scores[labels == 0].any()
