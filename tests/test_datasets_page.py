"""docs/datasets.md is what its script makes, and its worked example works as printed."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsmseg import cli
from dsmseg.datasets import Store, StoredCase
from dsmseg.report.demo import shipped
from dsmseg.volume import read_labels

SCRIPT = "datasets_page.py"
ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
EXAMPLE = TEXT[TEXT.index("## Your own data") : TEXT.index("### Scans without labels")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Give a folder as the page's example describes it."""
    folder = tmp_path_factory.mktemp("example")
    for name, half in (("CTChest4.nrrd", "images"), ("Segmentation.seg.nrrd", "labels")):
        (folder / "my_chest" / half).mkdir(parents=True)
        shutil.copy(shipped(name), folder / "my_chest" / half / "patient_1.nrrd")
    (folder / "my_chest.toml").write_text(re.search(r"```toml\n(.*?)```", EXAMPLE, re.DOTALL)[1], encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def prepared(folder) -> StoredCase:
    """Give the example's case, after the page's commands."""
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    commands = re.findall(r"^dsmseg .*$", EXAMPLE, flags=re.MULTILINE)
    assert [shlex.split(command)[2] for command in commands] == ["verify", "prepare"]
    for command in commands:
        assert cli.run([*shlex.split(command)[1:], "--workers", "1"]) == 0, command
    patch.undo()
    (case,) = Store.open(folder / "store").cases()
    return case


def test_the_committed_page_is_what_the_script_makes(script) -> None:
    is_current = script.PAGE.read_text(encoding="utf-8") == script.page()
    assert is_current, "run: python docs/datasets_page.py"


def test_the_worked_example_gives_the_lungs_their_volume_and_place(prepared) -> None:
    labels = read_labels(shipped("Segmentation.seg.nrrd"))
    voxel_ml = labels.grid.voxel_volume_ml
    affine = np.array(prepared.record.affine)
    for class_id, label in ((16, 5), (17, 6)):
        expected = labels.array == label
        found = prepared.mask(class_id)
        assert found.sum() * 1.5**3 / 1000 == pytest.approx(expected.sum() * voxel_ml, rel=0.02)
        center = affine[:3, :3] @ np.argwhere(found).mean(0) + affine[:3, 3]
        there = labels.affine[:3, :3] @ np.argwhere(expected).mean(0) + labels.affine[:3, 3]
        np.testing.assert_allclose(center, there, atol=1.0)


def test_the_page_s_snippets_run_on_the_example(prepared, folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    snippets = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        short = (
            snippet.replace('"STORE"', '"store"')
            .replace("draws=1000", "draws=4")
            .replace("num_workers=2", "num_workers=0")
        )
        exec(compile(short, "datasets.md", "exec"), {})  # noqa: S102
