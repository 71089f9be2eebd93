"""Whether the kMM blocks' state space layer decides anything: the share of voxels whose argmax (Eq. 9) it moves.

``python benchmarks/assignments.py WEIGHTS SCANS...``: for each scan, the windows that predict would lay over its body,
``--windows`` of them evenly spread. One JSON line a scan: by stride, the share of voxels that belong to another query
than by the affinity alone, and the root mean square of memory and affinity. The last line sums up.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from dsmseg import checkpoint
from dsmseg.inference.framing import frame_body
from dsmseg.inference.windows import DEFAULT_OVERLAP, channels, padding_to, place_windows
from dsmseg.model.kmax_mamba import KMaxMambaBlock
from dsmseg.volume import read_scan

STRIDES = (32, 16, 8, 4)


class Watched:
    """Notes of every kMM block what its memory changes."""

    def __init__(self, blocks: list[KMaxMambaBlock]) -> None:
        self.moved: dict[int, list[float]] = defaultdict(list)
        self.scales: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for stride, block in zip(STRIDES, blocks, strict=True):
            block.response = self._wrapped(block, stride)  # type: ignore[method-assign]

    def _wrapped(self, block: KMaxMambaBlock, stride: int):
        respond = block.response

        def response(queries: Tensor, feature: Tensor) -> Tensor:
            affinity = block.affinity(block.query_norm(queries), feature)
            answer = respond(queries, feature)
            self.moved[stride].append(float((answer.argmax(1) != affinity.argmax(1)).float().mean()))
            scales = ((answer - affinity).square().mean().sqrt(), affinity.square().mean().sqrt())
            self.scales[stride].append((float(scales[0]), float(scales[1])))
            return answer

        return response

    def line(self) -> dict[str, object]:
        """Give what was seen since the last line."""
        moved = {str(stride): round(fmean(self.moved.pop(stride)), 4) for stride in STRIDES}
        scales = {str(stride): np.mean(self.scales.pop(stride), axis=0).round(2).tolist() for stride in STRIDES}
        return {"moved": moved, "memory_and_affinity": scales}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--windows", type=int, default=8)
    arguments = parser.parse_args()
    loaded = checkpoint.load(arguments.weights)
    card, network = loaded.card, checkpoint.network(loaded)
    blocks = [block for block in network.modules() if isinstance(block, KMaxMambaBlock)]
    watched, lines = Watched(blocks), []
    for path in arguments.scans:
        frame = frame_body(read_scan(path), card.spacing_mm, card.window)
        padding = padding_to(frame.hu.shape, card.window)
        hu, body = torch.from_numpy(np.pad(frame.hu, padding, mode="edge")), np.pad(frame.body, padding)
        windows = place_windows(body, card.window, DEFAULT_OVERLAP)
        for number in np.unique(np.linspace(0, len(windows) - 1, arguments.windows).round().astype(int)):
            network(channels(hu[windows[number]], card.hu_windows))
        lines.append(watched.line())
        print(json.dumps({"scan": path.name} | lines[-1]), flush=True)
    mean = {str(stride): round(fmean(line["moved"][str(stride)] for line in lines), 4) for stride in STRIDES}  # type: ignore[index]
    print(json.dumps({"scans": len(lines), "moved": mean, "weights": card.sha256}))


if __name__ == "__main__":
    main()
