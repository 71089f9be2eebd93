"""The structured report says what was measured, of which segment, and what was looked for in vain."""

import numpy as np
import pydicom
import pytest
from dicom_results import ORIGIN, TITLE, quotable_series
from highdicom.sr import srread
from pydicom.sr.codedict import Code, codes

from dsmseg.taxonomy import ORGANS, TUMORS, find
from dsmseg.volume import read_scan
from dsmseg.volume.dicom_out import (
    DICOM_FILES,
    CodedSegment,
    Finding,
    Layer,
    read_source_series,
    write_dicom_report,
    write_dicom_results,
)

LIVER, LUNG, KIDNEY = find("liver"), find("left lung"), find("right kidney")
LUNG_TUMOR, KIDNEY_TUMOR = find("lung tumor"), find("kidney tumor")
ORGAN_FINDINGS = [
    Finding(CodedSegment(LIVER.id, "Liver", LIVER), 1512.5, 61.2, 18.4, False),
    Finding(CodedSegment(LUNG.id, "Left Lung", LUNG), 2012.25, -801.5, 90.0, True),
]
LESIONS = [
    Finding(CodedSegment(1, "Lung Tumor 1", LUNG_TUMOR, LUNG), 7.7, 21.0, 33.5, False, 31.25, 22.5),
    Finding(CodedSegment(2, "Kidney Tumor 2", KIDNEY_TUMOR), 0.5, 40.0, 5.0, True, 9.0, 8.0),
]


@pytest.fixture(scope="module")
def case(tmp_path_factory, dicom_series):
    """Write a result with organs, lesions and an absent class, and give its folder."""
    tmp_path = tmp_path_factory.mktemp("case")
    source = quotable_series(dicom_series).write(tmp_path / "ct")
    volume = read_scan(source)
    organs, lesions = np.zeros((2, *volume.array.shape), np.uint8)
    organs[:5], organs[5:9], lesions[6:8, 3:9], lesions[9, :4] = LIVER.id, LUNG.id, 1, 2
    files = write_dicom_results(
        tmp_path / "case",
        series=read_source_series(source),
        volume=volume,
        organs=Layer(organs, ORGAN_FINDINGS),
        tumors=Layer(lesions, LESIONS),
        absent=[KIDNEY],
        origin=ORIGIN,
    )
    assert tuple(files) == DICOM_FILES
    return tmp_path / "case"


def groups_of(folder):
    return srread(folder / "report.dcm").content.get_volumetric_roi_measurement_groups()


def numbers(group):
    found = {}
    for one in group.get_measurements():
        derivation = one.derivation.meaning if one.derivation else ""
        found[f"{derivation} {one.name.meaning} {one.unit.value}".strip()] = one.value
    return found


def test_each_finding_has_its_measurements_with_units(case):
    found = {group.tracking_identifier: numbers(group) for group in groups_of(case)}
    assert found == {
        one.segment.label: {
            "Volume cm3": one.volume_ml,
            "Mean Attenuation Coefficient [hnsf'U]": one.mean_hu,
            "Standard Deviation Attenuation Coefficient [hnsf'U]": one.sd_hu,
            **({} if one.long_axis_mm is None else {"Long axis mm": one.long_axis_mm}),
            **({} if one.short_axis_mm is None else {"Short axis mm": one.short_axis_mm}),
        }
        for one in (*ORGAN_FINDINGS, *LESIONS)
    }


def test_each_finding_refers_to_its_segment_and_shares_its_tracking_uid(case):
    segments = {}
    for name in ("organs.dcm", "tumors.dcm"):
        dataset = pydicom.dcmread(case / name)
        for one in dataset.SegmentSequence:
            segments[one.TrackingUID] = (dataset.SOPInstanceUID, one.SegmentNumber, one.TrackingID, one.SegmentLabel)
    found = {}
    for group in groups_of(case):
        reference = group.referenced_segment[0].ReferencedSOPSequence[0]
        label = group.tracking_identifier
        place = (reference.ReferencedSOPInstanceUID, reference.ReferencedSegmentNumber)
        found[group.tracking_uid] = (*place, label, label)
    assert found == segments


def test_findings_say_what_and_where_they_are(case):
    found = {
        group.tracking_identifier: (group.finding_category, group.finding_type, group.finding_sites[0])
        for group in groups_of(case)
    }
    category, kind, site = found["Lung Tumor 1"]
    assert (category, kind) == (codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm)
    assert (site.value, site.laterality) == (codes.SCT.Lung, codes.SCT.Left)
    category, kind, site = found["Liver"]
    assert (category, kind, site.value) == (codes.SCT.AnatomicalStructure, codes.SCT.Liver, codes.SCT.Liver)
    assert found["Kidney Tumor 2"][2].laterality is None


def test_what_the_edge_cuts_says_so(case):
    name = Code("COVERAGE", "99DSMSEG", "Coverage by the scan")
    said = {group.tracking_identifier: group.get_qualitative_evaluations(name) for group in groups_of(case)}
    assert {one.value for found in said.values() for one in found} == {codes.DCM.AnatomyCoverageIncomplete}
    assert {label for label, found in said.items() if found} == {
        one.segment.label for one in (*ORGAN_FINDINGS, *LESIONS) if one.truncated
    }


def test_what_was_looked_for_in_vain_is_told_as_absent(case):
    (group,) = srread(case / "report.dcm").content.get_image_measurement_groups()
    assert (group.tracking_identifier, group.finding_type) == (KIDNEY.name, codes.SCT.Kidney)
    (evaluation,) = group.get_qualitative_evaluations(Code("PRESENCE", "99DSMSEG", "Presence in the scan"))
    assert evaluation.value == codes.SCT.Absent


def test_the_report_quotes_every_slice_and_both_segmentations(case):
    report = pydicom.dcmread(case / "report.dcm")
    quoted = {
        instance.ReferencedSOPInstanceUID
        for series in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    paths = [*(case.parent / "ct").iterdir(), case / "organs.dcm", case / "tumors.dcm"]
    assert quoted == {pydicom.dcmread(path).SOPInstanceUID for path in paths}
    assert report.PreliminaryFlag == "PRELIMINARY"


def test_a_layer_without_a_voxel_has_no_file_and_its_classes_are_told_as_absent(tmp_path, dicom_series):
    source = quotable_series(dicom_series).write(tmp_path / "ct")
    volume = read_scan(source)
    nothing = Layer(np.zeros(volume.array.shape, np.uint8), [])
    files = write_dicom_results(
        tmp_path / "case",
        series=read_source_series(source),
        volume=volume,
        organs=nothing,
        tumors=nothing,
        absent=[*ORGANS[:3], *TUMORS[:2]],
        origin=ORIGIN,
    )
    assert files == ["report.dcm"]
    assert [path.name for path in (tmp_path / "case").iterdir()] == files
    groups = srread(tmp_path / "case" / "report.dcm").content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == [one.name for one in (*ORGANS[:3], *TUMORS[:2])]


def test_a_report_on_nothing_is_not_written(tmp_path, dicom_series):
    series = read_source_series(quotable_series(dicom_series).write(tmp_path / "ct"))
    assert not write_dicom_report(tmp_path / "x.dcm", [], [], series=series, origin=ORIGIN, title=TITLE)
    assert not (tmp_path / "x.dcm").exists()


def test_the_same_result_gives_the_same_bytes(tmp_path, dicom_series):
    series = read_source_series(quotable_series(dicom_series).write(tmp_path / "ct"))
    for name in ("a.dcm", "b.dcm"):
        assert write_dicom_report(
            tmp_path / name, [], [*ORGANS[:3], *TUMORS[:2]], series=series, origin=ORIGIN, title=TITLE
        )
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
