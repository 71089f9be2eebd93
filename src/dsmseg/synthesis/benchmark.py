"""The paper's protocol in small: virtual data sets on disk, which ``dsmseg datasets`` verifies and prepares.

A folder for each data set, laid out as nnU-Net wants it (``dataset.json``, ``imagesTr``, ``labelsTr``, of all parts),
with a record of each case in ``cases``. Beside them ``splits.csv`` says which case is for what, ``cases.jsonl`` what
each body is, ``truth`` holds all organs of every body for scoring alone, ``benchmark.json`` the scale and the seed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int16, UInt8
from numpy.typing import NDArray

from dsmseg.datasets.description import Part
from dsmseg.datasets.prepare import alone
from dsmseg.datasets.splits import as_csv
from dsmseg.datasets.verify import Progress
from dsmseg.datasets.workers import Task, run_all
from dsmseg.errors import InputError
from dsmseg.files import write_atomically, write_json
from dsmseg.synthesis.cases import CasePlan, make_case
from dsmseg.synthesis.protocol import PlannedCase, Scale, plan_cases, protocol, sizes, split_rows, stages
from dsmseg.synthesis.truth import FOLDER, truth_path, write_truth
from dsmseg.taxonomy import by_id, find
from dsmseg.volume import Volume, write_nifti

FORMAT = 1
SPLITS, CASES, _SETTINGS = "splits.csv", "cases.jsonl", "benchmark.json"
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.")
_OF_A_CASE = re.compile(r"body_\d{4}(_0000|\.organs)?\.(nii\.gz|json)")


class Body(Protocol):
    """A virtual body, as `dsmseg.synthesis.cases.Case` is one.

    image: HU, int16 (X, Y, Z) in RAS. affine: voxel -> mm RAS. record: what it is, as JSON holds it.
    """

    image: Int16[NDArray[np.int16], "x y z"]
    affine: NDArray[np.float64]
    record: dict[str, Any]

    def mask(self, class_id: int) -> Bool[NDArray[np.bool_], "x y z"]:
        """Mark the voxels of a class; an organ's hold its tumors."""


@dataclass(frozen=True, slots=True)
class Written:
    """A benchmark. made, kept: cases that this call made, and that were there. counts: by data set and part."""

    folder: Path
    made: int
    kept: int
    counts: Mapping[str, Mapping[Part, int]]


def write_benchmark(
    output: Path,
    scale: Scale,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    make: Callable[[CasePlan], Body] = make_case,
) -> Written:
    """Write a benchmark; go on with what an earlier call has left undone.

    A case's record is written last: without one, the case is made anew. The files that make a folder a data set, and
    the splits, are written when all cases are there.

    Args:
        output: a new or empty folder, or one that holds this benchmark.
        scale: how large and how many, see protocol.toml.
        seed: another one gives other bodies.
        workers: processes; ``make`` must then be a function of a module.
        progress: is called with (data set and case, cases done, cases in all).
        make: gives the body of a plan; the same for the same plan.

    Raises:
        InputError: there is no such scale, the folder holds something else, or another process writes to it.
        OutputError: the folder cannot be written to, or the disk is full. What was finished stays.
    """
    plans = plan_cases(scale, seed)
    _begin(output, scale, seed)
    with alone(output):
        _remove_remains(output, plans)
        missing = [one for one in plans if not _is_written(output, one)]
        tasks = [Task(one, sizes(scale).memory) for one in missing]
        kept = len(plans) - len(missing)
        for done, result in enumerate(
            run_all(partial(_write_case, output=output, make=make), tasks, workers), kept + 1
        ):
            if result.error is not None:
                raise result.error
            if progress is not None:
                progress(f"{result.input.dataset} {result.input.case}", done, len(plans))
        _publish(output, plans)
    return Written(output, len(missing), kept, sizes(scale).counts)


def _begin(output: Path, scale: str, seed: int) -> None:
    """Open the folder of a benchmark, or begin it."""
    path, settings = output / _SETTINGS, {"format": FORMAT, "scale": scale, "seed": seed}
    if path.exists():
        found = _read_json(path)
        if found != settings:
            raise InputError(
                f"holds another benchmark ({_told(found)}), not this ({_told(settings)})",
                where=output,
                mend="Choose another folder, or the same scale and seed.",
            )
        return
    if output.exists() and (not output.is_dir() or any(not one.name.startswith(".") for one in output.iterdir())):
        raise InputError("holds something else than a benchmark", where=output, mend="Choose a new or empty folder.")
    write_json(path, settings)


def _write_case(plan: PlannedCase, output: Path, make: Callable[[CasePlan], Body]) -> None:
    """Make a case and write its labels, its organs, its image and then its record."""
    seed, body, labels = _make(plan, make)
    label_path, truth, image_path, record_path = paths = _paths(output, plan)
    for path in paths:  # of another plan: its image must not lie beside these labels for a moment
        path.unlink(missing_ok=True)
    volume = Volume.from_own(body.image, body.affine)
    names = {value: label.name for value, label in enumerate(plan.labels, start=1)}
    write_nifti(label_path, labels, volume, names=names)
    organs = write_truth(truth, body, volume)
    write_nifti(image_path, body.image, volume)
    record = {
        "dataset": plan.dataset,
        "case": plan.case,
        "plan": plan.hash,
        "seed": seed,
        "coverage": plan.coverage,
        "spacing_mm": plan.spacing,
        "phase": plan.phase,
        "tumors": plan.tumors,
        "variant": plan.variant,
        "diameter_mm": plan.diameter_mm,
        "shape": body.image.shape,
        "image_sha256": _sha256(body.image),
        "labels_sha256": _sha256(labels),
        "organs_sha256": _sha256(organs),
        "body": body.record,
    }
    write_json(record_path, record)


def _make(plan: PlannedCase, make: Callable[[CasePlan], Body]) -> tuple[int, Body, UInt8[NDArray[np.uint8], "x y z"]]:
    """Give the first of the plan's bodies that shows what its case is for, with its seed and labels."""
    for seed in plan.seeds:
        body = make(
            CasePlan(
                seed=seed,
                coverage=plan.coverage,
                spacing=plan.spacing,
                phase=plan.phase,
                tumors=plan.tumors,
                variant=plan.variant,
                diameter_mm=plan.diameter_mm,
            )
        )
        labels = draw_labels(body, plan)
        if labels.any() and all(body.mask(find(tumor).id).any() for tumor in plan.tumors):
            return seed, body, labels
    shown = ", ".join(plan.tumors) or "any labelled voxel"
    raise RuntimeError(f"{plan.dataset} {plan.case}: none of {len(plan.seeds)} bodies shows {shown}")


def draw_labels(body: Body, plan: PlannedCase) -> UInt8[NDArray[np.uint8], "x y z"]:
    """Give the label map (X, Y, Z) of a body as the plan's data set annotates it.

    Raises:
        RuntimeError: the body shows a tumor that was not planned, where its data set would say that there is none, or
            where it is trained on and of an unseen kind.
    """
    annotated = {by_id(one).name for label in plan.labels for one in label.classes if by_id(one).kind == "tumor"}
    unseen = protocol().unseen if plan.part == "training" else frozenset()
    for tumor in sorted((annotated | unseen) - set(plan.tumors)):
        if body.mask(find(tumor).id).any():
            raise RuntimeError(f"{plan.dataset} {plan.case} shows a {tumor} that was not planned")
    labels = np.zeros(body.image.shape, np.uint8)
    for value, label in enumerate(plan.labels, start=1):
        for class_id in label.classes:
            labels[body.mask(class_id)] = value
    return labels


def _paths(output: Path, plan: PlannedCase) -> tuple[Path, Path, Path, Path]:
    """Give where a case's labels, organs, image and record lie."""
    folder = output / plan.dataset
    return (
        folder / "labelsTr" / f"{plan.case}.nii.gz",
        truth_path(output, plan.dataset, plan.case),
        folder / "imagesTr" / f"{plan.case}_0000.nii.gz",
        folder / "cases" / f"{plan.case}.json",
    )


def _is_written(output: Path, plan: PlannedCase) -> bool:
    *volumes, record = _paths(output, plan)
    return _read_json(record).get("plan") == plan.hash and all(path.is_file() for path in volumes)


def _remove_remains(output: Path, plans: Sequence[PlannedCase]) -> None:
    """Take away what a killed run was writing, and cases that an earlier protocol had planned."""
    wanted = {path for one in plans for path in _paths(output, one)}
    names = {FOLDER, *(one.name for one in protocol().datasets)}
    for path in [*output.glob("*"), *output.glob("*/*"), *output.glob("*/*/*")]:
        parts = path.relative_to(output).parts
        ours = len(parts) == 1 or parts[0] in names
        if ours and (_TEMPORARY.match(path.name) or (_OF_A_CASE.fullmatch(path.name) and path not in wanted)):
            path.unlink()


def _publish(output: Path, plans: Sequence[PlannedCase]) -> None:
    """Make the folders data sets, and say which case is for what."""
    for one in protocol().datasets:
        cases = sum(plan.dataset == one.name for plan in plans)
        content = {
            "name": one.name,
            "description": f"Virtual bodies, annotated as {one.like.title}",
            "reference": "dsmseg, made by a program",
            "licence": "CC0: no patient is in it",
            "channel_names": {"0": "CT"},
            "labels": {"background": 0} | {label.name: value for value, label in enumerate(one.labels, start=1)},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
        write_json(output / one.name / "dataset.json", content)
    records = [_read_json(_paths(output, one)[-1]) for one in plans]
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)
    write_atomically(output / CASES, lambda path: path.write_text(lines, encoding="utf-8"))
    rows = as_csv(split_rows(plans), stages())
    write_atomically(output / SPLITS, lambda path: path.write_text(rows, encoding="utf-8"))


def _read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` has written; nothing where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "benchmark.json is damaged"


def _sha256(array: NDArray[Any]) -> str:
    """Give the checksum of voxels in the order of (X, Y, Z), of whole numbers with their lowest byte first."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()
