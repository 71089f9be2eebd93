"""The three orthogonal slices of an overview: which ones, how bright, and each class's smooth mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.taxonomy import CLASSES
from dsmseg.volume import Volume

# HU -> brightness. Soft tissue has most of the range; lungs and bone keep enough of it to be read beside it.
TONE_HU = (-1000.0, -880.0, -250.0, -150.0, 280.0, 1200.0)
TONE_BRIGHTNESS = (0.0, 0.06, 0.18, 0.24, 0.86, 1.0)

BODY_HU = -300.0
MARGIN_MM = 8.0
# How much a class draws the slices to itself: what a reader looks for first is a tumor.
_WEIGHTS = np.array([0.0, *(4.0 if known.kind == "tumor" else 1.0 for known in CLASSES)])
FINE_MM = 1.0
SMOOTH_MM = 1.6


@dataclass(frozen=True, slots=True)
class View:
    """One slice, first axis to the right of the picture's RAS direction, second axis upward; lengths in mm."""

    name: str
    axes: tuple[int, int]
    index: int
    marks: tuple[str, str, str, str]
    """Letters at the left, right, top and bottom edge."""
    brightness: NDArray[np.float32]
    masks: dict[int, NDArray[np.float32]]
    """Taxonomy id -> mask 0..1 on a finer grid over the same extent, smoothed for drawing."""
    size_mm: tuple[float, float]


_PLANES = (
    ("axial", 2, (0, 1), ("R", "L", "A", "P")),
    ("coronal", 1, (0, 2), ("R", "L", "S", "I")),
    ("sagittal", 0, (1, 2), ("A", "P", "S", "I")),
)


def orthogonal_views(
    volume: Volume, layers: Sequence[NDArray[np.integer]], chosen_by: Sequence[NDArray[np.integer]] | None = None
) -> list[View]:
    """Return the axial, coronal and sagittal slice that show the most of the labeled classes.

    Args:
        volume: the scan, HU on a RAS grid.
        layers: label maps (X, Y, Z) of taxonomy ids on that grid; they may overlap one another.
        chosen_by: label maps whose classes choose the slices and the frame; None is ``layers``.
    """
    choosing = layers if chosen_by is None else chosen_by
    box = _body_box(volume, choosing)
    scan = volume.array[box]
    cropped = [layer[box] for layer in layers]
    choosing = [layer[box] for layer in choosing]
    views = []
    for name, axis, axes, marks in _PLANES:
        index = _most_telling_slice(choosing, axis)
        spacing = (volume.spacing[axes[0]], volume.spacing[axes[1]])
        image = scan.take(index, axis)
        views.append(
            View(
                name=name,
                axes=axes,
                index=index + (box[axis].start or 0),
                marks=marks,
                brightness=np.interp(image, TONE_HU, TONE_BRIGHTNESS).astype(np.float32),
                masks=_masks([np.take(layer, index, axis=axis) for layer in cropped], spacing),
                size_mm=(image.shape[0] * spacing[0], image.shape[1] * spacing[1]),
            )
        )
    return views


def count_by_slice(layer: NDArray[np.integer], axis: int) -> NDArray[np.int64]:
    """Return how many voxels each id has in each slice across ``axis``: (slice, id)."""
    counts = np.zeros((layer.shape[axis], len(_WEIGHTS)), dtype=np.int64)
    for index in range(len(counts)):  # bincount makes 8 bytes of each voxel that it gets at once
        counts[index] = np.bincount(np.take(layer, index, axis=axis).ravel(), minlength=len(_WEIGHTS))
    return counts


def _most_telling_slice(layers: Sequence[NDArray[np.integer]], axis: int) -> int:
    """Return the slice where the classes, each relative to its own largest cross-section, show most."""
    score = np.zeros(layers[0].shape[axis])
    for layer in layers:
        slices = np.moveaxis(layer, axis, 0)
        area = np.stack([np.bincount(part.ravel(), minlength=len(_WEIGHTS)) for part in slices])[:, 1:].astype(
            np.float64
        )
        present = area.any(axis=0)
        # The square root keeps one slice through many structures ahead of one through the middle of a few.
        shown = np.sqrt(area[:, present] / area[:, present].max(axis=0))
        score += shown @ _WEIGHTS[1:][present]
    if not score.any():
        return len(score) // 2
    return int(score.argmax())


def _masks(labels: Sequence[NDArray[np.integer]], spacing: tuple[float, float]) -> dict[int, NDArray[np.float32]]:
    factors = [max(1, round(step / FINE_MM)) for step in spacing]
    sigma = [max(0.7, SMOOTH_MM / step) * factor for factor, step in zip(factors, spacing, strict=True)]
    masks = {}
    for layer in labels:
        for label in np.unique(layer[layer > 0]):
            fine = ndimage.zoom((layer == label).astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
            masks[int(label)] = ndimage.gaussian_filter(fine, sigma, mode="nearest")
    return masks


def _body_box(volume: Volume, layers: Sequence[NDArray[np.integer]]) -> tuple[slice, slice, slice]:
    """Return the bounds of the body and of every label: air and table are left out."""
    steps = [max(1, round(4.0 / spacing)) for spacing in volume.spacing]
    coarse = tuple(slice(None, None, step) for step in steps)
    solid = ndimage.binary_opening(volume.array[coarse] > BODY_HU)
    parts, count = ndimage.label(solid)
    if count == 0:
        return slice(0, volume.array.shape[0]), slice(0, volume.array.shape[1]), slice(0, volume.array.shape[2])
    shown = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    for layer in layers:
        shown |= layer[coarse] > 0
    bounds = []
    for axis, (step, spacing) in enumerate(zip(steps, volume.spacing, strict=True)):
        inside = np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis}))) * step
        margin = step + round(MARGIN_MM / spacing)
        bounds.append(slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1))
    return bounds[0], bounds[1], bounds[2]
