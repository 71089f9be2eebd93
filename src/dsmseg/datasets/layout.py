"""Finding cases: which data sets a folder holds, and which files are the image and the labels of each case."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dsmseg.datasets.description import Description
from dsmseg.errors import InputError
from dsmseg.volume import VOLUME_SUFFIXES, is_ignored_name

_LONGEST_ID = 200  # bytes; file systems take 255, and what is being written has a longer name
WHOLE = ""  # the key of a case's label file where one file holds all structures

_EXTENSION = "(?:" + "|".join(re.escape(suffix) for suffix in VOLUME_SUFFIXES) + ")"


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of one case.

    image: a file, or the folder of a DICOM series. labels: one file or folder under the key `WHOLE`, or a file for each
    structure under its name.
    """

    id: str
    image: Path
    labels: dict[str, Path]


@dataclass(frozen=True, slots=True)
class Found:
    """A data set in a folder.

    cases: those that are whole, in the order of their ids. only_images, only_labels: cases of which only that half is
    there. repeated: other places where a case's image or labels lie too.
    """

    description: Description
    cases: tuple[CaseFiles, ...]
    only_images: dict[str, Path] = field(default_factory=dict)
    only_labels: dict[str, Path] = field(default_factory=dict)
    repeated: dict[str, tuple[Path, ...]] = field(default_factory=dict)


def find_datasets(folder: Path, descriptions: Sequence[Description]) -> list[Found]:
    """Find which of the data sets ``folder`` holds, at any depth, and their cases.

    Raises:
        InputError: the folder does not exist or cannot be read.
    """
    paths = list_files(folder)
    matches = {one.name: _match(one, paths) for one in descriptions}
    _settle_claims(matches)
    found = [_pair(folder, one, matches[one.name]) for one in descriptions]
    return [one for one in found if one.cases or (one.only_images and one.only_labels)]


def list_files(folder: Path) -> list[str]:
    """List all files below a folder, as relative paths with ``/``, in order; links are followed, notes of systems not.

    Raises:
        InputError: the folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise InputError("is no folder", where=folder, mend="Give the folder that holds the data set.")

    def refuse(error: OSError) -> None:
        raise InputError(
            f"cannot be read ({error.strerror or error})", where=error.filename, mend="Check its permissions."
        ) from error

    paths = []
    above: dict[str, frozenset[tuple[int, int]]] = {}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        state = os.stat(parent)
        identity, ancestors = (state.st_dev, state.st_ino), above.get(os.path.dirname(parent), frozenset())
        if identity in ancestors:  # a link back up
            folders.clear()
            continue
        above[parent] = ancestors | {identity}
        folders[:] = sorted(name for name in folders if not is_ignored_name(name))
        prefix = Path(parent).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else f"{prefix}/"
        paths += [prefix + name for name in names if not is_ignored_name(name)]
    return sorted(paths)


class _Place(NamedTuple):
    case: str
    structure: str
    path: str


@dataclass(slots=True)
class _Matches:
    images: list[_Place]
    labels: list[_Place]


def _match(description: Description, paths: Iterable[str]) -> _Matches:
    layout, structures = description.layout, set(description.structures)
    patterns = [(_compiled(pattern, layout.case), True) for pattern in layout.images]
    patterns += [(_compiled(pattern, layout.case), False) for pattern in layout.labels]
    images: dict[_Place, None] = {}
    labels: dict[_Place, None] = {}
    for path in paths:
        for pattern, is_image in patterns:
            match = pattern.match(path)
            if match is None:
                continue
            named = match.groupdict()
            structure = named.get("structure", WHOLE)
            if _is_id(named["case"]) and (structure == WHOLE or structure in structures):
                place = _Place(named["case"], structure, named["path"])
                (images if is_image else labels)[place] = None
            break
    return _Matches(list(images), list(labels))


def _is_id(text: str) -> bool:
    """Tell whether a text can be the id of a case, which is also a folder of a store."""
    plain = "/" not in text and not text.startswith(".") and text.isprintable()
    return plain and 0 < len(text.encode()) <= _LONGEST_ID


def _compiled(pattern: str, case: str) -> re.Pattern[str]:
    """Make a pattern of a path's end a regular expression that also names the path itself."""
    expression, seen = "", set[str]()
    for part in re.split(r"(\{case\}|\{structure\}|\*)", pattern.removesuffix("/")):
        if part in ("{case}", "{structure}"):
            name, what = part[1:-1], case if part == "{case}" else "[^/]+?"
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>{what})"
            seen.add(name)
        else:
            expression += "[^/]*" if part == "*" else re.escape(part)
    tail = "/.+" if pattern.endswith("/") else ""
    extension = "" if tail else _EXTENSION
    return re.compile(f"(?P<path>(?:.*/)?{expression}{extension}){tail}$", re.IGNORECASE if extension else 0)


def _settle_claims(matches: dict[str, _Matches]) -> None:
    """Give an image that several data sets could own (``volume-1.nii``) to the one whose labels lie nearest to it."""
    claims: dict[str, list[str]] = defaultdict(list)
    for name, one in matches.items():
        for path in {place.path for place in one.images}:
            claims[path].append(name)
    for path, names in claims.items():
        if len(names) < 2:
            continue
        owner = max(sorted(names), key=lambda name: _claim(path, matches[name]))
        for name in names:
            if name != owner:
                matches[name].images = [place for place in matches[name].images if place.path != path]


def _claim(path: str, matches: _Matches) -> tuple[bool, int, int]:
    """How much speaks for an image to be of a data set: labels of its case, labels nearby, labels of its format."""
    cases = {place.case for place in matches.images if place.path == path}
    shared = [(*_shared(path, label), label.case in cases) for label in matches.labels]
    return max(((same_case, length, same_kind) for length, same_kind, same_case in shared), default=(False, -1, 0))


def _shared(path: str, label: _Place) -> tuple[int, int]:
    """How much of their paths an image and a label share; the more, the nearer. The same extension breaks a tie."""
    common = os.path.commonpath([path, label.path]) if "/" in path and "/" in label.path else ""
    return len(common), int(_extension(path) == _extension(label.path))


def _extension(path: str) -> str:
    return path.rsplit("/", 1)[-1].partition(".")[2]


def _pair(folder: Path, description: Description, matches: _Matches) -> Found:
    repeated: dict[str, list[Path]] = defaultdict(list)
    images: dict[str, Path] = {}
    labels: dict[str, dict[str, Path]] = defaultdict(dict)
    of_case: dict[str, list[_Place]] = defaultdict(list)
    for place in matches.labels:
        of_case[place.case].append(place)

    def nearness(place: _Place) -> tuple[int, int]:
        return max((_shared(place.path, label) for label in of_case[place.case]), default=(-1, 0))

    # Of a case that is there twice, image and labels of the same copy belong together: those that lie nearest.
    for place in sorted(matches.images, key=nearness, reverse=True):
        path = folder / place.path
        if _is_another(images.setdefault(place.case, path), path):
            repeated[place.case].append(path)
    for place in sorted(matches.labels, key=lambda one: _to_image(one, images, folder), reverse=True):
        path = folder / place.path
        if _is_another(labels[place.case].setdefault(place.structure, path), path):
            repeated[place.case].append(path)
    whole = sorted(images.keys() & labels.keys(), key=case_order)
    return Found(
        description=description,
        cases=tuple(CaseFiles(case, images[case], labels[case]) for case in whole),
        only_images={case: images[case] for case in sorted(images.keys() - labels.keys(), key=case_order)},
        only_labels={
            case: next(iter(labels[case].values())) for case in sorted(labels.keys() - images.keys(), key=case_order)
        },
        repeated={case: tuple(paths) for case, paths in repeated.items()},
    )


def _is_another(known: Path, path: Path) -> bool:
    return known != path and known.resolve() != path.resolve()


def _to_image(label: _Place, images: dict[str, Path], folder: Path) -> tuple[int, int]:
    image = images.get(label.case)
    return (-1, 0) if image is None else _shared(image.relative_to(folder).as_posix(), label)


def case_order(case: str) -> tuple[str | int, ...]:
    """Sort ids as people do: 2 before 10."""
    return tuple(int(part) if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", case)))
