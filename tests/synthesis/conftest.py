"""A small body as a label map: blocks with TotalSegmentator ids in a box of tissue."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

LIVER, SPLEEN, KIDNEY_RIGHT, LUNG, VERTEBRA, COLON = 5, 1, 2, 12, 31, 20


@pytest.fixture(scope="session")
def label_map(tmp_path_factory) -> Path:
    """Give a label map of 90 x 80 x 70 voxels at 2 mm, RAS."""
    labels = np.zeros((90, 80, 70), np.uint8)
    labels[50:80, 20:60, 20:45] = LIVER
    labels[10:25, 15:40, 25:45] = SPLEEN
    labels[55:65, 10:20, 10:22] = KIDNEY_RIGHT
    labels[55:80, 15:60, 46:66] = LUNG
    labels[40:50, 8:18, 2:68] = VERTEBRA
    labels[15:40, 45:60, 5:20] = COLON
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    path = tmp_path_factory.mktemp("body") / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, affine), path)
    return path


@pytest.fixture(scope="session")
def real_scan(label_map) -> Path:
    """Give a CT on the label map's grid: each structure at a HU of its own."""
    labels = np.asarray(nibabel.load(label_map).dataobj)
    means = np.full(256, -100.0)
    means[[LIVER, SPLEEN, KIDNEY_RIGHT, LUNG, VERTEBRA, COLON]] = [110, 120, 150, -850, 300, 30]
    image = means[labels] + np.random.default_rng(0).normal(0, 5, labels.shape)
    image[:3] = -1000
    path = label_map.with_name("ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path
