"""Synthetic cases as files: the CT, the label maps of its organs and tumors, and a record of what was made."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.files import replacing_folder, write_json
from dsmseg.synthesis.anatomy import phantom_anatomy, totalsegmentator
from dsmseg.synthesis.bodies import draw_whole, read_body
from dsmseg.synthesis.cases import Case
from dsmseg.synthesis.scanner import as_stored
from dsmseg.synthesis.tumors import Neighbors, insert_tumor
from dsmseg.taxonomy import ORGANS, TUMORS, find
from dsmseg.volume import Volume, read_labels, read_scan, write_nifti

_NAMES = {one.id: one.name for one in (*ORGANS, *TUMORS)}


def write_case(case: Case, directory: Path, *, overwrite: bool = False) -> None:
    """Write ``ct``, ``organs`` and ``tumors`` (.nii.gz) and ``record.json``: the whole folder or none of it.

    Raises:
        InputError: the folder exists and shall not be replaced.
        OutputError: it cannot be written.
    """
    refuse_existing(directory, overwrite)
    volume = Volume.from_own(case.image, case.affine)
    organs, tumors = case.organs(), case.tumors
    with replacing_folder(directory) as folder:
        write_nifti(folder / "ct.nii.gz", case.image, volume)
        write_nifti(folder / "organs.nii.gz", organs, volume, names=_present(organs))
        write_nifti(folder / "tumors.nii.gz", tumors, volume, names=_present(tumors))
        write_json(folder / "record.json", case.record)


def remake_body(labels: Path, output: Path, seed: int, spacing: float, *, organs: bool, overwrite: bool) -> None:
    """Make a scan of a body that a label map describes; writes ``ct`` and ``organs`` (.nii.gz) and ``record.json``.

    Args:
        labels: TotalSegmentator (v2) ids or, with ``organs``, ids of the taxonomy.
        output: the folder to write. seed: of all chance. spacing: mm.
        overwrite: replace what is there.

    Raises:
        InputError: the label map cannot be read or used.
        OutputError: the folder cannot be written.
    """
    refuse_existing(output, overwrite)
    _refuse_losing(output, [labels])
    body = read_body(labels, None, phantom_anatomy() if organs else totalsegmentator(), organs=organs)
    made = draw_whole(body, spacing, seed)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(made.image.shape) - 1) / 2
    image = as_stored(made.image.numpy())
    volume, found = Volume.from_own(image, affine), made.organs.numpy()
    with replacing_folder(output) as folder:
        write_nifti(folder / "ct.nii.gz", image, volume)
        write_nifti(folder / "organs.nii.gz", found, volume, names=_present(found))
        write_json(folder / "record.json", {"labels": labels.name, "seed": seed, "spacing_mm": spacing})


def add_tumor(
    scan: Path,
    organ_mask: Path,
    kind: str,
    seed: int,
    output: Path,
    *,
    label: int | None = None,
    vessels: Path | None = None,
    phase: str | None = None,
    diameter_mm: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Grow a tumor in a CT; writes ``ct``, ``tumor`` and ``organ`` (.nii.gz) and ``record.json`` on the scan's grid.

    Args:
        scan: the CT. organ_mask: the host, or a label map in which ``label`` is the host.
        kind: a tumor of the taxonomy. seed: of all chance. output: the folder to write.
        vessels: a mask; tumors that grow along vessels are put beside one.
        phase, diameter_mm: as `insert_tumor` takes them.

    Returns:
        What is in ``record.json``.

    Raises:
        InputError: a file cannot be read, the mask does not lie on the scan's grid or is ambiguous, or the output would
            replace an input.
        OutputError: the folder cannot be written.
    """
    refuse_existing(output, overwrite)
    _refuse_losing(output, [scan, organ_mask] if vessels is None else [scan, organ_mask, vessels])
    if find(kind).kind != "tumor":
        raise InputError(f"'{kind}' is an organ", where="--kind", mend="Name a tumor, such as 'Liver Tumor'.")
    volume = read_scan(scan)
    host = _read_mask(organ_mask, volume, scan, label)
    beside = None if vessels is None else _read_mask(vessels, volume, scan, None)
    image = np.ascontiguousarray(volume.array, np.float32)
    grown = insert_tumor(
        image, host, volume.spacing, kind, seed, phase=phase, neighbors=Neighbors(beside), diameter_mm=diameter_mm
    )
    record = dict(grown.record) | {"scan": scan.name, "organ_mask": organ_mask.name, "label": label}
    with replacing_folder(output) as folder:
        write_nifti(folder / "ct.nii.gz", _as_read(image, grown.image), volume)
        write_nifti(folder / "tumor.nii.gz", grown.mask, volume, names={1: find(kind).name})
        write_nifti(folder / "organ.nii.gz", grown.host, volume, names={1: " or ".join(find(kind).hosts)})
        write_json(folder / "record.json", record)
    return record


def refuse_existing(directory: Path, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Raises:
        InputError: the folder exists, and is not to be replaced; or it is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError("is a file", where=directory, mend="Name a folder to write to.")
    if directory.exists() and any(directory.iterdir()) and not overwrite:
        raise InputError("exists", where=directory, mend="Add --overwrite, or choose another folder.")


def _refuse_losing(directory: Path, inputs: list[Path]) -> None:
    for path in inputs:
        if path.resolve().is_relative_to(directory.resolve()):
            raise InputError(f"holds {path.name}, which is read", where=directory, mend="Choose another folder.")


def _read_mask(path: Path, volume: Volume, scan: Path, label: int | None) -> NDArray[np.bool_]:
    labels = read_labels(path)
    same = labels.array.shape == volume.array.shape and np.allclose(
        labels.affine, volume.affine, atol=0.02 * min(volume.spacing)
    )
    if not same:
        raise InputError(f"does not lie on the grid of {scan}", where=path, mend="Give the mask of this scan.")
    values = np.unique(labels.array)
    values = values[values != 0]
    if label is None and len(values) > 1:
        raise InputError(
            f"holds {len(values)} labels", where=path, mend=f"Say which is the organ: --label {values[0]}, for example."
        )
    if label is not None and label not in values:
        raise InputError(f"holds no label {label}", where=path, mend=f"It holds {_few(values)}.")
    if not len(values):
        raise InputError("is empty", where=path, mend="Give the mask of the organ that the tumor shall grow in.")
    return np.ascontiguousarray(labels.array == (values[0] if label is None else label))


def _few(values: NDArray[Any]) -> str:
    text = ", ".join(str(value) for value in values[:8])
    return text + (", ..." if len(values) > 8 else "") or "nothing"


def _as_read(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[Any]:
    """Give whole numbers, as scans hold them, where the scan held such."""
    rounded = np.rint(after)
    whole = np.array_equal(np.rint(before), before) and rounded.min() >= -32768 and rounded.max() <= 32767
    return rounded.astype(np.int16) if whole else after


def _present(labels: NDArray[np.uint8]) -> dict[int, str]:
    return {int(value): _NAMES[int(value)] for value in np.flatnonzero(np.bincount(labels.ravel())) if value}
