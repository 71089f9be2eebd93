"""Agreement (Dice) of the packaged weights with references on real CTs that they were not trained on.

One JSON line a scan. The chest of the package slicerio is always measured; with ``--data FOLDER`` the labelled scans of
that folder too (``abdomen_3mm`` and ``dicom_series``, references by TotalSegmentator: agreement, not accuracy).
``--write-card`` puts the figures on the weights' card.

``anomaly`` tells how well that is calibrated, inside of the body, where a reference holds whole bodies: for each fifth
of the scale its mean, the share of its voxels that are in no organ that the weights know, and its share of all voxels.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from dsmseg import checkpoint
from dsmseg.checkpoint import Card
from dsmseg.files import write_json
from dsmseg.inference import Segmentation, Segmenter
from dsmseg.report.demo import REFERENCE_VALUES, dice, shipped
from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.taxonomy import by_id, find
from dsmseg.volume import read_labels

WITHOUT_BODIES = "slicerio CTChest4"  # its reference has lungs only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="starter")
    parser.add_argument("--data", type=Path, help="folder that holds abdomen_3mm/ and dicom_series/")
    parser.add_argument("--write-card", action="store_true")
    arguments = parser.parse_args()
    segmenter = Segmenter.load(arguments.weights)
    results = []
    for name, scan, reference, organs in _scans(arguments.data):
        started = time.perf_counter()
        segmentation = segmenter(scan)
        seconds = time.perf_counter() - started
        reference_organs = organs[read_labels(reference).array]
        scores = _scores(segmentation.organs, reference_organs)
        calibration = (
            {} if name == WITHOUT_BODIES else {"anomaly": _calibration(segmentation, reference_organs, segmenter)}
        )
        results.append({"scan": name, "mean": round(float(np.mean(list(scores.values()))), 3), "dice": scores})
        print(
            json.dumps({**results[-1], **calibration, "seconds": round(seconds, 1), "cores": os.cpu_count()}),
            flush=True,
        )
    if arguments.write_card:
        _write_card(arguments.weights, results)


def _scans(data: Path | None):
    lungs = np.zeros(256, np.uint8)
    for name, value in REFERENCE_VALUES.items():
        lungs[value] = find(name).id
    yield WITHOUT_BODIES, shipped("CTChest4.nrrd"), shipped("Segmentation.seg.nrrd"), lungs
    if data is None:
        return
    organs = totalsegmentator().organs
    yield "abdomen_3mm", data / "abdomen_3mm" / "ct.nii.gz", data / "abdomen_3mm" / "totalseg_labels.nii.gz", organs
    series = data / "dicom_series"
    yield "dicom_series", series / "ct", series / "example_seg_dicom.nii.gz", organs


def _scores(organs: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Give the Dice of each organ that the reference holds."""
    present = [int(organ) for organ in np.unique(reference) if organ]
    return {by_id(organ).name: round(dice(organs == organ, reference == organ), 3) for organ in present}


def _calibration(segmentation: Segmentation, reference: np.ndarray, segmenter: Segmenter) -> dict[str, list[float]]:
    """Give, for each fifth of the scale, the mean anomaly, the share of voxels in no known organ, and of all voxels."""
    known = [one.id for one in segmenter.choice.known_organs]
    inside = segmentation.unexplained_levels > 0
    anomaly, outside = segmentation.unexplained[inside], ~np.isin(reference[inside], known)
    fifths = np.minimum((anomaly * 5).astype(int), 4)
    rows = {}
    for fifth in range(5):
        here = fifths == fifth
        if here.any():
            figures = anomaly[here].mean(), outside[here].mean(), here.mean()
            rows[f"{fifth / 5:.1f} to {(fifth + 1) / 5:.1f}"] = [round(float(one), 3) for one in figures]
    return rows


def _write_card(weights: str, results: list[dict]) -> None:
    loaded = checkpoint.load(weights)
    figures = {**loaded.card.figures, "agreement": {result["scan"]: result for result in results}}
    card = Card.model_validate({**loaded.card.model_dump(), "figures": figures})
    write_json(loaded.path.with_suffix(".json"), card.model_dump(mode="json"))


if __name__ == "__main__":
    main()
