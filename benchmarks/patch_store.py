"""Random patches of 96^3 a second, image in [0, 1] and labels, from ours, MONAI's cache and nnU-Net's blosc2 files.

All prepare the same scans (1.5 mm, -175 to 250 HU) and read them in one process, in turns, with one thread, files in
the system's cache; every patch lies on a voxel of a class, and each class comes alike. One JSON line a way of reading:
patches a second, MB and seconds to prepare a case, and ``ratio``: its seconds over ours where ours opens the case for
each patch, as it mostly must in a large data set (above 1, ours is faster). nnU-Net is left out where it is not
installed. Scans: the chest CT of the package slicerio at three voxel sizes, with noise, as resampling has taken its
own; with ``--data FOLDER`` the ``chest_lidc0001`` and ``abdomen_3mm`` there. ``--formats`` compares instead how our
prepared arrays could be stored: patches anywhere, image and labels, beside ours. zarr is left out if not installed.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import blosc2
import nibabel
import numpy as np
import SimpleITK
import torch

from dsmseg.datasets import Settings, Store, StoredCase, choose_datasets, prepare, store
from dsmseg.datasets.patches import Balance, PatchDataset, PatchSampler
from dsmseg.report.demo import REFERENCE_VALUES, shipped
from dsmseg.synthesis.anatomy import totalsegmentator
from dsmseg.taxonomy import by_id, find
from dsmseg.volume import read_labels, read_scan, resample, resample_onto

from measuring import in_turns, nnunet_plans, seconds

SIZE = 96, 96, 96
SETTINGS = Settings()
VOXELS_MM = (0.8, 0.8, 2.5), (1.0, 1.0, 2.0), (1.5, 1.5, 1.5)  # of the shipped scan's copies
NOISE_HU = 15.0
NNUNET = (
    "pip install --no-deps nnunetv2==2.8.1 acvl_utils batchgenerators dynamic-network-architectures scikit-image "
    "lazy-loader tifffile pandas"
)
FILTERS = ("SHUFFLE", "SHUFFLE"), ("BITSHUFFLE", "BITSHUFFLE"), ("SHUFFLE", "NOFILTER")  # of image and of labels
BLOSC2 = [("ZSTD", 5, FILTERS[0], block, chunk) for block, chunk in ((16, 64), (32, 64), (48, 96), (32, 128))]
BLOSC2 += [(codec, level, one, 32, 96) for codec, level in (("ZSTD", 5), ("LZ4HC", 9)) for one in FILTERS]
ZARR = (32, None), (64, None), (96, None), (32, 96), (32, 128), (64, 128)  # chunk, shard

Format = tuple[str, Callable[[Path, np.ndarray], object], Callable[[Path], Any]]  # name, write, load


@dataclass(frozen=True)
class Way:
    """A way to read patches. read: gives the next one; megabytes, prepare_seconds: a case."""

    name: str
    read: Callable[[], Sequence[torch.Tensor]]
    megabytes: float
    prepare_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds chest_lidc0001/ and abdomen_3mm/")
    parser.add_argument("--formats", action="store_true", help="compare formats, not readers")
    parser.add_argument("--patches", type=int, default=24, help="of a turn")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = folder / "Dataset001_Organs"
        classes = _write_tree(tree, _real_scans(arguments.data) if arguments.data else _shipped_scans())
        ours, cases = _ours(tree, folder / "store")
        if arguments.formats:
            ways = list(_formats(cases, folder))
        else:
            ways = [*ours, *_monai(tree, folder, classes), *_nnunet(tree, folder / "nnunet")]
        _compare(ways, arguments.patches, arguments.runs)


def _compare(ways: Sequence[Way], patches: int, runs: int) -> None:
    measured = in_turns([partial(_read, way, patches) for way in ways], runs)
    for way, taken in zip(ways, measured, strict=True):
        result = {
            "way": way.name,
            "patches_a_second": round(patches / taken, 1),
            "ratio": round(taken / measured[0], 2),
        }
        result |= {"megabytes": round(way.megabytes, 1), "prepare_seconds": round(way.prepare_seconds, 2)}
        print(json.dumps({**result, "threads": 1, "patches": patches, "runs": runs}), flush=True)


def _read(way: Way, patches: int) -> None:
    """Read patches as contiguous tensors, and use some voxels of each."""
    for _ in range(patches):
        for part in way.read():
            if part.shape[-3:] != SIZE:
                raise ValueError(f"{way.name} gave a patch of {tuple(part.shape)}")
            part.contiguous().view(-1)[::4096].sum().item()


def _shipped_scans() -> Iterator[tuple[nibabel.Nifti1Image, np.ndarray]]:
    """Give scans, and taxonomy ids on their voxels."""
    scan, reference = read_scan(shipped("CTChest4.nrrd")), read_labels(shipped("Segmentation.seg.nrrd"))
    ids = np.zeros(256, np.uint8)
    for name, value in REFERENCE_VALUES.items():
        ids[value] = find(name).id
    for number, spacing in enumerate(VOXELS_MM):
        fine = resample(scan, spacing)
        noise = np.random.default_rng(number).normal(0, NOISE_HU, fine.array.shape)
        image = nibabel.Nifti1Image(np.rint(fine.array + noise).astype(np.int16), fine.affine)
        yield image, ids[resample_onto(reference, fine.grid, nearest=True).array]


def _real_scans(data: Path) -> Iterator[tuple[nibabel.Nifti1Image, np.ndarray]]:
    for name in ("chest_lidc0001", "abdomen_3mm"):
        structures = np.asarray(nibabel.load(data / name / "totalseg_labels.nii.gz").dataobj)
        yield nibabel.load(data / name / "ct.nii.gz"), totalsegmentator().organs[structures]


def _write_tree(tree: Path, scans: Iterator[tuple[nibabel.Nifti1Image, np.ndarray]]) -> int:
    """Write scans as nnU-Net's raw data, which ours reads too; gives the number of classes, background included."""
    pairs = list(scans)
    present = np.unique(np.concatenate([np.unique(ids) for _, ids in pairs]))
    for part in ("imagesTr", "labelsTr"):
        (tree / part).mkdir(parents=True)
    for number, (image, ids) in enumerate(pairs):
        labels = nibabel.Nifti1Image(np.searchsorted(present, ids).astype(np.uint8), image.affine)
        nibabel.save(image, tree / "imagesTr" / f"case{number}_0000.nii.gz")
        nibabel.save(labels, tree / "labelsTr" / f"case{number}.nii.gz")
    names = {by_id(int(one)).name: label for label, one in enumerate(present) if one}
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **names}, "file_ending": ".nii.gz"}
    (tree / "dataset.json").write_text(json.dumps({**content, "numTraining": len(pairs)}))
    return len(present)


def _pairs(tree: Path) -> list[tuple[Path, Path]]:
    return list(zip(sorted((tree / "imagesTr").iterdir()), sorted((tree / "labelsTr").iterdir()), strict=True))


def _megabytes(path: Path) -> float:
    return sum(one.stat().st_size for one in [path, *path.rglob("*")] if one.is_file()) / 1e6


def _ours(tree: Path, folder: Path) -> tuple[list[Way], list[StoredCase]]:
    """Give our ways to read, and the cases."""
    found = choose_datasets(tree)
    taken = seconds(lambda: prepare(found, folder, SETTINGS))
    cases = Store.open(folder).cases()
    if len(cases) != len(_pairs(tree)):
        raise ValueError("a case was left out")
    kept = PatchDataset(cases, SIZE)
    draws = iter(PatchSampler(cases, draws=2**62, balance=Balance(anywhere=0)))

    def read(anew: bool = False, masks: bool = False) -> Sequence[torch.Tensor]:
        patch = (PatchDataset(cases, SIZE) if anew else kept)[next(draws)]  # a new one has no file open yet
        return patch.image, patch.masks() if masks else patch.codes

    reads = {
        "dsmseg, case opened for each patch": partial(read, anew=True),
        "dsmseg, cases kept open": read,
        "dsmseg, cases kept open, masks of 45 classes": partial(read, masks=True),
    }
    size, each = _megabytes(folder) / len(cases), taken / len(cases)
    return [Way(name, one, size, each) for name, one in reads.items()], cases


def _monai(tree: Path, folder: Path, classes: int) -> Iterator[Way]:
    """Give MONAI's usual way, and one in which its cache holds places of each class too, as many as ours."""
    from monai import transforms as t
    from monai.data import PersistentDataset

    keys, (low, high) = ["image", "label"], SETTINGS.hu_window
    usual = [
        t.LoadImaged(keys),
        t.EnsureChannelFirstd(keys),
        t.Orientationd(keys, axcodes="RAS", labels=None),
        t.Spacingd(keys, pixdim=SETTINGS.spacing, mode=("bilinear", "nearest")),
        t.ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0, b_max=1, clip=True),
        t.CropForegroundd(keys, source_key="image"),
        t.SpatialPadd(keys, spatial_size=SIZE),
    ]
    places = t.ClassesToIndicesd("label", num_classes=classes, max_samples_per_class=2000)
    items = [{"image": str(image), "label": str(label)} for image, label in _pairs(tree)]
    generator, ratios = np.random.default_rng(0), [0.0] + [1.0] * (classes - 1)
    for name, cached, known in (("usual", usual, None), ("places cached", [*usual, places], "label_cls_indices")):
        cache = folder / f"monai, {name}"
        taken = seconds(partial(list, PersistentDataset(items, cached, cache)))
        crop = t.RandCropByLabelClassesd(keys, "label", SIZE, ratios, classes, indices_key=known, warn=False)

        def read(dataset: PersistentDataset) -> Sequence[torch.Tensor]:
            (patch,) = dataset[int(generator.integers(len(dataset)))]
            return patch["image"], patch["label"]

        dataset = PersistentDataset(items, [*cached, crop], cache)
        each = _megabytes(cache) / len(items), taken / len(items)
        yield Way(f"MONAI PersistentDataset, {name}", partial(read, dataset), *each)


def _nnunet(tree: Path, folder: Path) -> Iterator[Way]:
    """Give nnU-Net's preprocessing, its reader and its choice of a patch, without what its loader does around them."""
    try:
        from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
        from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
        from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    except ImportError as error:
        print(json.dumps({"way": "nnU-Net", "left_out": str(error), "install": NNUNET}), flush=True)
        return
    plans = PlansManager(nnunet_plans(SETTINGS.spacing, SIZE, SETTINGS.hu_window))
    about = json.loads((tree / "dataset.json").read_text())
    save = partial(DefaultPreprocessor(verbose=False).run_case_save, plans_manager=plans, dataset_json=about)
    save = partial(save, configuration_manager=plans.get_configuration("3d_fullres"))
    cases = {str(folder / label.name.split(".")[0]): ([str(image)], str(label)) for image, label in _pairs(tree)}
    folder.mkdir()
    taken = seconds(lambda: [save(target, *files) for target, files in cases.items()])
    dataset = nnUNetDatasetBlosc2(str(folder))
    loader = nnUNetDataLoader(dataset, 1, SIZE, SIZE, plans.get_label_manager(about), 1.0)

    def read() -> Sequence[torch.Tensor]:
        image, labels, _, properties = dataset.load_case(loader.get_indices()[0])
        corners = loader.get_bbox(image.shape[1:], True, properties["class_locations"])
        box = [list(side) for side in zip(*corners, strict=True)]
        codes = crop_and_pad_nd(labels, box, -1, cast_cropped_to=np.int16)
        return torch.from_numpy(crop_and_pad_nd(image, box, 0)).float(), torch.from_numpy(codes)

    yield Way("nnU-Net, nnUNetDatasetBlosc2", read, _megabytes(folder) / len(cases), taken / len(cases))


def _formats(cases: Sequence[StoredCase], folder: Path) -> Iterator[Way]:
    """Give ways to read patches anywhere from our prepared arrays, opened for each, in our format and in others."""

    def read(load: Callable[[Path], Any], paths: list[list[Path]], draws: np.random.Generator) -> list[torch.Tensor]:
        number = int(draws.integers(len(cases)))
        start = draws.integers(np.array(cases[number].record.shape) - SIZE + 1)
        box = tuple(slice(one, one + side) for one, side in zip(start, SIZE, strict=True))
        return [torch.from_numpy(load(path)[box]) for path in paths[number]]

    arrays = [(case.image[:], case.codes[:]) for case in cases]
    others = [*map(_blosc2, BLOSC2), *(map(_zarr, ZARR) if find_spec("zarr") else ())]
    for name, write, load in [("dsmseg", store._save, store._open), *others]:
        paths = [[folder / f"{name}, {part} {number}" for part in ("image", "labels")] for number in range(len(cases))]
        taken = seconds(partial(list, map(write, chain(*paths), chain(*arrays))))
        next_patch = partial(read, load, paths, np.random.default_rng(0))  # the same patches of each format
        yield Way(name, next_patch, sum(map(_megabytes, chain(*paths))) / len(cases), taken / len(cases))


def _blosc2(how: tuple[str, int, tuple[str, str], int, int]) -> Format:
    codec, level, filters, block, chunk = how

    def write(path: Path, array: np.ndarray) -> None:
        filter = blosc2.Filter[filters[array.itemsize == 1]]
        how = blosc2.CParams(blosc2.Codec[codec], clevel=level, filters=[filter], nthreads=1, typesize=array.itemsize)
        blosc2.asarray(array, urlpath=str(path), mode="w", chunks=(chunk,) * 3, blocks=(block,) * 3, cparams=how)

    load = partial(blosc2.open, mode="r", dparams=blosc2.DParams(nthreads=1))
    name = f"blosc2 {codec} {level}, {filters[0]}, labels {filters[1]}, {block} in {chunk}"
    return name, write, lambda path: load(str(path))


def _zarr(sides: tuple[int, int | None]) -> Format:
    import zarr

    zarr.config.set({"threading.max_workers": 1})
    compressor = zarr.codecs.BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")
    chunks, shards = ((side,) * 3 if side else None for side in sides)

    def write(path: Path, array: np.ndarray) -> None:
        zarr.create_array(path, data=array, chunks=chunks, shards=shards, compressors=[compressor])

    return f"zarr ZSTD 5, SHUFFLE, {sides[0]} in {sides[1]}", write, partial(zarr.open_array, mode="r")


if __name__ == "__main__":
    main()
