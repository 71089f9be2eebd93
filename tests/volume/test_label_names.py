"""Names that label maps carry, and maps that hold labels or scores."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from dsmseg.errors import InputError
from dsmseg.volume import Segment, Volume, read_label_names, read_map, write_nifti, write_seg_nrrd

VOLUME = Volume.from_own(np.zeros((4, 5, 6), np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))
LABELS = np.arange(120, dtype=np.uint8).reshape(4, 5, 6) % 3
NAMES = {1: "Liver", 2: "Läsion: groß = 2"}


def save(path: Path, array: np.ndarray, *comments: bytes) -> Path:
    image = nibabel.Nifti1Image(array, VOLUME.affine)
    for comment in comments:
        image.header.extensions.append(Nifti1Extension("comment", comment))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("names", [NAMES, {}])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.seg.nrrd"])
def test_names_that_were_written_are_read(tmp_path: Path, name: str, names: dict[int, str]) -> None:
    path = tmp_path / name
    if name.endswith("nrrd"):
        write_seg_nrrd(path, LABELS, VOLUME, [Segment(value, text, (1, 2, 3)) for value, text in names.items()])
    else:
        write_nifti(path, LABELS, VOLUME, names=names)
    assert read_label_names(path) == names


def test_files_that_name_nothing_say_so(tmp_path: Path) -> None:
    assert read_label_names(save(tmp_path / "a.nii.gz", LABELS)) is None
    assert read_label_names(save(tmp_path / "b.nii.gz", LABELS, b"hand drawn", b'{"labels": 3}')) is None
    assert read_label_names(tmp_path / "c.nrrd") is None


def test_a_comment_of_somebody_else_is_passed_over(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", LABELS, b"\xff\xfe", b'{"labels": {"1": "Liver"}}')
    assert read_label_names(path) == {1: "Liver"}


@pytest.mark.parametrize("name", ["gone.nii.gz", "gone.seg.nrrd"])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="gone"):
        read_label_names(tmp_path / name)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prose.nii").write_text("prose " * 200)
    with pytest.raises(InputError, match="damaged"):
        read_label_names(tmp_path / "prose.nii")


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32, np.float64])
def test_a_map_of_whole_numbers_is_a_label_map(tmp_path: Path, kind: type) -> None:
    volume = read_map(save(tmp_path / "a.nii.gz", LABELS.astype(kind)))
    assert volume.array.dtype == np.uint8
    assert np.array_equal(volume.array, LABELS)


def test_a_map_with_fractions_is_one_of_scores(tmp_path: Path) -> None:
    scores = (LABELS / 7).astype(np.float32)
    volume = read_map(save(tmp_path / "a.nii.gz", scores))
    assert volume.array.dtype == np.float32
    assert np.array_equal(volume.array, scores)


def test_a_map_of_bytes_with_a_scale_is_one_of_scores(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", LABELS, VOLUME, slope=1 / 255)
    assert read_map(tmp_path / "a.nii.gz").array == pytest.approx(LABELS / 255, abs=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_with_what_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    scores = (LABELS / 7).astype(np.float32)
    scores[1, 1, 1] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        read_map(save(tmp_path / "a.nii.gz", scores))
