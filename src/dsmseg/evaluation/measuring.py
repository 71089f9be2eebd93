"""One case: its prediction beside its reference, structure by structure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from dsmseg.datasets.loading import agree, offset_mm, shape_text
from dsmseg.errors import InputError
from dsmseg.evaluation.calibration import CalibrationCounts, count_calibration
from dsmseg.evaluation.labels import LabelMeaning, Structure, host_classes, is_tumor, structure_name
from dsmseg.evaluation.lesions import Cut, Froc, LesionCounts, lesion_mask, match_lesions
from dsmseg.evaluation.maps import LabelMaps, Layer, union
from dsmseg.evaluation.overlap import OverlapCounts, count_overlap
from dsmseg.evaluation.pairing import Source
from dsmseg.evaluation.policy import METRICS, Presence
from dsmseg.evaluation.ranking import ScoreCounts, count_scores
from dsmseg.evaluation.regions import body_region, dilated
from dsmseg.evaluation.surfaces import surface_distances
from dsmseg.volume import Grid, Volume, read_labels, read_map, read_scan

Group = Literal["organs", "tumors", "anomaly"]
ANY_TUMOR = "Any Tumor, by anomaly"


@dataclass(frozen=True, slots=True)
class Settings:
    """How is measured.

    Attributes:
        tolerance_mm: of NSD. least_iou: from which on lesions hit each other; 0 is any overlap.
        cut: how score maps become masks.
    """

    tolerance_mm: float = 2.0
    least_iou: float = 0.0
    cut: Cut = field(default_factory=Cut)


@dataclass(frozen=True, slots=True)
class CaseTask:
    """A case to measure.

    Attributes:
        reference, prediction: their maps; None is a prediction that is missing, in which nothing is found.
        reference_meanings, prediction_meanings: of each layer.
        structures: what is measured.
        scored: the structure that a score map is of, which takes the place of label maps.
        anomaly: whether predictions have an anomaly map.
        scan: for the region of the body; None takes every voxel.
    """

    reference: Source
    prediction: Source | None
    reference_meanings: tuple[LabelMeaning, ...]
    prediction_meanings: tuple[LabelMeaning, ...]
    structures: tuple[Structure, ...]
    scored: Structure | None = None
    anomaly: bool = False
    scan: Path | None = None
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """What was measured of one structure in one case.

    Attributes:
        values: by the name of the metric; None where the policy leaves the case out, absent where nothing was measured.
        overlap, lesions, froc, scores, host_scores, calibration: states that add up over cases.
    """

    case: str
    name: str
    group: Group
    presence: Presence
    values: dict[str, float | None]
    overlap: OverlapCounts | None = None
    lesions: LesionCounts | None = None
    froc: Froc | None = None
    scores: ScoreCounts | None = None
    host_scores: ScoreCounts | None = None
    calibration: CalibrationCounts | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LoadedCase:
    """The maps of a case in memory; ``scores`` are those of ``task.scored``, ``anomaly`` of any tumor."""

    grid: Grid
    reference: LabelMaps
    prediction: LabelMaps
    scores: NDArray[np.float32] | None
    anomaly: NDArray[Any] | None

    def masks(self, structure: Structure) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Give reference and prediction of a structure, cut down to a box around both; without a voxel in neither."""
        box = union(self.reference.box(structure), self.prediction.box(structure))
        if box is None:
            return (np.zeros((0, 0, 0), bool),) * 2
        return self.reference.mask(structure, box), self.prediction.mask(structure, box)


def load_case(task: CaseTask) -> LoadedCase:
    """Read the maps of a case.

    Raises:
        InputError: a map cannot be read, or they do not lie on the grid of the reference.
    """
    read = [read_labels(path) for path in task.reference.layers]
    reference = _maps(read, task.reference_meanings, task)
    nothing = LabelMaps(reference.shape)
    prediction = nothing
    scores: NDArray[np.float32] | None = None
    anomaly: NDArray[Any] | None = None
    if task.scored is not None:
        scores = np.zeros(reference.shape, np.float32)
    elif task.anomaly:
        anomaly = np.zeros(reference.shape, np.uint8)
    if task.prediction is not None:
        found = [read_map(path) for path in task.prediction.layers]
        _refuse_other_grid(found, read[0], task)
        if task.scored is not None:
            scores = _probabilities(found[0], task.prediction.layers[0])
            mask = lesion_mask(scores, read[0].grid.voxel_volume_ml, task.settings.cut)
            meaning = LabelMeaning({task.scored: frozenset({1})})
            prediction = LabelMaps(reference.shape, [Layer(mask.astype(np.uint8), meaning)])
        else:
            prediction = _maps(found, task.prediction_meanings, task)
        if task.anomaly and task.prediction.anomaly is not None:
            map_ = read_map(task.prediction.anomaly)
            _refuse_other_grid([map_], read[0], task)
            anomaly = _probabilities(map_, task.prediction.anomaly)
    return LoadedCase(read[0].grid, reference, prediction, scores, anomaly)


def measure_case(task: CaseTask) -> list[Figures]:
    """Measure all structures of a case.

    Raises:
        InputError: as `load_case`, or the scan cannot be read or is on another grid.
    """
    case = load_case(task)
    body = _body(task, case)
    rows = []
    for structure in task.structures:
        reference, prediction = case.masks(structure)
        scores = case.scores if structure == task.scored else None
        rows.append(_measure(task, case, structure, (reference, prediction), scores, body))
    tumors = [one for one in case.reference.structures if is_tumor(one)]
    if case.anomaly is not None and tumors:
        rows.append(_measure_anomaly(task, case, tumors, body))
    return rows


def _measure(
    task: CaseTask,
    case: LoadedCase,
    structure: Structure,
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    scores: NDArray[np.float32] | None,
    body: NDArray[np.bool_] | None,
) -> Figures:
    reference, prediction = masks
    overlap = count_overlap(reference, prediction)
    figures = _Settled(overlap.presence, _diagonal_mm(case.grid))
    figures.settle("dsc", lambda: overlap.dsc)
    if figures.presence is Presence.BOTH:
        distances = surface_distances(reference, prediction, case.grid.spacing)
    figures.settle("nsd", lambda: distances.nsd(task.settings.tolerance_mm))
    figures.settle("hd95_mm", lambda: distances.hausdorff(95))
    parts: dict[str, Any] = {"overlap": overlap}
    if is_tumor(structure):
        box = union(case.reference.box(structure), case.prediction.box(structure))
        inside = None if scores is None or box is None else scores[box]
        matches = match_lesions(reference, prediction, least_iou=task.settings.least_iou, scores=inside)
        parts["lesions"] = counts = matches.counts
        if inside is not None:
            parts["froc"] = matches.froc
        figures.settle("lesion_sensitivity", lambda: counts.sensitivity)
        figures.settle("lesion_precision", lambda: counts.precision)
        figures.settle("false_lesions", lambda: float(counts.false))
        figures.settle("false_lesions_healthy", lambda: float(counts.false))
    if scores is not None:
        parts |= _rank(case, [structure], scores, body, figures)
    group: Group = "tumors" if is_tumor(structure) else "organs"
    return Figures(task.reference.name, structure_name(structure), group, figures.presence, figures.values, **parts)


def _measure_anomaly(
    task: CaseTask, case: LoadedCase, tumors: list[Structure], body: NDArray[np.bool_] | None
) -> Figures:
    assert case.anomaly is not None  # noqa: S101
    reference = any(case.reference.box(one) is not None for one in tumors)
    figures = _Settled(Presence.of(reference=reference, prediction=bool(case.anomaly.any())), _diagonal_mm(case.grid))
    parts = _rank(case, tumors, case.anomaly, body, figures)
    return Figures(task.reference.name, ANY_TUMOR, "anomaly", figures.presence, figures.values, **parts)


def _rank(
    case: LoadedCase,
    structures: list[Structure],
    scores: NDArray[Any],
    body: NDArray[np.bool_] | None,
    figures: "_Settled",
) -> dict[str, Any]:
    """Measure scores in both regions; ``body`` is None where every voxel counts."""
    truth = _whole(case, case.reference, structures)
    parts: dict[str, Any] = {"scores": count_scores(scores, truth, body)}
    figures.settle("auroc", lambda: parts["scores"].auroc)
    figures.settle("fpr95", lambda: parts["scores"].fpr95)
    if scores is case.scores:  # an anomaly is no probability of a tumor
        parts["calibration"] = calibration = count_calibration(scores, truth, body)
        figures.settle("ece", lambda: calibration.ece)
    hosts = {id for one in structures if is_tumor(one) for id in host_classes(one[0])}
    known = [one for one in case.reference.structures if hosts.intersection(one)]
    if known:
        parts["host_scores"] = counts = count_scores(
            scores, truth, dilated(_whole(case, case.reference, known), case.grid.spacing)
        )
        figures.settle("auroc_host", lambda: counts.auroc)
        figures.settle("fpr95_host", lambda: counts.fpr95)
    return parts


@dataclass(slots=True)
class _Settled:
    """The values of a structure, as the policy settles them."""

    presence: Presence
    diagonal_mm: float
    values: dict[str, float | None] = field(default_factory=dict)

    def settle(self, name: str, measure: Callable[[], float | None]) -> None:
        """Take down one metric."""
        self.values[name] = METRICS[name].settle(self.presence, measure, self.diagonal_mm)


def _whole(case: LoadedCase, maps: LabelMaps, structures: Iterable[Structure]) -> Bool[NDArray[np.bool_], "x y z"]:
    """Mark structures on the whole grid, in memory as maps are."""
    marked = np.zeros(case.grid.shape[::-1], bool).T
    for structure in structures:
        if box := maps.box(structure):
            marked[box] |= maps.mask(structure, box)
    return marked


def _body(task: CaseTask, case: LoadedCase) -> NDArray[np.bool_] | None:
    if task.scan is None or (case.scores is None and case.anomaly is None):
        return None
    scan = read_scan(task.scan)
    if not agree(case.grid, scan.grid):
        raise _mismatch("the scan", scan.grid, case.grid, task)
    return body_region(scan)


def _maps(volumes: list[Volume], meanings: tuple[LabelMeaning, ...], task: CaseTask) -> LabelMaps:
    _refuse_other_grid(volumes[1:], volumes[0], task)
    layers = []
    for volume, meaning in zip(volumes, meanings, strict=True):
        if volume.array.dtype.kind == "f":
            mend = "Give label maps alone, or score maps alone."
            raise InputError("is a score map among label maps", where=task.reference.name, mend=mend)
        layers.append(Layer(volume.array, meaning))
    return LabelMaps(volumes[0].grid.shape, layers)


def _probabilities(volume: Volume, path: Path) -> NDArray[np.float32]:
    scores = volume.array.astype(np.float32, order="K", copy=False)
    if scores.min() < 0 or scores.max() > 1:
        raise InputError(
            f"holds scores from {scores.min():g} to {scores.max():g}", where=path, mend="Give probabilities, 0 to 1."
        )
    return scores


def _refuse_other_grid(volumes: Iterable[Volume], reference: Volume, task: CaseTask) -> None:
    for volume in volumes:
        if not agree(reference.grid, volume.grid):
            raise _mismatch("the prediction", volume.grid, reference.grid, task)


def _mismatch(what: str, found: Grid, reference: Grid, task: CaseTask) -> InputError:
    if found.shape != reference.shape:
        told = f"{what} has {shape_text(found.shape)} voxels where the reference has {shape_text(reference.shape)}"
    else:
        told = f"{what} lies up to {offset_mm(reference, found):.1f} mm beside the reference in space"
    mend = "Predict the scan that the reference was drawn on, or resample onto the reference's grid (nearest neighbor)."
    return InputError(told, where=task.reference.name, mend=mend)


def _diagonal_mm(grid: Grid) -> float:
    """Give the diagonal of a grid, the worst that a distance in it can be."""
    return float(np.linalg.norm(np.array(grid.shape) * grid.spacing))
