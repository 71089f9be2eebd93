"""Everything but the network, from a scan's file to saved labels: seconds and peak memory, beside MONAI and nnU-Net.

The network is replaced by one that draws each class as a blob, in windows of 96^3, and costs next to nothing; its
seconds are taken out (``network_s``; ``rest_s`` is all else). Each contender runs in a process of its own, in turns,
and may take ``--limit-gb`` of address space. One that needs more has ``failed``, with the steps that it came through.

- dsmseg: ``Segmenter(network, card)(scan).save(folder)``: 25 organs and 20 tumors in two layers, anomaly, statistics.
- MONAI, fields inverted: LoadImaged to SlidingWindowInferer as its bundles have them, Invertd of all fields, argmax.
- MONAI, labels inverted: the same, but argmax first and the nearest label to each voxel, as its whole-body bundle does:
  little memory, and borders in steps of the network's spacing.
- nnU-Net: DefaultPreprocessor, nnUNetPredictor's sliding window (half a window's step, no mirroring) and
  ``export_prediction_from_logits``. It runs in a Python that has it, ``--nnunet-python``, and is left out otherwise.

MONAI and nnU-Net get one channel more, the background, and save one label map. One JSON line a contender (medians; peak
resident memory with what the imports take, ``imports_mb``), then their seconds and memory over ours. Steps are named as
each contender has them; the one called network includes blending.
"""

import argparse
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import ceil, prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from measuring import nnunet_plans

WINDOW = 96, 96, 96
OVERLAP = 0.25  # ours and MONAI's default
NNUNET_STEP = 0.5  # its default
HU_WINDOWS = (-1000.0, 1000.0), (-160.0, 240.0)
SYNTHETIC, SYNTHETIC_MM = (512, 512, 133), (0.7, 0.7, 1.0)
NNUNET = "python -m venv FOLDER && FOLDER/bin/pip install torch nnunetv2==2.8.1, then --nnunet-python FOLDER/bin/python"
MEMORY_SIGNS = ("MemoryError", "memory ran out", "out of memory", "can't allocate", "bad_alloc", "start new thread")

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What a process of its own is to do. ``places``: of each class, the organ at which it lies."""

    contender: str
    scan: str
    spacing: float
    places: list[int]
    limit_gb: float
    folder: str

    @property
    def results(self) -> Path:
        """A line for each step that was done, so that they are known of a process that was killed too."""
        return Path(self.folder) / "steps.jsonl"

    def tell(self, **what: float) -> None:
        with self.results.open("a") as file:
            print(json.dumps(what), file=file)

    def imported(self) -> None:
        self.tell(imports_mb=_peak_mb(resource.getrusage(resource.RUSAGE_SELF)), started=time.monotonic())

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.tell(**{name: time.perf_counter() - started})


@dataclass
class Record:
    """The runs of a contender."""

    runs: list[Result] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any("failed" in run for run in self.runs)

    def median(self) -> Result:
        if self.failed:
            return self.runs[-1]
        medians: Result = {}
        for name, value in self.runs[0].items():
            values = [run[name] for run in self.runs]
            if isinstance(value, dict):
                medians[name] = {step: round(statistics.median(one[step] for one in values), 2) for step in value}
            else:
                middle = statistics.median_low if isinstance(value, int) else statistics.median
                medians[name] = round(middle(values), 2)
        return medians


class Blobs(nn.Module):
    """Draws each class where few successive windows are, as organs are: an ellipsoid at one of their dense places.

    Gives logits ``(1, background + class, x, y, z)``, where the background's are 0, and -4 to 8 a class.
    """

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__()
        self.places = places
        self.windows = 1  # of the scan, as far as it is known
        self.calls = 0
        self.seconds = 0.0

    def forward(self, image: Tensor) -> Tensor:
        started = time.perf_counter()
        shape, density = image.shape[2:], image[0, 0].float()
        cells = functional.avg_pool3d(density[None], [length // 3 for length in shape])
        dense = cells.flatten().argsort(descending=True).tolist()
        fields = torch.full((1, 1 + len(self.places), *shape), -4.0)
        fields[:, 0] = 0
        organs = 1 + max(self.places)
        here, near = (self.calls % self.windows + 0.5) / self.windows, max(1 / organs, 1.5 / self.windows)
        present = [place for place in range(organs) if abs((place + 0.5) / organs - here) <= near]
        for number, place in enumerate(self.places):
            if place in present:
                center = np.unravel_index(dense[present.index(place)], cells.shape[-3:])
                radius = min(shape) / (6 if len(present) < 6 else 9)
                fields[0, 1 + number] = _blob(shape, radius, center, number - organs).add_(density).clamp_min_(-4)
        self.calls += 1
        self.seconds += time.perf_counter() - started
        return fields


def _blob(shape: Sequence[int], radius: float, cell: Sequence[int], tumor: int) -> Tensor:
    """Draw an organ in the cell, one of 3 x 3 x 3, or tumor ``tumor`` (0 and above) at one end of it."""
    squares = []
    for axis, (length, third) in enumerate(zip(shape, cell, strict=True)):
        center = (0.5 + (int(third) - 1) * 0.22) * length  # towards the middle, which no other window blends away
        if tumor >= 0 and axis == tumor % 3:
            center += (tumor // 3 % 2 * 2 - 1) * radius / 2
        squares.append(((torch.arange(length) - center) / radius) ** 2)
    x, y, z = squares
    distance = x[:, None, None] + y[:, None] + z
    return 6 * (1 - distance) if tumor < 0 else 7 * (1 - 4 * distance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scan = parser.add_mutually_exclusive_group()
    scan.add_argument("--scan", type=Path, help="a CT as .nii.gz")
    scan.add_argument(
        "--synthetic", type=int, nargs=3, metavar=("X", "Y", "Z"), default=SYNTHETIC, help="voxels of a made-up CT"
    )
    parser.add_argument("--spacing", type=float, default=1.5, help="of the network, mm")
    parser.add_argument("--classes", type=int, default=45, help="the first of the 25 organs and 20 tumors")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--nnunet-python", type=Path, help="a Python that has nnU-Net")
    parser.add_argument("--limit-gb", type=float, default=20.0, help="of address space, for each process")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        _work(Job(**json.loads(arguments.job)))
        return
    contenders = list(arguments.contenders)
    if "nnunet" in contenders and arguments.nnunet_python is None:
        contenders.remove("nnunet")
        print(json.dumps({"contender": CONTENDERS["nnunet"][0], "left_out": "no --nnunet-python", "install": NNUNET}))
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.scan or _write_synthetic(Path(folder) / "synthetic.nii.gz", arguments.synthetic)
        _compare(contenders, path, Path(folder), arguments)


def _compare(contenders: Sequence[str], scan: Path, folder: Path, arguments: argparse.Namespace) -> None:
    places = _places(arguments.classes)
    records = {contender: Record() for contender in contenders}
    for run in range(arguments.runs):
        for contender, record in records.items():
            if not record.failed:
                results = folder / f"{contender}_{run}"
                job = Job(contender, str(scan), arguments.spacing, places, arguments.limit_gb, str(results))
                python = arguments.nnunet_python if contender == "nnunet" else sys.executable
                record.runs.append(_run(job, python))
    header = nibabel.load(scan).header
    about = {
        "scan": scan.name,
        "shape": list(header.get_data_shape()),
        "voxel_mm": [round(float(one), 2) for one in header.get_zooms()],
        "classes": len(places),
        "spacing_mm": arguments.spacing,
    }
    about |= {"threads": torch.get_num_threads()}
    medians = {contender: record.median() for contender, record in records.items()}
    for contender, median in medians.items():
        runs = len(records[contender].runs)
        print(json.dumps({"contender": CONTENDERS[contender][0], **median, **about, "runs": runs}), flush=True)
    ours = medians.pop("dsmseg", {"failed": ""})
    ratios = {
        CONTENDERS[contender][0]: {name: round(median[name] / ours[name], 2) for name in ("rest_s", "peak_mb")}
        for contender, median in medians.items()
        if "failed" not in median and "failed" not in ours
    }
    print(json.dumps({"ratio": ratios}), flush=True)


def _places(classes: int) -> list[int]:
    """Give the organ at which each class lies: itself, and for a tumor its host."""
    from dsmseg.taxonomy import CLASSES, find

    chosen = CLASSES[:classes]
    return [(one.id if one.kind == "organ" else find(one.hosts[0]).id) - 1 for one in chosen]


def _run(job: Job, python: str | Path) -> Result:
    """Run one contender in a process of its own; what it took, or how it failed."""
    Path(job.folder).mkdir()
    command = [str(python), __file__, "--job", json.dumps(asdict(job))]
    errors = Path(job.folder) / "errors.txt"
    with errors.open("wb") as file:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode, ended = os.waitstatus_to_exitcode(status), time.monotonic()
    told: Result = {}
    if job.results.exists():
        told = {
            name: value for line in job.results.read_text().splitlines() for name, value in json.loads(line).items()
        }
    result = {"imports_mb": told.pop("imports_mb", 0), "peak_mb": _peak_mb(usage)}
    started, network = told.pop("started", ended), told.pop("network_s", 0.0)
    steps = {"seconds": {name: round(value, 2) for name, value in told.items()}}
    if process.returncode:
        text = errors.read_text()
        if process.returncode == -9 or any(sign in text for sign in MEMORY_SIGNS):
            why = f"out of memory at {job.limit_gb:g} GB"
        else:
            why = text.strip().splitlines()[-1] if text.strip() else f"ended with {process.returncode}"
        return {"failed": why, "seconds_until_then": round(ended - started, 2), **result, **steps}
    found = _classes_in(Path(job.folder))
    return {"rest_s": sum(told.values()) - network, "network_s": network, **result, **steps, "classes_found": found}


def _peak_mb(usage: resource.struct_rusage) -> int:
    return round(usage.ru_maxrss * 1024 / 1e6)


def _classes_in(folder: Path) -> int:
    """Count the labels in the files, in pieces, as a process starts with its parent's peak memory in its books."""
    found: set[int] = set()
    for path in folder.rglob("*.nii.gz"):
        if path.name.startswith("anomaly"):
            continue
        image = nibabel.load(path)
        if image.get_data_dtype() != np.uint8:
            raise ValueError(f"{path.name} holds {image.get_data_dtype()}")
        with gzip.open(path) as file:
            file.seek(image.dataobj.offset)
            while piece := file.read(1 << 20):
                found |= set(np.flatnonzero(np.bincount(np.frombuffer(piece, np.uint8))).tolist())
    return len(found - {0})


def _work(job: Job) -> None:
    limit = round(job.limit_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    network = Blobs(job.places)
    with torch.inference_mode():
        CONTENDERS[job.contender][1](job, network)
    job.tell(network_s=network.seconds)


def _dsmseg(job: Job, blobs: Blobs) -> None:
    from dsmseg.checkpoint import Card
    from dsmseg.inference import Segmenter
    from dsmseg.model import DSMOutput
    from dsmseg.taxonomy import CLASSES

    class Network(nn.Module):
        def forward(self, image: Tensor) -> DSMOutput:
            fields = blobs(image)[:, 1:]
            anomaly = -functional.avg_pool3d(image[:, :1], 4)[:, 0]
            tumors = fields[:, 25:] if fields.shape[1] > 25 else None
            return DSMOutput(fields[:, :25], torch.zeros(1, 25), [], anomaly, tumors, None)

    def progress(done: int, windows: int) -> None:
        blobs.windows = windows

    chosen = CLASSES[: len(job.places)]
    card = Card(
        name="blobs",
        version="1",
        preset="starter",
        stage=2,
        organs=tuple(one.name for one in chosen if one.kind == "organ"),
        tumors=tuple(one.name for one in chosen if one.kind == "tumor"),
        text_encoder="minilm",
        spacing_mm=(job.spacing,) * 3,
        hu_windows=HU_WINDOWS,
        window=WINDOW,
        training_data=(),
        licence="Apache-2.0",
        figures={},
    )
    segmenter = Segmenter(Network(), card, device="cpu", overlap=OVERLAP)
    job.imported()
    started = time.perf_counter()
    segmentation = segmenter(job.scan, progress=progress)
    whole = time.perf_counter() - started
    job.tell(**segmentation.run["seconds"])
    job.tell(other=whole - sum(segmentation.run["seconds"].values()))
    with job.step("save"):
        segmentation.save(Path(job.folder) / "case")


def _monai(job: Job, blobs: Blobs, *, labels: bool = False) -> None:
    from monai import transforms as t
    from monai.inferers import SlidingWindowInferer

    low, high = HU_WINDOWS[0]
    read = t.Compose([t.LoadImaged("image"), t.EnsureChannelFirstd("image")])
    prepare = t.Compose(
        [
            t.Orientationd("image", axcodes="RAS", labels=None),
            t.Spacingd("image", pixdim=(job.spacing,) * 3, mode="bilinear"),
            t.ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0, b_max=1, clip=True),
        ]
    )
    inferer = SlidingWindowInferer(WINDOW, sw_batch_size=1, overlap=OVERLAP, mode="gaussian", padding_mode="replicate")
    invert = t.Invertd("pred", transform=prepare, orig_keys="image", nearest_interp=labels, to_tensor=True)
    choose = t.AsDiscreted("pred", argmax=True)
    save = t.SaveImaged(
        "pred", output_dir=job.folder, separate_folder=False, output_dtype=np.uint8, resample=False, print_log=False
    )
    job.imported()
    with job.step("read"):
        case = read({"image": job.scan})
    with job.step("prepare"):
        case = prepare(case)
    blobs.windows = _windows(case["image"].shape[1:], 1 - OVERLAP)
    with job.step("network"):
        case["pred"] = inferer(case["image"][None], blobs)[0]
    for one in (choose, invert) if labels else (invert, choose):
        with job.step("argmax" if one is choose else "restore"):
            case = one(case)
    with job.step("save"):
        save(case)


def _monai_labels(job: Job, blobs: Blobs) -> None:
    _monai(job, blobs, labels=True)


def _nnunet(job: Job, blobs: Blobs) -> None:
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    labels = {"background": 0} | {f"class {number}": number for number in range(1, 1 + len(job.places))}
    about = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    plans = PlansManager(nnunet_plans((job.spacing,) * 3, WINDOW, HU_WINDOWS[0]))
    configuration = plans.get_configuration("3d_fullres")
    predictor = nnUNetPredictor(
        NNUNET_STEP,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.manual_initialization(blobs, plans, configuration, [{}], about, "nnUNetTrainer", None)
    job.imported()
    with job.step("read and prepare"):
        data, _, about_scan = DefaultPreprocessor(verbose=False).run_case([job.scan], None, plans, configuration, about)
    blobs.windows = _windows(data.shape[1:], NNUNET_STEP)
    with job.step("network"):
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    with job.step("restore and save"):
        target = str(Path(job.folder) / "labels")
        threads = torch.get_num_threads()
        export_prediction_from_logits(
            logits, about_scan, configuration, plans, about, target, num_threads_torch=threads
        )


def _windows(shape: Sequence[int], step: float) -> int:
    return prod(
        max(0, ceil((length - width) / (width * step))) + 1 for length, width in zip(shape, WINDOW, strict=True)
    )


CONTENDERS: dict[str, tuple[str, Callable[[Job, Blobs], None]]] = {
    "dsmseg": ("dsmseg", _dsmseg),
    "monai": ("MONAI, fields inverted", _monai),
    "monai-labels": ("MONAI, labels inverted", _monai_labels),
    "nnunet": ("nnU-Net", _nnunet),
}


def _write_synthetic(path: Path, shape: Sequence[int]) -> Path:
    """Write a body of fat, muscle, lungs and spine in air, with noise, slice by slice, so that it takes no memory."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.diag([-SYNTHETIC_MM[0], -SYNTHETIC_MM[1], SYNTHETIC_MM[2], 1.0]), code=1)
    header.set_zooms(SYNTHETIC_MM)
    header.magic, header["vox_offset"] = b"n+1", 352
    random = np.random.default_rng(0)
    # From -1 to 1 along each axis, in the file's order.
    y, x = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[0]), indexing="ij")
    with gzip.open(path, "wb", compresslevel=1) as file:
        header.write_to(file)
        file.write(bytes(4))  # no extension
        for z in np.linspace(-1, 1, shape[2]):
            hu = _synthetic_slice(x, y, float(z)) + random.normal(0, 20, x.shape)
            file.write(np.clip(hu, -1024, 3071).astype("<i2").tobytes())
    return path


def _synthetic_slice(x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
    body = (x / 0.85) ** 2 + (y / 0.62) ** 2 + (z / 1.25) ** 2
    hu = np.where(body < 1, -100.0, -1000.0)
    tissue = 50 + 30 * np.sin(9 * x + 4 * z) * np.cos(11 * y)
    hu = np.where(body < 0.8, tissue, hu)
    lungs = ((np.abs(x) - 0.37) / 0.27) ** 2 + (y / 0.4) ** 2 + ((z - 0.5) / 0.4) ** 2
    hu = np.where(lungs < 1, -850 + 2 * tissue, hu)
    return np.where((x / 0.1) ** 2 + ((y - 0.4) / 0.1) ** 2 < 1, 400 + tissue, hu)


if __name__ == "__main__":
    main()
