"""Small folders of label maps, for tests of what `dsmseg evaluate` does with them."""

import json
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from shapes import ball, cube

from dsmseg.taxonomy import find
from dsmseg.volume import Segment, Volume, write_nifti, write_seg_nrrd

SHAPE, AFFINE = (32, 28, 24), np.diag([2.0, 2.0, 3.0, 1.0])
LABELS = {"background": 0, "liver": 1, "tumor": 2}
VOLUME = Volume.from_own(np.zeros(SHAPE, np.float32), AFFINE)
LIVER, TUMOR = find("liver").id, find("liver tumor").id


def liver_with_tumor(*, shift: int = 0, tumor: bool = True) -> NDArray[np.uint8]:
    """A liver (1) with a tumor (2) in it."""
    labels = ball(SHAPE, (14 + shift, 14, 12), 18, (2.0, 2.0, 3.0)).astype(np.uint8)
    if tumor:
        labels[ball(SHAPE, (14 + shift, 14, 12), 6, (2.0, 2.0, 3.0))] = 2
    return labels


def save(path: Path, array: NDArray, affine: NDArray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def references(folder: Path, cases: Mapping[str, NDArray], labels: Mapping[str, int] = LABELS) -> Path:
    """A data set in nnU-Net's layout, its scans too."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {"name": "small", "channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(cases)}
    (folder / "dataset.json").write_text(json.dumps(index), encoding="utf-8")
    for name, array in cases.items():
        save(folder / "labelsTr" / f"{name}.nii.gz", array)
        save(folder / "imagesTr" / f"{name}_0000.nii.gz", body())
    return folder


def body() -> NDArray[np.int16]:
    return np.where(cube(SHAPE, (3, 29), (3, 25), (0, 24)), 40, -1000).astype(np.int16)


def case_folder(
    folder: Path, labels: NDArray[np.uint8], *, anomaly: NDArray | None = None, slicer: bool = False
) -> None:
    """What `dsmseg predict` writes, as far as it matters here: tumors lie over a whole liver."""
    folder.mkdir(parents=True, exist_ok=True)
    organs = np.where(labels > 0, LIVER, 0).astype(np.uint8)
    tumors = np.where(labels == 2, TUMOR, 0).astype(np.uint8)
    for layer, array, id in (("organs", organs, LIVER), ("tumors", tumors, TUMOR)):
        name = "Liver" if layer == "organs" else "Liver Tumor"
        if slicer:
            write_seg_nrrd(folder / f"{layer}.seg.nrrd", array, VOLUME, [Segment(id, name, (1, 2, 3))])
        else:
            write_nifti(folder / f"{layer}.nii.gz", array, VOLUME, names={id: name})
    if anomaly is not None:
        write_nifti(folder / "anomaly.nii.gz", anomaly, VOLUME, slope=1 / 255)
    (folder / "run.json").write_text("{}", encoding="utf-8")
