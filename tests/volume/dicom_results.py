"""What the tests of DICOM output share: a series that results may refer to, labels for it, and a writer."""

import datetime
from pathlib import Path

import numpy as np
import pydicom

from dsmseg.taxonomy import CLASSES
from dsmseg.volume.dicom_out import CodedSegment, Origin, SeriesTitle, read_source_series, write_dicom_seg

ORIGIN = Origin("1.2.3", {"weights": "starter", "windows": "blended"}, datetime.datetime(2026, 3, 4, 5, 6, 7))
TITLE = SeriesTitle(9101, "dsmseg organs")


def quotable_series(make, *, slices=6, rows=20, columns=24, **kind):
    """Make a series that has all that the standard asks of a CT."""
    return make(slices=slices, rows=rows, columns=columns, **kind).every(
        StudyInstanceUID="1.2.826.0.1.3680043.8.498.1",
        FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.2",
        PatientID="P1",
        PatientName="Doe^Jane",
        PatientBirthDate="19600102",
        PatientSex="F",
        StudyDate="20260101",
        StudyTime="101112",
        StudyID="S1",
        AccessionNumber="",
        ReferringPhysicianName="",
        SeriesNumber=4,
        SliceThickness="2.5",
        PositionReferenceIndicator="",
        KVP="120",
        AcquisitionNumber=1,
        Manufacturer="",
    )


def with_uids(real: Path, folder: Path, slices: int | None = None) -> Path:
    """Copy the real series, or its first slices, and give it UIDs in place of those that were taken away."""
    folder.mkdir()
    for number, path in enumerate(sorted(real.iterdir())[:slices], start=1):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.1", "1.2.3.2"
        dataset.PatientID = "REAL"
        dataset.save_as(folder / f"{number:03d}.dcm")
    return folder


def labels_like(volume, count, seed=0):
    """Make labels 0..count at random, each of them at least once."""
    labels = np.random.default_rng(seed).integers(0, count + 1, volume.array.shape).astype(np.uint8)
    labels.ravel()[: count + 1] = np.arange(count + 1)
    return labels


def organ_segments(count):
    return [CodedSegment(one.id, one.name, one) for one in CLASSES[:count]]


def written(tmp_path, labels, volume, segments, *, name="x.dcm", source=None, origin=ORIGIN):
    series = read_source_series(source or tmp_path / "ct")
    return write_dicom_seg(tmp_path / name, labels, volume, segments, series=series, origin=origin, title=TITLE)
