"""What a scanner adds: its resolution, thick slices, noise with a kernel's correlation, and a few artifacts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int16
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.synthesis import kernels
from dsmseg.synthesis.noise import generator, seed_of, smooth_noise, white_noise
from dsmseg.synthesis.phantom.canvas import Frame

ARTIFACTS = ("metal", "motion", "beam hardening")

_FINE_MM, _AVERAGING = 0.75, 0.65
"""Noise is that of pixels of 0.75 mm; coarser voxels average it, and it falls with their size to this power.

Measured on real CT (docs/decisions/0039): the quietest soft tissue of a chest CT has 16 HU at 0.7 mm and 5.6 to 6.7 HU
at 3 mm, by the filter that makes it coarser.
"""

_Image = Float32[NDArray[np.float32], "x y z"]


@dataclass(frozen=True, slots=True)
class Scanner:
    """One scan's settings.

    resolution: sigma of the point spread in the slice, mm. slice_mm: thickness of a slice. noise: HU, one sigma, in
    pixels of up to 0.75 mm; coarser voxels show less of it.
    grain: sigma of the reconstruction kernel's smoothing of noise, mm. artifacts: of ARTIFACTS. implant: where
    metal lies, mm; None: in some bone of the image.
    """

    resolution: float
    slice_mm: float
    noise: float
    grain: float
    artifacts: tuple[str, ...]
    seed: int
    implant: tuple[float, float, float] | None = None


def draw_scanner(random: Generator, slice_mm: float, artifacts: tuple[str, ...] = ()) -> Scanner:
    """Draw settings of a scan with slices of ``slice_mm``; ``artifacts`` are those that it shall have.

    Raises:
        InputError: an artifact is unknown.
    """
    if strangers := sorted(set(artifacts) - set(ARTIFACTS)):
        raise InputError(f"'{strangers[0]}' is no artifact", mend=f"There are: {', '.join(ARTIFACTS)}.")
    noise = float(random.uniform(7.0, 22.0)) * (1.6 / (1.0 + 0.25 * slice_mm))
    return Scanner(
        float(random.uniform(0.45, 0.9)), slice_mm, noise, float(random.uniform(0.5, 1.1)), artifacts, seed_of(random)
    )


def scan(image: _Image, frame: Frame, scanner: Scanner, first: tuple[int, int, int] = (0, 0, 0)) -> _Image:
    """Scan an image of HU.

    Args:
        image: HU of tissues on the grid ``frame``.
        frame: of the image.
        scanner: settings.
        first: place of the image's first voxel in the whole scan: noise belongs to a voxel of the whole.
    """
    spacing = frame.spacing
    # A slice is a box in z; a Gaussian of the same variance stands for it, beyond what a voxel averages by itself.
    thick = np.sqrt(max(scanner.slice_mm**2 - 0.5 * spacing[2] ** 2, 0.0) / 12 + 0.16)
    sigmas = (scanner.resolution / spacing[0], scanner.resolution / spacing[1], thick / spacing[2])
    result = blur(image, sigmas)
    random = generator(scanner.seed, "artifacts")
    if "beam hardening" in scanner.artifacts:
        result = _beam_hardening(result, frame, random)
    if "motion" in scanner.artifacts:
        result = _motion(result, frame, random)
    if "metal" in scanner.artifacts:
        result = _metal(result, frame, random, scanner.implant)
    return result + _noise(frame, scanner, first)


def blur(image: _Image, sigmas: tuple[float, float, float]) -> _Image:
    """Smooth with a Gaussian of so many voxels along each axis, replicating the border."""
    for axis, sigma in enumerate(sigmas):
        if sigma < 0.12:
            continue
        reach = max(1, int(np.ceil(2.6 * sigma)))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        image = kernels.convolve(np.ascontiguousarray(image), (weights / weights.sum()).astype(np.float32), axis)
    return image


def _noise(frame: Frame, scanner: Scanner, first: tuple[int, int, int]) -> _Image:
    """Give noise without its lowest frequencies, as filtered back-projection leaves it."""
    white = white_noise(frame.shape, first, scanner.seed)
    grain = [max(scanner.grain / step, 0.3) for step in frame.spacing[:2]]
    across = 0.5 if frame.spacing[2] < 2 else 0.0
    soft = blur(white, (grain[0], grain[1], across))
    softer = blur(soft, (1.6 * grain[0], 1.6 * grain[1], 0.0))
    kept = soft - np.float32(0.7) * softer
    averaged = min(1.0, _FINE_MM / float(np.sqrt(frame.spacing[0] * frame.spacing[1]))) ** _AVERAGING
    noise: _Image = kept * np.float32(scanner.noise * averaged / _deviation(tuple(grain), across))
    return noise


def _deviation(grain: tuple[float, ...], across: float) -> float:
    """Give the deviation that the noise's filter leaves of white noise."""
    probe = np.zeros((31, 31, 7), np.float32)
    probe[15, 15, 3] = 1.0
    soft = blur(probe, (grain[0], grain[1], across))
    kept = soft - np.float32(0.7) * blur(soft, (1.6 * grain[0], 1.6 * grain[1], 0.0))
    return float(np.sqrt((kept.astype(np.float64) ** 2).sum()))


def _beam_hardening(image: _Image, frame: Frame, random: Generator) -> _Image:
    """Darken what lies between dense bones of a slice, and cup the middle of the body."""
    bone = blur(np.clip(image - 250.0, 0.0, 600.0).astype(np.float32), (18 / frame.spacing[0], 2 / frame.spacing[1], 0))
    return image - np.float32(random.uniform(0.25, 0.6)) * bone * (image < 200)


def _motion(image: _Image, frame: Frame, random: Generator) -> _Image:
    """Blend each slice with itself as it was a moment before, in some stretches along z."""
    stretch = smooth_noise((1, 1, frame.shape[2]), frame.spacing, frame.origin, 25.0, seed_of(random))[0, 0]
    share = np.clip(np.abs(stretch), 0, 1).astype(np.float32) * np.float32(0.5)
    shift = max(1, int(random.uniform(3, 8) / frame.spacing[1]))
    blended: _Image = image + share * (np.roll(image, shift, axis=1) - image)
    return blended


def _metal(image: _Image, frame: Frame, random: Generator, place: tuple[float, float, float] | None) -> _Image:
    """Put a metal implant into bone, with bright and dark streaks that fade with distance."""
    if place is None:
        bone = np.argwhere(image > 350)
        if not len(bone):
            return image
        place = tuple(frame.origin + bone[int(random.integers(len(bone)))] * frame.spacing)
    x, y, z = (
        start + step * np.arange(count) - middle
        for start, step, count, middle in zip(frame.origin, frame.spacing, frame.shape, place, strict=True)
    )
    x, y = x[:, None], y[None, :]
    away = np.sqrt(x * x + y * y)
    streaks = np.zeros_like(away)
    for angle in random.uniform(0, np.pi, 7):
        across = np.abs(x * np.sin(angle) - y * np.cos(angle))
        streaks += random.choice((-1.0, 1.0)) * np.maximum(1 - across / (2 + 0.06 * away), 0)
    strength = 700.0 / (1 + away / 18.0)
    near = np.maximum(1 - np.abs(z) / 22.0, 0.0)
    result = image + (streaks * strength)[:, :, None].astype(np.float32) * near.astype(np.float32)
    inside = (away < 5.5)[:, :, None] & (np.abs(z) < 18)
    return np.where(inside, np.float32(3000.0), result)


def as_stored(image: _Image) -> Int16[NDArray[np.int16], "x y z"]:
    """Give HU as a CT holds them: whole numbers of 12 bits."""
    return np.rint(np.clip(image, -1024, 3071)).astype(np.int16)
