"""DICOM series made on the spot, whose faults a test can choose."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def ct_array(shape, seed=0):
    """Make HU that hold air and bone in int16."""
    array = np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)
    array.flat[0] = -1000
    return array


class DicomSeries:
    """A CT series as data sets; change them at will, then write them."""

    def __init__(self, slices=6, rows=8, columns=10, *, spacing=(0.8, 0.7), step=2.5, orientation=(1, 0, 0, 0, 1, 0)):
        row, column = np.array(orientation, dtype=float).reshape(2, 3)
        direction = np.cross(row, column)
        self.hu = ct_array((columns, rows, slices))
        self.datasets = [
            self._slice(self.hu[:, :, index].T, np.array([-30.0, 12.5, 400.0]) + index * step * direction)
            for index in range(slices)
        ]
        self.every(
            SeriesInstanceUID=generate_uid(), PixelSpacing=list(spacing), ImageOrientationPatient=list(orientation)
        )
        for index, dataset in enumerate(self.datasets):
            # The numbers run against the positions, so that sorting by number would turn the scan round.
            dataset.InstanceNumber = slices - index

    @staticmethod
    def _slice(hu, position):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.Modality = "CT"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.SeriesDescription = "Body 2.5"
        dataset.Rows, dataset.Columns = hu.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.ImagePositionPatient = [round(float(value), 6) for value in position]
        dataset.PixelData = (hu + 1024).astype("<u2").tobytes()
        return dataset

    def every(self, **tags) -> "DicomSeries":
        for dataset in self.datasets:
            for name, value in tags.items():
                setattr(dataset, name, value)
        return self

    def drop(self, *tags) -> "DicomSeries":
        for dataset in self.datasets:
            for name in tags:
                delattr(dataset, name)
        return self

    def move(self, index, offset) -> "DicomSeries":
        position = np.array(self.datasets[index].ImagePositionPatient, dtype=float) + offset
        self.datasets[index].ImagePositionPatient = [float(value) for value in position]
        return self

    def write(self, folder: Path, name: Callable[[int], str] = "IM{:04d}".format) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        shuffled = np.random.default_rng(3).permutation(len(self.datasets))
        for dataset, place in zip(self.datasets, shuffled, strict=True):
            pydicom.dcmwrite(folder / name(place), dataset, enforce_file_format=True)
        return folder

    def affine(self):
        """Return the affine (column, row, slice) -> mm RAS after DICOM PS3.3 C.7.6.2.1.1."""
        first, last = self.datasets[0], self.datasets[-1]
        lps = np.eye(4)
        lps[:3, 0] = np.array(first.ImageOrientationPatient[:3], dtype=float) * first.PixelSpacing[1]
        lps[:3, 1] = np.array(first.ImageOrientationPatient[3:], dtype=float) * first.PixelSpacing[0]
        ends = [np.array(dataset.ImagePositionPatient, dtype=float) for dataset in (first, last)]
        lps[:3, 2] = (ends[1] - ends[0]) / (len(self.datasets) - 1)
        lps[:3, 3] = ends[0]
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
