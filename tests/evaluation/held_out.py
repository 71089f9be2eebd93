"""Held-out scans in nnU-Net's layout, and a network that knows where their tumors are but for one spot that is none."""

import json
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import nn

from dsmseg.checkpoint import Card
from dsmseg.model import DSMOutput
from dsmseg.taxonomy import ORGANS, TUMORS, find

FAT, LIVER, TUMOR, SPOT = -100.0, 100.0, 40.0, 200.0
SHAPE = (44, 40, 36)
LIVER_BOX, TUMOR_BOX, SPOT_BOX = np.s_[8:32, 8:30, 6:30], np.s_[12:18, 12:18, 12:18], np.s_[22:25, 20:23, 20:23]
P_TUMOR, P_SPOT = 0.25, 0.12


class KnowsDensity(nn.Module):
    """Gives liver where HU is above fat, a liver tumor with a probability that the HU decide."""

    def forward(self, image):
        hu = image[:, 0] * 2000 - 1000
        organs = torch.full((len(image), len(ORGANS), *hu.shape[1:]), -8.0)
        organs[:, find("liver").id - 1] = torch.where(hu > 0, 8.0, -8.0)
        tumors = torch.full((len(image), len(TUMORS), *hu.shape[1:]), -8.0)
        p = torch.where((hu - TUMOR).abs() < 20, P_TUMOR, torch.where(hu > 180, P_SPOT, 0.01))
        tumors[:, find("liver tumor").id - TUMORS[0].id] = torch.logit(p)
        return DSMOutput(organs, None, [], -nn.functional.avg_pool3d(image, 4)[:, 0], tumors, None)


def a_card(**changes) -> Card:
    fields = {
        "name": "toy", "version": "1", "preset": "starter", "stage": 2, "organs": ("Liver", "Spleen"),
        "tumors": ("Liver Tumor", "Kidney Tumor"), "text_encoder": "all-MiniLM-L6-v2", "spacing_mm": (3.0, 3.0, 3.0),
        "hu_windows": ((-1000.0, 1000.0),), "window": (32, 32, 32), "training_data": (), "licence": "CC0-1.0",
        "figures": {},
    }  # fmt: skip
    return Card.model_validate(fields | changes)


def write_held_out(folder: Path, *, ill: int = 2, healthy: int = 2) -> Path:
    """Write scans of a liver with a bright spot, some of them with a tumor, at 3 mm."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number in range(ill + healthy):
        hu, labels = np.full(SHAPE, -1000.0), np.zeros(SHAPE, np.uint8)
        hu[4:-4, 4:-4] = FAT
        hu[LIVER_BOX], labels[LIVER_BOX] = LIVER, 1
        hu[SPOT_BOX] = SPOT
        if number < ill:
            hu[TUMOR_BOX], labels[TUMOR_BOX] = TUMOR, 2
        affine = np.diag([3.0, 3.0, 3.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(hu.astype(np.int16), affine), folder / "imagesTr" / f"s_{number}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "labelsTr" / f"s_{number}.nii.gz")
    index = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "liver tumor": 2},
        "numTraining": ill + healthy,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(index))
    return folder
