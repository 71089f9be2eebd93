"""A segmentation as DICOM: what `dsmseg.volume.dicom_out` needs to know of it."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmseg.errors import InputError
from dsmseg.inference.lesions import lesion_labels
from dsmseg.taxonomy import StructureClass, find

if TYPE_CHECKING:
    from dsmseg.inference.segmentation import Segmentation
    from dsmseg.volume.dicom_out import Finding

_MOST_LESIONS = 1000  # they would take a minute already
_NO_SERIES = "the scan did not come from a DICOM series, which DICOM output needs"


def write_dicom(folder: Path, segmentation: "Segmentation", statistics: Mapping[str, Any]) -> None:
    """Write organs.dcm, tumors.dcm and report.dcm into ``folder``; a layer without a voxel has no file.

    Raises:
        InputError: the scan is no DICOM series, or one that results cannot refer to; pydicom or highdicom is missing.
        OutputError: the place cannot be written to.
    """
    from dsmseg.volume.dicom_out import Layer, Origin, read_source_series, write_dicom_results

    if segmentation.source is None:
        raise InputError(_NO_SERIES, mend="Give the DICOM folder, or choose nifti or seg.nrrd.")
    run, tumors = segmentation.run, segmentation.chosen("tumor")
    if len(segmentation.lesions) > _MOST_LESIONS:
        raise InputError(
            f"{len(segmentation.lesions)} lesions are more than a report can hold ({_MOST_LESIONS})",
            where=segmentation.source,
            mend="Choose nifti or seg.nrrd.",
        )
    found = {row["name"] for kind in ("organs", "lesions") for row in statistics[kind] if row.get("voxels", 1)}
    write_dicom_results(
        folder,
        series=read_source_series(segmentation.source),
        volume=segmentation.volume,
        organs=Layer(segmentation.organs, list(_organs(statistics))),
        tumors=Layer(lesion_labels(segmentation.tumors, tumors), list(_lesions(segmentation))),
        absent=[one for one in segmentation.classes if one.name not in found],
        origin=Origin(run["dsmseg"], _settings(run), datetime.fromisoformat(run["date"]).astimezone()),
    )


def check_dicom_source(source: Path) -> None:
    """Refuse a scan that DICOM results could not refer to.

    Raises:
        InputError: as for `write_dicom`.
    """
    from dsmseg.volume.dicom_out import read_source_series

    read_source_series(source)


def _organs(statistics: Mapping[str, Any]) -> Iterator["Finding"]:
    from dsmseg.volume.dicom_out import CodedSegment, Finding

    for row in statistics["organs"]:
        if row["voxels"]:
            segment = CodedSegment(row["id"], row["name"], find(row["name"]))
            yield Finding(segment, row["volume_ml"], row["mean_hu"], row["sd_hu"], row["truncated"])


def _lesions(segmentation: "Segmentation") -> Iterator["Finding"]:
    from dsmseg.volume.dicom_out import CodedSegment, Finding

    for lesion in segmentation.lesions:
        host: StructureClass | None = None if lesion.host is None else find(lesion.host)
        yield Finding(
            CodedSegment(lesion.id, f"{lesion.name} {lesion.id}", find(lesion.name), host),
            lesion.volume_ml,
            lesion.mean_hu,
            lesion.sd_hu,
            lesion.truncated,
            lesion.long_axis_mm,
            lesion.short_axis_mm,
        )


def _settings(run: Mapping[str, Any]) -> dict[str, str]:
    weights = run["weights"]
    return {
        "weights": f"{weights['name']} {weights['version']}",
        "sha256": weights["sha256"],
        "overlap": str(run["overlap"]),
        "precision": run["dtype"],
    }
