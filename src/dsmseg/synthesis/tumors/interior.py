"""The HU inside a tumor: its mean by phase, mottling, necrosis, rim, wall, septa and calcifications."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.synthesis.noise import seed_of, smooth_noise
from dsmseg.synthesis.tumors.draws import normal, uniform
from dsmseg.synthesis.tumors.grid import Box
from dsmseg.synthesis.tumors.kinds import Variant

Field = Float64[NDArray[np.float64], "x y z"]

_GAS = -900.0
_SMALLEST = {"necrosis": 12.0, "ring": 8.0, "cavity": 14.0, "septa": 14.0, "calcification": 6.0}  # mm of diameter


@dataclass(frozen=True, slots=True)
class Look:
    """What is drawn once for all lesions of a scan: their HU, and which features they may have."""

    hu: float
    contrast: bool
    features: frozenset[str]


def draw_look(variant: Variant, phase: str, host_hu: float, random: Generator) -> Look:
    """Draw the mean HU and the features of a variant in a phase. ``host_hu`` is the host's median."""
    mean, deviation = variant.hu[phase]
    hu = mean + deviation * normal(random) + (0.0 if variant.absolute else host_hu)
    if not variant.absolute and mean < -20.0:  # tell a dark lesion from its host, but do not make it water
        hu = max(min(hu, host_hu + 0.4 * mean), 18.0)
    drawn = [name for name, share in sorted(variant.features.items()) if float(random.random()) < share]
    return Look(hu, phase != "native", frozenset(drawn))


def features_of(look: Look, diameter: float) -> frozenset[str]:
    """Give the features that a lesion of ``diameter`` mm is large enough to show."""
    return frozenset(name for name in look.features if diameter >= _SMALLEST.get(name, 0.0))


def fill(
    box: Box, depths: Field, variant: Variant, look: Look, features: frozenset[str], random: Generator
) -> Float32[NDArray[np.float32], "x y z"]:
    """Give the noiseless HU of a lesion. ``depths`` are mm below its surface, negative outside."""
    radius = max(float(depths.max()), 0.5 * min(box.spacing))

    def noise(scale: float) -> Field:
        finest = 0.8 * min(box.spacing)
        return smooth_noise(box.shape, box.spacing, box.origin, max(scale, finest), seed_of(random)).astype(np.float64)

    coarse = noise(max(0.45 * radius, 2.5))
    values = look.hu + variant.texture * (0.85 * coarse + 0.35 * noise(2.0))
    if "ground_glass" in features:
        solid = _step(depths - uniform(random, 0.4, 1.1) * radius + 0.3 * radius * coarse, 2.0)
        haze = uniform(random, -650.0, -420.0) + 60.0 * coarse
        values = haze + (values - haze) * solid
    if "necrosis" in features or "cavity" in features:
        start = uniform(random, 0.25, 0.5) * radius
        core = _step(depths - start + 0.16 * radius * (coarse + 0.4 * noise(0.25 * radius)), max(1.5, 0.2 * radius))
        low = _GAS if "cavity" in features else min(uniform(random, 14.0, 34.0), look.hu - 12.0)
        values += (low + 0.3 * variant.texture * coarse - values) * core
    if "ring" in features:
        width = min(uniform(random, 1.5, 4.0), 0.4 * radius)
        gain = uniform(random, 22.0, 50.0) * (1.0 if look.contrast else 0.15)
        ring = gain * _shell(depths, width, box) * np.clip(0.8 + 0.45 * coarse, 0.0, 1.4)
        # What is measured of a lesion is its mean, rim and all, so the middle is darker by what the rim is brighter.
        values += ring - (0.0 if variant.absolute else ring.mean(where=depths > 0.0))
    if "wall" in features:
        wall = look.hu + uniform(random, 12.0, 30.0) if variant.wall_hu is None else uniform(random, *variant.wall_hu)
        values += (wall - values) * _shell(depths, uniform(random, 0.8, 1.6), box)
    if "septa" in features:
        sheet = np.clip(1.0 - np.abs(noise(0.8 * radius)) / 0.14, 0.0, 1.0)
        values += (uniform(random, 15.0, 32.0) if variant.wall_hu is None else 400.0) * sheet
    if "calcification" in features:
        specks = np.clip(noise(1.6) + 0.5 * coarse - uniform(random, 1.7, 2.3), 0.0, 1.2)
        values += uniform(random, 150.0, 420.0) * specks
    return values.astype(np.float32)


def _step(value: Field, softness: float) -> Field:
    """Go from 0 to 1 over ``softness`` mm on either side of 0."""
    part = np.clip(0.5 + 0.5 * value / softness, 0.0, 1.0)
    return part * part * (3.0 - 2.0 * part)


def _shell(depths: Field, width: float, box: Box) -> Field:
    """Give the share of each voxel that lies in a shell of ``width`` mm below the surface."""
    voxel = 0.5 * (min(box.spacing) + max(box.spacing))
    low, high = np.maximum(depths - 0.5 * voxel, 0.0), np.minimum(depths + 0.5 * voxel, width)
    return np.clip((high - low) / voxel, 0.0, 1.0)
