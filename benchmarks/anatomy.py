"""Sides, order and volumes of the organs of many phantoms, beside published adult ranges; JSON lines.

The first line sums up how many bodies have every organ on its side and in its order; one line an organ follows with the
5th, 50th and 95th percentile of its volume, the published range, and the share of bodies inside it.
"""

import argparse
import json

import numpy as np

from dsmseg.synthesis.anatomy import organ_mask
from dsmseg.synthesis.cases import CasePlan
from dsmseg.synthesis.phantom.body import draw_body
from dsmseg.synthesis.phantom.canvas import Frame
from dsmseg.synthesis.phantom.patient import draw_patient, draw_pose
from dsmseg.taxonomy import ORGANS, find

# ml, adults, about the 2nd to 98th percentile. Sources: Molina & DiMaio 2012 (autopsies: liver, spleen, kidneys);
# Geraghty 2004 (CT: liver, spleen, kidneys, pancreas, gallbladder); Hsu 2014 and TLC at CT (lungs);
# Schneider 2014 (adrenals); Collard 2021 (prostate); others: from their usual diameters and lengths.
RANGES = {
    "Spleen": (70, 420), "Right Kidney": (90, 260), "Left Kidney": (90, 270), "Gall Bladder": (8, 70),
    "Esophagus": (15, 60), "Liver": (950, 2400), "Stomach": (100, 800), "Aorta": (80, 400), "Postcava": (35, 140),
    "Portal Vein and Splenic Vein": (12, 60), "Pancreas": (35, 140), "Right Adrenal Gland": (1.5, 7),
    "Left Adrenal Gland": (1.5, 7), "Duodenum": (30, 130), "Hepatic Vessel": (8, 90), "Right Lung": (1100, 3800),
    "Left Lung": (900, 3400), "Colon": (250, 1300), "Intestine": (250, 1300), "Rectum": (25, 160),
    "Bladder": (40, 500), "Prostate": (12, 70), "Left Head of Femur": (30, 75), "Right Head of Femur": (30, 75),
    "Celiac Truck": (0.3, 3),
}  # fmt: skip
# The first's middle lies further along the axis than the second's.
ORDERS = (
    *(("x", f"Right {name}", f"Left {name}") for name in ("Kidney", "Lung", "Adrenal Gland", "Head of Femur")),
    ("x", "Liver", "Spleen"), ("x", "Liver", "Stomach"), ("x", "Postcava", "Aorta"), ("x", "Gall Bladder", "Pancreas"),
    ("y", "Stomach", "Left Kidney"), ("y", "Bladder", "Rectum"), ("y", "Pancreas", "Left Kidney"),
    ("z", "Right Lung", "Liver"), ("z", "Liver", "Bladder"), ("z", "Spleen", "Colon"), ("z", "Left Lung", "Spleen"),
    ("z", "Right Adrenal Gland", "Right Kidney"), ("z", "Bladder", "Prostate"), ("z", "Liver", "Right Kidney"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bodies", type=int, default=200)
    parser.add_argument("--spacing", type=float, default=2.5, help="mm; small vessels need fine voxels")
    arguments = parser.parse_args()
    volumes: dict[str, list[float]] = {one.name: [] for one in ORGANS}
    wrong: list[str] = []
    for seed in range(arguments.bodies):
        middles = _measure(seed, arguments.spacing, volumes)
        for axis, further, nearer in ORDERS:
            if further in middles and nearer in middles:
                place = "xyz".index(axis)
                if middles[further][place] <= middles[nearer][place]:
                    wrong.append(f"body {seed}: {further} / {nearer} along {axis}")
    print(json.dumps({"bodies": arguments.bodies, "spacing_mm": arguments.spacing, "wrong_side_or_order": wrong}))
    for name, found in volumes.items():
        low, high = RANGES[name]
        inside = float(np.mean([low <= volume <= high for volume in found]))
        five, middle, ninety_five = np.percentile(found, (5, 50, 95)).round(1).tolist()
        row = {"organ": name, "present": len(found), "ml_5": five, "ml_50": middle, "ml_95": ninety_five}
        print(json.dumps({**row, "published_ml": [low, high], "inside": round(inside, 3)}))


def _measure(seed: int, spacing: float, volumes: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """Draw a torso of the patients that `CasePlan(seed=seed)` has; give the middle of each organ in mm."""
    patient = draw_patient(CasePlan(seed=seed).seed)
    pose = draw_pose(seed, matrix=np.diag([1.0, 1.0, 1.0 / patient.height]))
    shape = (int(420 / spacing), int(330 / spacing), int(690 / spacing))
    frame = Frame(shape, (spacing,) * 3, (-210.0, -170.0, -195.0))
    structures = draw_body(patient, frame, pose).structures
    middles = {}
    for organ in ORGANS:
        mask = organ_mask(structures, find(organ.name).id)
        count = int(mask.sum())
        if count:
            volumes[organ.name].append(count * spacing**3 / 1000)
            middles[organ.name] = np.array(
                [np.average(np.arange(n), weights=mask.sum(axis=tuple({0, 1, 2} - {a}))) for a, n in enumerate(shape)]
            )
    return middles


if __name__ == "__main__":
    main()
