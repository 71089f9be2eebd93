"""One case, scored: the three figures of the paper's tables, in each region, of probabilities and of the anomaly."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import nn

from dsmseg.checkpoint import Card
from dsmseg.evaluation.bench.data import LoadedReference, Reference
from dsmseg.evaluation.bench.tables import Column
from dsmseg.evaluation.overlap import count_overlap
from dsmseg.evaluation.ranking import count_scores
from dsmseg.evaluation.regions import dilated
from dsmseg.inference import soft_maps

Mask = Bool[NDArray[np.bool_], "x y z"]


def score_case(network: nn.Module, card: Card, reference: Reference, column: Column) -> list[dict[str, Any]]:
    """Give a row for each class of ``column`` that the case shows.

    A class's mask is where its probability exceeds 0.5. A case that does not show a class has no row for it: neither
    figure has a meaning there (FACTS are per case, as SynthCP counts them; `dsmseg evaluate` counts healthy scans).

    Raises:
        InputError: a file cannot be read or used.
    """
    case = reference.load()
    shown = [(one, mask) for one, mask in case.classes(column) if mask.any()]
    if not shown:
        return []
    maps = soft_maps(network, card, case.image, [one for one, _ in shown])
    rows = []
    for one, mask in shown:
        scores = maps.probabilities[one.name]
        row: dict[str, Any] = {"class": one.name, "answered_by": maps.answered_by.get(one.name, one.name)}
        row |= {"voxels": int(mask.sum()), "found_voxels": int((scores > 0.5).sum())}
        row["dsc"] = count_overlap(mask, scores > 0.5).dsc
        regions = _regions(case, one.kind == "tumor" and case.host(one), mask)
        for region, inside in regions.items():
            row |= _ranked(scores, mask, inside, region)
            if one.kind == "tumor":
                row |= _ranked(maps.anomaly, mask, inside, f"anomaly_{region}" if region else "anomaly")
        rows.append(row)
    return rows


def _regions(case: LoadedReference, host: Mask | bool | None, mask: Mask) -> dict[str, Mask]:
    """Give the regions by what is added to a figure's name: the body first, which is the primary one."""
    regions = {"": case.body | mask}
    if isinstance(host, np.ndarray):
        regions["host"] = dilated(host, case.image.spacing) | mask
    return regions


def _ranked(scores: Float[NDArray[np.float32], "x y z"], mask: Mask, region: Mask, name: str) -> dict[str, Any]:
    counts = count_scores(scores, mask, region)
    before = f"{name}_" if name else ""
    return {f"{before}auroc": counts.auroc, f"{before}fpr95": counts.fpr95}
