"""What the voxels of a case tell: labels that nobody declared, intensities that are no HU, a body that is mirrored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from dsmseg.datasets.atlas import Classes, atlas, can_tell, misplaced
from dsmseg.datasets.description import Description
from dsmseg.datasets.loading import LoadedCase
from dsmseg.datasets.verification.findings import Check, Finding
from dsmseg.volume import body_mask

_LEAST_ML = 0.5  # of a structure; a few stray voxels tell neither its density nor where it lies
_SOFT_TISSUE_HU = (-200.0, 300.0)
_LEAST_SOFT_TISSUE = 0.15  # of the body; a scan that is off by 1,024 has none
_BONE_HU, _DENSE_BONE_HU = 200.0, 380.0  # spongy bone, but contrast too; dense bone, which little contrast is
_FRONT_DENSE_MM = -5.0
_FRONT_MM = 18.0  # bone this far in front of the body's middle: the spine is in front, not bowel full of contrast
_AIR_HU = -500.0

Hu = Float[NDArray[np.float32], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]


@dataclass(frozen=True, slots=True)
class Body:
    """Where the body is: its mask, and its middle between right and left as an index along the first axis (or None)."""

    mask: Mask
    middle: float | None
    flanks: bool  # whether both flanks lie inside the scan, so that the middle is the body's and not the scan's


def find_body(hu: Hu) -> Body:
    """Find the body on a scan of 1 to 5 mm, and its middle: the median over slices of halfway between its two sides."""
    mask = body_mask(hu)
    columns: Bool[NDArray[np.bool_], "x z"] = np.any(mask, axis=1)
    heights = np.flatnonzero(columns.any(axis=0))
    if heights.size == 0:
        return Body(mask, None, False)
    first = columns[:, heights].argmax(axis=0)
    last = columns.shape[0] - 1 - columns[::-1, heights].argmax(axis=0)
    inside = (first > 0) & (last < columns.shape[0] - 1)
    return Body(mask, float(np.median((first + last) / 2)), bool(inside.mean() > 0.5))


def check_content(case_id: str, case: LoadedCase, description: Description, body: Body) -> list[Finding]:
    """Check a case that has been read. None of it changes with the case's place on disk."""

    def found(check: Check, what: str, mend: str) -> Finding:
        return Finding(description.name, case_id, check, what, mend)

    findings = []
    if description.layout.placing[0] == "header" and case.placing != "header":
        what = f"the header of its labels puts them {case.header_offset_mm:.1f} mm off its image"
        findings.append(
            found("grid", what, f"Taken {case.placing}, they fit; copy the image's header to mend the file.")
        )
    if case.unknown_ids:
        ids = ", ".join(str(one) for one in case.unknown_ids[:6])
        known = ", ".join(f"{id} {name}" for name, id in description.labels.items())
        findings.append(found("labels", f"its labels hold {ids}", f"The data set has {known}."))
    if case.labelled == 0:
        findings.append(found("empty", "its labels are empty", "Unpack or export them again, or take the case away."))
    wrong = _wrong_intensities(case, description, body)
    if wrong:
        findings.append(found("intensities", wrong, "Give the scan in HU: air about -1000, water 0."))
    else:  # What is not in HU shows no bone and no air.
        mend = (
            "Correct the header's directions, of image and labels, or the labels' ids (unless the patient is so made)."
        )
        findings += [found("orientation", what, mend) for what in _wrong_directions(case, description, body)]
    return findings


def _wrong_intensities(case: LoadedCase, description: Description, body: Body) -> str | None:
    hu = case.image.array
    if not body.mask.any():
        return f"nothing in it is denser than air (HU from {hu.min():.0f} to {hu.max():.0f})"
    inside = hu[body.mask]
    soft = float(((inside > _SOFT_TISSUE_HU[0]) & (inside < _SOFT_TISSUE_HU[1])).mean())
    judged, wrong = 0, []
    for classes, mask in _large_enough(case, description):
        low, high = atlas().hu[classes[0]]
        mean = float(hu[mask].mean())
        judged += 1
        if not low <= mean <= high:
            wrong.append(f"{' and '.join(classes)} have a mean of {mean:.0f} HU, outside {low:g} to {high:g}")
    if len(wrong) > (judged > 3):  # one organ among many may be full of contrast or of air
        return wrong[0]
    if soft < _LEAST_SOFT_TISSUE:
        return f"only {100 * soft:.0f} % of the body is as dense as soft tissue"
    return None


def _wrong_directions(case: LoadedCase, description: Description, body: Body) -> list[str]:
    affine = case.image.affine
    centers: dict[Classes, NDArray[np.float64]] = {}
    for classes, mask in _large_enough(case, description):
        centers[classes] = affine[:3, :3] @ _center(mask) + affine[:3, 3]
    middle = None
    if body.middle is not None and body.flanks:
        _, y, z = (np.array(body.mask.shape) - 1) / 2
        middle = float((affine @ [body.middle, y, z, 1])[0])
    told = misplaced(centers, middle)
    # Where no two organs tell, bones and lungs do; contrast in the bowel, though, is as dense as bone.
    untold = not can_tell(centers, 1) and not _kidneys_behind(centers, body, affine)
    if untold and (front := _spine_in_front(case.image.array, body, affine)):
        told.append(f"front and back are exchanged: the spine lies {front:.0f} mm in front of the body's middle")
    if not can_tell(centers, 2) and _lungs_below(case.image.array, body.mask):
        told.append("top and bottom are exchanged: the lungs lie at the scan's lower end")
    return told


def _large_enough(case: LoadedCase, description: Description) -> Iterator[tuple[Classes, Mask]]:
    """Give the masks of classes of which there is enough to judge by, however fine the grid is."""
    for classes, labels in _labels_of_classes(description):
        if not case.structures.present.isdisjoint(labels):
            mask = case.structures.mask(labels)
            if np.count_nonzero(mask) * case.image.grid.voxel_volume_ml >= _LEAST_ML:
                yield classes, mask


def _labels_of_classes(description: Description) -> list[tuple[Classes, tuple[str, ...]]]:
    """Classes and the labels that make them up; both sides of a merged organ count as one."""
    single: list[tuple[Classes, tuple[str, ...]]] = [((name,), labels) for name, labels in description.classes.items()]
    return single + [((one.right, one.left), one.labels) for one in description.separated]


def _center(mask: Mask) -> NDArray[np.float64]:
    center = []
    for axis in range(3):
        profile = mask.sum(tuple(other for other in range(3) if other != axis))
        center.append(profile @ np.arange(len(profile)) / profile.sum())
    return np.array(center)


def _kidneys_behind(centers: Mapping[Classes, NDArray[np.float64]], body: Body, affine: NDArray[np.float64]) -> bool:
    """Tell whether kidneys are labelled and lie behind the body's middle, as they do in every body."""
    kidneys = [center[1] for classes, center in centers.items() if set(classes) <= {"Right Kidney", "Left Kidney"}]
    if not kidneys or not body.mask.any():
        return False
    middle = affine[:3, :3] @ _center(body.mask) + affine[:3, 3]
    return bool(max(kidneys) < middle[1])


def _spine_in_front(hu: Hu, body: Body, affine: NDArray[np.float64]) -> float | None:
    """Give how far bone lies in front of the body's middle, in mm, if that is clearly so, of dense bone as well."""
    step = float(np.linalg.norm(affine[:3, 1]))
    front, dense = (_in_front(hu > least, body) for least in (_BONE_HU, _DENSE_BONE_HU))
    if front is None or front * step <= _FRONT_MM:
        return None
    return front * step if dense is None or dense * step > _FRONT_DENSE_MM else None


def _in_front(dense: Mask, body: Body) -> float | None:
    """Give how many voxels what is dense lies in front of the body's middle: the median over slices that show some."""
    bone = dense & body.mask
    counts, extents = bone.sum((0, 1)), body.mask.sum((0, 1))
    slices = np.flatnonzero((counts > 5) & (extents > 0))
    if slices.size < 5:
        return None
    rows = np.arange(bone.shape[1])
    bone_center = rows @ bone.sum(0)[:, slices] / counts[slices]
    body_center = rows @ body.mask.sum(0)[:, slices] / extents[slices]
    return float(np.median(bone_center - body_center))


def _lungs_below(hu: Hu, body: Mask) -> bool:
    """Tell whether much of the lowest tenth of the body is air, and next to nothing of the highest half."""
    air, whole = ((hu < _AIR_HU) & body).sum((0, 1)), body.sum((0, 1))
    heights = np.flatnonzero(whole)
    if heights.size < 10:
        return False
    low, high = heights[: max(1, heights.size // 10)], heights[heights.size // 2 :]
    return bool(air[low].sum() > 0.25 * whole[low].sum() and air[high].sum() < 0.03 * whole[high].sum())
