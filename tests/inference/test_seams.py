"""A window grid leaves no trace: what the network says, smooth or not, comes out as if it had seen all at once."""

import numpy as np
import pytest
import torch
from torch import nn

from dsmseg.inference.blending import SlidingWindow, Tiling
from dsmseg.inference.framing import frame_body
from dsmseg.inference.runtime import Runtime
from dsmseg.model import DSMOutput
from dsmseg.volume import read_scan

CPU = Runtime(torch.device("cpu"), torch.float32)


def blended(network, hu, body, tiling) -> torch.Tensor:
    """Give the organs' probabilities (organ, x, y, z)."""
    slabs = SlidingWindow(network, hu, body, tiling, CPU)
    parts = [(slab.organs.sums * slab.organs.shares)[..., slab.new - slab.start :].clone() for slab in slabs]
    return torch.cat(parts, dim=-1)


class Says(nn.Module):
    """Gives a probability a voxel that is a function of its HU alone."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image):
        organs = torch.logit(self.function(image)).expand(-1, 25, -1, -1, -1).clone()
        return DSMOutput(organs, None, [], -nn.functional.avg_pool3d(image, 4)[:, 0], None, None)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(70, 45, 90), (32, 33, 100), (20, 40, 31)])
def test_constant_and_linear_fields_are_reproduced(shape, overlap):
    tiling = Tiling((32, 32, 32), overlap, [(0.0, 1.0)], organs=[0])
    x, y, z = np.meshgrid(*(np.linspace(0, 1, length) for length in shape), indexing="ij")
    ramp = (0.1 + 0.3 * x + 0.2 * y + 0.3 * z).astype(np.float32)
    body = np.ones(shape, dtype=bool)
    found = blended(Says(lambda image: image), ramp, body, tiling)[0].numpy()
    np.testing.assert_allclose(found, ramp, atol=5e-6)
    constant = blended(Says(lambda image: torch.full_like(image, 0.7)), ramp, body, tiling)[0].numpy()
    np.testing.assert_allclose(constant, 0.7, atol=5e-6)


class SmoothedBands(nn.Module):
    """A network that sees as far as the next voxel: fat, soft tissue and bone by the mean HU of 3 x 3 x 3 voxels."""

    def forward(self, image):
        density = nn.functional.avg_pool3d(image, 3, stride=1, padding=1, count_include_pad=False)
        organs = torch.full((len(image), 25, *image.shape[2:]), -8.0)
        for organ, (low, high) in enumerate(((-150, -20), (0, 120), (150, 1500))):
            middle, half = (low + high) / 2, (high - low) / 2
            organs[:, organ] = (half - (density[:, 0] * 3000 - 1500 - middle).abs()) / 20
        return DSMOutput(organs, None, [], -nn.functional.avg_pool3d(image, 4)[:, 0], None, None)


def test_moving_the_window_grid_changes_no_label_of_a_real_scan_that_the_network_does_not_change(real_data):
    frame = frame_body(read_scan(real_data / "abdomen_3mm" / "ct.nii.gz"), (3.0, 3.0, 3.0), (64, 64, 64))
    tiling = Tiling((64, 64, 64), 0.25, [(-1500.0, 1500.0)], organs=[0, 1, 2])

    def labels(moved) -> np.ndarray:
        margin = [(length, 0) for length in moved]
        hu, body = np.pad(frame.hu, margin, mode="edge"), np.pad(frame.body, margin)
        fields = blended(SmoothedBands(), hu, body, tiling)[:, moved[0] :, moved[1] :, moved[2] :].numpy()
        return np.where(fields.max(axis=0) > 0.5, 1 + fields.argmax(axis=0), 0)

    still = labels((0, 0, 0))
    assert [(still == label).mean() > 0.01 for label in (1, 2, 3)] == [True] * 3
    assert (still != labels((9, 13, 11))).mean() < 0.001
