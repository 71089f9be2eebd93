"""The body mask holds lungs and bowel gas, and no air, padding or table."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from dsmseg.volume.body import body_mask, bounding_box

DATA = Path(__file__).parents[2] / "../shared/data"


@pytest.fixture
def torso():
    """A torso at 3 mm with two lungs that both end slices cut open, bowel gas, and a table below."""
    hu = np.full((100, 80, 30), -1000, dtype=np.float32)
    x, y = np.meshgrid(np.arange(100), np.arange(80), indexing="ij")
    trunk = ((x - 50) / 40) ** 2 + ((y - 45) / 28) ** 2 < 1
    hu[trunk] = 20
    for center in (32, 68):
        hu[((x - center) / 14) ** 2 + ((y - 45) / 20) ** 2 < 1] = -850
    hu[48:52, 60:64, 10:20] = -1000
    return hu, np.broadcast_to(trunk[..., None], hu.shape)


def test_lungs_cut_open_by_the_end_slices_and_gas_are_body(torso):
    hu, trunk = torso
    assert np.array_equal(body_mask(hu), trunk)


@pytest.mark.parametrize("gap", [0, 2])
def test_a_thin_table_is_not_body_even_when_the_back_touches_it(torso, gap):
    hu, trunk = torso
    lowest = int(np.flatnonzero(trunk.any(axis=(0, 2)))[0])
    hu[5:95, lowest - 1 - gap] = 300
    body = body_mask(hu)
    assert body[trunk].all()
    assert (body & ~trunk).sum() < 0.02 * trunk.sum()


def test_padding_outside_of_the_scanner_circle_changes_nothing(torso):
    hu, trunk = torso
    x, y = np.meshgrid(np.arange(100), np.arange(80), indexing="ij")
    hu[(x - 50) ** 2 + (y - 40) ** 2 > 49**2] = -2048
    assert np.array_equal(body_mask(hu), trunk)


def test_a_lung_that_the_field_of_view_cuts_is_body(torso):
    hu, _ = torso
    narrow = hu[25:75]
    lung = narrow == -850
    assert lung[0].any()
    assert body_mask(narrow)[lung].mean() > 0.95


def test_noise_does_not_open_the_body(torso):
    hu, trunk = torso
    noisy = hu + np.random.default_rng(0).normal(0, 60, hu.shape).astype(np.float32)
    body = body_mask(noisy)
    assert body[ndimage.binary_erosion(trunk, iterations=2)].all()
    assert not body[~ndimage.binary_dilation(trunk, iterations=2)].any()


@pytest.mark.parametrize("value", [-1000, -2048])
def test_a_scan_of_nothing_but_air_has_no_body(value):
    body = body_mask(np.full((20, 20, 20), value, dtype=np.float32))
    assert not body.any()
    assert bounding_box(body) is None


def test_a_body_of_one_slice_is_found(torso):
    hu, trunk = torso
    assert np.array_equal(body_mask(hu[..., :1]), trunk[..., :1])


def test_the_bounding_box_is_the_smallest_one():
    mask = np.zeros((9, 8, 7), dtype=bool)
    mask[2, 3, 4] = mask[5, 1, 6] = True
    assert bounding_box(mask) == (slice(2, 6), slice(1, 4), slice(4, 7))


@pytest.mark.skipif(not (DATA / "abdomen_3mm").is_dir(), reason="the real scans are not here")
def test_all_labelled_structures_of_a_real_abdomen_are_in_the_body():
    hu = np.asarray(nibabel.load(DATA / "abdomen_3mm/ct.nii.gz").dataobj, dtype=np.float32)
    labels = np.asarray(nibabel.load(DATA / "abdomen_3mm/totalseg_labels.nii.gz").dataobj)
    body = body_mask(hu)
    assert body[labels > 0].mean() > 0.999
    assert hu[body].min() < -700  # bowel gas and lung bases
    assert (hu[~body] > -300).mean() < 0.05  # what is left out is table and blanket


def test_a_thick_table_that_touches_a_few_slices_is_not_body_in_the_others(torso):
    hu, trunk = torso
    lowest = int(np.flatnonzero(trunk.any(axis=(0, 2)))[0])
    hu[:, lowest - 10 : lowest - 5] = -100
    hu[44:56, lowest - 5 : lowest, 3:5] = 20  # a fold of the back lies on it
    body = body_mask(hu)
    apart = np.ones(hu.shape[2], dtype=bool)
    apart[2:6] = False
    assert np.array_equal(body[..., apart], trunk[..., apart])
