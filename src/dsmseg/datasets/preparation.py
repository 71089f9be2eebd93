"""One case from its files into the store."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int16
from numpy.typing import NDArray

from dsmseg.datasets.description import Description
from dsmseg.datasets.labelling import ClassLabels, label_classes
from dsmseg.datasets.layout import CaseFiles, list_files
from dsmseg.datasets.loading import LoadedCase, load_case
from dsmseg.datasets.store import (
    CaseRecord,
    SourceFile,
    Store,
    StoredCase,
    as_rows,
    record_path,
    write_case,
)
from dsmseg.datasets.verification.content import Body, check_content, find_body
from dsmseg.datasets.verification.findings import Check, Finding
from dsmseg.errors import InputError
from dsmseg.files import checksum, replacing_folder, write_json
from dsmseg.taxonomy import find
from dsmseg.volume import bounding_box, source_files

VERSION = 1  # of what this file does with a case; a new number prepares all cases anew
MARGIN_MM = 9.0  # air that is kept around the body
MOST_LOCATIONS = 2000
_PERCENTILES = (0.5, 50.0, 99.5)

Hu = Float[NDArray[np.float32], "x y z"]


@dataclass(frozen=True, slots=True)
class Job:
    """A case to prepare. accepted: checks that must not keep it out."""

    files: CaseFiles
    description: Description
    accepted: frozenset[Check] = frozenset()


def prepare_case(job: Job, store: Store) -> list[Finding]:
    """Prepare one case, and write it whole or not at all.

    Returns:
        What keeps it out of the store; empty where it was written.

    Raises:
        InputError: a file cannot be read, or the labels do not lie on the scan.
        OutputError: the store cannot be written to.
    """
    started = time.time_ns()
    settings = store.settings
    sources = _sources(job.files)  # before they are read: what changes meanwhile is not what the record says
    loaded = load_case(job.files, job.description, settings.spacing)
    body = find_body(loaded.image.array)
    findings = check_content(job.files.id, loaded, job.description, body)
    against = [one for one in findings if one.check != "grid" and one.check not in job.accepted]
    if against:
        return against
    box = _box(loaded, body, settings.spacing)
    labels = label_classes(
        loaded.structures.cropped(box),
        job.description,
        settings.spacing,
        None if body.middle is None else body.middle - box[0].start,
        case=job.files.id,
    )
    hu = loaded.image.array[box]
    low, high = settings.hu_window
    locations = find_locations(labels)
    record = _record(job, sources, loaded, body, labels, box, [one.line for one in findings])
    folder = store.case_folder(job.description.name, job.files.id)
    with replacing_folder(folder) as temporary:
        write_case(
            temporary,
            record,
            image=np.rint(np.clip(hu, low, high)).astype(np.int16),
            codes=labels.codes,
            locations=locations,
            fingerprint=loaded.print,
        )
        # A source that changes from now on is newer than this, also while it was read.
        os.utime(record_path(temporary), ns=(started, started))
    return []


def is_up_to_date(job: Job, stored: StoredCase | None) -> bool:
    """Tell whether a case in the store was made from just these files, described as they are now.

    Files that have not changed since then are not read; of the others, the checksums decide.
    """
    if stored is None or stored.record.description != description_hash(job.description) or not stored.is_whole():
        return False
    if not all(any(f": {check}: " in line for check in {*job.accepted, "grid"}) for line in stored.record.accepted):
        return False  # it was taken in spite of a check that may not be passed over now
    try:
        return _are_unchanged(job.files, stored)
    except (OSError, InputError):  # a file that cannot be read now: preparing the case tells
        return False


def _are_unchanged(files: CaseFiles, stored: StoredCase) -> bool:
    record = record_path(stored.folder)
    now = time.time_ns()
    sources = _source_files(files)
    known = {one.name: one for one in stored.record.sources}
    if sources.keys() != known.keys():
        return False
    if any(sum(path.stat().st_size for path in paths) != known[name].bytes for name, paths in sources.items()):
        return False
    made = record.stat().st_mtime_ns
    unchanged = all(state_of(paths) == known[name].state for name, paths in sources.items())
    latest = max(max(one.st_mtime_ns, one.st_ctime_ns) for paths in sources.values() for one in map(Path.stat, paths))
    if unchanged and latest < made:
        return True
    current = tuple(_sources(files))
    if [one.sha256 for one in current] != [one.sha256 for one in stored.record.sources]:
        return False
    if current != stored.record.sources:  # so that they need not be read again
        write_json(record, stored.record.model_copy(update={"sources": current}).model_dump(mode="json"))
    os.utime(record, ns=(now, now))
    return True


def description_hash(description: Description) -> str:
    """Give the checksum of all that decides how a data set's cases are prepared."""
    deciding = {"layout", "labels", "classes", "separated", "optional"}
    text = f"{VERSION} {description.model_dump_json(include=deciding)}"
    if description.unknown or description.absent or description.unlabelled:  # others are older than these settings
        text += description.model_dump_json(include={"unknown", "absent", "unlabelled"})
    return hashlib.sha256(text.encode()).hexdigest()


def find_locations(labels: ClassLabels) -> dict[int, Int16[NDArray[np.int16], "n 3"]]:
    """Give up to `MOST_LOCATIONS` voxels of each class that is there, evenly spaced in the order of memory."""
    codes, shape = labels.codes.ravel(), labels.codes.shape
    places = np.flatnonzero(codes)
    found, table = codes[places], labels.table
    locations = {}
    for class_id in labels.annotated:
        of_class = places[table[:, class_id - 1][found]]
        if of_class.size:
            chosen = of_class[_evenly(of_class.size)]
            locations[class_id] = np.stack(np.unravel_index(chosen, shape), axis=1).astype(np.int16)
    return locations


def _evenly(count: int) -> NDArray[np.int64]:
    kept = min(count, MOST_LOCATIONS)
    return (np.arange(kept) * count) // kept


def _box(loaded: LoadedCase, body: Body, spacing: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """Give the box around the body and everything that is labelled, with a margin."""
    labelled = loaded.structures.mask(loaded.structures.present)
    inside = bounding_box(body.mask | labelled)
    if inside is None:
        return slice(0, labelled.shape[0]), slice(0, labelled.shape[1]), slice(0, labelled.shape[2])
    x, y, z = (
        slice(max(0, side.start - round(MARGIN_MM / step)), min(size, side.stop + round(MARGIN_MM / step)))
        for side, step, size in zip(inside, spacing, labelled.shape, strict=True)
    )
    return x, y, z


def _record(
    job: Job,
    sources: Sequence[SourceFile],
    loaded: LoadedCase,
    body: Body,
    labels: ClassLabels,
    box: tuple[slice, slice, slice],
    accepted: list[str],
) -> CaseRecord:
    affine = loaded.image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in box]
    counts = np.bincount(labels.codes.ravel(), minlength=len(labels.sets))
    voxels = {one: int(counts[labels.table[:, one - 1]].sum()) for one in labels.annotated}
    return CaseRecord(
        dataset=job.description.name,
        case=job.files.id,
        sources=tuple(sources),
        description=description_hash(job.description),
        shape=labels.codes.shape,
        affine=as_rows(affine),
        own_shape=loaded.own.shape,
        own_affine=as_rows(loaded.own.affine),
        placing=loaded.placing,
        sets=labels.sets,
        annotated=labels.annotated,
        merged=labels.merged,
        voxels=voxels,
        body_ml=round(float(np.count_nonzero(body.mask)) * loaded.image.grid.voxel_volume_ml, 1),
        hu=_statistics(loaded.image.array, body.mask),
        accepted=tuple(accepted),
        absent=tuple(sorted(find(name).id for name in job.description.absent.get(job.files.id, ()))),
    )


def _statistics(hu: Hu, body: Bool[NDArray[np.bool_], "x y z"]) -> dict[str, float]:
    inside = hu[body]
    if inside.size == 0:
        return {}
    low, middle, high = np.percentile(inside, _PERCENTILES)
    found = {
        "mean": inside.mean(dtype=np.float64),
        "std": inside.std(dtype=np.float64),
        "percentile_0.5": low,
        "median": middle,
        "percentile_99.5": high,
    }
    return {name: round(float(value), 3) for name, value in found.items()}


def _source_files(files: CaseFiles) -> dict[str, list[Path]]:
    """Give the files behind a case, by what they are for."""
    return {name: _plain_files(path) for name, path in {"image": files.image, **_label_names(files)}.items()}


def _label_names(files: CaseFiles) -> Mapping[str, Path]:
    return {f"labels {name}".strip(): path for name, path in sorted(files.labels.items())}


def _plain_files(path: Path) -> list[Path]:
    return [path / name for name in list_files(path)] if path.is_dir() else source_files(path) or [path]


def _sources(files: CaseFiles) -> list[SourceFile]:
    """Give size and checksum of a case's files.

    Raises:
        InputError: one cannot be read.
    """
    sources = []
    for name, paths in _source_files(files).items():
        digest = checksum(paths)
        try:
            size = sum(path.stat().st_size for path in paths)
            state = state_of(paths)
        except OSError as error:
            mend = "Check the path and its permissions."
            where = error.filename or paths[0]
            raise InputError(f"cannot be read ({error.strerror or error})", where=where, mend=mend) from error
        sources.append(SourceFile(name=name, bytes=size, sha256=digest, state=state))
    return sources


def state_of(paths: Sequence[Path]) -> str:
    """Give a checksum of the names, sizes and times of files, which tells without reading that nothing has changed."""
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(states).encode("utf-8", "backslashreplace")).hexdigest()[:16]
