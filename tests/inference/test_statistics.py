"""Figures agree with what the arrays hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.inference import statistics
from dsmseg.inference.statistics import class_rows
from dsmseg.taxonomy import ORGANS, find

LIVER = find("Liver")


@settings(deadline=None)
@given(seed=st.integers(0, 99), in_fortran_order=st.booleans())
def test_rows_equal_plain_numpy(seed, in_fortran_order):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, (6, 7, 8), dtype=np.uint8)
    hu = generator.normal(50, 30, labels.shape).astype(np.float32)
    order = "F" if in_fortran_order else "C"
    rows = class_rows(np.asarray(labels, order=order), np.asarray(hu, order=order), ORGANS[:5], 0.5)
    for row in rows[:3]:
        values = hu[labels == row["id"]].astype(float)
        assert row["voxels"] == values.size
        assert row["volume_ml"] == pytest.approx(values.size * 0.5)
        assert row["mean_hu"] == pytest.approx(values.mean(), abs=0.006)
        assert row["sd_hu"] == pytest.approx(values.std(), abs=0.006)
    assert [row["name"] for row in rows] == [organ.name for organ in ORGANS[:5]]


def test_slabs_do_not_show(monkeypatch):
    labels = np.random.default_rng(0).integers(0, 4, (6, 7, 8), dtype=np.uint8)
    hu = labels * 10.0
    whole = class_rows(labels, hu, ORGANS, 1)
    monkeypatch.setattr(statistics, "_SLAB_VOXELS", 100)
    assert class_rows(labels, hu, ORGANS, 1) == whole


def test_an_absent_class_has_no_volume_and_no_density():
    row = class_rows(np.zeros((3, 3, 3), dtype=np.uint8), np.zeros((3, 3, 3)), [LIVER], 1)[0]
    assert row == {
        "id": 6,
        "name": "Liver",
        "voxels": 0,
        "volume_ml": 0,
        "mean_hu": None,
        "sd_hu": None,
        "truncated": False,
    }


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("end", [0, -1])
def test_a_class_that_touches_an_end_of_the_scan_is_truncated(axis, end):
    labels = np.zeros((7, 8, 9), dtype=np.uint8)
    labels[3, 3, 3] = LIVER.id
    hu = np.zeros(labels.shape)
    assert not class_rows(labels, hu, [LIVER], 1)[0]["truncated"]
    place = [4, 4, 4]
    place[axis] = end
    labels[tuple(place)] = LIVER.id
    assert class_rows(labels, hu, [LIVER], 1)[0]["truncated"]
