"""A segmentation written as DICOM lies where it should, in every reading; one that does not is not written."""

import datetime
import sys
import zipfile

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_results import ORIGIN, labels_like, organ_segments, quotable_series, with_uids, written

from dsmseg.errors import InputError, OutputError
from dsmseg.taxonomy import CLASSES, ORGANS, find
from dsmseg.volume import Volume, read_scan
from dsmseg.volume.dicom_out import CodedSegment, Origin, read_source_series, segmentation

AXIAL, TURNED, FLIPPED = (1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (1, 0, 0, 0, -1, 0)
CORONAL, SAGITTAL = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
OBLIQUE = (0.98, 0.198997, 0, -0.198997 * 0.96, 0.98 * 0.96, 0.28)
ORIENTATIONS = pytest.mark.parametrize("orientation", [AXIAL, TURNED, FLIPPED, CORONAL, SAGITTAL, OBLIQUE])


def placed(voxels_mm, value, volume, labels):
    """Set ``value`` in an array of the volume's grid at places in mm RAS, each of which must be a voxel's middle."""
    voxels = (np.linalg.inv(volume.affine) @ np.c_[voxels_mm, np.ones(len(voxels_mm))].T)[:3].T
    np.testing.assert_allclose(voxels * volume.spacing, np.rint(voxels) * volume.spacing, atol=0.01)
    labels[tuple(np.rint(voxels).astype(int).T)] = value


def read_by_hand(path, volume):
    """Read a SEG after the standard's equation (PS3.3 C.7.6.2.1.1), with pydicom and numpy alone."""
    dataset, labels = pydicom.dcmread(path), np.zeros(volume.array.shape, np.uint16)
    shared, bits = (
        dataset.SharedFunctionalGroupsSequence[0],
        np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little"),
    )
    rows, columns = dataset.Rows, dataset.Columns
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    row_step, column_step = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        image = bits[index * rows * columns : (index + 1) * rows * columns].reshape(rows, columns)
        where = np.argwhere(image)
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        lps = position + where[:, 1:] * column_step * row + where[:, :1] * row_step * column
        group = frame if "SegmentIdentificationSequence" in frame else shared
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        placed(lps * [-1, -1, 1], number, volume, labels)
    return labels


def read_by_highdicom(path, volume):
    found = highdicom.seg.segread(path).get_volume(combine_segments=True)
    labels = np.zeros(volume.array.shape, np.uint16)
    for number in np.unique(found.array)[1:]:
        voxels = np.argwhere(found.array == number)
        lps = voxels @ found.affine[:3, :3].T + found.affine[:3, 3]
        placed(lps * [-1, -1, 1], number, volume, labels)
    return labels


@ORIENTATIONS
def test_every_voxel_lies_at_its_place_in_mm_in_each_reading(tmp_path, dicom_series, orientation):
    series = quotable_series(dicom_series, orientation=orientation, step=0.6, rows=11, columns=13)
    volume = read_scan(series.write(tmp_path / "ct"))
    labels = labels_like(volume, 5)
    result = written(tmp_path, labels, volume, organ_segments(5))
    expected = np.vectorize({0: 0, **result.numbers}.get)(labels)
    np.testing.assert_array_equal(read_by_hand(tmp_path / "x.dcm", volume), expected)
    np.testing.assert_array_equal(read_by_highdicom(tmp_path / "x.dcm", volume), expected)


@ORIENTATIONS
def test_simpleitk_shows_a_full_segment_over_the_scan(tmp_path, dicom_series, orientation):
    series = quotable_series(dicom_series, orientation=orientation)
    volume = read_scan(series.write(tmp_path / "ct"))
    labels = labels_like(volume, 1)
    ends = volume.to_own(np.arange(labels.size).reshape(labels.shape))[0, 0]
    labels.ravel()[ends] = 1  # SimpleITK takes frames as they come, so that each slice needs one
    written(tmp_path, labels, volume, organ_segments(1))
    image = SimpleITK.ReadImage(str(tmp_path / "x.dcm"))
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    found = Volume.from_own(SimpleITK.GetArrayFromImage(image).T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
    np.testing.assert_array_equal(found.array != 0, labels)
    np.testing.assert_allclose(found.affine, volume.affine, atol=0.01)


def test_a_real_series_is_covered_voxel_by_voxel(tmp_path, real_data):
    volume = read_scan(with_uids(real_data / "dicom_series" / "ct", tmp_path / "ct"))
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[volume.array > 150], labels[100:130, 200:260, 3:9] = 1, 2
    assert written(tmp_path, labels, volume, organ_segments(2)).numbers == {1: 1, 2: 2}
    np.testing.assert_array_equal(read_by_hand(tmp_path / "x.dcm", volume), labels)
    np.testing.assert_array_equal(read_by_highdicom(tmp_path / "x.dcm", volume), labels)


def test_a_real_series_without_uids_of_its_own_is_referred_to_by_those_of_its_images(real_data):
    folder = real_data / "dicom_series" / "ct"
    first, again = read_source_series(folder), read_source_series(folder)
    uids = {
        pydicom.dcmread(path, stop_before_pixels=True).file_meta.MediaStorageSOPInstanceUID for path in folder.iterdir()
    }
    assert {one.SOPInstanceUID for one in first.slices} == uids
    assert first.series_uid == again.series_uid
    assert first.slices[0].StudyInstanceUID == again.slices[-1].StudyInstanceUID != first.series_uid


def test_images_without_any_uid_are_refused(tmp_path, dicom_series, refused):
    series = quotable_series(dicom_series).every(SOPInstanceUID="")
    folder = series.write(tmp_path / "ct")
    assert read_source_series(folder).slices[0].SOPInstanceUID
    series.every(FrameOfReferenceUID="").write(folder)
    refused(folder, "lacks FrameOfReferenceUID, which DICOM results must refer to", read_source_series)


def test_each_frame_refers_to_the_slice_that_it_covers(tmp_path, dicom_series):
    series = quotable_series(dicom_series)
    volume = read_scan(series.write(tmp_path / "ct"))
    written(tmp_path, labels_like(volume, 3), volume, organ_segments(3))
    positions = {one.SOPInstanceUID: one.ImagePositionPatient for one in series.datasets}
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        quoted = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == positions[quoted]
    (referenced,) = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series.datasets[0].SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == set(positions)
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert dataset[name].value == series.datasets[0][name].value


def test_segments_carry_the_codes_of_the_taxonomy(tmp_path, dicom_series):
    series = quotable_series(dicom_series)
    volume = read_scan(series.write(tmp_path / "ct"))
    segments = [CodedSegment(one.id, one.name, one) for one in CLASSES]
    written(tmp_path, labels_like(volume, 45), volume, segments)
    found = pydicom.dcmread(tmp_path / "x.dcm").SegmentSequence
    assert [(one.SegmentNumber, one.SegmentLabel) for one in found] == [(one.id, one.name) for one in CLASSES]
    for one, segment in zip(CLASSES, found, strict=True):
        kind, category = segment.SegmentedPropertyTypeCodeSequence[0], segment.SegmentedPropertyCategoryCodeSequence[0]
        code = (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning)
        own = (f"CLASS-{one.id}", "99DSMSEG", one.name)
        assert code == ((one.snomed.value, "SCT", one.snomed.meaning) if one.snomed else own)
        assert category.CodeValue == ("91723000" if one.kind == "organ" else "49755003")
        sides = [side.CodeValue for side in kind.get("SegmentedPropertyTypeModifierCodeSequence", [])]
        assert sides == ([one.laterality.value] if one.laterality else [])
        assert ("AnatomicRegionSequence" in segment) == (one.kind == "tumor" and one.name not in AMBIGUOUS)
        color = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(color, one.color, atol=1)


AMBIGUOUS = ("Portal Vein Tumor Thrombus", "Hepatic Vessel Tumor")


def test_a_tumor_names_its_host_and_the_side_of_it(tmp_path, dicom_series):
    volume = read_scan(quotable_series(dicom_series).write(tmp_path / "ct"))
    lung, kidney = find("lung tumor"), find("kidney tumor")
    segments = [CodedSegment(7, "Lung Tumor 1", lung, find("left lung")), CodedSegment(300, "Kidney Tumor 2", kidney)]
    labels = np.zeros(volume.array.shape, np.uint16)
    labels[0], labels[1] = 7, 300
    assert written(tmp_path, labels, volume, segments).numbers == {7: 1, 300: 2}
    regions = [one.AnatomicRegionSequence[0] for one in pydicom.dcmread(tmp_path / "x.dcm").SegmentSequence]
    assert [one.CodeMeaning for one in regions] == ["Lung", "Kidney"]
    assert regions[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
    assert "AnatomicRegionModifierSequence" not in regions[1]


def test_more_than_255_lesions_are_as_many_segments(tmp_path, dicom_series):
    volume = read_scan(quotable_series(dicom_series, rows=10, columns=12).write(tmp_path / "ct"))
    labels = np.arange(volume.array.size, dtype=np.uint16).reshape(volume.array.shape)
    labels[labels > 260] = 0
    tumor = find("liver tumor")
    segments = [CodedSegment(value, f"Liver Tumor {value}", tumor, ORGANS[5]) for value in range(1, 261)]
    written(tmp_path, labels, volume, segments)
    np.testing.assert_array_equal(read_by_hand(tmp_path / "x.dcm", volume), labels)


def test_what_has_no_voxel_has_no_segment_and_an_empty_layer_no_file(tmp_path, dicom_series):
    volume = read_scan(quotable_series(dicom_series).write(tmp_path / "ct"))
    labels = np.zeros(volume.array.shape, np.uint8)
    assert written(tmp_path, labels, volume, organ_segments(3)) is None
    assert not (tmp_path / "x.dcm").exists()
    labels[3, 4, 2] = 3
    assert written(tmp_path, labels, volume, organ_segments(3)).numbers == {3: 1}
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    assert (len(dataset.SegmentSequence), dataset.NumberOfFrames) == (1, 1)


def test_the_same_result_gives_the_same_bytes_and_another_one_other_uids(tmp_path, dicom_series):
    volume = read_scan(quotable_series(dicom_series).write(tmp_path / "ct"))
    labels = labels_like(volume, 3)
    first = written(tmp_path, labels, volume, organ_segments(3), name="a.dcm")
    again = written(tmp_path, labels, volume, organ_segments(3), name="b.dcm")
    assert first == again
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    labels[0, 0, 0] = 1 + labels[0, 0, 0] % 3
    later = Origin(ORIGIN.version, ORIGIN.settings, ORIGIN.when + datetime.timedelta(seconds=1))
    others = [
        written(tmp_path, labels, volume, organ_segments(3)),
        written(tmp_path, labels_like(volume, 3), volume, organ_segments(3), origin=later),
    ]
    assert len({one.sop_instance_uid for one in (first, *others)}) == 3


def test_a_zip_is_as_good_as_its_folder(tmp_path, dicom_series):
    folder = quotable_series(dicom_series).write(tmp_path / "ct")
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as target:
        for place in folder.iterdir():
            target.write(place, f"study/{place.name}")
    volume = read_scan(tmp_path / "ct.zip")
    zipped, plain = read_source_series(tmp_path / "ct.zip"), read_source_series(folder)
    assert [one.SOPInstanceUID for one in zipped.slices] == [one.SOPInstanceUID for one in plain.slices]
    assert written(tmp_path, labels_like(volume, 2), volume, organ_segments(2), source=tmp_path / "ct.zip")


def test_positions_rounded_to_a_tenth_of_a_millimeter_are_kept(tmp_path, dicom_series):
    series = quotable_series(dicom_series, slices=12, step=0.625)
    for dataset in series.datasets:
        dataset.ImagePositionPatient = [round(float(value), 1) for value in dataset.ImagePositionPatient]
    volume = read_scan(series.write(tmp_path / "ct"))
    written(tmp_path, labels_like(volume, 2), volume, organ_segments(2))
    found = pydicom.dcmread(tmp_path / "x.dcm").PerFrameFunctionalGroupsSequence
    assert {tuple(one.PlanePositionSequence[0].ImagePositionPatient) for one in found} == {
        tuple(one.ImagePositionPatient) for one in series.datasets
    }


@pytest.mark.parametrize(
    "tags",
    [
        {"PatientSex": "male"},
        {"StudyDate": "2001-13-99"},
        {"StudyTime": "noon"},
        {"PatientBirthDate": "unknown"},
        {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100"},
        {"PatientName": "Yamada^Tarou=山田^太郎", "SpecificCharacterSet": ["", "ISO 2022 IR 87"]},
        {"SliceThickness": None},
        {"AccessionNumber": "a text that is too long for it"},
        {"SpacingBetweenSlices": "7"},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_headers_against_the_standard_do_not_stop_a_result(tmp_path, dicom_series, tags):
    series = quotable_series(dicom_series).every(**tags)
    volume = read_scan(series.write(tmp_path / "ct"))
    written(tmp_path, labels_like(volume, 2), volume, organ_segments(2))
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    assert str(dataset.PatientName) == str(series.datasets[0].PatientName)
    np.testing.assert_array_equal(read_by_hand(tmp_path / "x.dcm", volume), labels_like(volume, 2))


def test_a_series_without_type_2_tags_is_quoted(tmp_path, dicom_series):
    series = quotable_series(dicom_series).drop("PatientID", "PatientName", "StudyDate", "StudyID")
    volume = read_scan(series.write(tmp_path / "ct"))
    written(tmp_path, labels_like(volume, 2), volume, organ_segments(2))
    assert pydicom.dcmread(tmp_path / "x.dcm").PatientID == ""


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_slices_of_which_one_lacks_a_uid_are_refused(tmp_path, dicom_series, refused, tag):
    series = quotable_series(dicom_series)
    delattr(series.datasets[2], tag)
    refused(series.write(tmp_path / "ct"), tag, read_source_series)


def test_slices_that_share_an_instance_uid_are_refused(tmp_path, dicom_series, refused):
    series = quotable_series(dicom_series).every(SOPInstanceUID="1.2.3")
    refused(series.write(tmp_path / "ct"), "same SOPInstanceUID", read_source_series)


def test_slices_of_several_studies_are_refused(tmp_path, dicom_series, refused):
    series = quotable_series(dicom_series)
    series.datasets[2].StudyInstanceUID = "1.2.3"
    refused(series.write(tmp_path / "ct"), "several StudyInstanceUID", read_source_series)


def test_a_source_that_is_no_dicom_is_refused(tmp_path, refused):
    (tmp_path / "ct.nii.gz").write_bytes(b"x")
    refused(tmp_path / "ct.nii.gz", "is no DICOM series", read_source_series)


def test_a_source_that_is_gone_is_refused(tmp_path, refused):
    refused(tmp_path / "ct.zip", "cannot be read", read_source_series)
    refused(tmp_path / "ct", "is no DICOM series", read_source_series)


def test_another_series_than_the_volumes_is_refused(tmp_path, dicom_series):
    volume = read_scan(quotable_series(dicom_series).write(tmp_path / "ct"))
    quotable_series(dicom_series, step=2.0).write(tmp_path / "other")
    with pytest.raises(InputError, match="not the series that the result was computed from"):
        written(tmp_path, labels_like(volume, 2), volume, organ_segments(2), source=tmp_path / "other")


@pytest.mark.parametrize(
    ("value", "segments", "words"),
    [
        (7, organ_segments(2), "label 7 has no segment"),
        (-1, organ_segments(2), "outside 0 to 65535"),
        (70_000, organ_segments(2), "outside 0 to 65535"),
        (1, [*organ_segments(2), *organ_segments(1)], "share a label"),
        (1, [CodedSegment(0, "Liver", ORGANS[5])], "outside 1 to 65535"),
    ],
)
def test_labels_without_their_segment_are_refused(tmp_path, dicom_series, value, segments, words):
    volume = read_scan(quotable_series(dicom_series).write(tmp_path / "ct"))
    labels = np.full(volume.array.shape, value)
    with pytest.raises(InputError, match=words):
        written(tmp_path, labels, volume, segments)
    assert not list(tmp_path.glob("*.dcm"))


def test_without_highdicom_the_error_names_the_extra(tmp_path, dicom_series, monkeypatch):
    folder = quotable_series(dicom_series).write(tmp_path / "ct")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r'pip install "dsmseg\[dicom\]"'):
        read_source_series(folder)


def one_voxel_more(dataset):
    pixels = bytearray(dataset.PixelData)
    pixels[5] ^= 4
    dataset.PixelData = bytes(pixels)


def half_a_millimeter_off(dataset):
    dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[0] += 0.5


def one_slice_off(dataset):
    one, other = dataset.PerFrameFunctionalGroupsSequence[:2]
    one.PlanePositionSequence, other.PlanePositionSequence = other.PlanePositionSequence, one.PlanePositionSequence


def spaced_otherwise(dataset):
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = list(reversed(measures.PixelSpacing))


def mirrored(dataset):
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-value for value in plane.ImageOrientationPatient]


def of_another_segment(dataset):
    dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 2


def beyond_the_scan(dataset):
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 500


def of_another_image(dataset):
    frame = dataset.PerFrameFunctionalGroupsSequence[0]
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def without_its_last_frame(dataset):
    dataset.NumberOfFrames -= 1
    del dataset.PerFrameFunctionalGroupsSequence[-1]
    dataset.PixelData = dataset.PixelData[: -dataset.Rows * dataset.Columns // 8]


def cut_short(dataset):
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        one_voxel_more,
        half_a_millimeter_off,
        one_slice_off,
        spaced_otherwise,
        mirrored,
        of_another_segment,
        beyond_the_scan,
        of_another_image,
        without_its_last_frame,
        cut_short,
    ],
)
def test_what_reads_back_differently_is_not_written(tmp_path, dicom_series, monkeypatch, damage):
    volume = read_scan(quotable_series(dicom_series).write(tmp_path / "ct"))
    make = segmentation._dataset

    def damaged(*arguments):
        dataset = make(*arguments)
        damage(dataset)
        return dataset

    monkeypatch.setattr(segmentation, "_dataset", damaged)
    with pytest.raises(OutputError, match="reads back differently"):
        written(tmp_path, labels_like(volume, 3), volume, organ_segments(3))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "ct"]


def test_the_same_frame_twice_is_not_written(tmp_path, dicom_series, monkeypatch):
    def twice(dataset):
        frames = dataset.PerFrameFunctionalGroupsSequence
        frames.append(frames[0])
        dataset.NumberOfFrames += 1
        dataset.PixelData += dataset.PixelData[: dataset.Rows * dataset.Columns // 8]

    test_what_reads_back_differently_is_not_written(tmp_path, dicom_series, monkeypatch, twice)
