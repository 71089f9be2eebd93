"""Augmentation: one warp for image and labels, decided by a seed."""

from functools import partial

import numpy as np
import pytest
import torch
from small_stores import store_case

from dsmseg.datasets.patches import Draw, PatchDataset
from dsmseg.training.augmentation import Augmentation, draw_augmentation
from dsmseg.training.data_settings import AugmentationRange

ALWAYS = AugmentationRange(rotation_chance=1, scale_chance=1, elastic_chance=1, brightness_chance=1, gamma_chance=1)
SIZE = (24, 20, 16)


def still(**changes) -> Augmentation:
    unchanged = {"matrix": None, "elastic": 0.0, "nodes": 12.0, "seed": 1, "brightness": 0.0, "gamma": 1.0}
    return Augmentation(size=SIZE, **(unchanged | changes))


def region(change: Augmentation, function) -> np.ndarray:
    """Fill the region that a change reads by a function of the mm from its middle."""
    axes = [np.arange(count) - (count - 1) / 2 for count in change.source_size]
    return function(*np.meshgrid(*axes, indexing="ij"))


def patch_offsets() -> list[np.ndarray]:
    return np.meshgrid(*[np.arange(count) - (count - 1) / 2 for count in SIZE], indexing="ij")


def test_nothing_happens_where_nothing_is_drawn() -> None:
    never = AugmentationRange(rotation_chance=0, scale_chance=0, elastic_chance=0, brightness_chance=0, gamma_chance=0)
    change = draw_augmentation(never, SIZE, 3)
    assert change.source_size == SIZE
    hu = np.arange(np.prod(SIZE), dtype=np.int16).reshape(SIZE)
    image, labels = change.warp(hu, hu.astype(np.uint8))
    np.testing.assert_array_equal(image, hu)
    np.testing.assert_array_equal(labels, hu.astype(np.uint8))


@pytest.mark.parametrize("seed", range(6))
def test_the_region_that_is_read_is_as_large_as_the_warp_reaches(seed) -> None:
    change = draw_augmentation(ALWAYS, SIZE, seed)
    half = [(count - 1) / 2 for count in change.source_size]
    fields = [region(change, lambda x, y, z, axis=axis: (10 * (x, y, z)[axis]).astype(np.int16)) for axis in range(3)]
    for axis, field in enumerate(fields):
        image, _ = change.warp(field, np.zeros(field.shape, np.uint8))
        assert np.abs(image).max() <= 10 * half[axis]
        assert len(np.unique(image)) > 100  # and nothing is cut to the border


def test_a_turn_carries_each_voxel_to_its_place() -> None:
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    change = still(matrix=quarter)
    x, y, z = patch_offsets()
    places = region(change, lambda i, j, k: (100 * i + 10 * j + k).astype(np.int16))
    image, _ = change.warp(places, np.zeros(places.shape, np.uint8))
    np.testing.assert_allclose(image, 100 * -y + 10 * x + z, atol=1)


def test_a_scale_of_2_shows_a_half() -> None:
    change = still(matrix=np.eye(3) / 2)
    linear = region(change, lambda i, j, k: (40 * i).astype(np.int16))
    image, _ = change.warp(linear, np.zeros(linear.shape, np.uint8))
    np.testing.assert_allclose(image, 20 * patch_offsets()[0], atol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_image_and_labels_are_moved_alike(seed) -> None:
    change = draw_augmentation(ALWAYS, SIZE, seed)
    ball = region(change, lambda i, j, k: (i**2 + j**2 + k**2 < 36).astype(np.uint8))
    image, labels = change.warp((100 * ball).astype(np.int16), ball)
    assert labels.any()
    differ = (image > 50) != (labels > 0)
    assert differ.sum() < 0.1 * labels.sum()  # at the surface alone: linear beside nearest


def test_the_same_seed_gives_the_same_patch_and_another_seed_another() -> None:
    def made(seed: int) -> np.ndarray:
        change = draw_augmentation(ALWAYS, SIZE, seed)
        hu = region(change, lambda i, j, k: (50 * np.sin(i) + 20 * j).astype(np.int16))
        image = torch.from_numpy(change.warp(hu, np.zeros(hu.shape, np.uint8))[0])[None] / 1000 + 0.5
        change.recolor(image)
        return image.numpy()

    np.testing.assert_array_equal(made(5), made(5))
    assert np.abs(made(5) - made(6)).max() > 0.01


def test_intensities_stay_in_0_to_1() -> None:
    for seed in range(20):
        image = torch.linspace(0, 1, 1000).reshape(1, 10, 10, 10)
        draw_augmentation(ALWAYS, SIZE, seed).recolor(image)
        assert image.min() >= 0
        assert image.max() <= 1


def test_gamma_and_brightness_are_those_drawn() -> None:
    image = torch.full((1, 2, 2, 2), 0.5)
    still(gamma=2.0, brightness=0.1).recolor(image)
    torch.testing.assert_close(image, torch.full((1, 2, 2, 2), 0.35))


def test_each_kind_of_change_is_as_frequent_as_asked_for() -> None:
    drawn = [draw_augmentation(AugmentationRange(), SIZE, seed) for seed in range(2000)]
    assert np.mean([one.gamma != 1 for one in drawn]) == pytest.approx(0.3, abs=0.04)
    assert np.mean([one.brightness != 0 for one in drawn]) == pytest.approx(0.15, abs=0.03)
    assert np.mean([one.elastic > 0 for one in drawn]) == pytest.approx(0.2, abs=0.04)
    assert np.mean([one.matrix is not None for one in drawn]) == pytest.approx(0.36, abs=0.04)


@pytest.fixture
def stored(tmp_path):
    return [store_case(tmp_path)]


def test_a_data_set_is_given_the_augmentation_of_each_draw(stored) -> None:
    plain = PatchDataset(stored, SIZE)
    changed = PatchDataset(stored, SIZE, augment=partial(draw_augmentation, ALWAYS))
    draw = Draw(0, None, 11)
    assert torch.equal(changed[draw].image, changed[draw].image)
    assert changed[draw].image.shape == plain[draw].image.shape
    assert not torch.equal(changed[draw].image, plain[draw].image)
    unchanged = PatchDataset(stored, SIZE, augment=lambda size, seed: still())
    assert torch.equal(unchanged[draw].image, plain[draw].image)
    assert torch.equal(unchanged[draw].codes, plain[draw].codes)
