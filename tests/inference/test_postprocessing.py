"""Fragments of organs go, parts stay; tumors stay at their hosts."""

import numpy as np
import pytest
import torch

from dsmseg.inference.postprocessing import Claims, confine_to_hosts, drop_fragments
from dsmseg.inference.restoring import Interpolation, restore_labels
from dsmseg.inference.soft_masks import SoftMasks
from dsmseg.taxonomy import ORGANS, find
from dsmseg.volume import Grid
from dsmseg.volume.body import bounding_box

SPACING = (3.0, 3.0, 3.0)


def same_grid(shape) -> Interpolation:
    """Give the interpolation from a grid to itself; ``shape`` is z, y, x."""
    grid = Grid(shape[::-1], np.diag([*SPACING, 1.0]))
    return Interpolation.between(grid, grid)


def after_dropping(fields, names, interpolation=None):
    """Label (class, z, y, x) probabilities, drop fragments; give labels and claims."""
    organs = [find(name) for name in names]
    interpolation = interpolation or same_grid(fields.shape[1:])
    claims = Claims(organs, tuple(fields.shape[1:]))
    masks = SoftMasks.of(fields.permute(0, 3, 2, 1))
    boxes = claims.add(masks, 0)
    labels = np.zeros(interpolation.target_shape, dtype=np.uint8)
    restore_labels(masks, [one.id for one in organs], boxes, interpolation, labels)
    drop_fragments(labels, claims, organs, interpolation)
    return labels, claims


def test_a_small_fragment_goes_and_a_second_large_part_stays():
    field = torch.zeros(1, 30, 10, 10)
    field[0, 2:12] = 0.9
    field[0, 14:20] = 0.8
    expected = (field[0] > 0.5).numpy()
    field[0, 25, 5, 5] = 0.99
    labels, claims = after_dropping(field, ["Liver"])
    assert np.array_equal(labels == find("Liver").id, expected)
    assert np.array_equal(claims.mask(find("Liver")), expected)


def test_a_fragment_goes_to_its_last_voxel_on_a_finer_grid_and_its_neighbors_stay():
    fields = torch.zeros(2, 30, 10, 10)
    fields[0, 2:12] = 0.9
    fields[0, 25, 5, 5] = 0.99
    fields[1, 24:30, 7:] = 0.9
    coarse, fine = Grid((10, 10, 30), np.diag([3.0, 3, 3, 1])), Grid((40, 40, 120), np.diag([0.75, 0.75, 0.75, 1]))
    labels, _ = after_dropping(fields, ["Liver", "Spleen"], Interpolation.between(coarse, fine))
    liver, spleen = (labels == find(name).id for name in ("Liver", "Spleen"))
    assert liver.any()
    assert not liver[60:].any()
    without = fields.clone()
    without[0, 25, 5, 5] = 0
    assert np.array_equal(
        spleen, after_dropping(without, ["Liver", "Spleen"], Interpolation.between(coarse, fine))[0] == 1
    )


def test_bowel_keeps_the_small_parts_that_an_organ_in_one_piece_loses():
    field = torch.zeros(2, 30, 10, 10)
    field[:, 2:12] = 0.9
    field[:, 20, 2:8, 2:7] = 0.9  # 3 % of the large part
    _, claims = after_dropping(field, ["Liver", "Colon"])
    assert not claims.mask(find("Liver"))[20].any()
    assert claims.mask(find("Colon"))[20].any()


def test_absent_organs_are_left_alone():
    labels, claims = after_dropping(torch.full((1, 5, 5, 5), 0.4), ["Liver"])
    assert not labels.any()
    assert not claims.mask(find("Liver")).any()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 25])
def test_claims_are_what_was_added_slab_by_slab(count):
    fields = torch.rand(count, 6, 4, 3, generator=torch.Generator().manual_seed(0))
    claims = Claims(ORGANS[:count], (6, 4, 3))
    slices = SoftMasks.of(fields.permute(0, 3, 2, 1))
    for start, stop in ((0, 2), (1, 6)):
        part = SoftMasks.of(slices.sums[..., start:stop])
        assert len(claims.add(part, start)) == count
    for organ, field in zip(ORGANS, fields, strict=False):
        mask = (field > 0.5).numpy()
        assert np.array_equal(claims.mask(organ), mask)
        box = claims.box(organ)
        assert box == bounding_box(mask)
        assert np.array_equal(claims.mask(organ, box), mask[box])


def confined(host, *, tumor="Liver Tumor", known=("Liver",), spacing=3.0):
    """Give where a tumor that was everywhere is left; ``host`` is the mask (z, y, x) of each known organ."""
    organs = {name: find(name) for name in known}
    claims = Claims(list(organs.values()), host.shape)
    claims.add(SoftMasks.of(torch.from_numpy(np.stack([host.T] * len(organs)).astype(np.float32))), 0)
    labels = np.full(host.shape, find(tumor).id, dtype=np.uint8)
    confine_to_hosts(labels, [find(tumor)], organs, claims, same_grid(host.shape), (spacing,) * 3)
    return labels > 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tumor_stays_at_its_host_and_vanishes_far_from_it(axis):
    liver = np.zeros((20, 20, 20), dtype=bool)
    np.moveaxis(liver, axis, 0)[:8] = True
    left = np.moveaxis(confined(liver), axis, 0)
    assert left[:11].all()  # 9 mm beyond
    assert not left[11:].any()


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.5, 2.0])
def test_on_a_fine_grid_the_margin_is_off_by_less_than_3_mm(spacing):
    size = round(45 / spacing)
    liver = np.zeros((size, 9, 9), dtype=bool)
    liver[: size // 3] = True
    left = confined(liver, spacing=spacing)[:, 4, 4]
    last = (np.flatnonzero(left)[-1] - (size // 3 - 1)) * spacing
    assert left[: size // 3].all()
    assert 9 - spacing <= last < 9 + 3


def test_a_tumor_without_its_host_in_the_scan_vanishes():
    assert not confined(np.zeros((5, 5, 5), dtype=bool)).any()


def test_a_tumor_is_left_alone_where_the_weights_do_not_know_all_of_its_hosts():
    nowhere = np.zeros((5, 5, 5), dtype=bool)
    assert confined(nowhere, tumor="Kidney Tumor", known=("Right Kidney",)).all()
    assert not confined(nowhere, tumor="Kidney Tumor", known=("Right Kidney", "Left Kidney")).any()
