"""What the mini run finds in bodies that it was not trained on, at the operating points on its card.

One JSON line a case: Dice of the tumor, and of the host organ where it is labelled; of each lesion its diameter and
whether it is found; how many predicted lesions are false. Then a line a kind of tumor: what issue 19 judges it by, and
the same by bins of diameter. Trained kinds are those of the benchmark's two tumor sets; of the four inference sets no
kind was ever labelled. ``make mini`` first.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dsmseg import checkpoint
from dsmseg.errors import InputError
from dsmseg.evaluation.bench.detection import Detection, Sensitivity, detect, sensitivity_at
from dsmseg.inference import Segmenter
from dsmseg.report.demo import dice
from dsmseg.synthesis.protocol import protocol
from dsmseg.synthesis.truth import Truth, truth_path
from dsmseg.taxonomy import find
from dsmseg.volume import Volume, read_labels, read_scan

MASK = (0.5,)  # a mask as a score map: the one threshold between its two values


@dataclass(frozen=True)
class Goal:
    """What a kind is judged by: the mean Dice over bodies with it, the share found of lesions from ``least_mm`` on."""

    dataset: str
    tumor: str
    least_mm: float
    found: float
    false_per_body: float
    dice: float | None = None


GOALS = (
    Goal("virtual_lits", "Liver Tumor", 10, 0.70, 1, dice=0.50),
    Goal("virtual_kits", "Kidney Tumor", 10, 0.60, 1, dice=0.40),
    Goal("virtual_msd_pancreas", "Pancreas Tumor", 15, 0.50, 2),
    Goal("virtual_msd_lung", "Lung Tumor", 15, 0.50, 2),
    Goal("virtual_msd_colon", "Colon Tumor", 15, 0.50, 2),
    Goal("virtual_msd_hepatic_vessel", "Hepatic Vessel Tumor", 15, 0.50, 2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("mini/run/mini.safetensors"))
    parser.add_argument("--benchmark", type=Path, default=Path("mini/benchmark"))
    parser.add_argument("--kinds", nargs="*", help="only these tumors", default=[goal.tumor for goal in GOALS])
    parser.add_argument("--bodies", type=int, help="at most so many of each kind, for a quick look")
    arguments = parser.parse_args()
    if not arguments.weights.exists():
        sys.stderr.write(f"{arguments.weights} is not there: run `make mini` first\n")
        return
    for goal in GOALS:
        if goal.tumor in arguments.kinds:
            cases = test_cases(arguments.benchmark, goal.dataset)[: arguments.bodies]
            judge(goal, arguments.weights, arguments.benchmark, cases)


def test_cases(benchmark: Path, dataset: str) -> list[str]:
    """Give the bodies of a data set that nothing is trained on or chosen by."""
    with (benchmark / "splits.csv").open(encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["dataset"] == dataset]
    return [row["case"] for row in rows if row["paper"] in ("testing", "inference")]


def judge(goal: Goal, weights: Path, benchmark: Path, cases: Sequence[str]) -> None:
    """Print a line a case, and the line of the kind."""
    try:
        segmenter = segmenter_for(goal, weights)
    except InputError as error:
        print(json.dumps({"tumor": goal.tumor, "not_answered": error.what}), flush=True)
        return
    rows = []
    for row in measured(goal, segmenter, benchmark, cases):
        rows.append(row)
        print(json.dumps(row), flush=True)
    print(json.dumps(summary(goal, rows) | {"weights": segmenter.card.sha256, "cores": os.cpu_count()}), flush=True)


def segmenter_for(goal: Goal, weights: Path) -> Segmenter:
    """Look for one kind alone, as ``dsmseg predict --classes`` does: how an unseen kind is answered is decided there.

    Raises:
        InputError: nothing answers for a kind that the weights do not know.
    """
    known = checkpoint.load(weights).card.organs
    return Segmenter.load(weights, classes=[*(host for host in find(goal.tumor).hosts if host in known), goal.tumor])


def measured(goal: Goal, segmenter: Segmenter, benchmark: Path, cases: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Measure each case."""
    folder, tumor = benchmark / goal.dataset, find(goal.tumor)
    label = json.loads((folder / "dataset.json").read_text("utf-8"))["labels"][goal.tumor]
    for case in cases:
        started = time.perf_counter()
        scan = read_scan(folder / "imagesTr" / f"{case}_0000.nii.gz")
        found = segmenter(scan)
        seconds = time.perf_counter() - started
        mask = found.tumors == tumor.id
        wanted = read_labels(folder / "labelsTr" / f"{case}.nii.gz").array == label
        host = Truth.read(truth_path(benchmark, goal.dataset, case)).host(tumor)
        organ = np.isin(found.organs, [find(name).id for name in tumor.hosts])
        record = json.loads((folder / "cases" / f"{case}.json").read_text("utf-8"))
        yield {
            "case": f"{goal.dataset}/{case}",
            "tumor": goal.tumor,
            "variant": record["variant"],
            "host_dice": round(dice(organ | mask, host), 3),
            "tumor_voxels": int(wanted.sum()),
            "found_voxels": int(mask.sum()),
            "dice": round(dice(mask, wanted), 3) if wanted.any() else None,
            **detection(mask, wanted, scan),
            "seconds": round(seconds, 1),
        }


def detection(mask: Any, wanted: Any, scan: Volume) -> dict[str, Any]:
    """Give the lesions of a mask as a line holds them."""
    found = detect(mask.astype(np.float32), wanted, scan.spacing, MASK)
    lesions = [{"mm": mm, "found": hit} for mm, hit in zip(found.diameters_mm, found.found[0], strict=True)]
    return {"lesions": lesions, "false_lesions": found.false[0]}


def summary(goal: Goal, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Judge a kind by its cases."""
    scans = [
        Detection(
            [one["mm"] for one in row["lesions"]], [[one["found"] for one in row["lesions"]]], [row["false_lesions"]]
        )
        for row in rows
    ]
    edges = protocol().diameters_mm
    bins = {f"{low:g}-{high:g} mm": (low, high) for low, high in pairwise((0.0, *edges, np.inf))}
    dices = [row["dice"] for row in rows if row["dice"] is not None]
    mean = round(float(np.mean(dices)), 3) if dices else None
    judged = sensitivity_at(scans, np.inf, (goal.least_mm, np.inf)) or Sensitivity(0, 0, 0.0)
    share = judged.share
    met = judged.false_per_scan <= goal.false_per_body and share is not None and share >= goal.found
    return {
        "tumor": goal.tumor,
        "bodies": len(rows),
        "with_tumor": len(dices),
        "dice": mean,
        "host_dice": round(float(np.mean([row["host_dice"] for row in rows])), 3),
        f"lesions_from_{goal.least_mm:g}_mm": judged.lesions,
        "found": judged.found,
        "share_found": None if share is None else round(share, 3),
        "false_per_body": round(judged.false_per_scan, 2),
        "goal": {name: value for name, value in asdict(goal).items() if name not in ("dataset", "tumor")},
        "met": bool(met and (goal.dice is None or (mean is not None and mean >= goal.dice))),
        "by_diameter": {
            name: {"lesions": one.lesions, "found": one.found}
            for name, sizes in bins.items()
            if (one := sensitivity_at(scans, np.inf, sizes)) is not None and one.lesions
        },
    }


if __name__ == "__main__":
    main()
