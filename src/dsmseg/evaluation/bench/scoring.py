"""One case, scored: how a method's scores rank voxels in each region, what they find, and at which price.

A method is anything that gives a score map a class: a network (`by_network`), or one of the free rows, which need no
training but are given the true host organ (`by_host`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from dsmseg.checkpoint import Card, OperatingPoint
from dsmseg.evaluation.bench.data import LoadedReference, Reference
from dsmseg.evaluation.bench.detection import detect
from dsmseg.evaluation.bench.tables import Column, Free
from dsmseg.evaluation.candidates import Candidates, find_candidates, joined
from dsmseg.evaluation.operating_points import operating_point
from dsmseg.evaluation.overlap import count_overlap
from dsmseg.evaluation.ranking import count_scores
from dsmseg.evaluation.regions import dilated
from dsmseg.inference import UNSEEN, UnseenRule, soft_maps
from dsmseg.inference.deviation import host_deviation
from dsmseg.taxonomy import StructureClass

Map = Float32[NDArray[np.float32], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]

_NEIGHBORS = np.ones((3, 3, 3))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method says of a scan: a score map a class, by name, and what else answered for it.

    unexplained: the anomaly of Eq. 14, or of a baseline; None where a method has none.
    """

    scores: Mapping[str, Map]
    answered_by: Mapping[str, str]
    unexplained: Map | None = None


Method = Callable[[LoadedReference, Sequence[StructureClass]], Answer]


def by_network(network: nn.Module, card: Card, unseen: UnseenRule = UNSEEN) -> Method:
    """Let a network answer; ``unseen`` as for `soft_maps`."""

    def answer(case: LoadedReference, classes: Sequence[StructureClass]) -> Answer:
        maps = soft_maps(network, card, case.image, list(classes), unseen=unseen)
        return Answer(maps.probabilities, maps.answered_by, maps.unexplained)

    return answer


def by_host(free: Free) -> Method:
    """Let the true host organ answer: its mask, or how unlike its own center a voxel in it looks.

    It says nothing of classes whose host is not known.
    """

    def answer(case: LoadedReference, classes: Sequence[StructureClass]) -> Answer:
        hosts = {one.name: host for one in classes if one.kind == "tumor" and (host := case.host(one)) is not None}
        if free == "host_mask":
            scores = {name: host.astype(np.float32) for name, host in hosts.items()}
        else:
            hu, spacing = case.image.array.astype(np.float32), case.image.spacing
            scores = {name: host_deviation(hu, host, spacing) for name, host in hosts.items()}
        return Answer(scores, dict.fromkeys(hosts, free))

    return answer


def choose_points(
    method: Method, references: Sequence[Reference], classes: Sequence[StructureClass]
) -> dict[str, OperatingPoint]:
    """Choose the operating point of each class on scans that are not tested, by one rule for all methods.

    A class that no scan annotates is taken to be in none of them: its threshold keeps false lesions few.

    Raises:
        InputError: a file cannot be read or used.
    """
    found: dict[str, list[Candidates]] = {one.name: [] for one in classes}
    for reference in references:
        case = reference.load()
        answer = method(case, classes)
        for one in classes:
            if one.name in answer.scores:
                shown = case.labels.mask(one.id) if one.id in case.labels.annotated else None
                scores = np.where(case.body, answer.scores[one.name], np.float32(0))
                found[one.name].append(find_candidates(scores, shown, case.image.grid.voxel_volume_ml))
    return {name: operating_point(joined(several)) for name, several in found.items() if several}


def score_case(
    method: Method, reference: Reference, column: Column, points: Mapping[str, OperatingPoint]
) -> list[dict[str, Any]]:
    """Give a row for each class of ``column`` that the case annotates.

    Of a class that the case does not show, a row tells what is found falsely, and no figure else has a meaning; an
    organ that it does not show has none. ``points``: of tumors, by name; a class without one is found above 0.5.

    Raises:
        InputError: a file cannot be read or used.
    """
    case = reference.load()
    asked = [(one, mask) for one, mask in case.classes(column) if one.kind == "tumor" or mask.any()]
    if not asked:
        return []
    answer = method(case, [one for one, _ in asked])
    return [
        _row(case, answer, one, mask, points.get(one.name, OperatingPoint()))
        for one, mask in asked
        if one.name in answer.scores
    ]


def _row(
    case: LoadedReference, answer: Answer, one: StructureClass, mask: Mask, point: OperatingPoint
) -> dict[str, Any]:
    scores = answer.scores[one.name]
    found = found_mask(scores, case.body | mask, point, case.image.grid.voxel_volume_ml)
    row: dict[str, Any] = {"class": one.name, "answered_by": answer.answered_by.get(one.name, one.name)}
    row |= {"voxels": int(mask.sum()), "found_voxels": int(found.sum())}
    if one.kind == "tumor":
        row["detection"] = asdict(detect(np.where(case.body | mask, scores, 0), mask, case.image.spacing))
        row["at_point"] = asdict(detect(found.astype(np.float32), mask, case.image.spacing, (0.5,)))
    if not mask.any():
        return row
    row["dsc"] = count_overlap(mask, found).dsc
    for region, inside in _regions(case, one.kind == "tumor" and case.host(one), mask).items():
        row |= _ranked(scores, mask, inside, region)
        if one.kind == "tumor" and answer.unexplained is not None:
            row |= _ranked(answer.unexplained, mask, inside, f"anomaly_{region}" if region else "anomaly")
    return row


def found_mask(scores: Map, body: Mask, point: OperatingPoint, voxel_ml: float) -> Mask:
    """Give where a class is at an operating point, within the body."""
    mask: Mask = (scores > point.threshold) & body
    if not (point.least_volume_ml or point.least_score):
        return mask
    parts, count = ndimage.label(mask, _NEIGHBORS)
    voxels = np.bincount(parts.ravel(), minlength=count + 1)
    sums = np.bincount(parts.ravel(), scores.ravel(), minlength=count + 1)
    kept = (voxels * voxel_ml >= point.least_volume_ml) & (sums / np.maximum(1, voxels) >= point.least_score)
    kept[0] = False
    return np.asarray(kept[parts])


def _regions(case: LoadedReference, host: Mask | bool | None, mask: Mask) -> dict[str, Mask]:
    """Give the regions by what is added to a figure's name: the body, and around the host organ."""
    regions = {"": case.body | mask}
    if isinstance(host, np.ndarray):
        regions["host"] = dilated(host, case.image.spacing) | mask
    return regions


def _ranked(scores: Map, mask: Mask, region: Mask, name: str) -> dict[str, Any]:
    counts = count_scores(scores, mask, region)
    before = f"{name}_" if name else ""
    return {f"{before}auroc": counts.auroc, f"{before}fpr95": counts.fpr95}
