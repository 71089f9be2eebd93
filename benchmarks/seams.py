"""How many labels of a scan change when the grid of windows moves.

That is what windows cost: a network that sees other surroundings, or lies otherwise on its own strides, says something
else. Blending itself leaves no trace (tests/inference/test_seams.py). A JSON line for each overlap; shares are of the
voxels of the body's box at the spacing of the weights.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from dsmseg import checkpoint
from dsmseg.inference.blending import SlidingWindow, Tiling
from dsmseg.inference.framing import Frame, frame_body
from dsmseg.inference.runtime import choose_runtime
from dsmseg.report.demo import shipped
from dsmseg.taxonomy import ORGANS
from dsmseg.volume import read_scan

MOVED = (9, 13, 11)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path, default=shipped("CTChest4.nrrd"))
    parser.add_argument("--weights", default="starter")
    parser.add_argument("--overlap", type=float, nargs="+", default=[0.25, 0.5])
    arguments = parser.parse_args()
    loaded = checkpoint.load(arguments.weights)
    card, network = loaded.card, checkpoint.network(loaded)
    frame = frame_body(read_scan(arguments.scan), card.spacing_mm, card.window)
    organs = [one.id - 1 for one in ORGANS if one.name in card.organs]
    for overlap in arguments.overlap:
        tiling = Tiling(card.window, overlap, card.hu_windows, organs)
        changed = _labels(network, frame, tiling, (0, 0, 0)) != _labels(network, frame, tiling, MOVED)
        print(
            json.dumps({"scan": arguments.scan.name, "overlap": overlap, "moved_by": MOVED, "changed": changed.mean()})
        )


def _labels(network: torch.nn.Module, frame: Frame, tiling: Tiling, moved: tuple[int, int, int]) -> np.ndarray:
    margin = [(length, 0) for length in moved]
    hu, body = np.pad(frame.hu, margin, mode="edge"), np.pad(frame.body, margin)
    slabs = SlidingWindow(network, hu, body, tiling, choose_runtime("cpu"))
    parts = [(slab.organs.sums * slab.organs.shares)[..., slab.new - slab.start :].clone() for slab in slabs]
    x, y, z = moved
    fields = torch.cat(parts, dim=-1)[:, x:, y:, z:].numpy()
    return np.where(fields.max(axis=0) > 0.5, 1 + fields.argmax(axis=0), 0)


if __name__ == "__main__":
    main()
