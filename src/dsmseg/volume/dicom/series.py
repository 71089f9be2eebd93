"""Which of the images in a folder are the scan."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dsmseg.errors import InputError
from dsmseg.volume.dicom.headers import SliceHeader

_MOST_NAMED_SERIES = 6


def the_scan(headers: Sequence[SliceHeader], where: Path) -> list[SliceHeader]:
    """Return the slices of the one CT series that forms a volume.

    Localizers, other modalities beside the CT, and CT images that all lie in one place (screen capture, dose
    report, contrast timing) are passed over. An anonymized file without a modality counts as CT; its intensities
    are checked later. Where every file has a series of its own, as some anonymizers write it, all are one series.

    Raises:
        InputError: no CT, or more than one CT series that forms a volume.
    """
    images = [header for header in headers if header.modality in ("CT", "")]
    if not images:
        found = ", ".join(sorted({header.modality for header in headers}))
        raise InputError(f"holds no CT but {found}", where=where, mend="Give the folder of a CT series.")
    slices = [header for header in images if "LOCALIZER" not in header.image_type.upper()]
    if not slices:
        raise InputError("holds only localizer images", where=where, mend="Give the folder of the axial series.")
    groups = defaultdict(list)
    for header in slices:
        groups[header.series].append(header)
    series = _rejoined(list(groups.values()))
    candidates = [group for group in series if len({header.position for header in group}) > 1] or series
    if len(candidates) > 1:
        raise InputError(
            f"holds {len(candidates)} CT series: {_listed(candidates)}",
            where=where,
            mend="Keep the files of one series in a folder of their own and give that.",
        )
    return candidates[0]


def _rejoined(groups: list[list[SliceHeader]]) -> list[list[SliceHeader]]:
    alone = len(groups) > 2 and all(len(group) == 1 for group in groups)
    places = {group[0].position for group in groups}
    return [[group[0] for group in groups]] if alone and len(places) == len(groups) else groups


def _listed(candidates: Sequence[Sequence[SliceHeader]]) -> str:
    texts = []
    for group in candidates[:_MOST_NAMED_SERIES]:
        first = min(header.name for header in group)
        texts.append(f"'{group[0].description or 'unnamed'}' ({len(group)} slices, {first} ...)")
    more = len(candidates) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")
