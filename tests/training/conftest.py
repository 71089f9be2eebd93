"""The same small body, and a recipe that runs in seconds."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

RECIPE = """
name: tiny
version: "0"
preset: starter
steps: 4
reuse: 2
checkpoint_every: 2
precision: fp32
data: {data}
licence: CC0-1.0
patch: {{size: [32, 32, 64]}}
optimization: {{warm_up: 1, cool_down: 2}}
bodies:
  - {{name: block, labels: labels.nii.gz, image: ct.nii.gz, licence: CC0-1.0, source: made by this test}}
"""


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    """Give a recipe beside its data."""
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[30:55, 20:50, 20:45] = 5
    labels[5:20, 15:40, 25:45] = 1
    image = np.where(labels > 0, 100, -100).astype(np.int16)
    image[:2] = -1000
    for name, array in (("labels", labels), ("ct", image)):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / f"{name}.nii.gz")
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(data=tmp_path))
    return path
