"""Finding cases: which scans the inputs hold, and a unique name for each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmseg.errors import InputError
from dsmseg.volume.dicom import has_dicom_mark

_SCAN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".zip")
_KNOWN = ".nii, .nii.gz, .nrrd, .mha, .mhd, .zip or a DICOM folder"


@dataclass(frozen=True, slots=True)
class Case:
    """One scan: a file or a DICOM folder, and the name of its result folder."""

    name: str
    path: Path


def find_cases(inputs: Sequence[Path]) -> list[Case]:
    """List the cases in ``inputs``: scan files, DICOM folders, and folders of these or of folders with one scan each.

    A case has its file's or folder's name; where two have the same one, their parents' names are put in front. A scan
    that is named twice is one case. Hidden files and files that are no scans are passed over inside of folders.

    Raises:
        InputError: an input does not exist, is no scan, or is a folder without any.
    """
    paths = [path for given in inputs for path in _scans_of(Path(given))]
    unique = list({path.resolve(): None for path in paths})
    return [Case(name, path) for name, path in zip(_unique_names(unique), unique, strict=True)]


def _scans_of(path: Path) -> list[Path]:
    if path.is_file():
        if not _is_scan_file(path) and not _is_dicom(path):
            raise InputError("is no scan of a known format", where=path, mend=f"Give {_KNOWN}.")
        return [path]
    if not path.is_dir():
        raise InputError("does not exist", where=path, mend=f"Give {_KNOWN}, or a folder of them.")
    try:
        visible = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        files = [entry for entry in visible if entry.is_file()]
        scans = [entry for entry in files if _is_scan_file(entry)]
        if not scans and any(_is_dicom(entry) for entry in files):
            return [path]
        for folder in (entry for entry in visible if entry.is_dir()):
            scans += _only_scan(folder) or ([folder] if _holds_dicom(folder) else [])
    except OSError as error:
        raise InputError(
            f"cannot be listed ({error.strerror})", where=path, mend="Give a folder that can be read."
        ) from error
    if not scans:
        raise InputError("holds no scans", where=path, mend=f"Give a folder that directly holds {_KNOWN}.")
    return sorted(scans)


def _only_scan(folder: Path) -> list[Path]:
    """Give the one scan file that a case's own folder holds (``s0001/ct.nii.gz``); among several none is chosen."""
    scans = [entry for entry in folder.iterdir() if entry.is_file() and _is_scan_file(entry)]
    return scans if len(scans) == 1 else []


def _is_scan_file(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(_SCAN_SUFFIXES) and not name.endswith(".seg.nrrd")


def _holds_dicom(folder: Path) -> bool:
    """Tell whether a series lies in the folder or below it, without opening what is a scan file by its name."""
    return any(_is_dicom(path) for path in folder.rglob("*") if path.is_file() and not _is_scan_file(path))


def _is_dicom(path: Path) -> bool:
    """Old DICOM files without a mark show by their suffix alone."""
    return path.suffix.lower() in (".dcm", ".ima") or has_dicom_mark(path)


def _stem(path: Path) -> str:
    for suffix in _SCAN_SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix) and not path.is_dir():
            return path.name[: -len(suffix)]
    return path.name or "scan"


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Names that differ even on file systems that ignore case."""
    stems = [_stem(path) for path in paths]
    together = Counter((path.parent, stem.casefold()) for path, stem in zip(paths, stems, strict=True))
    # Neighbors such as ct.nii and ct.nrrd share all parents: only their whole names differ.
    stems = [
        path.name.replace(".", "_") if together[path.parent, stem.casefold()] > 1 else stem
        for path, stem in zip(paths, stems, strict=True)
    ]
    names = list(stems)
    for depth in range(1, max((len(path.parts) for path in paths), default=0)):
        taken = Counter(name.casefold() for name in names)
        if len(taken) == len(names):
            break
        names = [
            "_".join([*(path.parent.parts[1:][-depth:]), stem]) if taken[name.casefold()] > 1 else name
            for path, stem, name in zip(paths, stems, names, strict=True)
        ]
    return _numbered(names)


def _numbered(names: Sequence[str]) -> list[str]:
    """Number what even all parents do not tell apart, such as a_b/c and a/b_c."""
    unique: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in {one.casefold() for one in unique}:
            number += 1
            candidate = f"{name}_{number}"
        unique.append(candidate)
    return unique
