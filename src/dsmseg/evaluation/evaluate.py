"""Folders of predictions beside folders of references: what belongs together, what can be compared, and all cases."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsmseg.datasets.verify import Progress
from dsmseg.datasets.workers import Task, run_all
from dsmseg.errors import DsmsegError, InputError
from dsmseg.evaluation.labels import LabelMeaning, Structure, is_tumor, read_meaning, structure_name
from dsmseg.evaluation.measuring import CaseTask, Figures, Settings, measure_case
from dsmseg.evaluation.pairing import Source, case_name, find_sources, pair
from dsmseg.taxonomy import StructureClass
from dsmseg.volume import VOLUME_SUFFIXES, is_ignored_name, read_grid, read_map

_IMAGES_FOLDER = "imagesTr"
_BYTES_A_VOXEL = 24  # that measuring takes at most, by experience


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be compared.

    Attributes:
        predictions, references: a file, or a folder, see `dsmseg.evaluation.pairing.find_sources`.
        scans: a folder of the scans; None looks for ``imagesTr`` beside the references.
        labels: what labels mean in maps that do not say so.
        classes: these alone, and also where predictions do not look for them; None is all that both know.
        scores_of: the class that score maps are of; None takes the only one there is.
        skip_missing: leave out references without a prediction, which else count as missed.
    """

    predictions: Path
    references: Path
    scans: Path | None = None
    labels: LabelMeaning | None = None
    classes: tuple[StructureClass, ...] | None = None
    scores_of: StructureClass | None = None
    skip_missing: bool = False
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be measured, and what cannot.

    Attributes:
        tasks: one a case. missing: references without a prediction. extra: predictions without a reference.
        not_predicted: names of structures that references have and predictions do not look for.
        unknown: names of labels that are no structure of the taxonomy.
    """

    tasks: tuple[CaseTask, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    not_predicted: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured: a row a case and structure, and the cases that failed with the reason."""

    plan: Plan
    rows: tuple[Figures, ...]
    failed: dict[str, DsmsegError]


def plan(request: Request) -> Plan:
    """Find the cases and what can be compared, from names and headers.

    Raises:
        InputError: there are no cases, no pairs, or no structures in common; nothing says what labels mean.
    """
    pairs = pair(find_sources(request.predictions), find_sources(request.references))
    meanings = {reference.name: _meanings(reference, request.labels) for reference, _ in pairs.pairs}
    found = [prediction for _, prediction in pairs.pairs if prediction is not None]
    soft = _is_score_map(found[0])
    common = meanings[pairs.pairs[0][0].name]
    guess = common[0] if len(common) == 1 else None
    predicted = {one.name: () if soft else _meanings(one, request.labels or guess, what="PREDICTIONS") for one in found}
    scored = _scored(request, meanings) if soft else None
    looked_for = {structure for some in predicted.values() for meaning in some for structure in meaning.labels}
    scans = _scans(request, [reference for reference, _ in pairs.pairs])
    tasks, left_out = [], set[Structure]()
    for reference, prediction in pairs.pairs:
        if prediction is None and request.skip_missing:
            continue
        annotated = {structure for meaning in meanings[reference.name] for structure in meaning.labels}
        structures, not_predicted = _comparable(annotated, {scored} if scored else looked_for, request.classes)
        left_out |= not_predicted
        tasks.append(
            CaseTask(
                reference=reference,
                prediction=prediction,
                reference_meanings=meanings[reference.name],
                prediction_meanings=() if prediction is None else predicted[prediction.name],
                structures=structures,
                scored=scored,
                anomaly=any(one.anomaly is not None for one in found) and not soft,
                scan=None if scans is None else scans[reference.name],
                settings=request.settings,
            )
        )
    tumors = any(is_tumor(structure) for some in meanings.values() for one in some for structure in one.labels)
    if not any(task.structures or (task.anomaly and tumors) for task in tasks):
        raise InputError(
            "annotates no class that the predictions look for",
            where=request.references,
            mend="Name what labels mean with --labels, or the classes to count as missed with --classes.",
        )
    unknown = {name for some in (*meanings.values(), *predicted.values()) for one in some for name in one.unknown}
    return Plan(
        tuple(tasks),
        tuple(reference.name for reference, prediction in pairs.pairs if prediction is None),
        tuple(one.name for one in pairs.extra),
        tuple(structure_name(one) for one in sorted(left_out)),
        tuple(sorted(unknown)),
    )


def evaluate(made: Plan, *, workers: int = 1, progress: Progress | None = None) -> Evaluation:
    """Measure all cases; one that fails does not stop the others.

    Args:
        made: by `plan`. workers: processes. progress: is called with what is done, how many are, and of how many.

    Raises:
        InputError: all cases failed: what the first did.
    """
    tasks = [Task(one, _memory(one)) for one in made.tasks]
    rows: dict[str, list[Figures]] = {}
    failed: dict[str, DsmsegError] = {}
    for done in run_all(measure_case, tasks, min(workers, len(tasks))):
        name = done.input.reference.name
        if done.output is None:
            failed[name] = done.error or InputError("failed", where=name, mend="Try it alone.")
        else:
            rows[name] = done.output
        if progress is not None:
            progress("Cases measured", len(rows) + len(failed), len(tasks))
    if not rows:
        raise next(iter(failed.values()))
    order = [task.reference.name for task in made.tasks]
    return Evaluation(made, tuple(row for name in order for row in rows.get(name, ())), failed)


def _meanings(source: Source, given: LabelMeaning | None, *, what: str = "REFERENCES") -> tuple[LabelMeaning, ...]:
    found = []
    for path in source.layers:
        meaning = read_meaning(path, given)
        if meaning is None:
            raise InputError(
                f"nothing says what its labels mean ({what})",
                where=path,
                mend="Put a dataset.json beside it, or say it: --labels '1=liver,2=liver tumor'.",
            )
        found.append(meaning)
    return tuple(found)


def _is_score_map(source: Source) -> bool:
    return len(source.layers) == 1 and read_map(source.layers[0]).array.dtype.kind == "f"


def _scored(request: Request, meanings: dict[str, tuple[LabelMeaning, ...]]) -> Structure:
    """Find the structure that score maps are of."""
    annotated = {structure for some in meanings.values() for one in some for structure in one.labels}
    if request.scores_of is not None:
        return (request.scores_of.id,)
    tumors = [one for one in annotated if is_tumor(one)]
    for candidates in (tumors, list(annotated)):
        if len(candidates) == 1:
            return candidates[0]
    raise InputError(
        "are score maps, and the references annotate several classes",
        where=request.predictions,
        mend="Say which one they are of: --scores-of 'liver tumor'.",
    )


def _comparable(
    annotated: set[Structure], looked_for: set[Structure], classes: tuple[StructureClass, ...] | None
) -> tuple[tuple[Structure, ...], set[Structure]]:
    """Give the structures that both sides tell of, and those that the predictions do not look for."""
    both, missing = set[Structure](), set[Structure]()
    singles = {id for structure in looked_for if len(structure) == 1 for id in structure}
    known = {id for structure in annotated for id in structure}
    for structure in annotated:
        merged = next((one for one in looked_for if len(one) == 2 and set(structure) < set(one)), None)
        if singles.issuperset(structure) or structure in looked_for:
            both.add(structure)
        elif merged is not None and known.issuperset(merged):
            both.add(merged)
        else:
            missing.add(structure)
    if classes is not None:
        asked = {one.id for one in classes}
        return tuple(sorted(one for one in both | missing if asked.issuperset(one))), set()
    return tuple(sorted(both)), missing


def _scans(request: Request, references: Sequence[Source]) -> dict[str, Path] | None:
    """Find the scan of each case; None unless there are all, so that one region means the same in all cases."""
    folder = request.scans
    if folder is None:
        beside = request.references / _IMAGES_FOLDER
        folder = beside if beside.is_dir() else request.references.parent / _IMAGES_FOLDER
        if not folder.is_dir():
            return None
    if folder.is_file() and len(references) == 1:
        return {references[0].name: folder}
    if not folder.is_dir():
        raise InputError("does not exist", where=folder, mend="Give the folder of the scans.")
    scans = {
        case_name(path): path
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith(VOLUME_SUFFIXES) and not is_ignored_name(path.name)
    }
    lacking = [one.name for one in references if one.name not in scans]
    if lacking and request.scans is not None:
        raise InputError(f"holds no scan called {lacking[0]}", where=folder, mend="Name scans as the references are.")
    return None if lacking else {one.name: scans[one.name] for one in references}


def _memory(task: CaseTask) -> int:
    try:
        x, y, z = read_grid(task.reference.layers[0]).shape
    except InputError:  # told when it is its turn
        return 0
    return x * y * z * _BYTES_A_VOXEL
