"""Tumors' probabilities on the working grid, before any threshold: what operating points are chosen on.

The scan goes the way that `Segmenter` takes it, up to labels; there is no way back to the scan's own grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, UInt8
from numpy.typing import NDArray
from torch import nn

from dsmseg.checkpoint import Card
from dsmseg.inference.blending import SlidingWindow
from dsmseg.inference.choosing import Choice, everything
from dsmseg.inference.framing import frame_body
from dsmseg.inference.layers import Layers
from dsmseg.inference.runtime import Runtime
from dsmseg.inference.windows import DEFAULT_OVERLAP
from dsmseg.taxonomy import StructureClass
from dsmseg.volume import Grid, Volume, bounding_box

LEAST_PROBABILITY = 2.0**-8
"""Less becomes 0: below any threshold that is tried, and large parts of a scan need not be looked at."""


@dataclass(frozen=True, slots=True)
class WorkingMaps:
    """What weights say of a scan, on the working grid in RAS.

    Attributes:
        grid: the scan at the spacing of the weights, cut down to the body.
        organs: label map, as predict draws it.
        tumors: probabilities by class; 0 outside of the body, and where predict would erase a tumor for being too far
            from its host organs. Classes do not compete.
    """

    grid: Grid
    organs: UInt8[NDArray[np.uint8], "x y z"]
    tumors: dict[str, Float16[NDArray[np.float16], "x y z"]]


def working_maps(
    network: nn.Module,
    card: Card,
    volume: Volume,
    runtime: Runtime,
    *,
    overlap: float = DEFAULT_OVERLAP,
    unseen: Sequence[StructureClass] = (),
) -> WorkingMaps:
    """Give what weights say of a scan.

    Args:
        network: with the weights of ``card``, in evaluation mode, on the runtime's device.
        card: of the weights; all classes that it names are computed.
        volume: the scan.
        runtime: device and precision.
        overlap: as for `Segmenter`.
        unseen: of `Card.unseen`, kinds that are computed beside.
    """
    frame, known = frame_body(volume, card.spacing_mm, card.window), everything(card)
    choice = known.only([*known.classes, *unseen])
    layers = Layers(choice, frame, frame.grid)
    scores = np.zeros((len(choice.tumors), *frame.grid.shape[::-1]), np.float16)
    for slab in SlidingWindow(network, frame.hu, frame.body, choice.tiling(card, overlap), runtime):
        layers.add(slab)
        new = slice(slab.new - slab.start, None)
        for number, field in enumerate(scores):
            field[slab.new : slab.stop] = slab.tumors.backwards(number, (slice(None), slice(None), new)).numpy()
    layers.finish()
    _leave_out(scores, layers, choice)
    by_name = {one.name: field.T for one, field in zip(choice.tumors, scores, strict=True)}
    return WorkingMaps(frame.grid, layers.organs.T, by_name)


def _leave_out(scores: Float16[NDArray[np.float16], "tumor z y x"], layers: Layers, choice: Choice) -> None:
    """Set to 0, in place, what is hardly probable, and what is too far from the hosts."""
    for tumor, field in zip(choice.tumors, scores, strict=True):
        field[field < LEAST_PROBABILITY] = 0
        box = bounding_box(field > 0)
        if box is not None and (far := layers.far_from_hosts(tumor, box)) is not None:
            field[box][far] = 0
