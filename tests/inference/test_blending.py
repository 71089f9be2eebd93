"""Blended windows say what the network says, inside of the body only."""

import numpy as np
import pytest
import torch
from torch import nn

from dsmseg.inference import blending
from dsmseg.inference.blending import SlidingWindow, Tiling
from dsmseg.inference.boxes import as_slices
from dsmseg.inference.runtime import Runtime
from dsmseg.model import DSMOutput
from dsmseg.volume.body import bounding_box

CPU = Runtime(torch.device("cpu"), torch.float32)
LIVER = 6


def a_tiling(**changes) -> Tiling:
    fields = {"size": (32, 32, 32), "overlap": 0.25, "hu_windows": [(-1000.0, 1000.0)], "organs": [0, 5], "tumors": []}
    return Tiling(**(fields | changes))


class Whole:
    """All slabs of a scan, put together, in (x, y, z); each slab must begin with the last slice of the one before."""

    def __init__(self, *arguments, **options):
        window = SlidingWindow(*arguments, **options)
        self.windows = len(window.windows)
        parts = {"organs": [], "tumors": [], "anomaly": []}
        position = 0
        for slab in window:
            assert (slab.new, slab.start) == (position, max(0, position - 1))
            position = slab.stop
            for name, kept in parts.items():
                masks = getattr(slab, name)
                fields = masks.sums * masks.shares
                assert fields.shape[-1] == slab.stop - slab.start
                over, boxes = over_half(masks)
                for number, field in enumerate(fields):
                    assert torch.equal(masks.backwards(number), field.permute(2, 1, 0))
                    clear = (field - 0.5).abs().numpy() > 1e-6
                    assert np.array_equal(over[number][clear], (field > 0.5).numpy()[clear])
                    assert boxes[number] == bounding_box(over[number])
                if kept and slab.new > slab.start:
                    torch.testing.assert_close(fields[..., :1], kept[-1][..., -1:])
                kept.append(fields[..., slab.new - slab.start :].clone())
        for name, kept in parts.items():
            setattr(self, name, torch.cat(kept, dim=-1))
        self.anomaly = self.anomaly[0]


def over_half(masks):
    """Give where each mask is more than one half, (class, x, y, z), and the boxes around."""
    bits = np.zeros(((len(masks) + 7) // 8, *reversed(masks.weights.shape)), dtype=np.uint8)
    boxes = masks.boxes(bits)
    return np.unpackbits(bits, axis=0)[: len(masks)].transpose(0, 3, 2, 1) > 0, as_slices(boxes)


class EachVoxelForItself(nn.Module):
    """Logits that depend on the voxel's own HU only: blending must not change them."""

    def forward(self, image):
        logits = (image - 0.5) * 8
        organs = torch.cat([logits * (1 + 0.1 * index) for index in range(25)], dim=1)
        tumors = torch.cat([logits - index for index in range(20)], dim=1)
        return DSMOutput(organs, None, [], -nn.functional.avg_pool3d(image, 4)[:, 0], tumors, None)


@pytest.fixture
def scan():
    return np.random.default_rng(0).uniform(-1200, 1200, (50, 37, 41)).astype(np.float32)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_where_all_windows_agree_blending_changes_nothing(scan, overlap):
    tiling = a_tiling(overlap=overlap, tumors=[5])
    scores = Whole(EachVoxelForItself(), scan, np.ones(scan.shape, dtype=bool), tiling, CPU)
    logits = ((torch.from_numpy(scan) + 1000) / 2000).clamp(0, 1).sub(0.5) * 8
    torch.testing.assert_close(scores.organs[0], logits.sigmoid())
    torch.testing.assert_close(scores.organs[1], (logits * 1.5).sigmoid())
    torch.testing.assert_close(scores.tumors[0], (logits - 5).sigmoid())


@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 6, 90), (32, 32, 32), (33, 31, 32)])
def test_scans_smaller_than_a_window_are_padded_with_air_and_cut_back(shape):
    scan = np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)
    scores = Whole(EachVoxelForItself(), scan, np.ones(shape, dtype=bool), a_tiling(), CPU)
    logits = (torch.from_numpy(scan) / 2000) * 8
    torch.testing.assert_close(scores.organs[0], logits.sigmoid())
    assert scores.anomaly.shape == shape


def test_windows_of_air_never_reach_the_network_and_nothing_outside_of_the_body_is_marked(liver_everywhere):
    scan = np.full((128, 128, 64), -1000, dtype=np.float32)
    body = np.zeros(scan.shape, dtype=bool)
    body[3:15, 3:15, 3:15] = True
    scores = Whole(liver_everywhere, scan, body, a_tiling(), CPU)
    assert scores.windows == 1
    outside = torch.from_numpy(~body)
    assert not scores.organs[:, outside].any()
    assert not scores.anomaly[outside].any()
    assert (scores.organs[1, ~outside] > 0.99).all()


def test_without_a_body_all_is_zero(liver_everywhere):
    scan = np.full((40, 40, 40), -1000, dtype=np.float32)
    scores = Whole(liver_everywhere, scan, np.zeros(scan.shape, dtype=bool), a_tiling(), CPU)
    assert scores.windows == 0
    assert not scores.organs.any()
    assert not scores.anomaly.any()


def test_the_anomaly_is_what_the_network_says_inside_of_the_body_whatever_the_rest_of_the_scan():
    class Response(EachVoxelForItself):
        def forward(self, image):
            return super().forward(image)._replace(anomaly=-nn.functional.avg_pool3d(image, 4)[:, 0])

    scan = np.full((40, 40, 40), 500, dtype=np.float32)  # 0.75 of the HU window
    body = np.zeros(scan.shape, dtype=bool)
    body[5:30, 5:30, 5:35] = True
    anomaly = Whole(Response(), scan, body, a_tiling(), CPU).anomaly
    inside = torch.from_numpy(body)
    torch.testing.assert_close(anomaly[inside], torch.full((int(body.sum()),), 0.25))
    assert not anomaly[~inside].any()


@pytest.mark.parametrize("slices", [1, 5, 24, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_how_many_slices_are_handed_on_at_once_changes_nothing(scan, monkeypatch, slices, overlap):
    body = np.random.default_rng(1).random(scan.shape) > 0.3
    whole = Whole(EachVoxelForItself(), scan, body, a_tiling(overlap=overlap), CPU)
    monkeypatch.setattr(blending, "SLAB_SLICES", slices)
    in_parts = Whole(EachVoxelForItself(), scan, body, a_tiling(overlap=overlap), CPU)
    assert torch.equal(in_parts.organs, whole.organs)
    assert torch.equal(in_parts.anomaly, whole.anomaly)


def test_body_parts_far_above_each_other_are_blended_like_one():
    scan = np.random.default_rng(0).uniform(-1000, 1000, (32, 32, 300)).astype(np.float32)
    body = np.zeros(scan.shape, dtype=bool)
    body[4:20, 4:20, 40:60] = body[4:20, 4:20, 250:270] = True
    whole = Whole(EachVoxelForItself(), scan, body, a_tiling(), CPU)
    expected = (torch.from_numpy(scan) / 2000 * 8).sigmoid() * torch.from_numpy(body)
    torch.testing.assert_close(whole.organs[0], expected)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_several_windows_at_once_give_the_same(scan, at_once):
    body = np.ones(scan.shape, dtype=bool)
    seen = []

    class Counting(EachVoxelForItself):
        def forward(self, image):
            seen.append(len(image))
            return super().forward(image)

    runtime = Runtime(torch.device("cpu"), torch.float32, windows_at_once=at_once)
    several = Whole(Counting(), scan, body, a_tiling(), runtime)
    one = Whole(EachVoxelForItself(), scan, body, a_tiling(), CPU)
    assert torch.equal(several.organs, one.organs)
    assert max(seen) == at_once
    assert sum(seen) == several.windows


def test_classes_that_are_not_kept_become_the_highest_of_them(scan):
    body = np.ones(scan.shape, dtype=bool)
    tiling = a_tiling(organs=[3], other_organs=[0, 7, 9], tumors=[2], other_tumors=[0, 1])
    whole = Whole(EachVoxelForItself(), scan, body, tiling, CPU)
    logits = ((torch.from_numpy(scan) + 1000) / 2000).clamp(0, 1).sub(0.5) * 8
    assert (len(whole.organs), len(whole.tumors)) == (2, 2)
    torch.testing.assert_close(whole.organs[0], (logits * 1.3).sigmoid())
    torch.testing.assert_close(whole.organs[1], torch.maximum(logits, logits * 1.9).sigmoid())
    torch.testing.assert_close(whole.tumors[1], logits.sigmoid())


def test_progress_counts_every_window(scan):
    steps = []
    body = np.ones(scan.shape, dtype=bool)
    scores = Whole(EachVoxelForItself(), scan, body, a_tiling(), CPU, progress=lambda *step: steps.append(step))
    assert steps == [(done, scores.windows) for done in range(1, scores.windows + 1)]


def test_the_network_runs_in_the_precision_of_the_runtime(scan):
    seen = []

    class Convolution(EachVoxelForItself):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv3d(1, 1, 1)

        def forward(self, image):
            seen.append(self.convolution(image).dtype)
            return super().forward(image)

    for dtype in (torch.float32, torch.bfloat16):
        runtime = Runtime(torch.device("cpu"), dtype)
        scores = Whole(Convolution(), scan[:32, :32, :32], scan[:32, :32, :32] > -2000, a_tiling(), runtime)
        assert scores.organs.dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("threshold", [0.004, 0.1, 0.5, 0.8])
def test_boxes_hold_just_what_is_above_the_threshold_of_its_class(scan, threshold):
    tiling = a_tiling(tumors=[2, 5], tumor_thresholds=[threshold, 0.3])
    (slab,) = SlidingWindow(EachVoxelForItself(), scan[:32, :32, :20], np.ones((32, 32, 20), bool), tiling, CPU)
    probabilities = slab.tumors.sums * slab.tumors.shares
    for field, box, above in zip(probabilities, as_slices(slab.tumors.boxes()), (threshold, 0.3), strict=True):
        assert box == bounding_box((field > above).numpy())


def test_tumors_that_are_not_asked_for_compete_by_how_far_each_is_above_its_own_threshold(scan):
    above = np.array([0.05, 0.2])
    tiling = a_tiling(tumors=[0], other_tumors=[2, 5], other_tumor_thresholds=above.tolist())
    scores = Whole(EachVoxelForItself(), scan, np.ones(scan.shape, dtype=bool), tiling, CPU)
    logits = ((torch.from_numpy(scan) + 1000) / 2000).clamp(0, 1).sub(0.5) * 8
    p = torch.stack([(logits - 2).sigmoid(), (logits - 5).sigmoid()]).double()
    bars = torch.from_numpy(above)[:, None, None, None]
    relative = (0.5 + 0.5 * (p - bars) / (1 - bars)).amax(dim=0).clamp(0, 1)
    torch.testing.assert_close(scores.tumors[1].double(), relative, atol=2e-5, rtol=0)
