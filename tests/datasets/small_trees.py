"""Small patients, and trees of files filled with them: what the tests of `prepare` and of the store work on."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from dsmseg.datasets import Settings

SPACING_MM = 4.0
SHAPE = (40, 30, 34)
SETTINGS = Settings(spacing_mm=(SPACING_MM,) * 3)
AFFINE = np.diag([SPACING_MM] * 3 + [1.0])

# Id in BTCV, box in voxels of an array in RAS, HU.
ORGANS: Mapping[str, tuple[int, tuple[slice, slice, slice], float]] = {
    "Spleen": (1, np.s_[8:14, 6:13, 19:29], 120),
    "Right Kidney": (2, np.s_[25:31, 6:12, 4:14], 150),
    "Left Kidney": (3, np.s_[9:15, 6:12, 4:14], 150),
    "Liver": (6, np.s_[22:33, 15:25, 18:31], 100),
}


def small_body(seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Make HU and BTCV's labels in RAS: a box of fat with a spine, four organs in place, and what another has not."""
    random = np.random.default_rng(seed)
    hu = np.full(SHAPE, -1000.0)
    left, right = random.integers(3, 7), random.integers(34, 38)
    hu[left:right, 3:27] = -90
    for _ in range(14):  # so that no two bodies look alike
        corner, size = random.integers((7, 5, 0), (30, 22, 28)), random.integers(3, 8, 3)
        box = tuple(slice(first, first + width) for first, width in zip(corner, size, strict=True))
        hu[box] = random.choice([-900, -90, 60, 140])
    hu[18:22, 4:9] = 400
    labels = np.zeros(SHAPE, np.uint8)
    for id, box, density in ORGANS.values():
        hu[box], labels[box] = density + random.uniform(-15, 15), id
    hu += random.normal(0, 8, SHAPE)
    return np.rint(np.clip(hu, -1000, None)).astype(np.int16), labels


def save(path: Path, array: NDArray, affine: NDArray[np.float64] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def image_path(root: Path, case: str) -> Path:
    return root / "img" / f"img{case}.nii.gz"


def label_path(root: Path, case: str) -> Path:
    return root / "label" / f"label{case}.nii.gz"


def write_btcv(root: Path, cases: Iterable[str] = ("0001", "0002", "0003")) -> Path:
    """Write a tree of BTCV; the case's number is the patient."""
    for case in cases:
        hu, labels = small_body(int(case))
        save(image_path(root, case), hu)
        save(label_path(root, case), labels)
    return root


def change_labels(root: Path, case: str) -> None:
    """Take a corner off the case's liver."""
    labels = np.asanyarray(nibabel.load(label_path(root, case)).dataobj).copy()
    labels[22:24, 15:17, 18:20] = 0
    save(label_path(root, case), labels)


def contents(store: Path) -> dict[str, bytes]:
    """Give the bytes of all files of a store but its lock, by path, without what depends on the sources' times."""
    return {
        path.relative_to(store).as_posix(): re.sub(rb'"state": "[0-9a-f]*"', b"", path.read_bytes())
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
