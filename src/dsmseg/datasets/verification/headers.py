"""What headers and file names tell, without reading a voxel."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsmseg.datasets.description import Description
from dsmseg.datasets.layout import CaseFiles, Found, case_order
from dsmseg.datasets.loading import agree, offset_mm, shape_text
from dsmseg.datasets.verification.findings import Finding, from_error
from dsmseg.errors import InputError
from dsmseg.volume import VOLUME_SUFFIXES, Grid, Volume, read_grid

_MOST_NAMED = 6
_COMPLETE_SHARE = 0.5  # a folder with fewer of the published cases is a part of the data set on purpose
_REAL_WIDTH = 512  # voxels of a slice as the scanner made it, whose spacing is never 1 mm to the last digit


def check_files(found: Found, published: Iterable[str], folder: Path) -> list[Finding]:
    """Check which cases are there: those published, those of the data set's own index, each with both halves."""
    return [*_lacking_halves(found, set(published)), *_count(found, set(published), folder), *_structures(found)]


def check_headers(case: CaseFiles, description: Description) -> list[Finding]:
    """Check the headers of one case: readable, labels where the image is, a real spacing."""
    findings = []
    try:
        image = read_grid(case.image)
    except InputError as error:
        return [from_error(description.name, case.id, error)]
    if image.spacing == (1.0, 1.0, 1.0) and max(image.shape) >= _REAL_WIDTH:
        findings.append(
            Finding(
                description.name,
                case.id,
                "spacing",
                f"{case.image} claims voxels of 1 x 1 x 1 mm, which no scanner makes at {_REAL_WIDTH} voxels a slice",
                "Set the true spacing in the headers of image and labels, if its source tells it.",
            )
        )
    if description.layout.kind != "PNG stack":
        wrong = [one for path in case.labels.values() for one in _check_labels(case, path, image, description)]
        if len(wrong) > 1:  # files of structures share their fault, as a rule
            others = f"{wrong[0].what} ({len(wrong)} of its {len(case.labels)} label files are faulty)"
            wrong = [replace(wrong[0], what=others)]
        findings += wrong
    return findings


def _check_labels(case: CaseFiles, path: Path, image: Grid, description: Description) -> list[Finding]:
    try:
        labels = read_grid(path)
    except InputError as error:
        return [from_error(description.name, case.id, error)]
    if agree(image, labels):
        return []
    here, there = _upright(image), _upright(labels)  # the same place may be stored in another order of axes
    if agree(here, there):
        return []
    untrusted = description.layout.placing[0] != "header"
    if untrusted and (labels.shape == image.shape or there.shape == here.shape):
        return []
    if labels.shape != image.shape and here.shape != there.shape:
        what = f"{path} has {shape_text(labels.shape)} voxels where its image has {shape_text(image.shape)}"
    else:
        what = f"{path} lies {offset_mm(here, there):.1f} mm off its image"
    mend = "Give the labels of this image, or resample them onto its grid (nearest neighbor)."
    if "voxels" in description.layout.placing and labels.shape == image.shape:
        mend = "Its header is wrong: `prepare` places it voxel by voxel; copy the image's header to mend the file."
    return [Finding(description.name, case.id, "grid", what, mend)]


def _upright(grid: Grid) -> Grid:
    """Give the grid in RAS order, as a volume of it would be."""
    nothing = np.broadcast_to(np.zeros((), np.uint8), grid.shape)
    return Volume.from_own(nothing, grid.affine).grid


def _lacking_halves(found: Found, published: set[str]) -> list[Finding]:
    name, layout = found.description.name, found.description.layout
    findings = []
    for case, path in found.only_images.items():
        # Data sets publish images without labels too: their own tests.
        if not published or case in published:
            labels = " or ".join(pattern.replace("{case}", case) for pattern in layout.labels)
            mend = f"Its labels belong at {labels}; unpack them, or take the image away."
            findings.append(Finding(name, case, "layout", f"{path} has no labels", mend))
    for case, path in found.only_labels.items():
        images = " or ".join(pattern.replace("{case}", case) for pattern in layout.images)
        mend = f"Its image belongs at {images}; unpack it, or take the labels away."
        findings.append(Finding(name, case, "layout", f"{path} has no image", mend))
    for case, paths in found.repeated.items():
        what = f"is there more than once, also as {', '.join(str(path) for path in paths[:_MOST_NAMED])}"
        findings.append(Finding(name, case, "layout", what, "Keep one of them."))
    withdrawn = found.description.withdrawn
    findings += [
        Finding(name, one.id, "withdrawn", withdrawn[one.id], "Take it away; `prepare` passes it over.")
        for one in found.cases
        if one.id in withdrawn
    ]
    return findings


def _count(found: Found, published: set[str], folder: Path) -> list[Finding]:
    description = found.description
    present = {case.id for case in found.cases}
    halves = present | found.only_images.keys() | found.only_labels.keys()
    findings = []
    if published and len(present & published) >= _COMPLETE_SHARE * len(published) and not published <= halves:
        missing = sorted(published - halves, key=case_order)
        what = f"{len(present & published)} of {len(published)} published cases are there; missing: {_named(missing)}"
        findings.append(Finding(description.name, None, "count", what, f"Get them from {description.where}."))
    listed = _listed(found, folder)
    for case in sorted(listed - halves, key=case_order):
        what = f"is listed in {description.layout.index}, but neither its image nor its labels are there"
        findings.append(Finding(description.name, case, "count", what, "Unpack it, or take it off the list."))
    return findings


def _structures(found: Found) -> list[Finding]:
    """Tell files of structures that a case lacks where most cases have them."""
    if found.description.layout.kind != "one file a structure":
        return []
    having = Counter(structure for case in found.cases for structure in case.labels)
    usual = {structure for structure, count in having.items() if count > len(found.cases) / 2}
    findings = []
    for case in found.cases:
        if lacking := sorted(usual - case.labels.keys()):
            what = f"has no file of {_named(lacking)}, which most cases have"
            findings.append(Finding(found.description.name, case.id, "layout", what, "Unpack the case again."))
    return findings


def _listed(found: Found, folder: Path) -> set[str]:
    """Give the cases that the data set's own index names; none where it has no index, or one that is not understood."""
    index = found.description.layout.index
    if index is None or not found.cases:
        return set()
    case = re.compile(
        f"(?:.*/)?({found.description.layout.case})(?:_0000)?(?:{'|'.join(map(re.escape, VOLUME_SUFFIXES))})"
    )
    for parent in found.cases[0].image.parents:
        try:
            entries = json.loads((parent / index).read_text(encoding="utf-8"))["training"]
            paths = [entry["image"] if isinstance(entry, dict) else entry for entry in entries]
            return {match[1] for path in paths if (match := case.fullmatch(str(path)))}
        except FileNotFoundError:
            if parent == folder:
                break
        except (OSError, ValueError, KeyError, TypeError):
            break
    return set()


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
