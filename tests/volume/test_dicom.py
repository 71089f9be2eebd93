"""A DICOM folder gives the right volume or one clear line, whatever is wrong with it."""

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEGLosslessSV1,
    MRImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from dsmseg.volume import Volume, read_labels, read_scan

CORONAL, SAGITTAL = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
OBLIQUE = (0.98, 0.198997, 0, -0.198997, 0.98, 0)


def check_volume(volume, series):
    expected = Volume.from_own(series.hu.astype(np.float32), series.affine())
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-6)
    assert volume.array.dtype == np.float32


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), CORONAL, SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("step", [2.5, 0.6])
def test_slices_are_ordered_and_placed_by_their_positions(tmp_path, dicom_series, orientation, step):
    series = dicom_series(orientation=orientation, step=step)
    check_volume(read_scan(series.write(tmp_path)), series)


def test_each_slice_has_its_own_rescale_slope_and_intercept(tmp_path, dicom_series):
    series = dicom_series()
    for index, dataset in enumerate(series.datasets):
        stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
        dataset.RescaleSlope, dataset.RescaleIntercept = [("1", "-1024"), ("0.25", "-1000.5"), ("2", "-900")][index % 3]
        series.hu = series.hu.astype(np.float64)
        series.hu[:, :, index] = stored.T * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    check_volume(read_scan(series.write(tmp_path)), series)


def test_other_files_and_objects_beside_the_series_are_passed_over(tmp_path, dicom_series):
    series = dicom_series()
    series.write(tmp_path / "study" / "ct", "CT.1.2.{}".format)
    (tmp_path / "README.txt").write_text("notes")
    (tmp_path / "VERSION").write_text("1")
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "study" / "._IM1.dcm").write_bytes(b"apple")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "IM1.dcm").write_bytes(b"apple")
    scout = dicom_series(slices=1).every(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.write(tmp_path / "scout")
    dicom_series(slices=3).every(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]).write(tmp_path / "scouts")
    dicom_series(slices=1).write(tmp_path / "single")
    dicom_series(slices=4, step=0.0).write(tmp_path / "bolus")
    capture = dicom_series(slices=2, rows=30).every(SOPClassUID=SecondaryCaptureImageStorage)
    capture.drop("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing").write(tmp_path / "report")
    pet = dicom_series(slices=9).every(Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
    pet.write(tmp_path / "pet")
    structures = dicom_series(slices=1).drop("PixelData", "Rows", "Columns", "BitsAllocated").every(Modality="RTSTRUCT")
    structures.datasets[0].SOPClassUID = structures.datasets[0].file_meta.MediaStorageSOPClassUID = (
        RTStructureSetStorage
    )
    structures.write(tmp_path / "rt", "rt{}.dcm".format)
    check_volume(read_scan(tmp_path), series)


def test_localizers_inside_the_series_are_passed_over(tmp_path, dicom_series):
    series = dicom_series()
    scout = dicom_series(slices=1, rows=20, orientation=CORONAL)
    scout.every(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID=series.datasets[0].SeriesInstanceUID)
    series.write(tmp_path)
    scout.write(tmp_path, "scout{}".format)
    check_volume(read_scan(tmp_path), series)


@pytest.mark.parametrize("tag", ["SeriesInstanceUID", "Modality", "SeriesDescription", "InstanceNumber"])
def test_an_anonymized_series_without_a_tag_is_read(tmp_path, dicom_series, tag):
    series = dicom_series().every(**{tag: ""})
    check_volume(read_scan(series.write(tmp_path)), series)


def test_a_series_whose_files_each_have_a_series_number_of_their_own_is_one(tmp_path, dicom_series):
    series = dicom_series()
    for dataset in series.datasets:
        dataset.SeriesInstanceUID = generate_uid()
    check_volume(read_scan(series.write(tmp_path)), series)


def test_positions_rounded_to_a_tenth_of_a_millimeter_are_even(tmp_path, dicom_series):
    series = dicom_series(slices=12, step=0.625)
    for dataset in series.datasets:
        dataset.ImagePositionPatient = [round(float(value), 1) for value in dataset.ImagePositionPatient]
    check_volume(read_scan(series.write(tmp_path)), series)


@pytest.mark.parametrize("padding", [-2048, -3024])
def test_padding_values_are_read_as_they_are(tmp_path, dicom_series, padding):
    series = dicom_series()
    series.hu[0] = padding
    for index, dataset in enumerate(series.datasets):
        dataset.PixelRepresentation, dataset.RescaleIntercept, dataset.PixelPaddingValue = 1, 0, padding
        dataset["PixelPaddingValue"].VR = "SS"
        dataset.PixelData = series.hu[:, :, index].T.astype("<i2").tobytes()
    check_volume(read_scan(series.write(tmp_path)), series)


def test_a_compressed_series_is_read(tmp_path, dicom_series):
    series = dicom_series()
    for dataset in series.datasets:
        dataset.compress(RLELossless)
    check_volume(read_scan(series.write(tmp_path)), series)


def test_old_files_without_the_dicom_mark_are_read(tmp_path, dicom_series):
    series = dicom_series()
    for path in series.write(tmp_path).iterdir():
        path.write_bytes(path.read_bytes()[132:])
    check_volume(read_scan(tmp_path), series)


def tilted(series):
    for index in range(len(series.datasets)):
        series.move(index, (0, 0.5 * index, 0))


def doubled(series):
    series.move(3, -np.array([0, 0, 2.5]))


def second_slope(series):
    del series.datasets[2].RescaleIntercept


def second_size(series):
    dataset = series.datasets[2]
    dataset.Rows, dataset.PixelData = dataset.Rows // 2, dataset.PixelData[: len(dataset.PixelData) // 2]


def second_spacing(series):
    series.datasets[2].PixelSpacing = [0.8, 0.9]


def second_orientation(series):
    series.datasets[2].ImageOrientationPatient = [1, 0, 0, 0, 0.99, 0.141]


def garbage(series):
    dataset = series.datasets[2]
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate([b"\xff\xd8garbage" * 100])
    dataset["PixelData"].is_undefined_length = True


def uneven(series):
    for index in range(3, len(series.datasets)):
        series.move(index, (0, 0, 1.1 * (index - 2)))


def color(series):
    series.every(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    series.every(BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=bytes(240))


def frames(series):
    del series.datasets[1:]
    series.every(NumberOfFrames=2, PixelData=series.datasets[0].PixelData * 2)


FAULTS = {
    "has missing slices: 1 (a gap of 5.00 mm where 2.50 mm is usual)": lambda series: series.datasets.pop(3),
    "has missing slices: 2": lambda series: [series.datasets.pop(2), series.datasets.pop(2)],
    "1.30 to 3.70 mm apart": lambda series: series.move(3, (0, 0, -1.2)),
    "2.50 to 3.60 mm apart": uneven,
    "lie in the same place: 1": doubled,
    "tilted by 11.3 degrees": tilted,
    "tilted by 15.0 degrees": lambda series: series.every(GantryDetectorTilt=15),
    "shifted sideways by 3.00 mm": lambda series: series.move(2, (3, 0, 0)),
    "one CT slice only": lambda series: series.datasets.__delitem__(slice(1, None)),
    "holds no CT but MR": lambda series: series.every(Modality="MR", SOPClassUID=MRImageStorage),
    "only localizer": lambda series: series.every(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "lacks a usable position": lambda series: series.drop("ImagePositionPatient"),
    "lacks a usable position, ": lambda series: series.datasets[2].__delattr__("ImagePositionPatient"),
    "lacks a usable position, orientation": lambda series: series.drop("ImageOrientationPatient"),
    "position, orientation or pixel spacing": lambda series: series.drop("PixelSpacing"),
    "position, orientation or pixel spacing ": lambda series: series.every(PixelSpacing=[0, 0]),
    "position, orientation or pixel spacing  ": lambda series: series.every(PixelSpacing=[0.8, -0.7]),
    "two directions at a right angle": lambda series: series.every(ImageOrientationPatient=[1, 0, 0, 0.7, 0.7, 0]),
    "not two directions": lambda series: series.every(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]),
    "differ in size, pixel spacing or orientation": second_size,
    "differ in size, pixel spacing or orientation ": second_spacing,
    "differ in size, pixel spacing or orientation  ": second_orientation,
    "rescale intercept in some slices only": second_slope,
    "MONOCHROME1": lambda series: series.every(PhotometricInterpretation="MONOCHROME1"),
    "RGB": color,
    "multi-frame": frames,
    "is damaged, or compressed in a way": garbage,
    "not Hounsfield units": lambda series: series.drop("RescaleIntercept", "RescaleSlope"),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_of_the_series_is_told_in_one_line(tmp_path, dicom_series, refused, capfd, words):
    series = dicom_series()
    FAULTS[words](series)
    refused(series.write(tmp_path), words.strip())
    assert capfd.readouterr() == ("", "")


def test_two_series_are_refused_and_listed(tmp_path, dicom_series, refused):
    dicom_series().every(SeriesDescription="Lung kernel").write(tmp_path / "a")
    dicom_series(slices=4).every(SeriesDescription="").write(tmp_path / "b")
    refused(tmp_path, "2 CT series: 'Lung kernel' (6 slices, a/IM0000 ...), 'unnamed' (4 slices, b/IM0000 ...)")


def test_a_series_of_many_parts_is_listed_briefly(tmp_path, dicom_series, refused):
    for index in range(8):
        dicom_series(slices=2).write(tmp_path / str(index))
    refused(tmp_path, "and 2 more")


@pytest.mark.parametrize("keep", [0, 60, 300, -100])
def test_a_slice_that_is_cut_short_is_refused_not_left_out(tmp_path, dicom_series, refused, keep):
    dicom_series().write(tmp_path, "IM{}.dcm".format)
    (tmp_path / "IM0.dcm").write_bytes((tmp_path / "IM0.dcm").read_bytes()[:keep])
    refused(tmp_path, "IM0.dcm is damaged or cut short")


def test_an_empty_nameless_file_among_slices_is_refused(tmp_path, dicom_series, refused):
    (dicom_series().write(tmp_path) / "IM0000").write_bytes(b"")
    refused(tmp_path, "IM0000 is damaged or cut short")


@pytest.mark.parametrize("names", [[], ["notes.txt"], ["DICOMDIR", "a.nii"]])
def test_a_folder_without_dicom_is_refused(tmp_path, refused, names):
    for name in names:
        (tmp_path / name).write_bytes(b"something else")
    refused(tmp_path, "no DICOM images")


def test_one_dicom_file_alone_is_refused_with_advice(tmp_path, dicom_series, refused):
    refused(dicom_series().write(tmp_path) / "IM0000", "is one DICOM file")


def test_the_affine_is_that_of_pydicom_on_a_real_series(shared_data):
    volume = read_scan(shared_data / "dicom_series/ct")
    datasets = [pydicom.dcmread(path) for path in (shared_data / "dicom_series/ct").iterdir()]
    datasets.sort(key=lambda dataset: dataset.ImagePositionPatient[2])
    corner = [*(-np.array(datasets[0].ImagePositionPatient[:2], dtype=float)), datasets[0].ImagePositionPatient[2]]
    np.testing.assert_allclose(volume.own.affine[:3, 3], corner, atol=1e-6)
    first = datasets[0].pixel_array * float(datasets[0].RescaleSlope) + float(datasets[0].RescaleIntercept)
    own = volume.to_own(volume.array)
    np.testing.assert_array_equal(own[:, :, 0], first.T)


def test_a_real_series_lies_on_the_grid_of_its_segmentation(shared_data):
    volume = read_scan(shared_data / "dicom_series/ct")
    labels = read_labels(shared_data / "dicom_series/example_seg_dicom.nii.gz")
    assert volume.array.shape == labels.array.shape
    np.testing.assert_allclose(volume.affine, labels.affine, atol=1e-3)
    liver, vertebra = volume.array[labels.array == 5], volume.array[labels.array == 32]
    assert 20 < np.median(liver) < 150 < np.median(vertebra)


def test_the_order_of_file_names_makes_no_difference(tmp_path, dicom_series):
    series = dicom_series()
    series.write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for path in sorted((tmp_path / "b").iterdir()):
        path.rename(path.with_name(str(generate_uid())))
    np.testing.assert_array_equal(read_scan(tmp_path / "a").array, read_scan(tmp_path / "b").array)
