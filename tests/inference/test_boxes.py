"""Boxes around labels."""

import numpy as np
import pytest
from scipy import ndimage

from dsmseg.inference import boxes
from dsmseg.inference.boxes import as_slices, boxes_of, nowhere, shifted, union


@pytest.mark.parametrize("slab", [1, 60, 10**6])
def test_boxes_are_those_of_find_objects(slab, monkeypatch):
    monkeypatch.setattr(boxes, "_SLAB_VOXELS", slab)
    labels = np.zeros((7, 8, 9), dtype=np.uint8)
    labels[2:4, 3:5, 1:8] = 3
    labels[0, 7, 0] = labels[6, 7, 8] = 255
    expected = {label: box for label, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None}
    assert boxes_of(labels) == expected
    assert boxes_of(labels[:, ::2, 1:]) == {
        label: box for label, box in enumerate(ndimage.find_objects(labels[:, ::2, 1:]), start=1) if box is not None
    }


def test_no_label_has_no_box():
    assert boxes_of(np.zeros((3, 4, 5), dtype=np.uint8)) == {}


def test_what_holds_nothing_holds_nothing_wherever_it_is_moved():
    some = np.array([[1, 3, 0, 2, 4, 5]])
    both = np.concatenate([nowhere(1), some])
    assert as_slices(shifted(both, (10, 20, 30))) == [None, (slice(11, 13), slice(20, 22), slice(34, 35))]
    assert np.array_equal(union([nowhere(1), some]), some)
    assert as_slices(union([some, np.array([[0, 1, 1, 4, 2, 3]])])) == [(slice(0, 3), slice(0, 4), slice(2, 5))]
