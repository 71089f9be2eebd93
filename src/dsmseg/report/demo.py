"""A demonstration on a real chest CT: the one that the package ``slicerio`` ships, with a reference of both lungs."""

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsmseg import taxonomy
from dsmseg.errors import InputError
from dsmseg.inference import Progress, Segmenter
from dsmseg.inference.prediction import prepare_output
from dsmseg.inference.segmentation import refuse_conflict
from dsmseg.report.overview import overview
from dsmseg.volume import Volume, read_labels

# The values of the reference's segments "right lung" and "left lung", as its header names them.
REFERENCE_VALUES = {"Right Lung": 5, "Left Lung": 6}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well a class agrees with the reference: Dice, 0..1."""

    name: str
    dice: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration wrote, how well it agrees with the reference, and the seconds from reading to writing."""

    case: Path
    picture: Path
    agreements: tuple[Agreement, ...]
    seconds: float


def run_demo(output: Path, *, device: str = "auto", progress: Progress | None = None) -> DemoResult:
    """Segment the chest CT with the starter weights, and write ``output``/overview.png and ``output``/chest.

    An earlier demonstration's files are replaced, nothing else in ``output`` is touched. ``progress`` is called with
    (windows done, windows in all).

    Raises:
        InputError: the package that ships the scan, or matplotlib, is not installed.
        OutputError: ``output`` cannot be written to, or ``output``/chest holds what dsmseg did not write. Both are
            told before anything is computed.
    """
    scan_path, reference_path = shipped("CTChest4.nrrd"), shipped("Segmentation.seg.nrrd")
    segmenter = Segmenter.load("starter", device=device)
    case, picture = output / "chest", output / "overview.png"
    prepare_output(output)
    refuse_conflict(case, overwrite=True)
    start = time.perf_counter()
    segmentation = segmenter(scan_path, progress=progress)
    segmentation.save(case, overwrite=True)
    overview(
        segmentation.volume,
        segmentation.organs,
        picture,
        tumors=segmentation.tumors,
        title="A chest CT, segmented by dsmseg",
    )
    seconds = time.perf_counter() - start
    agreements = _agreements(segmentation.organs, segmentation.volume, read_labels(reference_path))
    return DemoResult(case, picture, agreements, seconds)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the Dice overlap 2|A and B| / (|A| + |B|) of two masks of one shape; 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def _agreements(organs: NDArray[np.uint8], volume: Volume, reference: Volume) -> tuple[Agreement, ...]:
    if reference.array.shape != organs.shape or not np.allclose(reference.affine, volume.affine, atol=1e-3):
        raise InputError(
            "the demonstration's reference is not on the scan's grid", mend='Reinstall it: pip install "dsmseg[demo]"'
        )
    return tuple(
        Agreement(name, dice(organs == taxonomy.find(name).id, reference.array == value))
        for name, value in REFERENCE_VALUES.items()
    )


def shipped(name: str) -> Path:
    """Give the path of a file that slicerio ships.

    Raises:
        InputError: the package, or the file in it, is not installed.
    """
    package = find_spec("slicerio")
    path = Path(package.origin).parent / "data" / name if package and package.origin else None
    if path is None or not path.is_file():
        raise InputError(
            f"the demonstration's scan ({name} of the package slicerio) is not installed",
            mend='Install it: pip install "dsmseg[demo]"',
        )
    return path
