"""Windows cover the body, lie inside of the scan, and overlap as asked."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.inference.windows import channels, gaussian_weights, most_windows, padding_to, place_windows

SIZE = (32, 32, 64)


@settings(deadline=None)
@given(
    extra=st.tuples(*[st.integers(0, 90)] * 3),
    overlap=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_every_body_voxel_is_in_a_window_and_every_window_holds_body(extra, overlap, seed):
    shape = tuple(width + more for width, more in zip(SIZE, extra, strict=True))
    body = np.random.default_rng(seed).random(shape) > 0.9999
    covered = np.zeros(shape, dtype=bool)
    for window in place_windows(body, SIZE, overlap):
        assert body[window].shape == SIZE
        assert body[window].any()
        covered[window] = True
    assert covered[body].all()


@settings(deadline=None)
@given(shape=st.tuples(*[st.integers(1, 150)] * 3), overlap=st.floats(0, 0.9))
def test_a_scan_that_is_all_body_has_the_most_windows(shape, overlap):
    body = np.pad(np.ones(shape, dtype=bool), padding_to(shape, SIZE), constant_values=True)
    assert most_windows(shape, SIZE, overlap) == len(place_windows(body, SIZE, overlap))


@settings(deadline=None)
@given(length=st.integers(32, 300), overlap=st.floats(0, 0.9))
def test_neighbors_have_at_least_the_overlap_in_common(length, overlap):
    windows = place_windows(np.ones((length, 32, 64), dtype=bool), SIZE, overlap)
    starts = [window[0].start for window in windows]
    assert starts[0] == 0
    assert starts[-1] == length - 32
    assert all(32 - (after - before) >= int(overlap * 32) - 1 for before, after in pairwise(starts))


def test_no_body_no_windows():
    assert place_windows(np.zeros((40, 40, 70), dtype=bool), SIZE, 0.25) == []


@settings(deadline=None)
@given(st.tuples(*[st.integers(1, 100)] * 3))
def test_padding_brings_each_axis_to_a_window_and_no_further(shape):
    padded = [length + before + after for length, (before, after) in zip(shape, padding_to(shape, SIZE), strict=True)]
    assert padded == [max(length, width) for length, width in zip(shape, SIZE, strict=True)]


def test_the_middle_weighs_most_and_the_rim_still_something():
    weights = gaussian_weights(SIZE)
    assert weights.shape == SIZE
    assert weights[15, 15, 31] == weights.max() == weights[16, 16, 32]
    assert weights.min() > 0
    for axis in range(3):
        assert torch.allclose(weights, weights.flip(axis))


@pytest.mark.parametrize(("hu", "value"), [(-2048, 0), (-160, 0), (40, 0.5), (240, 1), (3000, 1)])
def test_each_hu_window_is_a_channel_scaled_to_0_1_and_clipped(hu, value):
    image = channels(torch.full((2, 3, 4), float(hu)), [(-160, 240), (-4000, 4000)])
    assert image.shape == (1, 2, 2, 3, 4)
    assert torch.allclose(image[0, 0], torch.tensor(float(value)))
    assert torch.allclose(image[0, 1], torch.tensor((hu + 4000) / 8000))
