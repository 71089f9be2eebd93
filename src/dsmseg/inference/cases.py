"""Finding cases: which scans the inputs hold, and a unique name for each."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsmseg.errors import InputError
from dsmseg.inference.segmentation import is_case_folder
from dsmseg.volume.dicom import is_ignored_name, looks_like_dicom
from dsmseg.volume.reading import SCAN_SUFFIXES

_KNOWN = f"{', '.join(sorted(SCAN_SUFFIXES))} or a DICOM folder"


@dataclass(frozen=True, slots=True)
class Case:
    """One scan: a file or a DICOM folder, and the name of its result folder."""

    name: str
    path: Path


def find_cases(inputs: Sequence[Path]) -> list[Case]:
    """List the cases in ``inputs``: scan files, DICOM folders, and folders of these or of folders with one scan each.

    A case has its file's or folder's name as it is given, also where that is a link; where two have the same one,
    their parents' names are put in front. A scan that is named twice is one case. Inside of folders, hidden files,
    files that are no scans and results of dsmseg are passed over.

    Raises:
        InputError: an input does not exist, cannot be read, is no scan, or is a folder without any; a folder of cases
            holds a folder with several scans.
    """
    places: dict[Path, Path] = {}
    for given in inputs:
        for path in _scans_of(Path(given)):
            places.setdefault(path.resolve(), _absolute(path))
    unique = list(places.values())
    return [Case(name, path) for name, path in zip(_unique_names(unique), unique, strict=True)]


def _scans_of(path: Path) -> list[Path]:
    try:
        if path.is_dir():
            return _scans_in(path)
        if not path.exists():
            raise InputError("does not exist", where=path, mend=f"Give {_KNOWN}, or a folder of them.")
        if not path.is_file() or not (_is_scan_file(path) or looks_like_dicom(path)):
            raise InputError("is no scan of a known format", where=path, mend=f"Give {_KNOWN}.")
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror or error})",
            where=error.filename or path,
            mend="Check the path and its permissions.",
        ) from error
    return [path]


def _scans_in(folder: Path) -> list[Path]:
    visible = _visible(folder)
    if is_case_folder(folder):
        raise InputError("is a result of dsmseg", where=folder, mend="Give the scan itself.")
    files = [entry for entry in visible if entry.is_file()]
    scans = [entry for entry in files if _is_scan_file(entry)]
    if not scans and any(looks_like_dicom(entry) for entry in files):
        return [folder]
    scans += [scan for entry in visible if entry.is_dir() for scan in _only_scan(entry)]
    if not scans:
        raise InputError("holds no scans", where=folder, mend=f"Give a folder that directly holds {_KNOWN}.")
    return sorted(scans)


def _only_scan(folder: Path) -> list[Path]:
    """Give the one scan that a case's own folder holds (``s0001/ct.nii.gz``), or the folder if it is a DICOM series."""
    scans = [entry for entry in _visible(folder) if entry.is_file() and _is_scan_file(entry)]
    if is_case_folder(folder):
        return []
    if len(scans) > 1:
        raise InputError(f"holds {len(scans)} scans", where=folder, mend="Name the one to segment.")
    return scans or ([folder] if _holds_dicom(folder) else [])


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not is_ignored_name(entry.name))


def _absolute(path: Path) -> Path:
    """Make a path absolute without following links, so that a case is called what its user calls it."""
    plain = Path(os.path.abspath(path))
    # What ".." behind a link means, only the file system knows.
    return plain if plain.exists() and plain.samefile(path) else path.resolve()


def _is_scan_file(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(SCAN_SUFFIXES) and not name.endswith(".seg.nrrd")


def _holds_dicom(folder: Path) -> bool:
    """Tell whether a series lies in the folder or below it, without opening what is a scan file by its name."""
    return any(
        looks_like_dicom(path)
        for path in folder.rglob("*")
        if not _is_scan_file(path) and not any(is_ignored_name(part) for part in path.relative_to(folder).parts)
    )


def _stem(path: Path) -> str:
    for suffix in SCAN_SUFFIXES:
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
