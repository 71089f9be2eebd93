"""How fast synthetic samples come, on one core; JSON lines: patches, whole bodies, and where time goes.

A patch is a new patient each time, from chance to labels and HU, as a data loader's worker makes it. Then what a patch
for training takes, of each source, and what putting tumors into it adds: means of turns. The last lines give a clinical
scan with a tumor grown in it: seconds and peak memory.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from measuring import peak_memory

CORES = 1
os.environ["OMP_NUM_THREADS"] = str(CORES)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from dsmseg.datasets.patches import Balance  # noqa: E402
from dsmseg.datasets.store import CaseRecord, Settings, Store, as_rows, write_case  # noqa: E402
from dsmseg.synthesis.anatomy import HEPATIC_VESSEL, totalsegmentator  # noqa: E402
from dsmseg.synthesis.appearance import draw_look, paint  # noqa: E402
from dsmseg.synthesis.bodies import Body, PatchPlan, draw, read_body  # noqa: E402
from dsmseg.synthesis.cases import CasePlan, make_case  # noqa: E402
from dsmseg.synthesis.noise import generator  # noqa: E402
from dsmseg.synthesis.online import draw_phantom  # noqa: E402
from dsmseg.synthesis.phantom.body import draw_body  # noqa: E402
from dsmseg.synthesis.phantom.canvas import Frame  # noqa: E402
from dsmseg.synthesis.phantom.patient import draw_patient, draw_pose  # noqa: E402
from dsmseg.synthesis.scanner import draw_scanner, scan  # noqa: E402
from dsmseg.synthesis.tumors import insert_tumor  # noqa: E402
from dsmseg.synthesis.tumors.kinds import tumor_class  # noqa: E402
from dsmseg.synthesis.tumors.patches import TumorPlan  # noqa: E402
from dsmseg.taxonomy import ORGANS, find  # noqa: E402
from dsmseg.training.data_settings import AugmentationRange  # noqa: E402
from dsmseg.training.patches import DrawnPatches, Source, StoredPatches  # noqa: E402
from dsmseg.training.tumors import absent_in  # noqa: E402

_WINDOWS = [(-175.0, 250.0), (-1000.0, 1000.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=12, help="of each kind; the median is told")
    parser.add_argument("--data", type=Path, help="folder that holds labelmaps/ and bodies/: bodies from them too")
    parser.add_argument("--rounds", type=int, default=40, help="patches for training of each source, without and with")
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
    for size, spacing in (((64, 64, 64), 3.0), ((96, 96, 64), 2.0)):
        with tempfile.TemporaryDirectory() as folder:
            _tell_training(size, spacing, Path(folder), arguments)
    _tell_parts(arguments.draws)
    _tell_clinical()


def _tell(what: str, make: Callable[[int], object], draws: int) -> None:
    make(0)
    seconds = statistics.median(_seconds(lambda seed=seed: make(seed)) for seed in range(draws))
    print(json.dumps({"what": what, "a_second_a_core": round(1 / seconds, 2)}), flush=True)


def _tell_training(size: tuple[int, int, int], spacing: float, folder: Path, arguments: argparse.Namespace) -> None:
    """Tell ms of a patch for training, of each source, without tumors put in and with the default ones."""
    plan = TumorPlan(kinds=(tumor_class("Liver Tumor"), tumor_class("Kidney Tumor")))
    hosts = tuple(sorted(find(name).id for name in ("Liver", "Right Kidney", "Left Kidney")))
    patch_plan = PatchPlan(size=size, spacing=spacing, near=hosts, near_share=0.5)
    sources: dict[str, Callable[[TumorPlan | None], Source]] = {
        "phantom": lambda tumors: _drawn([], patch_plan, tumors),
        "store": partial(_stored, size, spacing, folder),
    }
    if arguments.data is not None:
        atlas = arguments.data / "bodies" / "spl_atlas"
        healthy = frozenset(hosts)
        real = read_body(atlas / "labels.nii.gz", atlas / "ct.nii.gz", totalsegmentator(), healthy=healthy)
        sources["real CT"] = lambda tumors: _drawn([real], patch_plan, tumors, real=1)
        sources["label map"] = lambda tumors: _drawn([replace(real, image=None)], patch_plan, tumors)
    for name, open_source in sources.items():
        plain, put = open_source(None), open_source(plan)
        taken: dict[str, list[float]] = {"plain": [], "put": []}
        for step in range(arguments.rounds + 1):
            for which, source in (("plain", plain), ("put", put)):
                seconds = _seconds(lambda source=source, step=step: source.patch(step, 0))
                if step:
                    taken[which].append(1000 * seconds)
        means = {which: statistics.fmean(values) for which, values in taken.items()}
        row = {"what": f"for training, {name}, {'x'.join(map(str, size))} at {spacing} mm"}
        figures = {"ms": round(means["plain"], 1), "ms_with_tumors": round(means["put"], 1)}
        print(json.dumps(row | figures | {"a_second_with_tumors": round(1000 / means["put"], 2)}), flush=True)


def _drawn(bodies: list[Body], plan: PatchPlan, tumors: TumorPlan | None, *, real: int = 0) -> Source:
    share = 0.0 if bodies else 1.0
    return DrawnPatches(
        bodies, plan=lambda _: plan, hu_windows=_WINDOWS, real=real, phantoms=share, reuse=1, seed=0, tumors=tumors
    )


def _stored(size: tuple[int, int, int], spacing: float, folder: Path, tumors: TumorPlan | None) -> Source:
    """Give patches of one healthy virtual body, in a store."""
    cases = tuple(_store_case(folder, spacing).cases())
    return StoredPatches(
        cases, size=size, hu_windows=_WINDOWS, limits=AugmentationRange(), balance=Balance(), batch=1, seed=0,
        absent=partial(absent_in, None), tumors=tumors,
    )  # fmt: skip


def _store_case(folder: Path, spacing: float) -> Store:
    where = folder / "store"
    if not where.exists():
        case = make_case(CasePlan(seed=4, coverage="torso", spacing=(spacing,) * 3, phase="venous", whole=True))
        Store.create(where, Settings(spacing_mm=(spacing,) * 3, hu_window=(-1000.0, 1000.0)))
        ids = sorted({one.id for one in ORGANS} - {HEPATIC_VESSEL})
        codes = np.zeros(case.image.shape, np.uint8)
        for code, organ in enumerate(ids, start=1):
            codes[case.mask(organ)] = code
        places = {organ: np.argwhere(codes == code) for code, organ in enumerate(ids, start=1)}
        home = where / "virtual_btcv" / "1"
        home.mkdir(parents=True)
        record = CaseRecord(
            dataset="virtual_btcv", case="1", sources=(), description="", shape=case.image.shape,
            affine=as_rows(case.affine), own_shape=case.image.shape, own_affine=as_rows(case.affine), placing="header",
            sets=((), *((organ,) for organ in ids)), annotated=tuple(ids), merged=(),
            voxels={organ: len(those) for organ, those in places.items()}, body_ml=1.0, hu={},
        )  # fmt: skip
        write_case(
            home, record, image=np.clip(case.image, -1000, 1000), codes=codes,
            locations={organ: those[:2000].astype(np.int16) for organ, those in places.items() if len(those)},
            fingerprint=np.zeros((12, 12, 12), np.int8),
        )  # fmt: skip
    return Store.open(where)


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
