"""Where the body is: the mask that keeps windows, labels and scores out of air, padding and the table."""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import ndimage

TISSUE_HU = -400.0  # Between fat (-100) and lung or air (below -500).
_LEAST_SHARE = 0.2  # Parts smaller than this share of the largest are table, cushions, arms.
_WITHIN_SLICE = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])  # no neighbors in z


def body_mask(hu: Float[NDArray[np.float32], "x y z"]) -> Bool[NDArray[np.bool_], "x y z"]:
    """Mark the body, with its lungs and bowel gas, on a scan of some 1 to 5 mm spacing.

    Lungs that the first or last slice cuts open are inside too, since holes are filled slice by slice. So are lungs
    that the field of view cuts at one side. An empty mask means that nothing is denser than -400 HU.

    Args:
        hu: intensities in RAS, HU. Padding may be any value below -1000.
    """
    tissue = hu > TISSUE_HU
    # Opening parts the body from a table that it touches; what it cost the skin and thin chest walls is given back.
    core = _large_parts(_off_the_table(ndimage.binary_opening(tissue)))
    if not core.any():
        core = _large_parts(tissue)
    body = ndimage.binary_dilation(core, iterations=2) & tissue
    return without_holes(body | _between_tissue(body))


def bounding_box(mask: Bool[NDArray[np.bool_], "x y z"]) -> tuple[slice, slice, slice] | None:
    """Give the smallest box that holds the mask; None for an empty mask."""
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        if inside.size == 0:
            return None
        slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return slices[0], slices[1], slices[2]


def _off_the_table(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop what lies small behind the largest part of its slice: a table that touches the body in a few slices only."""
    parts, count = ndimage.label(mask, structure=_WITHIN_SLICE)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    kept = np.ones(count + 1, dtype=bool)
    kept[0] = False
    boxes = ndimage.find_objects(parts)
    largest: dict[int, int] = {}  # part of each slice
    for part, box in enumerate(boxes, start=1):
        z = box[2].start
        if z not in largest or sizes[part] > sizes[largest[z]]:
            largest[z] = part
    for part, (_, rows, heights) in enumerate(boxes, start=1):
        across, up, _ = boxes[largest[heights.start] - 1]
        area = (across.stop - across.start) * (up.stop - up.start)  # with its lungs
        behind = (rows.start + rows.stop) / 2 < up.start
        kept[part] = not (behind and sizes[part] < _LEAST_SHARE * area)
    return kept[parts]


def _large_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes >= _LEAST_SHARE * sizes.max())[parts]
    return kept


def without_holes(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what each axial slice encloses: all air that cannot reach the slice's rim."""
    air = np.pad(~body, ((1, 1), (1, 1), (0, 0)), constant_values=True)
    parts, count = ndimage.label(air, structure=_WITHIN_SLICE)
    outside = np.zeros(count + 1, dtype=bool)
    outside[parts[0, 0]] = True
    filled: NDArray[np.bool_] = ~outside[parts[1:-1, 1:-1]]
    return filled


def _between_tissue(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark voxels that see body on at least three of the slice's four sides: a lung that a narrow scan cuts open."""
    sides = np.zeros(body.shape, dtype=np.uint8)
    for axis in (0, 1):
        sides += np.logical_or.accumulate(body, axis=axis)
        sides += np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
    enclosed: NDArray[np.bool_] = sides >= 3
    return enclosed
