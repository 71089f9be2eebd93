"""The same small body, and a recipe that runs in seconds; a small store for both stages."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_stores import store_case

from dsmseg.datasets.store import Settings, Store

RECIPE = """
name: tiny
version: "0"
preset: starter
data: {data}
licence: CC0-1.0
batch: {{real: 1, synthetic: 1, reuse: 2}}
patch: {{size: [32, 32, 64]}}
stage_1: {{length: 4 steps, warm_up: 1 step, cool_down: 2 steps}}
hardware: {{precision: fp32, workers: 0}}
reporting: {{state_every: 2, log_every: 2}}
bodies:
  - {{name: block, labels: labels.nii.gz, image: ct.nii.gz, licence: CC0-1.0, source: made by this test}}
"""

STORED = """
name: stored
version: "0"
preset: starter
data: {data}
licence: CC0-1.0
store: {{path: store, splits: splits.csv}}
batch: {{stored: 2}}
patch: {{size: [32, 32, 32], spacing: 1.5}}
hu_windows: [[-175, 250], [-150, 200]]
stage_1: {{length: 3 steps, warm_up: 1 step, cool_down: 1 step}}
stage_2: {{length: 3 steps, learning_rate: 4.0e-4, schedule: cosine, warm_up: 1 step, cool_down: 1 step}}
hardware: {{precision: fp32, workers: 0}}
reporting: {{state_every: 2, log_every: 1}}
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


@pytest.fixture
def stored_recipe(tmp_path) -> Path:
    """Give a recipe of both stages beside a store of three cases."""
    Store.create(tmp_path / "store", Settings())
    rows = ["dataset,case,official,paper,clean,supervised,why,stages"]
    for number in "123":
        store_case(tmp_path / "store", case=number)
        rows.append(f"lits,{number},,training,training,,,1 2")
    (tmp_path / "splits.csv").write_text("\n".join(rows) + "\n")
    path = tmp_path / "stored.yaml"
    path.write_text(STORED.format(data=tmp_path))
    return path


@pytest.fixture
def held_out(stored_recipe) -> Path:
    """Give the recipe of both stages, with two more cases in its store for validation."""
    folder = stored_recipe.parent
    with (folder / "splits.csv").open("a") as table:
        for number, tumor in (("8", True), ("9", False)):
            store_case(folder / "store", case=number, tumor=tumor)
            table.write(f"lits,{number},,validation,validation,,,1 2\n")
    return stored_recipe
