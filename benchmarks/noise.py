"""How noisy soft tissue is at 3 mm: in real CT and in virtual bodies.

``python benchmarks/noise.py [--data DATA] [--bodies BENCHMARK]``: real scans (``ct.nii.gz`` in the folders of DATA),
and virtual ones (``dsmseg synth benchmark -o BENCHMARK``, the first twelve of three sets). One JSON line a scan: the
5th percentile of the standard deviation in cubes of 15 mm whose mean is soft tissue, on its own grid and at 3 mm.
The last line of each gives median and range.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from scipy import ndimage

from dsmseg.volume import Volume, read_scan, resample

CUBE_MM, AT_MM = 15.0, 3.0
SOFT_HU = (30.0, 160.0)
SETS = ("virtual_lits", "virtual_kits", "virtual_msd_pancreas")


def noise(scan: Volume) -> float | None:
    """Give the 5th percentile of the deviation in cubes of soft tissue; None where there is none."""
    hu = scan.array.astype(np.float32)
    sides = [max(3, round(CUBE_MM / step) | 1) for step in scan.spacing]
    mean = ndimage.uniform_filter(hu, sides)
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(hu * hu, sides) - mean * mean, 0))
    soft = (mean > SOFT_HU[0]) & (mean < SOFT_HU[1]) & (deviation > 0.3)
    return round(float(np.percentile(deviation[soft], 5)), 1) if soft.any() else None


def scans(arguments: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Give the scans that were asked for, with what they are."""
    if arguments.data is not None:
        for path in sorted([*arguments.data.glob("*/ct.nii.gz"), *arguments.data.glob("*/*/ct.nii.gz")]):
            yield "real", path
    if arguments.bodies is not None:
        for name in SETS:
            for path in sorted((arguments.bodies / name / "imagesTr").glob("*.nii.gz"))[:12]:
                yield "virtual", path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--bodies", type=Path)
    found: dict[str, list[float]] = {}
    for kind, path in scans(parser.parse_args()):
        scan = read_scan(path)
        own, coarse = noise(scan), noise(resample(scan, (AT_MM,) * 3))
        name = path.parent.name if kind == "real" else f"{path.parents[1].name}/{path.name}"
        row = {
            "scan": name,
            "spacing_mm": [round(step, 2) for step in scan.spacing],
            "own_hu": own,
            "at_3_mm_hu": coarse,
        }
        print(json.dumps({"kind": kind} | row), flush=True)
        if coarse is not None:
            found.setdefault(kind, []).append(coarse)
    for kind, values in found.items():
        row = {"scans": len(values), "median_hu": median(values), "lowest_hu": min(values), "highest_hu": max(values)}
        print(json.dumps({"kind": kind} | row))


if __name__ == "__main__":
    main()
