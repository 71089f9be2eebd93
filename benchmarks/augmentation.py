"""Patches of 96^3 augmented a second on one core, beside MONAI, TorchIO and batchgeneratorsv2; a JSON line each.

The list of § 5.3 (rotation, scaling, elastic deformation, brightness, gamma), each at every patch, image and labels.
The peers' own transforms, put together as their documentation does; those that are not installed are told as such:
``pip install torchio batchgeneratorsv2`` (MONAI comes with the package's ``dev`` extra). All take a region of 128^3.
"""

import argparse
import json
import os
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from dsmseg.training.augmentation import draw_augmentation
from dsmseg.training.data_settings import AugmentationRange

from measuring import in_turns

SIZE, REGION = (96, 96, 96), (128, 128, 128)
ALWAYS = AugmentationRange(rotation_chance=1, scale_chance=1, elastic_chance=1, brightness_chance=1, gamma_chance=1)
DEGREES, SCALE, GAMMA, BRIGHTNESS = ALWAYS.rotation, ALWAYS.scale, ALWAYS.gamma, ALWAYS.brightness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="rounds, each of one patch a peer; the median is told")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    hu = random.integers(-1000, 1000, (220, 220, 220)).astype(np.int16)
    codes = (hu > 0).astype(np.uint8)
    makers = {"dsmseg": _ours, "MONAI": _monai, "TorchIO": _torchio, "batchgeneratorsv2": _batchgenerators}
    steps: dict[str, Callable[[], object]] = {}
    for name, make in makers.items():
        try:
            steps[name] = make(hu, codes)
        except ImportError:
            print(json.dumps({"what": name, "patches_a_second": None, "why": "not installed"}))
    taken = dict(zip(steps, in_turns(list(steps.values()), arguments.runs), strict=True))
    for name, seconds in taken.items():
        faster = round(seconds / taken["dsmseg"], 1)
        row = {"what": name, "patches_a_second": round(1 / seconds, 2), "seconds_beside_dsmseg": faster}
        print(json.dumps(row), flush=True)


def _ours(hu: np.ndarray, codes: np.ndarray) -> Callable[[], object]:
    seeds = iter(range(1 << 30))

    def step() -> object:
        change = draw_augmentation(ALWAYS, SIZE, next(seeds))
        box = tuple(slice(0, count) for count in change.source_size)
        image, labels = change.warp(hu[box], codes[box])
        scaled = torch.from_numpy(image)[None].add_(1000).mul_(1 / 2000).clamp_(0, 1)
        change.recolor(scaled)
        return scaled, labels

    return step


def _region(hu: np.ndarray, codes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    box = tuple(slice(0, count) for count in REGION)
    image = torch.from_numpy(((hu[box].astype(np.float32) + 1000) / 2000).clip(0, 1))[None]
    return image, torch.from_numpy(codes[box].copy())[None]


def _monai(hu: np.ndarray, codes: np.ndarray) -> Callable[[], object]:
    from monai import transforms

    radians, keys = np.deg2rad(DEGREES), ("image", "label")
    whole = transforms.Compose(
        [
            transforms.Rand3DElasticd(
                keys, prob=1, sigma_range=(5, 7), magnitude_range=(50, 150), spatial_size=SIZE,
                rotate_range=(radians,) * 3, scale_range=(SCALE[0] - 1, SCALE[1] - 1), mode=("bilinear", "nearest"),
            ),
            transforms.RandShiftIntensityd("image", prob=1, offsets=BRIGHTNESS),
            transforms.RandAdjustContrastd("image", prob=1, gamma=GAMMA),
        ]
    )  # fmt: skip

    def step() -> object:
        image, label = _region(hu, codes)
        return whole({"image": image, "label": label})

    return step


def _torchio(hu: np.ndarray, codes: np.ndarray) -> Callable[[], object]:
    import torchio

    whole = torchio.Compose(
        [
            torchio.RandomAffine(scales=SCALE, degrees=DEGREES),
            torchio.RandomElasticDeformation(),
            torchio.CropOrPad(SIZE),
            torchio.RandomGamma(log_gamma=(np.log(GAMMA[0]), np.log(GAMMA[1]))),
        ]
    )

    def step() -> object:
        image, label = _region(hu, codes)
        return whole(torchio.Subject(image=torchio.ScalarImage(tensor=image), label=torchio.LabelMap(tensor=label)))

    return step


def _batchgenerators(hu: np.ndarray, codes: np.ndarray) -> Callable[[], object]:
    from batchgeneratorsv2.transforms.intensity.brightness import BrightnessAdditiveTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    radians = float(np.deg2rad(DEGREES))
    whole = ComposeTransforms(
        [
            SpatialTransform(
                SIZE, 0, random_crop=False, p_elastic_deform=1, elastic_deform_scale=(0, 0.2),
                elastic_deform_magnitude=(0, 0.2), p_rotation=1, rotation=(-radians, radians),
                p_scaling=1, scaling=SCALE,
            ),
            BrightnessAdditiveTransform(0, BRIGHTNESS, synchronize_channels=True),
            GammaTransform(GAMMA, p_invert_image=0, synchronize_channels=True, p_per_channel=1, p_retain_stats=1),
        ]
    )  # fmt: skip

    def step() -> object:
        image, label = _region(hu, codes)
        return whole(image=image, segmentation=label.to(torch.int16))

    return step


if __name__ == "__main__":
    main()
