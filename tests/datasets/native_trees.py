"""Phantom patients, and each public data set's tree as it unpacks, filled with them.

What is said here of layouts, label ids and orders comes from the data sets' own pages, not from the descriptions in
``dsmseg/datasets/public``, so that the two check each other.
"""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import nibabel
import nibabel.orientations as orientations
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from nibabel.imageglobals import logger as nibabel_logger
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

Mask = NDArray[np.bool_]

nibabel_logger.setLevel("ERROR")  # it tells of every header that a test bends on purpose

SPACING = (4.5, 4.5, 5.0)
NOISE_HU = 12.0
# mm above and below a point between the kidneys, in front of the spine, that a scan covers.
REGIONS = {"trunk": (-290.0, 205.0), "abdomen": (-135.0, 135.0), "chest": (20.0, 205.0)}

# Center and half axes in mm (right, front, up), and HU. What comes later takes the place of what is there already.
ORGANS: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float], float]] = {
    "Right Lung": ((77, -18, 127), (46, 58, 66), -800),
    "Left Lung": ((-77, -22, 130), (44, 56, 66), -800),
    "heart": ((-14, 22, 128), (42, 38, 40), 140),
    "Liver": ((66, 24, 50), (58, 52, 52), 110),
    "Spleen": ((-97, -33, 56), (27, 30, 40), 125),
    "Stomach": ((-42, 45, 46), (36, 28, 38), 30),
    "Intestine": ((-30, 28, -88), (58, 36, 34), 40),
    "Colon": ((0, 48, -42), (88, 16, 15), -40),
    "Right Kidney": ((71, -37, 1), (25, 22, 44), 180),
    "Left Kidney": ((-76, -37, 4), (24, 23, 45), 180),
    "Aorta": ((-9, -18, 70), (10, 10, 120), 260),
    "Postcava": ((20, -8, 25), (11, 10, 85), 150),
    "Esophagus": ((-3, -2, 147), (10, 9, 52), 40),
    "Pancreas": ((-20, 26, 14), (44, 13, 14), 90),
    "Portal Vein and Splenic Vein": ((6, 24, 38), (30, 9, 9), 170),
    "Duodenum": ((24, 22, -16), (20, 14, 15), 45),
    "Gall Bladder": ((72, 50, 4), (15, 15, 18), 12),
    "Right Adrenal Gland": ((36, -18, 50), (10, 10, 13), 70),
    "Left Adrenal Gland": ((-41, -14, 42), (11, 10, 13), 70),
    "Celiac Truck": ((-6, 4, 56), (9, 9, 8), 270),
    "Rectum": ((0, -50, -235), (18, 16, 32), 25),
    "Bladder": ((2, 22, -222), (32, 26, 24), 8),
    "Prostate": ((1, -14, -258), (20, 15, 15), 45),
    "Left Head of Femur": ((-88, -8, -222), (23, 22, 22), 420),
    "Right Head of Femur": ((88, -8, -222), (23, 22, 22), 420),
}
# Within an organ: offset from its center and half axes in shares of the organ's own, and HU.
INSIDE: Mapping[str, tuple[str, tuple[float, float, float], tuple[float, float, float], float]] = {
    "Hepatic Vessel": ("Liver", (0.0, 0.0, 0.25), (0.6, 0.16, 0.16), 190),
    "Liver Tumor": ("Liver", (0.35, 0.1, -0.25), (0.26, 0.28, 0.28), 60),
    "Hepatic Vessel Tumor": ("Liver", (0.05, 0.4, 0.25), (0.24, 0.24, 0.24), 65),
    "Kidney Tumor": ("Left Kidney", (0.1, 0.0, -0.5), (0.6, 0.6, 0.33), 90),
    "Kidney Cyst": ("Right Kidney", (0.0, 0.2, 0.5), (0.5, 0.5, 0.3), 8),
    "Pancreas Tumor": ("Pancreas", (-0.5, 0.0, 0.0), (0.26, 0.8, 0.8), 40),
    "Lung Tumor": ("Right Lung", (0.2, 0.2, 0.3), (0.3, 0.22, 0.2), 30),
    "Colon Tumor": ("Colon", (-0.45, 0.0, 0.0), (0.16, 0.9, 0.9), 60),
}


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """A patient: HU and masks (X, Y, Z) in RAS order, affine voxel -> mm RAS. Organs hold what grows inside them."""

    hu: NDArray[np.int16]
    affine: NDArray[np.float64]
    masks: Mapping[str, Mask]

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = self.hu.shape
        return x, y, z

    @property
    def spacing(self) -> NDArray[np.float64]:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing)) / 1000

    def has(self, name: str) -> bool:
        return bool(self.masks[name].any())

    def center(self, name: str) -> NDArray[np.float64]:
        """Give the center of a structure in mm RAS."""
        return centroid(self.masks[name], self.affine)

    def moved(self, affine: NDArray[np.float64]) -> "Body":
        """Say of the same voxels that they lie elsewhere."""
        return replace(self, affine=affine)

    def tilted(self, degrees: Sequence[float]) -> "Body":
        """Turn the patient about the axes right, front and up, by a few degrees."""
        turn = np.eye(4)
        for axis, angle in enumerate(np.radians(degrees)):
            one, other = (index for index in range(3) if index != axis)
            step = np.eye(4)
            step[one, one] = step[other, other] = np.cos(angle)
            step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
            turn = step @ turn
        return self.moved(turn @ self.affine)

    def mirrored(self, *axes: int) -> "Body":
        """Exchange left and right (0), front and back (1), or top and bottom (2) of the patient, not of the file."""
        return replace(
            self,
            hu=np.flip(self.hu, axes),
            masks={name: np.flip(mask, axes) for name, mask in self.masks.items()},
        )

    def resampled(self, factors: Sequence[float]) -> "Body":
        """Bring it to another spacing; a factor above 1 gives smaller voxels."""
        shape = tuple(round(size * factor) for size, factor in zip(self.shape, factors, strict=True))
        real = np.array(self.shape) / shape
        affine = self.affine.copy()
        affine[:3, :3] *= real
        affine[:3, 3] += self.affine[:3, :3] @ ((real - 1) / 2)
        along = [(np.arange(size) + 0.5) * step - 0.5 for size, step in zip(shape, real, strict=True)]
        places = np.meshgrid(*along, indexing="ij")
        hu = ndimage.map_coordinates(self.hu.astype(np.float32), places, order=1, mode="nearest")
        masks = {
            name: ndimage.map_coordinates(mask.astype(np.uint8), places, order=0, mode="nearest") > 0
            for name, mask in self.masks.items()
        }
        return Body(np.rint(hu).astype(np.int16), affine, masks)

    def with_mask(self, name: str, mask: Mask) -> "Body":
        return replace(self, masks={**self.masks, name: mask})


def centroid(mask: Mask, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the center of a mask in mm RAS."""
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def seed_of(*words: object) -> int:
    """Make a seed of a name."""
    return zlib.crc32(" ".join(str(one) for one in words).encode())


def make_body(seed: int, region: str = "trunk", *, without: Iterable[str] = (), female: bool = False) -> Body:
    """Make a patient: another seed is another person, in another frame.

    Size of the body, and size, place and shape of each organ vary by several mm, as do the frame and the gas in the
    bowel. ``without`` are organs that this patient does not have.
    """
    random = np.random.default_rng(seed)
    stature = random.uniform((0.85, 0.84, 0.9), (1.1, 1.12, 1.08))
    half = np.array([152.0, 104.0]) * stature[:2]
    low, high = (end * stature[2] + random.uniform(-15, 15) for end in REGIONS[region])
    margins = random.uniform(8, 55, 4)
    start = np.array([-half[0] - margins[0], 8 - half[1] - margins[1], low])
    end = np.array([half[0] + margins[2], 8 + half[1] + margins[3], high])
    shape = np.ceil((end - start) / SPACING).astype(int)
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = start
    grid = [start[axis] + SPACING[axis] * np.arange(shape[axis]) for axis in range(3)]
    x, y, z = np.ogrid[tuple(slice(0, size) for size in shape)]
    x, y, z = grid[0][x], grid[1][y], grid[2][z]

    waist = 1 + 0.06 * np.cos((z - random.uniform(-60, 60)) / 70)
    depth = np.sqrt((x / half[0]) ** 2 + ((y - 8) / half[1]) ** 2) / waist
    hu = np.full(shape, -1000.0)
    body = np.broadcast_to(depth < 1, shape)
    hu[np.broadcast_to((np.abs(y - (1 - 1.06 * half[1])) < 3) & (np.abs(x) < half[0]), shape)] = -350  # the table
    hu[body] = -100  # fat
    hu[body & (depth > 0.82) & (depth < 0.9)] = 55  # muscle
    inside = body & (depth < 0.84)
    phase = random.uniform(0, 36)
    in_spine = (x**2 + ((y + 56) / 1.2) ** 2 < (21 * stature[0]) ** 2) & (z > -205)
    hu[body & in_spine] = 90
    hu[body & in_spine & ((z + phase) % 36 > 9)] = 400  # vertebrae, and disks between them

    masks: dict[str, Mask] = {}
    forms: dict[str, tuple[NDArray[np.float64], NDArray[np.float64], float]] = {}
    for name, (center, radii, density) in ORGANS.items():
        place = np.array(center) * stature + random.uniform(-6, 6, 3)
        size = np.array(radii) * stature * random.uniform(0.85, 1.2, 3)
        power = random.choice([2.0, 2.5, 3.5])
        forms[name] = place, size, power
        if name in without or (name == "Prostate" and female):
            masks[name] = np.zeros(shape, bool)
            continue
        mask = _blob(grid, place, size, power) & inside
        for other in masks.values():
            other &= ~mask
        masks[name] = mask
        hu[mask] = density + random.uniform(-8, 8)
    for organ in ("Colon", "Intestine", "Stomach"):  # gas, where it happens to be
        for _ in range(4):
            place, size, _ = forms[organ]
            bubble = _blob(grid, place + size * random.uniform(-0.8, 0.8, 3), random.uniform(4, 11, 3), 2.0)
            hu[bubble & masks[organ]] = -700
    for name, (host, offset, share, density) in INSIDE.items():
        place, size, _ = forms[host]
        mask = _blob(grid, place + size * np.array(offset), size * np.array(share), 2.0) & masks[host]
        if name.startswith("Hepatic Vessel "):
            mask &= ~masks["Hepatic Vessel"]
        masks[name] = mask
        hu[mask] = density
    hu += random.normal(0, NOISE_HU, shape)
    return Body(np.rint(np.clip(hu, -1024, 3000)).astype(np.int16), affine, MappingProxyType(masks))


def _blob(grid: Sequence[NDArray[np.float64]], center: NDArray[np.float64], radii: NDArray[np.float64], power: float):
    """Mark a rounded box (power above 2) or an ellipsoid (2)."""
    mask = np.zeros([len(one) for one in grid], bool)
    near = [np.flatnonzero(np.abs(one - center[axis]) < radii[axis]) for axis, one in enumerate(grid)]
    if any(one.size == 0 for one in near):
        return mask
    box = tuple(slice(one[0], one[-1] + 1) for one in near)
    parts = [np.abs((one[box[axis]] - center[axis]) / radii[axis]) ** power for axis, one in enumerate(grid)]
    mask[box] = parts[0][:, None, None] + parts[1][:, None] + parts[2] < 1
    return mask


# --- files ----------------------------------------------------------------------------------------------------------


def in_order(array: NDArray, affine: NDArray[np.float64], axes: str) -> tuple[NDArray, NDArray[np.float64]]:
    """Put an array (X, Y, Z) of RAS in another order of axes, such as "LPS" or "IPL", with the affine that says so."""
    change = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(tuple(axes)))
    return (
        orientations.apply_orientation(array, change),
        affine @ orientations.inv_ornt_aff(change, array.shape),
    )


def save(path: Path, array: NDArray, affine: NDArray[np.float64], axes: str = "RAS", dtype: str = "int16") -> Path:
    """Write an array (X, Y, Z) as NIfTI whose axes run in this order."""
    ordered, own = in_order(array, affine, axes)
    return save_as_is(path, ordered, own, dtype)


def save_as_is(path: Path, array: NDArray, affine: NDArray[np.float64], dtype: str = "int16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(array, dtype=dtype), affine), path)
    return path


def label_map(body: Body, ids: Sequence[tuple[int, Sequence[str]]]) -> NDArray[np.uint8]:
    """Give each id to the structures that it stands for, the later ones over the earlier."""
    labels = np.zeros(body.shape, np.uint8)
    for id, names in ids:
        for name in names:
            labels[body.masks[name]] = id
    return labels


def write_dicom(folder: Path, array: NDArray, affine: NDArray[np.float64], names: Sequence[str], **tags) -> None:
    """Write an array (column, row, slice) as a CT series, the slices under these names."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :2] / spacing[:2]
    study, series = generate_uid(), generate_uid()
    for index, name in enumerate(names):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.Modality, dataset.SeriesDescription = "CT", "Body"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [round(float(one), 4) for one in lps[:3, 3] + index * lps[:3, 2]]
        dataset.ImageOrientationPatient = [round(float(one), 6) for one in directions.T.ravel()]
        dataset.PixelSpacing = [round(float(spacing[1]), 6), round(float(spacing[0]), 6)]
        dataset.SliceThickness = round(float(spacing[2]), 4)
        dataset.Columns, dataset.Rows = array.shape[:2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.PixelData = (array[:, :, index].T.astype(np.int32) + 1024).astype("<u2").tobytes()
        for tag, value in tags.items():
            setattr(dataset, tag, value() if callable(value) else value)
        pydicom.dcmwrite(folder / name, dataset, enforce_file_format=True)


def write_png_stack(folder: Path, mask: Mask, name: str = "liver_GT_{:03d}.png") -> None:
    """Write a mask (column, row, slice) as black and white pictures, a slice each."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(mask.shape[2]):
        picture = sitk.GetImageFromArray(mask[:, :, index].T.astype(np.uint8) * 255)
        sitk.WriteImage(picture, str(folder / name.format(index)))


# --- data sets ------------------------------------------------------------------------------------------------------
#
# Each `write_...` fills a folder as the data set unpacks, with a patient for each case, and gives the patients as they
# lie in space by what was written, by case.

SIDES = {
    "kidneys": ("Right Kidney", "Left Kidney"),
    "lungs": ("Right Lung", "Left Lung"),
    "adrenal": ("Right Adrenal Gland", "Left Adrenal Gland"),
}
_TEN = (
    "Spleen",
    "Right Kidney",
    "Left Kidney",
    "Gall Bladder",
    "Esophagus",
    "Liver",
    "Stomach",
    "Aorta",
    "Postcava",
)
BTCV = (*_TEN, "Portal Vein and Splenic Vein", "Pancreas", "Right Adrenal Gland", "Left Adrenal Gland")
AMOS = (*_TEN, "Pancreas", "Right Adrenal Gland", "Left Adrenal Gland", "Duodenum", "Bladder")
WORD = (
    "Liver",
    "Spleen",
    "Left Kidney",
    "Right Kidney",
    "Stomach",
    "Gall Bladder",
    "Esophagus",
    "Pancreas",
    "Duodenum",
    "Colon",
    "Intestine",
    "adrenal",
    "Rectum",
    "Bladder",
    "Left Head of Femur",
    "Right Head of Femur",
)
TOTALSEGMENTATOR = {
    "spleen": "Spleen",
    "kidney_right": "Right Kidney",
    "kidney_left": "Left Kidney",
    "gallbladder": "Gall Bladder",
    "esophagus": "Esophagus",
    "liver": "Liver",
    "stomach": "Stomach",
    "aorta": "Aorta",
    "inferior_vena_cava": "Postcava",
    "portal_vein_and_splenic_vein": "Portal Vein and Splenic Vein",
    "pancreas": "Pancreas",
    "adrenal_gland_right": "Right Adrenal Gland",
    "adrenal_gland_left": "Left Adrenal Gland",
    "duodenum": "Duodenum",
    "colon": "Colon",
    "small_bowel": "Intestine",
    "urinary_bladder": "Bladder",
}

# The classes that each data set's label maps annotate.
ANNOTATED: Mapping[str, frozenset[str]] = {
    "btcv": frozenset(BTCV),
    "chaos": frozenset({"Liver"}),
    "pancreas_ct": frozenset({"Pancreas"}),
    "ct_org": frozenset({"Liver", "Bladder", *SIDES["lungs"], *SIDES["kidneys"]}),
    "word": frozenset(WORD) - {"adrenal"} | {*SIDES["adrenal"]},
    "amos22": frozenset(AMOS),
    "totalsegmentator_v1": frozenset(TOTALSEGMENTATOR.values()) | {*SIDES["lungs"]},
    "totalsegmentator_v2": frozenset(TOTALSEGMENTATOR.values()) | {*SIDES["lungs"], "Prostate", "Kidney Cyst"},
    "abdomenct_1k": frozenset({"Liver", "Spleen", "Pancreas", *SIDES["kidneys"]}),
    "lits": frozenset({"Liver", "Liver Tumor"}),
    "kits19": frozenset({"Kidney Tumor", *SIDES["kidneys"]}),
    "msd_liver": frozenset({"Liver", "Liver Tumor"}),
    "msd_lung": frozenset({"Lung Tumor"}),
    "msd_pancreas": frozenset({"Pancreas", "Pancreas Tumor"}),
    "msd_hepatic_vessel": frozenset({"Hepatic Vessel", "Hepatic Vessel Tumor"}),
    "msd_spleen": frozenset({"Spleen"}),
    "msd_colon": frozenset({"Colon Tumor"}),
}
Bodies = dict[str, Body]


def _in_turn(names: Sequence[str]) -> list[tuple[int, Sequence[str]]]:
    """Number structures from 1; those that a data set merges have one number."""
    return [(id, SIDES.get(name, (name,))) for id, name in enumerate(names, start=1)]


def write_btcv(root: Path, bodies: Bodies, axes: str = "LAS") -> Bodies:
    """BTCV as RawData.zip unpacks; its test scans have no labels."""
    training = root / "RawData" / "Training"
    for case, body in bodies.items():
        save(training / "img" / f"img{case}.nii.gz", body.hu, body.affine, axes)
        save(training / "label" / f"label{case}.nii.gz", label_map(body, _in_turn(BTCV)), body.affine, axes, "uint8")
    write_placeholder(root / "RawData" / "Testing" / "img" / "img0061.nii.gz")
    return bodies


def write_chaos(root: Path, bodies: Bodies, *, upward: bool = False, **tags) -> Bodies:
    """CHAOS, CT and a bit of its MR. Names run from head to foot, unless ``upward``; every other case counts from 1."""
    sets = root / "CHAOS_Train_Sets" / "Train_Sets"
    for place, (case, body) in enumerate(bodies.items()):
        axes = "LPS" if upward else "LPI"
        hu, affine = in_order(body.hu, body.affine, axes)
        mask, _ = in_order(body.masks["Liver"], body.affine, axes)
        name = "i{:04d},0000b.dcm" if place % 2 == 0 else "IMG-0004-{:05d}.dcm"
        names = [name.format(index + place % 2) for index in range(hu.shape[2])]
        write_dicom(sets / "CT" / case / "DICOM_anon", hu, affine, names, **tags)
        write_png_stack(sets / "CT" / case / "Ground", mask)
    for sequence in ("T1DUAL", "T2SPIR"):
        series = "DICOM_anon/InPhase" if sequence == "T1DUAL" else "DICOM_anon"
        write_placeholder(sets / "MR" / "1" / sequence / series / "IMG-0004-00002.dcm")
        write_placeholder(sets / "MR" / "1" / sequence / "Ground" / "IMG-0004-00002.png")
    write_placeholder(root / "CHAOS_Test_Sets" / "Test_Sets" / "CT" / "3" / "DICOM_anon" / "i0000,0000b.dcm")
    return bodies


def write_pancreas_ct(root: Path, bodies: Bodies) -> Bodies:
    """Pancreas-CT as NBIA's retriever lays it out: rows run to the front, slices to the feet; labels say the same."""
    labels = root / "TCIA_pancreas_labels-02-05-2017"
    for case, body in bodies.items():
        hu, affine = in_order(body.hu, body.affine, "LAI")
        mask, _ = in_order(body.masks["Pancreas"], body.affine, "LAI")
        series = (
            root
            / "manifest-1599750808610"
            / "Pancreas-CT"
            / f"PANCREAS_{case}"
            / f"11-24-2015-PANCREAS{case}-Pancreas-18957"
            / "Pancreas-99667"
        )
        write_dicom(series, hu, affine, [f"1-{index + 1:03d}.dcm" for index in range(hu.shape[2])])
        untrusted = affine.copy()
        untrusted[:3, 3] = 0, 0, 1000
        save_as_is(labels / f"label{case}.nii.gz", mask, untrusted, "uint8")
    (root / "manifest-1599750808610" / "metadata.csv").write_text("Series UID,Collection\n", encoding="utf-8")
    return bodies


def write_ct_org(root: Path, bodies: Bodies, axes: Sequence[str] = ("LAS", "RPI", "LPS")) -> Bodies:
    """CT-ORG: everything is float32, lungs and kidneys are one label each; bone and brain are labelled too."""
    folder = root / "PKG - CT-ORG" / "CT-ORG" / "OrganSegmentations"
    for place, (case, body) in enumerate(bodies.items()):
        order = axes[place % len(axes)]
        labels = label_map(body, [(1, ["Liver"]), (2, ["Bladder"]), (3, SIDES["lungs"]), (4, SIDES["kidneys"])])
        labels[(body.hu > 250) & (labels == 0)] = 5
        save(folder / f"volume-{case}.nii.gz", body.hu, body.affine, order, "float32")
        save(folder / f"labels-{case}.nii.gz", labels, body.affine, order, "float32")
    (folder / "README.txt").write_text("volume-N and labels-N\n", encoding="utf-8")
    return bodies


def write_word(root: Path, bodies: Bodies, axes: str = "LPS") -> Bodies:
    """WORD: its cases in turn in the parts for training, validation and test."""
    for place, (case, body) in enumerate(bodies.items()):
        part = ("Tr", "Val", "Ts")[place % 3]
        folder = root / "WORD-V0.1.0"
        save(folder / f"images{part}" / f"{case}.nii.gz", body.hu, body.affine, axes)
        labels = label_map(body, _in_turn(WORD))
        save(folder / f"labels{part}" / f"{case}.nii.gz", labels, body.affine, axes, "uint8")
    return bodies


def write_amos22(root: Path, bodies: Bodies, axes: str = "RAS") -> Bodies:
    """AMOS22: its cases in turn in Tr and Va, with an MR case and an unlabelled one. The 15th is prostate or uterus."""
    folder = root / "amos22"
    for place, (case, body) in enumerate(bodies.items()):
        part = ("Tr", "Va")[place % 2]
        labels = label_map(body, _in_turn((*AMOS, "Prostate")))
        save(folder / f"images{part}" / f"{case}.nii.gz", body.hu, body.affine, axes)
        save(folder / f"labels{part}" / f"{case}.nii.gz", labels, body.affine, axes, "uint8")
    for part in ("images", "labels"):
        write_placeholder(folder / f"{part}Tr" / "amos_0507.nii.gz")  # MR
    write_placeholder(folder / "imagesTs" / "amos_0002.nii.gz")
    index = {"numTraning": 240, "training": [{"image": f"./imagesTr/{case}.nii.gz"} for case in bodies]}
    (folder / "dataset.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "readme.md").write_text("AMOS\n", encoding="utf-8")
    return bodies


def write_totalsegmentator(root: Path, bodies: Bodies, version: int, axes: str = "RAS") -> Bodies:
    """TotalSegmentator: a file a structure, many that we do not use, masks that overlap at their borders."""
    folder = root / ("Totalsegmentator_dataset" if version == 1 else "Totalsegmentator_dataset_v201")
    written = {}
    for case, body in bodies.items():
        # The right kidney's mask reaches a voxel into its neighbors.
        body = body.with_mask("Right Kidney", ndimage.binary_dilation(body.masks["Right Kidney"]))
        files = {name: body.masks[structure] for name, structure in TOTALSEGMENTATOR.items()} | _lobes(body)
        if version == 2:
            cysts = body.masks["Kidney Cyst"]
            body = body.with_mask("Right Kidney", body.masks["Right Kidney"] | cysts)
            files["kidney_right"] = body.masks["Right Kidney"] & ~cysts
            files |= {"kidney_cyst_right": cysts, "kidney_cyst_left": np.zeros_like(cysts)}
            files["prostate"] = body.masks["Prostate"]
        for name in ("heart", "face", "vertebrae_L1", "autochthon_left"):
            files[name] = body.masks["heart"] if name == "heart" else np.zeros(body.shape, bool)
        files["femur_left"] = body.masks["Left Head of Femur"]
        files["femur_right"] = body.masks["Right Head of Femur"]
        save(folder / case / "ct.nii.gz", body.hu, body.affine, axes)
        for name, mask in files.items():
            save(folder / case / "segmentations" / f"{name}.nii.gz", mask, body.affine, axes, "uint8")
        written[case] = body
    (folder / "meta.csv").write_text("image_id;age;gender;split\n", encoding="utf-8")
    return written


def _lobes(body: Body) -> dict[str, Mask]:
    lobes = {}
    for side in ("right", "left"):
        lung = body.masks[f"{side.title()} Lung"]
        heights = np.flatnonzero(lung.any(axis=(0, 1)))
        parts = ("lower", "middle", "upper") if side == "right" else ("lower", "upper")
        ends = np.linspace(heights[0], heights[-1] + 1, len(parts) + 1).astype(int) if heights.size else [0] * 4
        for part, (low, high) in zip(parts, pairwise(ends), strict=False):
            lobes[f"lung_{part}_lobe_{side}"] = lung & np.isin(np.arange(body.shape[2]), np.arange(low, high))
    return lobes


def write_abdomenct_1k(root: Path, bodies: Bodies, axes: str = "LPS") -> Bodies:
    """AbdomenCT-1K: images in three parts by number, masks in one folder; kidneys are one label; one has no labels."""
    ids = [(1, ["Liver"]), (2, SIDES["kidneys"]), (3, ["Spleen"]), (4, ["Pancreas"])]
    for case, body in bodies.items():
        save(_image_part(root, case) / f"{case}_0000.nii.gz", body.hu, body.affine, axes)
        save(root / "Mask" / f"{case}.nii.gz", label_map(body, ids), body.affine, axes, "uint8")
    write_placeholder(_image_part(root, "Case_00010") / "Case_00010_0000.nii.gz")
    return bodies


def _image_part(root: Path, case: str) -> Path:
    number = int(case.removeprefix("Case_"))
    return root / f"AbdomenCT-1K-ImagePart{1 if number <= 400 else 2 if number <= 800 else 3}"


def write_lits(root: Path, bodies: Bodies, axes: Sequence[str] = ("RAS", "LPS", "LAS")) -> Bodies:
    """LiTS: the zips keep the path of the machine on which they were made; axes run anyhow."""
    trunk = root / "media" / "nas" / "01_Datasets" / "CT" / "LITS"
    for place, (case, body) in enumerate(bodies.items()):
        folder = trunk / f"Training Batch {1 if int(case) <= 27 else 2}"
        labels = label_map(body, [(1, ["Liver"]), (2, ["Liver Tumor"])])
        order = axes[place % len(axes)]
        save(folder / f"volume-{case}.nii", body.hu, body.affine, order)
        save(folder / f"segmentation-{case}.nii", labels, body.affine, order, "uint8")
    write_placeholder(root / "LITS-Challenge-Test-Data" / "test-volume-0.nii")
    return bodies


def write_kits19(root: Path, bodies: Bodies) -> Bodies:
    """KiTS19: arrays (slice, row, column) from head to foot, front to back, right to left; the corner is the origin."""
    data = root / "kits19" / "data"
    written = {}
    for case, body in bodies.items():
        right, front, up = body.spacing
        official = np.array([[0, 0, -right, 0], [0, -front, 0, 0], [-up, 0, 0, 0], [0, 0, 0, 1]], float)
        hu, _ = in_order(body.hu, body.affine, "IPL")
        kidneys = label_map(body, [(1, SIDES["kidneys"]), (2, ["Kidney Tumor"])])
        save_as_is(data / case / "imaging.nii.gz", hu, official, "int16")
        save_as_is(data / case / "segmentation.nii.gz", in_order(kidneys, body.affine, "IPL")[0], official, "uint8")
        upright = np.diag([right, front, up, 1.0])
        upright[:3, 3] = -(np.array(body.shape) - 1) * body.spacing
        written[case] = body.moved(upright)
    (data / "kits.json").write_text("[]", encoding="utf-8")
    write_placeholder(data / "case_00210" / "imaging.nii.gz")
    return written


MSD: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "msd_liver": ("Task03_Liver", {"liver": "Liver", "cancer": "Liver Tumor"}),
    "msd_lung": ("Task06_Lung", {"cancer": "Lung Tumor"}),
    "msd_pancreas": ("Task07_Pancreas", {"pancreas": "Pancreas", "cancer": "Pancreas Tumor"}),
    "msd_hepatic_vessel": ("Task08_HepaticVessel", {"Vessel": "Hepatic Vessel", "Tumour": "Hepatic Vessel Tumor"}),
    "msd_spleen": ("Task09_Spleen", {"spleen": "Spleen"}),
    "msd_colon": ("Task10_Colon", {"colon cancer primaries": "Colon Tumor"}),
}


def write_msd(root: Path, name: str, bodies: Bodies, axes: str = "RAS") -> Bodies:
    """A task of the Medical Segmentation Decathlon, with the notes that macOS left beside each file."""
    task, labels = MSD[name]
    folder = root / task
    ids = [(id, [structure]) for id, structure in enumerate(labels.values(), start=1)]
    for case, body in bodies.items():
        save(folder / "imagesTr" / f"{case}.nii.gz", body.hu, body.affine, axes)
        save(folder / "labelsTr" / f"{case}.nii.gz", label_map(body, ids), body.affine, axes, "uint8")
        for part in ("imagesTr", "labelsTr"):
            (folder / part / f"._{case}.nii.gz").write_bytes(b"\0\5\x16\7 a note of macOS")
    stem = next(iter(bodies)).rsplit("_", 1)[0]
    write_placeholder(folder / "imagesTs" / f"{stem}_002.nii.gz")
    index = {
        "name": task.split("_")[1],
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(id): label for id, label in enumerate(labels, start=1)}},
        "numTraining": len(bodies),
        "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in bodies],
        "test": [f"./imagesTs/{stem}_002.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(index), encoding="utf-8")
    return bodies


def write_placeholder(path: Path) -> None:
    """Write a file that is never to be read: it is no scan at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not to be read")
