"""One case, scored: the three figures of the paper's tables, by region, of probabilities and of what is unexplained.

That is Eq. 14 or a baseline's own anomaly. The anomaly within organs tells of a method only which organs it finds.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray
from torch import nn

from dsmseg.checkpoint import Card
from dsmseg.evaluation.bench.data import LoadedReference, Reference
from dsmseg.evaluation.bench.tables import Column
from dsmseg.evaluation.overlap import count_overlap
from dsmseg.evaluation.ranking import count_scores
from dsmseg.evaluation.regions import dilated
from dsmseg.inference import UNSEEN, SoftMaps, UnseenRule, soft_maps
from dsmseg.taxonomy import StructureClass

ANOMALY = "anomaly"
Mask = Bool[NDArray[np.bool_], "x y z"]


def score_case(
    network: nn.Module, card: Card, reference: Reference, column: Column, unseen: UnseenRule = UNSEEN
) -> list[dict[str, Any]]:
    """Give a row for each class of ``column`` that the case shows.

    A case that does not show a class has no row for it: no figure has a meaning there (`dsmseg evaluate` counts false
    alarms in healthy scans).

    Raises:
        InputError: a file cannot be read or used.
    """
    case = reference.load()
    shown = [(one, mask) for one, mask in case.classes(column) if mask.any()]
    if not shown:
        return []
    maps = soft_maps(network, card, case.image, [one for one, _ in shown], unseen=unseen)
    rows = []
    for one, mask in shown:
        scores = maps.probabilities[one.name]
        found = found_mask(maps, one, case.body)
        row: dict[str, Any] = {"class": one.name, "answered_by": maps.answered_by.get(one.name, one.name)}
        row |= {"voxels": int(mask.sum()), "found_voxels": int(found.sum()), "dsc": count_overlap(mask, found).dsc}
        regions = _regions(case, one.kind == "tumor" and case.host(one), mask)
        for region, inside in regions.items():
            row |= _ranked(scores, mask, inside, region)
            if one.kind == "tumor":
                row |= _ranked(maps.unexplained, mask, inside, f"anomaly_{region}" if region else "anomaly")
        rows.append(row)
    return rows


def found_mask(maps: SoftMaps, one: StructureClass, body: Mask) -> Mask:
    """Give where a class is: its probability exceeds 0.5.

    Where a method answers by an anomaly, whose height means nothing, it is where that exceeds the middle between its
    least and its largest value in the body.
    """
    scores = maps.probabilities[one.name]
    least = _middle(scores[body]) if maps.answered_by.get(one.name) == ANOMALY else 0.5
    mask: Mask = (scores > least) & body
    return mask


def _middle(scores: Float32[NDArray[np.float32], "voxel"]) -> float:
    return float(scores.min() + scores.max()) / 2 if scores.size else 0.5


def _regions(case: LoadedReference, host: Mask | bool | None, mask: Mask) -> dict[str, Mask]:
    """Give the regions by what is added to a figure's name: the body first, which is the primary one."""
    regions = {"": case.body | mask}
    if isinstance(host, np.ndarray):
        regions["host"] = dilated(host, case.image.spacing) | mask
    return regions


def _ranked(scores: Float32[NDArray[np.float32], "x y z"], mask: Mask, region: Mask, name: str) -> dict[str, Any]:
    counts = count_scores(scores, mask, region)
    before = f"{name}_" if name else ""
    return {f"{before}auroc": counts.auroc, f"{before}fpr95": counts.fpr95}
