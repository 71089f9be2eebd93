import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from numpy.typing import NDArray

from dsmseg.errors import InputError, OutputError
from dsmseg.report.overview import overview
from dsmseg.report.views import orthogonal_views
from dsmseg.taxonomy import find
from dsmseg.volume import Volume

LIVER = find("liver")
SPLEEN = find("spleen")
LUNG_TUMOR = find("lung tumor")


def body(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (3, 3, 3)) -> Volume:
    """Soft tissue in air."""
    array = np.full(shape, -1000, dtype=np.float32)
    array[4:-4, 4:-4, :] = 40
    return Volume.from_own(array, np.diag([*spacing, 1.0]))


def block(shape: tuple[int, int, int], label: int, *bounds: slice) -> NDArray[np.uint8]:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[bounds] = label
    return labels


def colored(picture: NDArray[np.float32], color: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Pixels of an outline or of a legend's square."""
    return (np.abs(picture[..., :3] - np.array(color) / 255) < 0.02).all(axis=2)


def test_the_patients_right_is_at_the_left_of_the_picture(tmp_path: Path) -> None:
    shape = (40, 30, 30)
    # RAS: a high first index is the patient's right.
    labels = block(shape, LIVER.id, slice(25, 33), slice(8, 20), slice(8, 20))
    labels |= block(shape, SPLEEN.id, slice(6, 14), slice(8, 20), slice(8, 20))
    overview(body(shape), labels, tmp_path / "overview.png")
    picture = image.imread(tmp_path / "overview.png")
    height, width = picture.shape[:2]
    axial = picture[: int(height * 0.8), : width // 3]
    columns = {known.name: np.nonzero(colored(axial, known.color))[1].mean() for known in (LIVER, SPLEEN)}
    assert columns["Liver"] < columns["Spleen"]


@pytest.mark.parametrize("index", [9, 21])
def test_each_slice_runs_through_the_labeled_structure(index: int) -> None:
    shape = (40, 36, 32)
    labels = block(shape, LIVER.id, *(slice(index - 2, index + 3) for _ in range(3)))
    for view in orthogonal_views(body(shape), [labels]):
        assert abs(view.index - index) <= 2
        assert set(view.masks) == {LIVER.id}


def test_a_slice_through_two_structures_beats_one_through_the_larger() -> None:
    shape = (40, 40, 40)
    large = block(shape, LIVER.id, slice(6, 24), slice(6, 30), slice(4, 30))
    small = block(shape, SPLEEN.id, slice(28, 33), slice(10, 15), slice(26, 30))
    axial = orthogonal_views(body(shape), [large | small])[0]
    assert 26 <= axial.index < 30


def test_a_tumor_draws_the_slices_to_itself_and_keeps_its_organ() -> None:
    shape = (40, 40, 40)
    organs = block(shape, LIVER.id, slice(6, 30), slice(6, 30), slice(4, 36))
    tumors = block(shape, LUNG_TUMOR.id, slice(10, 14), slice(10, 14), slice(30, 34))
    for view in orthogonal_views(body(shape), [organs, tumors]):
        assert set(view.masks) == {LIVER.id, LUNG_TUMOR.id}


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 5.0), (3.0, 3.0, 3.0), (1.0, 2.0, 0.5)])
def test_lengths_are_true_in_mm_whatever_the_spacing(spacing: tuple[float, float, float]) -> None:
    shape = (60, 50, 40)
    labels = np.full(shape, LIVER.id, dtype=np.uint8)  # a label everywhere: nothing is cropped away
    extents = [count * step for count, step in zip(shape, spacing, strict=True)]
    for view in orthogonal_views(body(shape, spacing), [labels]):
        assert view.size_mm == pytest.approx([extents[axis] for axis in view.axes])


def test_labels_outside_of_the_body_are_not_cropped_away() -> None:
    shape = (60, 60, 30)
    array = np.full(shape, -1000, dtype=np.float32)
    array[30:50, 30:50, :] = 40
    labels = block(shape, LIVER.id, slice(2, 8), slice(2, 8), slice(8, 20))
    views = orthogonal_views(Volume.from_own(array, np.diag([2.0, 2.0, 2.0, 1.0])), [labels])
    assert all(LIVER.id in view.masks for view in views)


@pytest.mark.parametrize("value", [-1000.0, -2048.0, 3000.0])
def test_a_scan_without_labels_or_body_still_gives_a_picture(tmp_path: Path, value: float) -> None:
    shape = (20, 20, 6)
    volume = Volume.from_own(np.full(shape, value, dtype=np.float32), np.eye(4))
    overview(volume, np.zeros(shape, dtype=np.uint8), tmp_path / "overview.png")
    assert image.imread(tmp_path / "overview.png").size > 0


def test_a_structure_one_voxel_thin_is_outlined(tmp_path: Path) -> None:
    shape = (40, 40, 20)
    labels = block(shape, LIVER.id, slice(20, 21), slice(8, 30), slice(4, 16))
    overview(body(shape, (1, 1, 1)), labels, tmp_path / "overview.png")
    picture = image.imread(tmp_path / "overview.png")
    assert colored(picture[: int(len(picture) * 0.8)], LIVER.color).any()


def test_an_earlier_picture_stays_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    target = tmp_path / "folder.png"
    target.mkdir()
    shape = (12, 12, 12)
    with pytest.raises(OutputError, match=r"folder\.png"):
        overview(body(shape), np.zeros(shape, dtype=np.uint8), target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    shape = (12, 12, 12)
    with pytest.raises(InputError, match=r'pip install "dsmseg\[report\]"'):
        overview(body(shape), np.zeros(shape, dtype=np.uint8), tmp_path / "overview.png")


def test_importing_the_room_imports_no_matplotlib() -> None:
    script = "import sys, dsmseg.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0  # noqa: S603
