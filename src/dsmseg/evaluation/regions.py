"""Where voxels count for AUROC and FPR95: the whole body, and the host organ with 10 mm around it."""

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.volume import Volume, body_mask, bounding_box, resample, resample_onto

HOST_MARGIN_MM = 10.0
BODY_SPACING_MM = 3.0


def dilated(
    mask: Bool[NDArray[np.bool_], "x y z"], spacing: tuple[float, float, float], margin_mm: float = HOST_MARGIN_MM
) -> Bool[NDArray[np.bool_], "x y z"]:
    """Give the voxels whose middle is at most ``margin_mm`` from that of a voxel of the mask; ``spacing`` is in mm."""
    grown = np.zeros_like(mask, dtype=bool)
    box = bounding_box(mask)
    if box is None:
        return grown
    around = tuple(
        slice(max(0, side.start - reach), side.stop + reach)
        for side, reach in zip(box, (int(np.ceil(margin_mm / step)) for step in spacing), strict=True)
    )
    distance = ndimage.distance_transform_edt(~mask[around], sampling=spacing)
    grown[around] = distance <= margin_mm + 1e-6
    return grown


def body_region(scan: Volume) -> Bool[NDArray[np.bool_], "x y z"]:
    """Mark the body on a scan's grid, found at 3 mm; all of the scan where nothing in it is a body."""
    coarse = resample(scan, (BODY_SPACING_MM,) * 3)
    body = body_mask(coarse.array)
    if not body.any():
        return np.ones(scan.array.shape, bool)
    found = resample_onto(Volume(body.astype(np.uint8), coarse.affine, coarse.own), scan.grid, nearest=True)
    return found.array.astype(bool)
