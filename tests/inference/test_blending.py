"""Blended windows say what the network says, inside of the body only."""

import numpy as np
import pytest
import torch
from torch import nn

from dsmseg.inference.blending import Tiling, sliding_window
from dsmseg.inference.runtime import Runtime
from dsmseg.model import DSMOutput

CPU = Runtime(torch.device("cpu"), torch.float32)
LIVER = 6


def a_tiling(**changes) -> Tiling:
    fields = {"size": (32, 32, 32), "overlap": 0.25, "hu_windows": [(-1000.0, 1000.0)], "organs": [0, 5], "tumors": []}
    return Tiling(**(fields | changes))


class EachVoxelForItself(nn.Module):
    """Logits that depend on the voxel's own HU only: blending must not change them."""

    def forward(self, image):
        logits = (image - 0.5) * 8
        organs = torch.cat([logits * (1 + 0.1 * index) for index in range(25)], dim=1)
        tumors = torch.cat([logits - index for index in range(20)], dim=1)
        return DSMOutput(organs, None, [], nn.functional.avg_pool3d(image, 4)[:, 0], tumors, None)


@pytest.fixture
def scan():
    return np.random.default_rng(0).uniform(-1200, 1200, (50, 37, 41)).astype(np.float32)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_where_all_windows_agree_blending_changes_nothing(scan, overlap):
    tiling = a_tiling(overlap=overlap, tumors=[5])
    scores = sliding_window(EachVoxelForItself(), scan, np.ones(scan.shape, dtype=bool), tiling, CPU)
    logits = ((torch.from_numpy(scan) + 1000) / 2000).clamp(0, 1).sub(0.5) * 8
    torch.testing.assert_close(scores.organs[0], logits.sigmoid())
    torch.testing.assert_close(scores.organs[1], (logits * 1.5).sigmoid())
    torch.testing.assert_close(scores.tumors[0], (logits - 5).sigmoid())


@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 6, 90), (32, 32, 32), (33, 31, 32)])
def test_scans_smaller_than_a_window_are_padded_with_air_and_cut_back(shape):
    scan = np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)
    scores = sliding_window(EachVoxelForItself(), scan, np.ones(shape, dtype=bool), a_tiling(), CPU)
    logits = (torch.from_numpy(scan) / 2000) * 8
    torch.testing.assert_close(scores.organs[0], logits.sigmoid())
    assert scores.anomaly.shape == shape


def test_windows_of_air_never_reach_the_network_and_nothing_outside_of_the_body_is_marked(liver_everywhere):
    scan = np.full((128, 128, 64), -1000, dtype=np.float32)
    body = np.zeros(scan.shape, dtype=bool)
    body[3:15, 3:15, 3:15] = True
    scores = sliding_window(liver_everywhere, scan, body, a_tiling(), CPU)
    assert scores.windows == 1
    outside = torch.from_numpy(~body)
    assert not scores.organs[:, outside].any()
    assert not scores.anomaly[outside].any()
    assert (scores.organs[1, ~outside] > 0.99).all()


def test_without_a_body_all_is_zero(liver_everywhere):
    scan = np.full((40, 40, 40), -1000, dtype=np.float32)
    scores = sliding_window(liver_everywhere, scan, np.zeros(scan.shape, dtype=bool), a_tiling(), CPU)
    assert scores.windows == 0
    assert not scores.organs.any()
    assert not scores.anomaly.any()


def test_the_anomaly_score_spans_0_to_1_inside_of_the_body(scan):
    body = np.zeros(scan.shape, dtype=bool)
    body[5:40, 5:30, 5:35] = True
    anomaly = sliding_window(EachVoxelForItself(), scan, body, a_tiling(), CPU).anomaly[torch.from_numpy(body)]
    assert (anomaly.min(), anomaly.max()) == (0, 1)


def test_a_constant_anomaly_score_is_zero():
    scan = np.zeros((32, 32, 32), dtype=np.float32)
    assert not sliding_window(EachVoxelForItself(), scan, scan == 0, a_tiling(), CPU).anomaly.any()


def test_progress_counts_every_window(scan):
    steps = []
    body = np.ones(scan.shape, dtype=bool)
    scores = sliding_window(
        EachVoxelForItself(), scan, body, a_tiling(), CPU, progress=lambda *step: steps.append(step)
    )
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
        scores = sliding_window(Convolution(), scan[:32, :32, :32], scan[:32, :32, :32] > -2000, a_tiling(), runtime)
        assert scores.organs.dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]
