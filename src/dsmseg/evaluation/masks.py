"""What every metric asks of the masks that it is given."""

from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.volume import bounding_box

Box = tuple[slice, slice, slice]
OUTSIDE = np.uint8(2)
"""The kind of voxels outside of the region, see `flattened`."""


def as_mask(array: NDArray[Any], what: str) -> NDArray[np.bool_]:
    """Give booleans: of whole numbers, what is not 0.

    Raises:
        InputError: neither booleans nor whole numbers.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "biu":
        raise InputError(f"{what} is an array of {array.dtype}", mend="Give a mask: booleans, or whole numbers.")
    return array if array.dtype == np.bool_ else array != 0


def refuse_other_shapes(reference: NDArray[Any], other: NDArray[Any], what: str) -> None:
    """Refuse ``other`` unless it has the shape of the reference.

    Raises:
        InputError: it has not.
    """
    if np.shape(reference) != np.shape(other):
        raise InputError(
            f"{what} of shape {np.shape(other)} does not fit a reference of shape {np.shape(reference)}",
            mend="Bring both onto one grid first.",
        )


def mask_pair(
    reference: NDArray[Any], prediction: NDArray[Any]
) -> tuple[Bool[NDArray[np.bool_], "x y z"], Bool[NDArray[np.bool_], "x y z"]]:
    """Give two masks of one scan as booleans.

    Raises:
        InputError: they are no masks, not of three axes, or of different shapes.
    """
    refuse_other_shapes(reference, prediction, "a prediction")
    if np.ndim(reference) != 3:
        raise InputError(f"a mask of {np.ndim(reference)} axes is not one of a scan", mend="Give (X, Y, Z).")
    return as_mask(reference, "the reference"), as_mask(prediction, "the prediction")


def flattened(
    scores: NDArray[Any], truth: NDArray[Any], region: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Give scores and kinds (0 other, 1 tumor, 2 not in the region), as scores lie in memory; copies what is strided.

    Raises:
        InputError: no masks, or different shapes.
    """
    refuse_other_shapes(truth, scores, "a score map")
    axes = np.argsort([-abs(step) for step in scores.strides], kind="stable")
    kinds = as_mask(truth, "the reference").transpose(axes).ravel().view(np.uint8)
    if region is not None:
        refuse_other_shapes(truth, region, "a region")
        kinds = np.where(as_mask(region, "the region").transpose(axes).ravel(), kinds, OUTSIDE)
    return scores.transpose(axes).ravel(), kinds


def union_box(first: Bool[NDArray[np.bool_], "x y z"], second: Bool[NDArray[np.bool_], "x y z"]) -> Box | None:
    """Give the smallest box that holds both masks; None where both are empty."""
    one, other = bounding_box(first), bounding_box(second)
    if one is None or other is None:
        return one or other
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return x, y, z
