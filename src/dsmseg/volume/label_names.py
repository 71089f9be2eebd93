"""The names of labels that a label map's own header carries."""

import json
from pathlib import Path

from dsmseg.errors import InputError
from dsmseg.volume.itk_data import nrrd_fields
from dsmseg.volume.nifti import read_nifti_comments

_SEGMENTATION = ".seg.nrrd"


def read_label_names(path: Path) -> dict[int, str] | None:
    """Read which label is called what: a NIfTI of dsmseg tells in a comment, a .seg.nrrd of 3D Slicer in its fields.

    Returns:
        Label -> name, empty where a file of these kinds names none; None where a file of another kind says nothing.

    Raises:
        InputError: the file cannot be read.
    """
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            return _first_table(read_nifti_comments(path))
        return _segments(nrrd_fields(path)) if name.endswith(_SEGMENTATION) else None
    except OSError as error:
        told = f"cannot be read ({error.strerror or error})"
        raise InputError(told, where=path, mend="Check the path and its permissions.") from error


def _first_table(comments: list[str]) -> dict[int, str] | None:
    for comment in comments:
        try:
            return {int(label): str(name) for label, name in json.loads(comment)["labels"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):  # a comment of somebody else's
            continue
    return None


def _segments(fields: dict[str, str]) -> dict[int, str]:
    found = {}
    for key, value in fields.items():
        segment, _, what = key.partition("_")
        label = value.removeprefix("=")
        if segment.startswith("segment") and what == "labelvalue" and label.isdigit():
            found[int(label)] = fields.get(f"{segment}_name", f"={segment}").removeprefix("=")
    return found
