"""How uneven an organ is at 3 mm, from fine to coarse: in real CT and in virtual bodies.

``python benchmarks/texture.py --organ Liver [--real CT LABELS VALUE]... [--bodies BENCHMARK]``: real scans, each with a
label map and the value that the organ has in it, and virtual ones (``dsmseg synth benchmark -o BENCHMARK``, the first
twelve of two sets). One JSON line a scan: its HU, and how far voxels lie from it, as a standard deviation that few
voxels do not decide (1.48 times the median distance), in three bands of Gaussian means: finer than 3 mm, 3 to 6 mm and
6 to 12 mm. Tumors, and 6 mm below the surface, are left out. The last line of each gives medians.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy import ndimage

from dsmseg.synthesis.truth import truth_path
from dsmseg.taxonomy import find
from dsmseg.volume import Volume, read_labels, read_scan, resample

AT_MM = 3.0
SIGMAS = (1, 2, 4)  # voxels of 3 mm
MOST_HU = 40.0  # from the median: beyond lie vessels, fat and what was labelled wrongly
BELOW_SURFACE = 2  # voxels
LEAST_VOXELS = 1500
TO_DEVIATION = 1.4826
SETS = ("virtual_lits", "virtual_kits")


def bands(scan: Volume, organ: np.ndarray[Any, Any]) -> dict[str, float] | None:
    """Give median and deviations within the organ; None where it is too small."""
    coarse = resample(scan, (AT_MM,) * 3)
    marked = resample(Volume(organ.astype(np.uint8), scan.affine, scan.grid), (AT_MM,) * 3, nearest=True).array > 0
    inside = ndimage.binary_erosion(marked, iterations=BELOW_SURFACE)
    if np.count_nonzero(inside) < LEAST_VOXELS:
        return None
    hu = coarse.array.astype(np.float32)
    middle = float(np.median(hu[inside]))
    values = np.where(inside, hu.clip(middle - MOST_HU, middle + MOST_HU), 0.0).astype(np.float32)
    means = [values]
    for sigma in SIGMAS:
        share = ndimage.gaussian_filter(inside.astype(np.float32), sigma)
        means.append(ndimage.gaussian_filter(values, sigma) / np.maximum(share, 1e-3))
    found = {"hu": round(middle, 1)}
    for name, (finer, coarser) in zip(("below_3_mm", "3_to_6_mm", "6_to_12_mm"), pairwise(means), strict=True):
        distances = (finer - coarser)[inside]
        found[name] = round(TO_DEVIATION * float(np.median(np.abs(distances - np.median(distances)))), 2)
    return found


def virtual(benchmark: Path, organ: int) -> Iterator[tuple[str, Volume, np.ndarray[Any, Any]]]:
    """Give virtual scans with the mask of an organ (id) without its tumors."""
    for name in SETS:
        for path in sorted((benchmark / name / "imagesTr").glob("*.nii.gz"))[:12]:
            case = path.name.removesuffix("_0000.nii.gz")
            truth = read_labels(truth_path(benchmark, name, case)).array
            labels = json.loads((benchmark / name / "dataset.json").read_text("utf-8"))["labels"]
            tumors = [value for label, value in labels.items() if label.endswith("Tumor")]
            tumor = np.isin(read_labels(benchmark / name / "labelsTr" / f"{case}.nii.gz").array, tumors)
            near = ndimage.binary_dilation(tumor, iterations=BELOW_SURFACE)
            yield f"{name}/{case}", read_scan(path), (truth == organ) & ~near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--organ", default="Liver")
    parser.add_argument("--real", nargs=3, action="append", default=[], metavar=("CT", "LABELS", "VALUE"))
    parser.add_argument("--bodies", type=Path)
    arguments = parser.parse_args()
    real = (
        (scan, read_scan(Path(scan)), read_labels(Path(labels)).array == int(value))
        for scan, labels, value in arguments.real
    )
    groups = {"real": real}
    if arguments.bodies is not None:
        groups["virtual"] = virtual(arguments.bodies, find(arguments.organ).id)
    for kind, scans in groups.items():
        found = []
        for name, scan, organ in scans:
            row = bands(scan, organ)
            if row is not None:
                found.append(row)
                print(json.dumps({"kind": kind, "scan": name, "organ": arguments.organ} | row), flush=True)
        if found:
            medians = {name: round(median(row[name] for row in found), 2) for name in found[0] if name != "hu"}
            print(json.dumps({"kind": kind, "organ": arguments.organ, "scans": len(found), "median": medians}))


if __name__ == "__main__":
    main()
