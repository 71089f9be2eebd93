"""Results as DICOM: segmentations (SEG) and a structured report (SR) that refer to the CT series they came from.

Start reading at `write_dicom_results`. This needs the extra ``dsmseg[dicom]``, which is imported when it is used.
"""

from dsmseg.volume.dicom_out.origin import Origin
from dsmseg.volume.dicom_out.report import Finding, ReportedLayer, write_dicom_report
from dsmseg.volume.dicom_out.results import DICOM_FILES, Layer, write_dicom_results
from dsmseg.volume.dicom_out.segmentation import SeriesTitle, WrittenSegmentation, write_dicom_seg
from dsmseg.volume.dicom_out.segments import CodedSegment
from dsmseg.volume.dicom_out.source import SourceSeries, read_source_series

__all__ = [
    "DICOM_FILES",
    "CodedSegment",
    "Finding",
    "Layer",
    "Origin",
    "ReportedLayer",
    "SeriesTitle",
    "SourceSeries",
    "WrittenSegmentation",
    "read_source_series",
    "write_dicom_report",
    "write_dicom_results",
    "write_dicom_seg",
]
