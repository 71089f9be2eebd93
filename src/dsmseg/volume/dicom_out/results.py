"""All of a result in DICOM: organs.dcm and tumors.dcm (SEG), and report.dcm (SR) on both."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dsmseg.taxonomy import StructureClass
from dsmseg.volume.dicom_out.origin import Origin
from dsmseg.volume.dicom_out.report import Finding, ReportedLayer, write_dicom_report
from dsmseg.volume.dicom_out.segmentation import SeriesTitle, write_dicom_seg
from dsmseg.volume.dicom_out.source import SourceSeries
from dsmseg.volume.grid import Volume

DICOM_FILES = ("organs.dcm", "tumors.dcm", "report.dcm")
_TITLES = {
    "organs": SeriesTitle(9101, "dsmseg organs"),
    "tumors": SeriesTitle(9102, "dsmseg tumors"),
    "report": SeriesTitle(9103, "dsmseg measurements"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A label map (X, Y, Z), and a finding for each label in it: an organ each, or a lesion each."""

    labels: NDArray[Any]
    findings: Sequence[Finding]


def write_dicom_results(
    folder: Path,
    *,
    series: SourceSeries,
    volume: Volume,
    organs: Layer,
    tumors: Layer,
    absent: Sequence[StructureClass],
    origin: Origin,
) -> list[str]:
    """Write a result into ``folder`` and name the files of `DICOM_FILES` that were written.

    A layer without a voxel has no SEG. ``absent`` are the classes that were looked for in vain: the report says so.

    Raises:
        InputError: as `write_dicom_seg`.
        OutputError: as `write_dicom_seg`.
    """
    files, reported = [], []
    for name, layer in (("organs", organs), ("tumors", tumors)):
        segments = [finding.segment for finding in layer.findings]
        path = folder / f"{name}.dcm"
        written = write_dicom_seg(
            path, layer.labels, volume, segments, series=series, origin=origin, title=_TITLES[name]
        )
        if written is not None:
            shown = [finding for finding in layer.findings if finding.segment.value in written.numbers]
            reported.append(ReportedLayer(shown, written))
            files.append(path.name)
    path = folder / "report.dcm"
    if write_dicom_report(path, reported, absent, series=series, origin=origin, title=_TITLES["report"]):
        files.append(path.name)
    return files
