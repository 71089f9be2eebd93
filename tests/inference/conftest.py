"""A network that knows the truth: each class is a range of HU, so that every label can be predicted by hand."""

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from dsmseg.checkpoint import Card
from dsmseg.model import DSMOutput

HU_WINDOW = (-1000.0, 1000.0)
LIVER, SPLEEN, AORTA = 6, 1, 8
LIVER_TUMOR = 31
HU_OF = {LIVER: 300.0, SPLEEN: 500.0, AORTA: 700.0}
TUMOR_HU = 350.0


class ThresholdNetwork(nn.Module):
    """Gives an organ where HU is within 100 of the organ's, a liver tumor within 30 of the tumor's."""

    def __init__(self, *, stage: int = 1) -> None:
        super().__init__()
        self.stage = stage
        self.seen: list[torch.Size] = []

    def forward(self, image):
        self.seen.append(image.shape)
        low, high = HU_WINDOW
        hu = image[:, 0] * (high - low) + low
        shape = (len(image), 25, *hu.shape[1:])
        organs = torch.full(shape, -8.0)
        for identity, center in HU_OF.items():
            organs[:, identity - 1] = (100 - (hu - center).abs()).clamp(-50, 50) / 5
        tumors = None
        if self.stage == 2:
            tumors = torch.full((len(image), 20, *hu.shape[1:]), -8.0)
            tumors[:, LIVER_TUMOR - 26] = (30 - (hu - TUMOR_HU).abs()).clamp(-50, 50) / 3
        anomaly = -nn.functional.avg_pool3d(image[:, :1], 4)[:, 0]
        return DSMOutput(organs, torch.zeros(len(image), 25), [], anomaly, tumors, None)


class LiverEverywhere(nn.Module):
    def forward(self, image):
        shape = image.shape[2:]
        organs = torch.full((1, 25, *shape), -8.0)
        organs[:, LIVER - 1] = 8
        anomaly = -torch.rand(1, *(size // 4 for size in shape), generator=torch.Generator().manual_seed(0))
        return DSMOutput(organs, torch.zeros(1, 25), [], anomaly, None, None)


@pytest.fixture
def make_card():
    def make(**changes) -> Card:
        fields = {
            "name": "threshold",
            "version": "1",
            "preset": "starter",
            "stage": 1,
            "organs": ("Spleen", "Liver", "Aorta"),
            "tumors": (),
            "text_encoder": "minilm",
            "spacing_mm": (3, 3, 3),
            "hu_windows": (HU_WINDOW,),
            "window": (32, 32, 32),
            "training_data": (),
            "licence": "Apache-2.0",
            "figures": {},
            "sha256": "0" * 64,
        }
        return Card.model_validate(fields | changes)

    return make


@pytest.fixture
def make_network():
    return ThresholdNetwork


@pytest.fixture
def liver_everywhere():
    return LiverEverywhere()


@pytest.fixture
def phantom():
    """HU in RAS (x, y, z) at 3 mm: a body of fat with organs that are smooth blocks, in air."""

    def make(shape=(48, 40, 36)) -> np.ndarray:
        hu = np.full(shape, -1000, dtype=np.float32)
        hu[4:-4, 4:-4, :] = -100
        hu[8:20, 10:30, 6:30] = HU_OF[LIVER]
        hu[28:36, 10:20, 10:24] = HU_OF[SPLEEN]
        hu[24:28, 24:28, :] = HU_OF[AORTA]
        return hu

    return make


@pytest.fixture
def write_scan(tmp_path):
    """Write an array in RAS as NIfTI with its axes in any order, and return its path."""

    def write(ras, *, axcodes="RAS", spacing=(3.0, 3.0, 3.0), name="ct.nii.gz", origin=(-70.0, 20.0, 900.0)):
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = origin
        image = nibabel.Nifti1Image(ras, affine)
        orientation = nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axcodes)
        )
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = image.as_reoriented(orientation)
        image.set_sform(image.affine, code=1)
        nibabel.save(image, path)
        return path

    return write
