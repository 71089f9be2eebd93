"""How fast synthetic samples come, on one core; JSON lines: patches, whole bodies, and where time goes.

A patch is a new patient each time, from chance to labels and HU, as a data loader's worker makes it. The last lines
give a clinical scan with a tumor grown in it: seconds and peak memory.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from measuring import peak_memory

CORES = 1
os.environ["OMP_NUM_THREADS"] = str(CORES)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from dsmseg.synthesis.anatomy import totalsegmentator  # noqa: E402
from dsmseg.synthesis.appearance import draw_look, paint  # noqa: E402
from dsmseg.synthesis.bodies import PatchPlan, draw, read_body  # noqa: E402
from dsmseg.synthesis.cases import CasePlan, make_case  # noqa: E402
from dsmseg.synthesis.noise import generator  # noqa: E402
from dsmseg.synthesis.online import draw_phantom  # noqa: E402
from dsmseg.synthesis.phantom.body import draw_body  # noqa: E402
from dsmseg.synthesis.phantom.canvas import Frame  # noqa: E402
from dsmseg.synthesis.phantom.patient import draw_patient, draw_pose  # noqa: E402
from dsmseg.synthesis.scanner import draw_scanner, scan  # noqa: E402
from dsmseg.synthesis.tumors import insert_tumor  # noqa: E402
from dsmseg.taxonomy import find  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=12, help="of each kind; the median is told")
    parser.add_argument("--data", type=Path, help="folder that holds labelmaps/: bodies from label maps too")
    arguments = parser.parse_args()
    torch.set_num_threads(CORES)
    for size, spacing in ((64, 3.0), (96, 1.5), (128, 3.0)):
        plan = PatchPlan(size=(size, size, size), spacing=spacing)
        what = f"phantom, {size}^3 at {spacing} mm"
        _tell(what, lambda seed, plan=plan: draw_phantom(plan, generator("rate", seed)), arguments.draws)
    if arguments.data is not None:
        body = read_body(arguments.data / "labelmaps" / "s0327.nii.gz", None, totalsegmentator())
        for size, spacing in ((64, 3.0), (96, 1.5)):
            plan = PatchPlan(size=(size, size, size), spacing=spacing)

            def drawn(seed: int, plan: PatchPlan = plan) -> object:
                return draw(body, plan, torch.Generator().manual_seed(seed), real=False)

            _tell(f"label map, {size}^3 at {spacing} mm", drawn, arguments.draws)
    _tell_parts(arguments.draws)
    _tell_clinical()


def _tell(what: str, make: Callable[[int], object], draws: int) -> None:
    make(0)
    seconds = statistics.median(_seconds(lambda seed=seed: make(seed)) for seed in range(draws))
    print(json.dumps({"what": what, "a_second_a_core": round(1 / seconds, 2)}), flush=True)


def _tell_parts(draws: int) -> None:
    """Tell where the time of a body of 128^3 goes."""
    frame = Frame((128, 128, 128), (3.0, 3.0, 3.0), (-192.0, -192.0, 0.0))
    parts: dict[str, list[float]] = {"draw the anatomy": [], "paint": [], "scan": []}
    for seed in range(draws + 1):
        random = generator("parts", seed)
        started = time.perf_counter()
        canvas = draw_body(draw_patient(seed), frame, draw_pose(seed))
        drawn = time.perf_counter()
        image = paint(canvas.structures, canvas.depth, canvas.height, frame, draw_look(random))
        painted = time.perf_counter()
        scan(image, frame, draw_scanner(random, 3.0))
        if seed:
            taken = (drawn - started, painted - drawn, time.perf_counter() - painted)
            for name, seconds in zip(parts, taken, strict=True):
                parts[name].append(seconds)
    medians = {name: round(1000 * statistics.median(found)) for name, found in parts.items()}
    print(json.dumps({"what": "phantom, 128^3: ms by part", **medians}), flush=True)


def _tell_clinical() -> None:
    plan = CasePlan(seed=3, coverage="thorax-abdomen", spacing=(0.8, 0.8, 1.5), whole=True)
    case = make_case(plan)
    shape = list(case.image.shape)
    taken, memory = _seconds(lambda: make_case(plan)), peak_memory(lambda: make_case(plan))
    print(
        json.dumps({"what": "whole case", "voxels": shape, "seconds": round(taken, 1), "peak_mb": memory}), flush=True
    )
    image, host = case.image.astype(np.float32), case.mask(find("Liver").id)

    def grow() -> object:
        return insert_tumor(image, host, plan.spacing, "Liver Tumor", 1)

    grow()
    taken, memory = _seconds(grow), peak_memory(grow)
    print(json.dumps({"what": "liver tumor in it", "seconds": round(taken, 2), "peak_mb": memory}), flush=True)


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
