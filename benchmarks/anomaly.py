"""What the anomaly finds without any training for tumors, beside rows that cost nothing.

``python benchmarks/anomaly.py [--bodies BENCHMARK] [--data DATA] [--most N] [WEIGHTS]``: virtual bodies
(``dsmseg synth benchmark -o BENCHMARK``), and real scans with labelled lung tumors, with the organs that weights find.
One JSON line for each case and score; the last lines sum up by set and score, means in %. AUROC over the body, near the
host (10 mm around it), and within it, and FPR95 of the first two. Scores:

- ``anomaly``: as `dsmseg predict` writes it. ``unexplained``: 1 + A of Eq. 14, as it writes it beside.
- ``found host``: the mask that the weights give the host organ. ``true host``: its label, where there is one.
- ``HU in true host``: there, the distance from the median HU. ``deviation in ... host``: `host_deviation`.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray
from torch import nn

from dsmseg import checkpoint
from dsmseg.checkpoint import Card
from dsmseg.datasets.choosing import choose_datasets
from dsmseg.evaluation.bench.data import Reference
from dsmseg.evaluation.ranking import count_scores
from dsmseg.evaluation.regions import body_region, dilated
from dsmseg.inference import soft_maps
from dsmseg.inference.deviation import host_deviation
from dsmseg.taxonomy import StructureClass, find
from dsmseg.volume import Volume, read_labels, read_scan, resample, resample_onto

Mask = Bool[NDArray[np.bool_], "x y z"]
Score = Float32[NDArray[np.float32], "x y z"]

KINDS = {
    "virtual_lits": "Liver Tumor",
    "virtual_kits": "Kidney Tumor",
    "virtual_msd_lung": "Lung Tumor",
    "virtual_msd_pancreas": "Pancreas Tumor",
    "virtual_msd_hepatic_vessel": "Hepatic Vessel Tumor",
    "virtual_msd_colon": "Colon Tumor",
}
SPACING_MM = (3.0, 3.0, 3.0)  # all regions and scores are compared there, as the weights work


@dataclass(frozen=True)
class Case:
    """A scan at 3 mm with a tumor. host: with the tumor, where it is labelled."""

    group: str
    name: str
    scan: Volume
    kind: StructureClass
    tumor: Mask
    host: Mask | None


def virtual_cases(folder: Path, most: int) -> Iterator[Case]:
    """Give the last bodies of each set, those for testing first."""
    for found in choose_datasets(folder):
        if found.description.name not in KINDS:
            continue
        kind = find(KINDS[found.description.name])
        for files in list(found.cases)[: -most - 1 : -1]:
            case = Reference(found.description.name, files, found.description).load()
            host = case.host(kind)
            tumor = case.labels.mask(kind.id)
            yield at_spacing(found.description.name, files.id, case.image, kind, tumor, host)


def real_cases(data: Path) -> Iterator[Case]:
    """Give the real scans with labelled lung tumors."""
    nodule = data / "chest_lidc0001"
    pairs = [(nodule / "ct.nii.gz", nodule / "nodule.nii.gz")]
    pairs += [(path.with_name("ct.nii.gz"), path) for path in sorted((data / "bodies").glob("*/tumor.nii.gz"))]
    for scan, labels in pairs:
        tumor = read_labels(labels).array > 0
        yield at_spacing("real lung", scan.parent.name, read_scan(scan), find("Lung Tumor"), tumor, None)


def at_spacing(group: str, name: str, scan: Volume, kind: StructureClass, tumor: Mask, host: Mask | None) -> Case:
    """Bring a case to 3 mm; a mask is where at least 40 % of a voxel are."""
    coarse = resample(scan, SPACING_MM)

    def moved(mask: Mask) -> Mask:
        fine = Volume(mask.astype(np.float32), scan.affine, scan.own)
        return np.asarray(resample_onto(fine, coarse.grid).array > 0.4)

    return Case(group, name, coarse, kind, moved(tumor), None if host is None else moved(host))


def scores_of(case: Case, network: nn.Module, card: Card) -> tuple[dict[str, Score], Mask]:
    """Give the scores of a case by name, and the host: as labelled, or as found."""
    hosts = [find(name) for name in case.kind.hosts if name in card.organs]
    maps = soft_maps(network, card, case.scan, hosts)
    found: Mask = np.maximum.reduce([maps.probabilities[one.name] for one in hosts]) > 0.5
    hu = case.scan.array.astype(np.float32)
    scores = {
        "anomaly": maps.anomaly,
        "unexplained": maps.unexplained,
        "found host": found.astype(np.float32),
        "deviation in found host": host_deviation(hu, found, SPACING_MM),
    }
    if case.host is not None:
        scores["true host"] = case.host.astype(np.float32)
        scores["HU in true host"] = np.where(case.host, np.abs(hu - np.median(hu[case.host])), np.float32(0))
        scores["deviation in true host"] = host_deviation(hu, case.host, SPACING_MM)
    return scores, (found if case.host is None else case.host)


def figures(score: Score, tumor: Mask, host: Mask, body: Mask) -> dict[str, float | None]:
    """Give AUROC and FPR95 over the body and near the host, and AUROC within it."""
    over = count_scores(score, tumor, body | tumor)
    near = count_scores(score, tumor, dilated(host | tumor, SPACING_MM))
    row = {"auroc": over.auroc, "fpr95": over.fpr95, "near_auroc": near.auroc, "near_fpr95": near.fpr95}
    return row | {"within_auroc": count_scores(score, tumor, host | tumor).auroc}


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Give all cases that were asked for."""
    if arguments.bodies is not None:
        yield from virtual_cases(arguments.bodies, arguments.most)
    if arguments.data is not None:
        yield from real_cases(arguments.data)


def summed(rows: Sequence[dict[str, float | None]]) -> dict[str, float]:
    """Give the means in %."""
    names = rows[0]
    known = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    return {name: round(100 * fmean(values), 1) for name, values in known.items() if values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", nargs="?", default="starter")
    parser.add_argument("--bodies", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--most", type=int, default=6, help="bodies of a set")
    arguments = parser.parse_args()
    loaded = checkpoint.load(arguments.weights)
    network = checkpoint.network(loaded)
    rows: dict[tuple[str, str], list[dict[str, float | None]]] = defaultdict(list)
    for case in cases(arguments):
        if not case.tumor.any():
            continue  # a healthy body, or a nodule that is nothing at 3 mm
        scores, host = scores_of(case, network, loaded.card)
        body = body_region(case.scan)
        place = {"group": case.group, "case": case.name, "tumor_ml": round(float(case.tumor.sum()) * 0.027, 1)}
        for name, score in scores.items():
            row = figures(score, case.tumor, host, body)
            rows[case.group, name].append(row)
            print(json.dumps(place | {"score": name} | row), flush=True)
    for (group, name), several in rows.items():
        print(json.dumps({"group": group, "score": name, "cases": len(several), **summed(several)}))


if __name__ == "__main__":
    main()
