"""What the mini run finds in bodies that it was not trained on: the test cases of the benchmark's two tumor sets.

One JSON line a case: Dice of the host organ and of the tumor, how many of its lesions are hit by at least one voxel,
how many predicted lesions hit none. The last line sums up. ``make mini`` first.
"""

import argparse
import csv
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from dsmseg.inference import Segmenter
from dsmseg.report.demo import dice
from dsmseg.taxonomy import find
from dsmseg.volume import read_labels

SETS = {"virtual_lits": ("Liver", "Liver Tumor"), "virtual_kits": ("Right Kidney,Left Kidney", "Kidney Tumor")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("mini/run/mini.safetensors"))
    parser.add_argument("--benchmark", type=Path, default=Path("mini/benchmark"))
    parser.add_argument("--part", default="testing")
    arguments = parser.parse_args()
    if not arguments.weights.exists():
        sys.stderr.write(f"{arguments.weights} is not there: run `make mini` first\n")
        return
    segmenter = Segmenter.load(arguments.weights)
    rows = []
    with (arguments.benchmark / "splits.csv").open(encoding="utf-8") as table:
        cases = [(row["dataset"], row["case"]) for row in csv.DictReader(table) if row["paper"] == arguments.part]
    for dataset, case in cases:
        if dataset in SETS:
            rows.append(_measure(segmenter, arguments.benchmark / dataset, case))
            print(json.dumps(rows[-1]), flush=True)
    print(json.dumps(_summary(rows) | {"weights": segmenter.card.sha256, "cores": os.cpu_count()}))


def _measure(segmenter: Segmenter, folder: Path, case: str) -> dict[str, object]:
    hosts, tumor = SETS[folder.name]
    labels = json.loads((folder / "dataset.json").read_text("utf-8"))["labels"]
    reference = read_labels(folder / "labelsTr" / f"{case}.nii.gz").array
    started = time.perf_counter()
    found = segmenter(folder / "imagesTr" / f"{case}_0000.nii.gz")
    seconds = time.perf_counter() - started
    organ = np.isin(found.organs, [find(name).id for name in hosts.split(",")])
    mask, wanted = found.tumors == find(tumor).id, reference == labels[tumor]
    lesions, count = ndimage.label(wanted, np.ones((3, 3, 3)))
    parts, predicted = ndimage.label(mask, np.ones((3, 3, 3)))
    hit = len(np.unique(lesions[mask & wanted]))
    return {
        "case": f"{folder.name}/{case}",
        "host_dice": round(dice(organ | mask, reference > 0), 3),
        "tumor_voxels": int(wanted.sum()),
        "found_voxels": int(mask.sum()),
        "tumor_dice": round(dice(mask, wanted), 3) if count else None,
        "lesions": count,
        "lesions_hit": hit,
        "false_lesions": predicted - len(np.unique(parts[mask & wanted])),
        "seconds": round(seconds, 1),
    }


def _summary(rows: list[dict[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name in SETS:
        those = [row for row in rows if str(row["case"]).startswith(f"{name}/")]
        with_tumor = [row["tumor_dice"] for row in those if row["tumor_dice"] is not None]
        result[name] = {
            "cases": len(those),
            "host_dice": round(float(np.mean([row["host_dice"] for row in those])), 3),
            "tumor_dice": round(float(np.mean(with_tumor)), 3),
            "with_masks": sum(bool(row["found_voxels"]) for row in those),
            **{key: sum(row[key] for row in those) for key in ("lesions", "lesions_hit", "false_lesions")},
        }
    return result


if __name__ == "__main__":
    main()
