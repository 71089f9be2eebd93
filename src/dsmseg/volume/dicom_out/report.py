"""The measurements as a DICOM structured report (Comprehensive 3D SR) after TID 1500."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsmseg.files import replacing
from dsmseg.taxonomy import Code, StructureClass
from dsmseg.volume.dicom_out.extra import dicom_packages, unwarned
from dsmseg.volume.dicom_out.origin import MAKER, Origin, equipment, finish, tracking_uid
from dsmseg.volume.dicom_out.segmentation import SeriesTitle, WrittenSegmentation, unquotable
from dsmseg.volume.dicom_out.segments import (
    ARTIFICIAL_INTELLIGENCE,
    SCHEME,
    CodedSegment,
    category_of,
    concept,
    site_of,
    type_of,
)
from dsmseg.volume.dicom_out.source import SourceSeries
from dsmseg.volume.dicom_out.uids import derived_uid

_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
_VOLUME = Code("118565006", "Volume")
_LONG_AXIS = Code("103339001", "Long axis")
_SHORT_AXIS = Code("103340004", "Short axis")
_ATTENUATION = Code("112031", "Attenuation Coefficient", "DCM")
_MEAN = Code("373098007", "Mean")
_STANDARD_DEVIATION = Code("386136009", "Standard Deviation")
_CUBIC_CENTIMETER = Code("cm3", "cubic centimeter", "UCUM")
_MILLIMETER = Code("mm", "mm", "UCUM")
_HOUNSFIELD_UNIT = Code("[hnsf'U]", "Hounsfield unit", "UCUM")
_CT = Code("25045-6", "CT unspecified body region", "LN")
_DEVICE = Code("121007", "Device", "DCM")
_COVERAGE = Code("COVERAGE", "Coverage by the scan", SCHEME)
_CUT = Code("130576", "Anatomy coverage incomplete", "DCM")
_PRESENCE = Code("PRESENCE", "Presence in the scan", SCHEME)
_ABSENT = Code("272519000", "Absent")


@dataclass(frozen=True, slots=True)
class Finding:
    """A segment and what was measured of it.

    Attributes:
        segment: what it is; its value is that of the label map in the SEG.
        volume_ml: of all its voxels.
        mean_hu, sd_hu: of all its voxels.
        truncated: the scan's edge cuts it, so that volume and axes are lower bounds.
        long_axis_mm, short_axis_mm: of a lesion, in an axial slice; None for an organ.
    """

    segment: CodedSegment
    volume_ml: float
    mean_hu: float
    sd_hu: float
    truncated: bool
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None


@dataclass(frozen=True, slots=True)
class ReportedLayer:
    """Findings of one label map, and the SEG that shows them."""

    findings: Sequence[Finding]
    written: WrittenSegmentation


def write_dicom_report(
    path: Path,
    layers: Sequence[ReportedLayer],
    absent: Sequence[StructureClass],
    *,
    series: SourceSeries,
    origin: Origin,
    title: SeriesTitle,
) -> bool:
    """Write measurements of every finding, and which classes were looked for in vain, as a TID 1500 SR, atomically.

    Each finding is a measurement group that refers to its segment of a SEG and shares its tracking UID. Returns False,
    and writes nothing, where there is neither a finding nor an absent class.

    Raises:
        InputError: the source's header holds what DICOM does not allow; or highdicom is not installed.
        OutputError: the place cannot be written to.
    """
    if not absent and not any(layer.findings for layer in layers):
        return False
    with replacing(path) as temporary:
        try:
            with unwarned():
                _dataset(layers, absent, series, origin, title).save_as(temporary)
        except ValueError as error:
            raise unquotable(series, error) from error
    return True


def _dataset(
    layers: Sequence[ReportedLayer],
    absent: Sequence[StructureClass],
    series: SourceSeries,
    origin: Origin,
    title: SeriesTitle,
) -> Any:
    _, highdicom = dicom_packages()
    groups = [_present(finding, layer.written, series, origin) for layer in layers for finding in layer.findings]
    groups += [_absent(structure, series, origin) for structure in absent]
    content = highdicom.sr.MeasurementReport(
        observation_context=highdicom.sr.ObservationContext(observer_device_context=_observer(origin)),
        procedure_reported=concept(_CT),
        imaging_measurements=groups,
    )
    uid = derived_uid("sr", series.series_uid, origin.key(), title.text, repr(layers), repr(absent))
    dataset = highdicom.sr.Comprehensive3DSR(
        evidence=[*series.slices, *(_quoted(layer.written, series) for layer in layers)],
        content=content[0],
        series_instance_uid=derived_uid("series", uid),
        series_number=title.number,
        sop_instance_uid=uid,
        instance_number=1,
        is_complete=True,
        series_description=title.text,
        **equipment(origin),
    )
    finish(dataset, origin)
    return dataset


def _quoted(written: WrittenSegmentation, series: SourceSeries) -> Any:
    pydicom, _ = dicom_packages()
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = _SEGMENTATION_STORAGE, written.sop_instance_uid
    dataset.SeriesInstanceUID = written.series_instance_uid
    dataset.StudyInstanceUID = series.slices[0].StudyInstanceUID
    return dataset


def _observer(origin: Origin) -> Any:
    _, highdicom = dicom_packages()
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", MAKER, origin.version),
        name=MAKER,
        manufacturer_name=MAKER,
        model_name=MAKER,
        serial_number=origin.version,
    )
    return highdicom.sr.ObserverContext(observer_type=concept(_DEVICE), observer_identifying_attributes=device)


def _present(finding: Finding, written: WrittenSegmentation, series: SourceSeries, origin: Origin) -> Any:
    """Give the measurement group of a finding, TID 1411."""
    _, highdicom = dicom_packages()
    sr, segment = highdicom.sr, finding.segment
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=_SEGMENTATION_STORAGE,
            sop_instance_uid=written.sop_instance_uid,
            segment_number=written.numbers[segment.value],
            source_series=sr.SourceSeriesForSegmentation(series.series_uid),
        ),
        measurements=list(_measurements(finding)),
        qualitative_evaluations=[_evaluation(_COVERAGE, _CUT)] if finding.truncated else None,
        **_identification(segment, series, origin),
    )


def _absent(structure: StructureClass, series: SourceSeries, origin: Origin) -> Any:
    """Give the group of a class that was looked for in vain, TID 1501: it has no segment."""
    _, highdicom = dicom_packages()
    segment = CodedSegment(structure.id, structure.name, structure)
    return highdicom.sr.MeasurementsAndQualitativeEvaluations(
        qualitative_evaluations=[_evaluation(_PRESENCE, _ABSENT)], **_identification(segment, series, origin)
    )


def _identification(segment: CodedSegment, series: SourceSeries, origin: Origin) -> dict[str, Any]:
    _, highdicom = dicom_packages()
    site = site_of(segment)
    sides = None if site is None or site[1] is None else concept(site[1])
    return {
        "tracking_identifier": highdicom.sr.TrackingIdentifier(tracking_uid(series, origin, segment), segment.label),
        "finding_category": concept(category_of(segment.structure)),
        "finding_type": concept(type_of(segment.structure)),
        "finding_sites": None if site is None else [highdicom.sr.FindingSite(concept(site[0]), laterality=sides)],
        "algorithm_id": highdicom.sr.AlgorithmIdentification(
            name=MAKER, version=origin.version, family=concept(ARTIFICIAL_INTELLIGENCE)
        ),
    }


def _measurements(finding: Finding) -> Iterable[Any]:
    measured: list[tuple[Code, float | None, Code, Code | None]] = [
        (_VOLUME, finding.volume_ml, _CUBIC_CENTIMETER, None),
        (_ATTENUATION, finding.mean_hu, _HOUNSFIELD_UNIT, _MEAN),
        (_ATTENUATION, finding.sd_hu, _HOUNSFIELD_UNIT, _STANDARD_DEVIATION),
        (_LONG_AXIS, finding.long_axis_mm, _MILLIMETER, None),
        (_SHORT_AXIS, finding.short_axis_mm, _MILLIMETER, None),
    ]
    _, highdicom = dicom_packages()
    for name, value, unit, derivation in measured:
        if value is not None:
            yield highdicom.sr.Measurement(
                name=concept(name),
                value=round(value, 4),
                unit=concept(unit),
                derivation=None if derivation is None else concept(derivation),
            )


def _evaluation(name: Code, value: Code) -> Any:
    _, highdicom = dicom_packages()
    return highdicom.sr.QualitativeEvaluation(name=concept(name), value=concept(value))
