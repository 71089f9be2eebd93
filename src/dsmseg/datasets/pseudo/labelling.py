"""Scans into a data set with pseudo-labels, case by case; a run that was stopped goes on where it was.

What comes out is a folder of nnU-Net's layout, which `dsmseg datasets prepare` reads: ``imagesTr``, ``labelsTr`` with
the taxonomy's ids and one more for voxels of which nothing is known, ``dataset.json``; beside it ``pictures`` to look
at, ``cases`` with what was done, and ``findings.csv`` with what was found of each organ and what spoke against it.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray

from dsmseg import __version__, checkpoint
from dsmseg.datasets.atlas import atlas
from dsmseg.datasets.loading import agree as grids_agree
from dsmseg.datasets.preparation import state_of
from dsmseg.datasets.pseudo.agreement import LOOKS, agree, look_at
from dsmseg.datasets.pseudo.plausibility import OrganReport, centers_of, ids_of, judge
from dsmseg.datasets.pseudo.table import NOTHING, Knowledge, read_table
from dsmseg.errors import InputError
from dsmseg.evaluation.labels import parse_meaning, read_meaning
from dsmseg.files import replacing, telling, write_json
from dsmseg.inference.cases import Case, find_cases
from dsmseg.synthesis.tumors.patches import absent_kinds
from dsmseg.taxonomy import CLASSES, by_id, find
from dsmseg.volume import Volume, read_labels, read_scan, resample_onto, write_nifti

UNKNOWN_ID = len(CLASSES) + 1
"""In label maps: nothing is known of these voxels. nnU-Net wants it to be the highest id."""

_FOLDERS = ("imagesTr", "labelsTr", "pictures", "cases")
_OUTSIDE_MM = 60.0
"""Beyond the scan's edge: an organ that the atlas puts so far away is not in the scan. Our choice, beside 90 mm for a
place that no person's organ has."""

Labels = UInt8[NDArray[np.uint8], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]

Progress = Callable[[int, int], None]
"""Is called with (cases done, cases in all)."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What became of one case.

    organs: what was found, and what speaks against it. absent: kinds of tumor that the scan is known to lack.
    unlabelled: classes that its labels do not tell of. unknown: share of what is labelled or unknown that is unknown.
    """

    case: str
    organs: list[OrganReport]
    absent: list[str]
    unlabelled: list[str]
    unknown: float


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that could not be labelled, and why."""

    case: str
    why: str


def label(
    inputs: Sequence[Path],
    output: Path,
    *,
    weights: str | Path = "starter",
    table: Path | None = None,
    classes: Sequence[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Labelled | Failure]:
    """Label scans with what weights find in them whichever way they look; gives what became of each.

    Args:
        inputs: scans, as for `dsmseg predict`.
        output: folder of the data set; a case that was made with the same settings is left as it is.
        weights: packaged name or path.
        table: what is known of the scans, see `pseudo.table`.
        classes: organs to take from the weights; None for all that they know.
        device: auto, cpu or cuda.
        progress: see `Progress`.

    Raises:
        InputError: an input is no scan; the table or the classes name what there is not.
        OutputError: the folder cannot be written to.
        WeightsError: the weights are missing or damaged.
    """
    cases = find_cases(inputs)
    known = {} if table is None else read_table(table, [one.name for one in cases])
    loaded = checkpoint.load(weights)
    organs = _organs(loaded.card.organs, classes)
    network = checkpoint.network(loaded)
    with telling(output):
        for folder in _FOLDERS:
            (output / folder).mkdir(parents=True, exist_ok=True)
    done: list[Labelled | Failure] = []
    for number, case in enumerate(cases):
        knowledge = known.get(case.name, NOTHING)
        settings = _settings(case, knowledge, loaded.card.sha256, organs)
        record = output / "cases" / f"{case.name}.json"
        found: Labelled | Failure | None = _unchanged(record, settings)
        if found is None:
            try:
                volume = read_scan(case.path)
                looks = look_at(network, loaded.card, volume, LOOKS, device)
                made, labels = _labelled(case.name, volume, looks, knowledge, organs)
                _write(output, case, volume, labels)
                write_json(record, {"settings": settings, "made": asdict(made)})
                found = made
            except InputError as error:
                found = Failure(case.name, str(error))
        done.append(found)
        if progress is not None:
            progress(number + 1, len(cases))
    _describe(output, [one for one in done if isinstance(one, Labelled)])
    return done


def _organs(known: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    if asked is None:
        return tuple(known)
    names = [find(one).name for one in asked]
    if strangers := [one for one in names if one not in known]:
        raise InputError(
            f"the weights do not know {strangers[0]}", where="--classes", mend=f"They know {', '.join(known)}."
        )
    return tuple(names)


def _settings(case: Case, knowledge: Knowledge, weights: str, organs: Sequence[str]) -> dict[str, Any]:
    """Give all that decides what comes out, as JSON holds it."""
    given = None if knowledge.labels is None else _state(knowledge.labels)
    return {
        "dsmseg": __version__,
        "weights": weights,
        "looks": [asdict(one) for one in LOOKS],
        "organs": list(organs),
        "scan": _state(case.path),
        "labels": given,
        "names": knowledge.names,
        "healthy": sorted(knowledge.healthy),
        "drop": sorted(knowledge.drop),
    }


def _state(path: Path) -> str:
    """Give a checksum of names, sizes and times, which tells without reading that nothing has changed."""
    paths = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    try:
        return state_of(paths)
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise InputError(what, where=path, mend="Check the path and its permissions.") from error


def _unchanged(record: Path, settings: dict[str, Any]) -> Labelled | None:
    """Give what was made of a case before, with these settings."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        if content["settings"] != settings:
            return None
        made = dict(content["made"])
        return Labelled(**(made | {"organs": [OrganReport(**one) for one in made["organs"]]}))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _labelled(
    name: str, volume: Volume, looks: Sequence[Labels], knowledge: Knowledge, organs: Sequence[str]
) -> tuple[Labelled, Labels]:
    """Put together what looks have found and what is known."""
    agreement = agree(looks, volume.spacing)
    labels, unknown = agreement.labels, agreement.unsure
    taken = frozenset(find(one).id for one in organs) - knowledge.drop
    strange = ~np.isin(labels, [0, *taken])
    unknown |= strange
    labels[strange] = 0
    given, tumors = _put_given(volume, knowledge, labels, unknown)
    reports = judge(volume, labels, agreement.agreeing, frozenset(one for one in given if by_id(one).kind == "organ"))
    kept, against = ids_of(reports)
    doubtful = np.isin(labels, list(against))
    unknown |= doubtful
    labels[doubtful] = 0
    absent = _not_in_scan(volume, labels, taken - kept - against)
    told = kept | given | absent
    for id, mask in tumors.items():
        labels[mask] = id
        unknown &= ~mask
    labels[unknown] = UNKNOWN_ID
    shown = int(np.count_nonzero(labels))
    return (
        Labelled(
            case=name,
            organs=reports,
            absent=[by_id(one).name for one in sorted(absent_kinds(knowledge.healthy) - given)],
            unlabelled=[one.name for one in CLASSES if one.id not in told],
            unknown=round(float(np.count_nonzero(labels == UNKNOWN_ID)) / max(1, shown), 4),
        ),
        labels,
    )


def _put_given(
    volume: Volume, knowledge: Knowledge, labels: Labels, unknown: Mask
) -> tuple[frozenset[int], dict[int, Mask]]:
    """Put organs that were labelled in the place of those that were found; give ids, and masks of tumors.

    Where a class was found and not labelled, it is something else, nobody knows what.
    """
    if knowledge.labels is None:
        return frozenset(), {}
    given = read_labels(knowledge.labels)
    if not grids_agree(volume.grid, given.grid):
        given = resample_onto(given, volume.grid, nearest=True)
    asked = parse_meaning(knowledge.names) if knowledge.names else None
    meaning = asked or read_meaning(knowledge.labels, None)
    if meaning is None:
        mend = "Say it in the table's column names: 1=liver,2=liver tumor."
        raise InputError("does not say what its labels mean", where=knowledge.labels, mend=mend)
    present = frozenset(np.flatnonzero(np.bincount(given.array.ravel())).tolist())
    masks = {
        structure[0]: np.isin(given.array, list(ids))
        for structure, ids in meaning.labels.items()
        if len(structure) == 1 and ids & present
    }
    tumors = {id: mask for id, mask in masks.items() if by_id(id).kind == "tumor"}
    for id, mask in masks.items():
        if id not in tumors:
            elsewhere = (labels == id) & ~mask
            unknown |= elsewhere
            labels[elsewhere] = 0
    for id, mask in masks.items():
        if id not in tumors:
            labels[mask] = id
            unknown &= ~mask
    return frozenset(masks), tumors


def _not_in_scan(volume: Volume, labels: Labels, missing: frozenset[int]) -> frozenset[int]:
    """Give those of the organs that were not found which the others put far outside of the scan."""
    offsets = [center - atlas().center[by_id(id).name] for id, center in centers_of(volume, labels).items()]
    if not offsets:
        return frozenset()
    offset = np.median(offsets, axis=0)
    first = volume.affine[:3, 3]
    last = first + volume.affine[:3, :3] @ (np.array(volume.array.shape) - 1)
    low, high = np.minimum(first, last) - _OUTSIDE_MM, np.maximum(first, last) + _OUTSIDE_MM
    places = {id: atlas().center[by_id(id).name] + offset for id in missing}
    return frozenset(id for id, place in places.items() if (place < low).any() or (place > high).any())


def _write(output: Path, case: Case, volume: Volume, labels: Labels) -> None:
    from dsmseg.report import overview

    names = {one.id: one.name for one in CLASSES} | {UNKNOWN_ID: "unknown"}
    image = output / "imagesTr" / f"{case.name}_0000.nii.gz"
    if case.path.is_file() and case.path.name.lower().endswith(".nii.gz"):
        _link(case.path, image)
    else:
        write_nifti(image, np.rint(volume.array).astype(np.int16), volume)
    write_nifti(output / "labelsTr" / f"{case.name}.nii.gz", labels, volume, names=names)
    known = np.where(labels == UNKNOWN_ID, 0, labels)
    if known.any():
        overview(volume, known, output / "pictures" / f"{case.name}.png", title=case.name)


def _link(source: Path, target: Path) -> None:
    """Put a file in a second place without its bytes, where the file system can."""
    with replacing(target) as temporary:
        Path(temporary).unlink(missing_ok=True)
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _describe(output: Path, made: Sequence[Labelled]) -> None:
    """Write dataset.json and findings.csv."""
    labels = {"background": 0} | {one.name: one.id for one in CLASSES} | {"ignore": UNKNOWN_ID}
    write_json(
        output / "dataset.json",
        {
            "name": output.resolve().name,
            "channel_names": {"0": "CT"},
            "labels": labels,
            "numTraining": len(made),
            "file_ending": ".nii.gz",
            "dsmseg": {
                "absent": {one.case: one.absent for one in made if one.absent},
                "unlabelled": {one.case: one.unlabelled for one in made if one.unlabelled},
            },
        },
    )
    text = io.StringIO()
    table = csv.DictWriter(text, ["case", "name", "ml", "hu", "agreeing", "given", "against"], lineterminator="\n")
    table.writeheader()
    for one in made:
        table.writerows({"case": one.case, **asdict(organ)} for organ in one.organs)
    with replacing(output / "findings.csv") as temporary:
        Path(temporary).write_text(text.getvalue(), encoding="utf-8")
