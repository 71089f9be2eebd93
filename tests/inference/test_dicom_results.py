"""A segmentation of a DICOM series as DICOM: organs and lesions are segments, at their place, and in the report."""

import json

import numpy as np
import pydicom
import pytest
from dicom_results import quotable_series
from dicom_series import DicomSeries

from dsmseg.errors import InputError
from dsmseg.inference import Segmenter, find_cases, predict
from dsmseg.volume import read_scan

TUMOR_HU = 350


@pytest.fixture
def segmenter(make_network, make_card):
    return Segmenter(make_network(stage=2), make_card(stage=2, tumors=("Liver Tumor",)), device="cpu")


@pytest.fixture
def series(tmp_path, phantom):
    """A phantom with two tumors in its liver, as a DICOM series whose rows run from right to left."""
    hu = phantom()
    hu[12:16, 16:20, 16:20] = hu[12:14, 12:14, 9:11] = TUMOR_HU
    made = quotable_series(DicomSeries, rows=40, columns=48, slices=36, spacing=(3.0, 3.0), step=3.0)
    for dataset, image in zip(made.datasets, np.flip(hu, axis=(0, 1)).T, strict=True):
        dataset.PixelData = (image + 1024).astype("<u2").tobytes()
    return made.write(tmp_path / "in" / "ct")


def voxels_of(path, label, volume):
    """Give a segment's mask on the grid of ``volume``, from the positions of its frames."""
    dataset = pydicom.dcmread(path)
    (number,) = [one.SegmentNumber for one in dataset.SegmentSequence if one.SegmentLabel == label]
    own = np.zeros(volume.own.shape, dtype=bool)
    for frame, image in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            x, y, z = frame.PlanePositionSequence[0].ImagePositionPatient
            index = np.linalg.inv(volume.own.affine) @ [-x, -y, z, 1]
            own[:, :, round(index[2])] = image.T
    return own


def test_organs_and_lesions_are_segments_where_they_lie_and_rows_of_the_report(segmenter, series, tmp_path):
    (result,) = predict(find_cases([series]), tmp_path / "out", segmenter=segmenter, file_format="dicom-seg")
    assert result.error is None
    names = {path.name for path in result.directory.iterdir()}
    assert names == {
        "organs.dcm",
        "tumors.dcm",
        "report.dcm",
        "anomaly.nii.gz",
        "unexplained.nii.gz",
        "statistics.json",
        "run.json",
    }
    volume, folder = read_scan(series), result.directory
    tumor = volume.to_own(np.abs(volume.array - TUMOR_HU) < 1)
    first, second = (voxels_of(folder / "tumors.dcm", f"Liver Tumor {number}", volume) for number in (1, 2))
    assert (first.sum(), second.sum()) == (64, 8)
    assert np.array_equal(first | second, tumor)
    liver = volume.to_own(np.abs(volume.array - 300) < 100)
    assert np.array_equal(voxels_of(folder / "organs.dcm", "Liver", volume), liver)
    statistics = json.loads((folder / "statistics.json").read_text())
    report = str(pydicom.dcmread(folder / "report.dcm"))
    for lesion in statistics["lesions"]:
        assert f"{lesion['name']} {lesion['id']}" in report
    (again,) = predict(find_cases([series]), tmp_path / "out", segmenter=segmenter, file_format="dicom-seg")
    assert again.unchanged


def test_a_scan_that_is_no_series_is_refused_before_it_is_computed(segmenter, phantom, write_scan, tmp_path):
    path = write_scan(phantom())
    (result,) = predict(
        find_cases([path]), tmp_path / "out", segmenter=segmenter, file_format="dicom-seg", progress=lambda *_: 1 / 0
    )
    assert isinstance(result.error, InputError)
    assert "is no DICOM series" in str(result.error)
    with pytest.raises(InputError, match="did not come from a DICOM series"):
        segmenter(phantom(), np.diag([3.0, 3, 3, 1])).save(tmp_path / "array", file_format="dicom-seg")
    assert not (tmp_path / "array").exists()
