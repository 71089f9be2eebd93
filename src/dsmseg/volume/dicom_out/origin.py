"""What DICOM results say of where they come from, and UIDs that follow from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dsmseg.volume.dicom_out.extra import dicom_packages
from dsmseg.volume.dicom_out.segments import SCHEME, CodedSegment
from dsmseg.volume.dicom_out.source import SourceSeries
from dsmseg.volume.dicom_out.uids import derived_uid

MAKER = "dsmseg"
_LONGEST_TEXT = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a result.

    Attributes:
        version: of the software.
        settings: what it ran with, such as the weights' name and checksum; written as the algorithm's parameters.
        when: the date and time that files carry. The same result with the same ``when`` gives the same bytes.
    """

    version: str
    settings: Mapping[str, str]
    when: datetime

    def text(self) -> str:
        """Give version and settings as one line of JSON."""
        return json.dumps([self.version, dict(self.settings)], sort_keys=True)

    def key(self) -> str:
        """Give all of it as one line."""
        return f"{self.text()} {self.when.isoformat()}"


def tracking_uid(series: SourceSeries, origin: Origin, segment: CodedSegment) -> str:
    """Give the UID by which SEG and SR mean the same finding."""
    return derived_uid("finding", series.series_uid, origin.text(), segment.label)


def equipment(origin: Origin) -> dict[str, Any]:
    """Give what every object says of the software and of its time, as highdicom's arguments."""
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": origin.version[:_LONGEST_TEXT],
        "device_serial_number": origin.version[:_LONGEST_TEXT],
        "content_date": origin.when.date(),
        "content_time": origin.when.time(),
        "series_date": origin.when.date(),
        "series_time": origin.when.time(),
    }


def finish(dataset: Any, origin: Origin) -> None:
    """Set what highdicom draws by chance or by the clock, and name our coding scheme."""
    pydicom, _ = dicom_packages()
    dataset.InstanceCreationDate = origin.when.strftime("%Y%m%d")
    dataset.InstanceCreationTime = origin.when.strftime("%H%M%S")
    for item in dataset.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = origin.when.strftime("%Y%m%d%H%M%S")
    if "DimensionOrganizationSequence" in dataset:
        organization = derived_uid("dimensions", str(dataset.SOPInstanceUID))
        for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
            item.DimensionOrganizationUID = organization
    scheme = pydicom.Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Classes of dsmseg"
    scheme.CodingSchemeResponsibleOrganization = MAKER
    dataset.CodingSchemeIdentificationSequence = [scheme]
