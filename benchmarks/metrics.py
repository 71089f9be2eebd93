"""Metrics beside their peers, in turns in one process: seconds, memory, and how far the figures are apart.

AUROC and FPR95 of one scan beside scikit-learn, on scores of several kinds; NSD and HD95 of an organ beside DeepMind's
surface-distance. One JSON line each. scikit-learn takes most of a minute and 2.7 GB on 34 million voxels: ``--runs 1``
is its default.
"""

import argparse
import json
import os
import warnings

import numpy as np
from scipy import ndimage
from sklearn.metrics import auc, roc_curve

from dsmseg.evaluation import count_scores, surface_distances

from measuring import in_turns, peak_memory, seconds

TOLERANCE_MM = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, default=34_000_000)
    parser.add_argument("--tumor", type=int, default=120_000, help="voxels that are tumor")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=["probabilities"])
    arguments = parser.parse_args()
    truth = np.zeros(arguments.voxels, bool)
    truth[: arguments.tumor] = True
    logits = np.random.default_rng(0).standard_normal(truth.size, dtype=np.float32) * 3 - 4
    logits[truth] += 4
    for kind in arguments.scores:
        print(json.dumps(_ranking(kind, SCORES[kind](logits), truth, arguments.runs)), flush=True)
    print(json.dumps(_surfaces(arguments.runs)), flush=True)


SCORES = {
    "probabilities": lambda logits: 1 / (1 + np.exp(-logits)),
    "logits": lambda logits: logits,
    "bytes": lambda logits: (255 / (1 + np.exp(-logits))).astype(np.uint8),
    "close to 1": lambda logits: 1 - np.float32(1e-6) * (20 - logits),
    "all equal": lambda logits: np.full(logits.size, 0.3, np.float32),
}


def _ranking(kind: str, scores: np.ndarray, truth: np.ndarray, runs: int) -> dict:
    count_scores(scores[:1000], truth[:1000])  # compiles
    state = count_scores(scores, truth)
    theirs = {}

    def peer() -> None:
        fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
        theirs.update(auroc=float(auc(fpr, tpr)), fpr95=float(fpr[np.argmax(tpr >= 0.95)]))

    peer_memory = peak_memory(peer)
    turns = [[seconds(peer), seconds(lambda: count_scores(scores, truth))] for _ in range(runs)]
    peer_seconds, our_seconds = (float(np.median(one)) for one in zip(*turns, strict=True))
    return {
        "what": f"AUROC and FPR95, {truth.size} voxels, {kind}",
        "peer": "scikit-learn",
        **_compared(peer_seconds, our_seconds, peer_memory, peak_memory(lambda: count_scores(scores, truth))),
        "auroc_difference": abs(theirs["auroc"] - state.auroc),
        "fpr95_difference": abs(theirs["fpr95"] - state.fpr95),
        "rows": len(state.scores),
        "runs": runs,
    }


def _surfaces(runs: int) -> dict:
    """Measure an organ as large as a liver in a scan of 512 x 512 x 133 voxels of 0.7 x 0.7 x 2 mm."""
    import surface_distance

    warnings.simplefilter("ignore")  # it uses a part of scipy that is going
    spacing, (reference, prediction) = (0.7, 0.7, 2.0), _livers()
    ours = surface_distances(reference, prediction, spacing)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)

    def peer() -> None:
        found = surface_distance.compute_surface_distances(reference, prediction, spacing)
        surface_distance.compute_surface_dice_at_tolerance(found, TOLERANCE_MM)
        surface_distance.compute_robust_hausdorff(found, 95)

    def mine() -> None:
        found = surface_distances(reference, prediction, spacing)
        found.nsd(TOLERANCE_MM)
        found.hausdorff(95)

    peer_seconds, our_seconds = in_turns([peer, mine], max(3, runs))
    nsd = surface_distance.compute_surface_dice_at_tolerance(theirs, TOLERANCE_MM + 1e-6)
    return {
        "what": f"NSD and HD95, {len(ours.reference_areas)} elements of surface",
        "peer": "surface-distance",
        **_compared(peer_seconds, our_seconds, peak_memory(peer), peak_memory(mine)),
        "nsd_difference": abs(nsd - ours.nsd(TOLERANCE_MM)),
        "hd95_difference_mm": abs(surface_distance.compute_robust_hausdorff(theirs, 95) - ours.hausdorff(95)),
        "runs": max(3, runs),
    }


def _livers() -> tuple[np.ndarray, np.ndarray]:
    """Give an ellipsoid and a bumpy one."""
    shape, spacing, place = (330, 290, 110), (0.7, 0.7, 2.0), (60, 100, 10)
    x, y, z = (np.arange(count, dtype=np.float32) * step for count, step in zip(shape, spacing, strict=True))
    radius = np.sqrt(((x - 115) / 95)[:, None, None] ** 2 + ((y - 100) / 75)[:, None] ** 2 + ((z - 110) / 90) ** 2)
    bumps = ndimage.zoom(
        np.random.default_rng(0).standard_normal((11, 10, 10)), np.array(shape) / (11, 10, 10), order=1
    )
    masks = np.zeros((2, 512, 512, 133), bool)
    box = tuple(slice(start, start + count) for start, count in zip(place, shape, strict=True))
    masks[0][box], masks[1][box] = radius < 1, radius + 0.03 * bumps < 1
    return masks[0], masks[1]


def _compared(peer_seconds: float, our_seconds: float, peer_memory: int | None, memory: int | None) -> dict:
    return {
        "peer_seconds": round(peer_seconds, 3),
        "seconds": round(our_seconds, 3),
        "ratio": round(peer_seconds / our_seconds, 1),
        "peer_peak_mb": peer_memory,
        "peak_mb": memory,
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
