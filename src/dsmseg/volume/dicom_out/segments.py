"""What a DICOM segment is called and coded as."""

from dataclasses import dataclass
from typing import Any

from dsmseg.taxonomy import Code, StructureClass, find
from dsmseg.volume.dicom_out.extra import dicom_packages

SCHEME = "99DSMSEG"
ARTIFICIAL_INTELLIGENCE = Code("123109", "Artificial Intelligence", "DCM")
_ANATOMY = Code("91723000", "Anatomical Structure")
_MORPHOLOGY = Code("49755003", "Morphologically Abnormal Structure")


@dataclass(frozen=True, slots=True)
class CodedSegment:
    """One label of a label map that becomes a segment.

    Attributes:
        value: in the label map, 1..65535.
        label: how people tell it from the others, at most 64 characters: "Liver", "Liver Tumor 2". It also tracks it.
        structure: its class.
        host: of a tumor, the organ that it lies in; None where that is unknown, and for an organ.
    """

    value: int
    label: str
    structure: StructureClass
    host: StructureClass | None = None


def category_of(structure: StructureClass) -> Code:
    """Give the code of what kind of thing it is, of DICOM's CID 7150."""
    return _ANATOMY if structure.kind == "organ" else _MORPHOLOGY


def type_of(structure: StructureClass) -> Code:
    """Give the code of what it is: of SNOMED CT, or of a scheme of our own where the taxonomy knows none."""
    return structure.snomed or Code(f"CLASS-{structure.id}", structure.name, SCHEME)


def site_of(segment: CodedSegment) -> tuple[Code, Code | None] | None:
    """Give the code of the organ that a segment is, or lies in, and that of its side.

    Of a tumor whose host is unknown that is what all hosts of its class share (kidney, without a side), or None.
    """
    structure, host = segment.structure, segment.host
    organ = structure if structure.kind == "organ" else host
    if organ is not None:
        return type_of(organ), organ.laterality
    shared = {type_of(find(name)) for name in structure.hosts}
    return (shared.pop(), None) if len(shared) == 1 else None


def concept(code: Code) -> Any:
    """Give highdicom's form of a code."""
    _, highdicom = dicom_packages()
    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)


def description(number: int, segment: CodedSegment, tracking_uid: str, algorithm: Any) -> Any:
    """Give highdicom's description of a segment; a side and a tumor's host go beside the code of what it is."""
    _, highdicom = dicom_packages()
    structure = segment.structure
    described = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label,
        segmented_property_category=concept(category_of(structure)),
        segmented_property_type=concept(type_of(structure)),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid,
        tracking_id=segment.label,
        anatomic_regions=None if structure.kind == "organ" else _regions(segment),
        display_color=highdicom.color.CIELabColor.from_rgb(*structure.color),
    )
    if structure.laterality:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(structure.laterality)]
    return described


def _regions(segment: CodedSegment) -> list[Any] | None:
    site = site_of(segment)
    if site is None:
        return None
    organ, side = site
    region = concept(organ)
    if side is not None:
        region.AnatomicRegionModifierSequence = [concept(side)]
    return [region]
