"""Anatomy's say at the working spacing: stray fragments of organs go, tumors stay in or at their host organ."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from dsmseg.taxonomy import StructureClass
from dsmseg.volume.body import bounding_box

_LEAST_SHARE = 0.1  # of the largest part, for an organ in one piece
_LEAST_SHARE_IN_PIECES = 0.01
_IN_PIECES = frozenset(
    {"Right Lung", "Left Lung", "Colon", "Intestine", "Hepatic Vessel", "Portal Vein and Splenic Vein"}
)
_HOST_MARGIN_MM = 9.0  # A tumor may bulge out of the organ as the network drew it.


def drop_fragments(probabilities: Float[Tensor, "organ x y z"], organs: Sequence[StructureClass]) -> None:
    """Set to 0, in place, each organ's parts (over 0.5, sharing faces) that are small beside its largest part."""
    for field, organ in zip(probabilities, organs, strict=True):
        share = _LEAST_SHARE_IN_PIECES if organ.name in _IN_PIECES else _LEAST_SHARE
        values = field.numpy()
        present = values > 0.5
        box = bounding_box(present)
        if box is None:
            continue
        parts, count = ndimage.label(present[box])
        if count == 1:
            continue
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        dropped = sizes < share * sizes.max()
        dropped[0] = False
        values[box][dropped[parts]] = 0


def confine_to_hosts(
    tumor_probabilities: Float[Tensor, "tumor x y z"],
    tumors: Sequence[StructureClass],
    organ_masks: Mapping[str, Bool[NDArray[np.bool_], "x y z"]],
    spacing_mm: Sequence[float],
) -> None:
    """Set to 0, in place, each tumor where it is farther than 9 mm from its host organs.

    A tumor is left alone where the weights do not know every one of its hosts.

    Args:
        tumor_probabilities: soft masks.
        tumors: their classes.
        organ_masks: masks of the organs that the weights know, by name.
        spacing_mm: of the grid.
    """
    for field, tumor in zip(tumor_probabilities, tumors, strict=True):
        if not tumor.hosts or not organ_masks.keys() >= set(tumor.hosts):
            continue
        host = np.logical_or.reduce([organ_masks[name] for name in tumor.hosts])
        if host.any():
            distance = ndimage.distance_transform_edt(~host, sampling=tuple(spacing_mm))
            field.numpy()[distance > _HOST_MARGIN_MM] = 0
        else:
            field.zero_()
