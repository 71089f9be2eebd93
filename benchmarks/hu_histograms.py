"""HU histograms of each organ in synthetic bodies beside those of real scans; JSON lines.

For each real scan of ``--data`` and each organ that it shows: the Wasserstein distance in HU between its voxels' HU and
those of synthetic bodies in the same contrast phase, all together and the nearest body; and the medians and spreads
(10th to 90th percentile). Means differ from patient to patient, so that the nearest body tells more of the texture.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import wasserstein_distance

from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.synthesis.cases import CasePlan, make_case
from dsmseg.taxonomy import by_id
from dsmseg.volume import read_labels, read_scan

SCANS = (
    ("abdomen_3mm", "abdomen_3mm/ct.nii.gz", "abdomen_3mm/totalseg_labels.nii.gz", "native", (3.0, 3.0, 3.0)),
    (
        "chest_lidc0001",
        "chest_lidc0001/ct.nii.gz",
        "chest_lidc0001/totalseg_labels.nii.gz",
        "arterial",
        (1.4, 1.4, 2.5),
    ),
    ("dicom_series", "dicom_series/ct", "dicom_series/example_seg_dicom.nii.gz", "venous", (1.4, 1.4, 2.0)),
)
COVERAGE = {"abdomen_3mm": "abdomen-pelvis", "chest_lidc0001": "thorax-abdomen", "dicom_series": "abdomen"}
FEWEST = 300  # voxels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds the labelled scans")
    parser.add_argument("--bodies", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.data is None:
        print(json.dumps({"what": "HU histograms", "skipped": "name the folder of the real scans: --data"}))
        return
    for name, scan, labels, phase, spacing in SCANS:
        organs = totalsegmentator().organs[read_labels(arguments.data / labels).array]
        hu = read_scan(arguments.data / scan).array
        real = {int(organ): hu[organs == organ] for organ in np.unique(organs) if organ}
        bodies = [_hu(1000 + seed, COVERAGE[name], phase, spacing) for seed in range(arguments.bodies)]
        for organ, values in real.items():
            made = [body[organ] for body in bodies if len(body.get(organ, ())) >= FEWEST]
            if len(values) >= FEWEST and made:
                print(json.dumps({"scan": name, "phase": phase, "organ": by_id(organ).name, **_compare(values, made)}))


def _hu(seed: int, coverage: str, phase: str, spacing: tuple[float, float, float]) -> dict[int, np.ndarray]:
    case = make_case(CasePlan(seed=seed, coverage=coverage, phase=phase, spacing=spacing))
    return {organ: case.image[case.mask(organ)] for organ in range(1, 26)}


def _compare(real: np.ndarray, made: list[np.ndarray]) -> dict[str, float]:
    random = np.random.default_rng(0)
    sample = [random.choice(values, 4000) for values in (real, *made)]
    each = [wasserstein_distance(sample[0], values) for values in sample[1:]]
    return {
        "distance_hu": round(wasserstein_distance(sample[0], np.concatenate(sample[1:])), 1),
        "nearest_body_hu": round(min(each), 1),
        "real_median": float(np.median(real)),
        "made_median": float(np.median(np.concatenate(sample[1:]))),
        "real_spread": float(np.ptp(np.percentile(real, (10, 90)))),
        "made_spread": round(float(np.median([np.ptp(np.percentile(values, (10, 90))) for values in made])), 1),
    }


if __name__ == "__main__":
    main()
