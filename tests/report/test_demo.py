from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dsmseg.errors import InputError, OutputError
from dsmseg.inference import Progress, Segmentation
from dsmseg.report import demo
from dsmseg.taxonomy import find
from dsmseg.volume import read_labels, read_scan

MASKS = arrays(np.bool_, (3, 4, 2))


@given(MASKS, MASKS)
def test_dice_is_the_same_either_way_and_from_0_to_1(first: np.ndarray, second: np.ndarray) -> None:
    assert demo.dice(first, second) == demo.dice(second, first)
    assert 0 <= demo.dice(first, second) <= 1


@given(MASKS)
def test_dice_of_a_mask_with_itself_is_1_and_with_its_complement_0(mask: np.ndarray) -> None:
    assert demo.dice(mask, mask) == 1
    assert demo.dice(mask, ~mask) == 0


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 8))
def test_dice_is_twice_the_overlap_over_the_sum(first: int, second: int, shared: int) -> None:
    shared = min(first, second, shared)
    line = np.arange(16)
    overlap = demo.dice(line < first, (line >= first - shared) & (line < first - shared + second))
    assert overlap == pytest.approx(2 * shared / (first + second))


def test_the_reference_values_are_lungs_on_the_right_and_left_of_the_patient() -> None:
    scan = read_scan(demo.shipped("CTChest4.nrrd"))
    reference = read_labels(demo.shipped("Segmentation.seg.nrrd"))
    assert reference.array.shape == scan.array.shape
    np.testing.assert_allclose(reference.affine, scan.affine, atol=1e-3)
    middle = {}
    for name, value in demo.REFERENCE_VALUES.items():
        inside = reference.array == value
        assert scan.array[inside].mean() < -700  # air: lungs
        voxel = np.argwhere(inside).mean(axis=0)
        middle[name] = float((scan.affine @ [*voxel, 1])[0])
    assert middle["Right Lung"] > 0 > middle["Left Lung"]  # RAS: right is positive


class FakeSegmenter:
    """Calls everything between -950 and -650 HU lung, by halves of the picture."""

    def __call__(self, scan: Path, *, progress: Progress | None) -> Segmentation:
        volume = read_scan(scan)
        lungs = (volume.array > -950) & (volume.array < -650)
        organs = np.where(lungs, find("right lung").id, 0).astype(np.uint8)
        left = lungs & (np.indices(lungs.shape)[0] < lungs.shape[0] // 2)
        organs[left] = find("left lung").id
        return Segmentation(
            volume=volume,
            source=scan,
            organs=organs,
            tumors=np.zeros_like(organs),
            anomaly_levels=np.zeros_like(organs),
            unexplained_levels=np.zeros_like(organs),
            lesions=[],
            classes=(find("right lung"), find("left lung")),
            run={"tumors": "not searched"},
        )


def test_the_demonstration_writes_a_case_and_a_picture_and_replaces_only_these(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo.Segmenter, "load", lambda *_, **__: FakeSegmenter())
    output = tmp_path / "demo"
    for _ in range(2):
        result = demo.run_demo(output)
        (output / "mine.txt").write_text("stays")
    assert {path.name for path in output.iterdir()} == {"overview.png", "chest", "mine.txt"}
    assert result.picture == output / "overview.png"
    assert (result.case / "organs.nii.gz").is_file()
    # Right and left are told apart, and a threshold finds the lungs among other air: swapped sides would be near 0.
    assert [one.name for one in result.agreements] == ["Right Lung", "Left Lung"]
    assert all(0.5 < one.dice < 1 for one in result.agreements)


@pytest.mark.parametrize("in_the_way", ["file", "file/below", "mine"])
def test_an_output_that_cannot_be_used_is_told_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_the_way: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "mine" / "chest").mkdir(parents=True)
    monkeypatch.setattr(demo.Segmenter, "load", lambda *_, **__: lambda *_, **__: pytest.fail("it computed"))
    with pytest.raises(OutputError):
        demo.run_demo(tmp_path / in_the_way)


def test_without_slicerio_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "dsmseg\[demo\]"'):
        demo.run_demo(tmp_path)
    assert not any(tmp_path.iterdir())
