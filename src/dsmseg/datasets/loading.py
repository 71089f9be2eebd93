"""One case into memory: its image and its labels, on one grid."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from SimpleITK import GetArrayFromImage, ImageFileReader

from dsmseg.datasets.atlas import atlas
from dsmseg.datasets.description import Description, Layout, Placing
from dsmseg.datasets.fingerprint import Fingerprint, fingerprint
from dsmseg.datasets.layout import WHOLE, CaseFiles
from dsmseg.errors import InputError
from dsmseg.volume import Grid, Volume, read_labels, read_scan, resample, resample_onto
from dsmseg.volume.native import native_name, quiet_native_code

_CORNERS = np.array([[x, y, z, 1.0] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
_TOLERANCE_SHARE = 0.1  # of the smallest spacing: headers round, and that shifts nothing
_WITNESSES = 200_000  # labelled voxels that tell how labels lie; more tell no more
_EQUALLY_GOOD = 0.005
_MOST_COUNTED = 65535


class GridMismatchError(InputError):
    """Labels that do not lie on the voxels of their image."""


@dataclass(frozen=True, slots=True)
class Structures:
    """What the label files of a case hold, on one grid.

    ids: label map, and names: the id of each label; or ``masks``: a mask for each label that has a file of its own.
    """

    ids: NDArray[np.integer] | None
    names: dict[str, int]
    masks: dict[str, Bool[NDArray[np.bool_], "x y z"]]

    @property
    def present(self) -> frozenset[str]:
        """The labels whose voxels the case's files tell, whether there are any or not."""
        return frozenset(self.names if self.ids is not None else self.masks)

    def mask(self, labels: Iterable[str]) -> Bool[NDArray[np.bool_], "x y z"]:
        """Mark the voxels of any of ``labels``; those without a file are passed over."""
        if self.ids is not None:
            wanted = np.zeros(int(self.ids.max()) + 1, dtype=bool)
            wanted[[self.names[one] for one in labels if self.names[one] < len(wanted)]] = True
            marked: NDArray[np.bool_] = wanted[self.ids]
            return marked
        either: NDArray[np.bool_] = np.logical_or.reduce([self.masks[one] for one in labels if one in self.masks])
        return either

    def cropped(self, box: tuple[slice, slice, slice]) -> "Structures":
        """Give the part of the grid in ``box``."""
        ids = None if self.ids is None else self.ids[box]
        return Structures(ids, self.names, {label: mask[box] for label, mask in self.masks.items()})


@dataclass(frozen=True, slots=True)
class LoadedCase:
    """A case at the spacing that was asked for.

    image: HU in RAS. own: grid of the scan's file. structures: labels on the image's grid. placing: how the label files
    lay on the image's voxels; header_offset_mm: how far their headers put them elsewhere (0: nowhere else).
    unknown_ids: label ids that the description does not name. labelled: voxels of the label files that are not 0.
    print: the content of the scan.
    """

    image: Volume
    own: Grid
    structures: Structures
    placing: Placing
    header_offset_mm: float
    unknown_ids: tuple[int, ...]
    labelled: int
    print: Fingerprint


def load_case(
    files: CaseFiles, description: Description, spacing: tuple[float, float, float] | None = None
) -> LoadedCase:
    """Read a case and bring it to ``spacing`` (mm): linear for the image, nearest for labels. None: as the scan has it.

    Raises:
        InputError: a file cannot be read or used.
        GridMismatchError: the labels do not lie on the image's voxels, however they may be placed.
    """
    scan = read_scan(files.image)
    image = scan if spacing is None else resample(scan, spacing)
    content = fingerprint(scan.array)
    placer = _Placer(scan, description)
    unknown: tuple[int, ...] = ()
    if description.layout.kind == "one file a structure":
        masks, labelled = {}, 0
        for structure in description.structures:
            if structure in files.labels:
                placed = placer.place(files.labels[structure], structure)
                labelled += int(np.count_nonzero(placed.array))
                masks[structure] = resample_onto(placed, image.grid, nearest=True).array > 0
        if not masks:
            raise InputError("has no file of any structure", where=files.image, mend="Unpack the data set again.")
        structures = Structures(None, {}, masks)
    else:
        placed = placer.place(files.labels[WHOLE])
        known = frozenset(description.labels.values())
        ids, counts = _counts(placed.array)
        unknown = tuple(int(one) for one in ids if one and one not in known)
        labelled = int(counts[ids > 0].sum())
        array = resample_onto(placed, image.grid, nearest=True).array
        if unknown and max(unknown) > max(known):  # a look-up by id must not grow with a number that means nothing
            array = np.where(array > max(known), 0, array)
        structures = Structures(array, description.labels, {})
    return LoadedCase(
        image=image,
        own=scan.own,
        structures=structures,
        placing=placer.placing,
        header_offset_mm=placer.offset_mm,
        unknown_ids=unknown,
        labelled=labelled,
        print=content,
    )


def offset_mm(one: Grid, other: Grid) -> float:
    """Give the largest distance in mm between corresponding corners of two grids; infinite where sizes differ."""
    if one.shape != other.shape:
        return float("inf")
    corners = _CORNERS * [*(np.array(one.shape) - 1), 1]
    return float(np.linalg.norm(((one.affine - other.affine) @ corners.T)[:3], axis=0).max())


def agree(image: Grid, labels: Grid) -> bool:
    """Tell whether two grids are the same but for rounding."""
    return offset_mm(image, labels) <= _TOLERANCE_SHARE * min(image.spacing)


@dataclass(slots=True)
class _Placer:
    """Puts label files on the voxels of a scan, in the ways that the data set's layout names."""

    scan: Volume
    description: Description
    offset_mm: float = 0.0
    placing: Placing = field(init=False)

    def __post_init__(self) -> None:
        self.placing = self.description.layout.placing[0]

    def place(self, path: Path, structure: str = WHOLE) -> Volume:
        """Read a label file and give it on the scan's grid."""
        layout, scan = self.description.layout, self.scan
        header = None if layout.kind == "PNG stack" else read_labels(path)
        own = _read_png_stack(path) if header is None else header.to_own(header.array)
        ways = _by_voxels(own, scan, layout)
        if header is not None and header.array.shape == scan.array.shape:
            upright = Volume(header.array, scan.affine, scan.own)
            ways["axes"] = lambda: upright
            if agree(scan.grid, header.grid):
                ways["header"] = ways.pop("axes")  # the same, with more to say for it
            if agree(scan.own, header.own):
                ways.pop("voxels", None)
        if header is not None and "header" not in ways:
            self.offset_mm = max(self.offset_mm, offset_mm(scan.grid, header.grid))
        possible = [placing for placing in layout.placing if placing in ways]
        if not possible:
            raise _mismatch(path, scan, own.shape if header is None else header, self.description)
        volumes = {placing: ways[placing]() for placing in possible}
        best = possible[0]
        if len(possible) > 1:
            ranges = _ranges(self.description, structure)
            fits = {placing: _fit(volume, scan, ranges) for placing, volume in volumes.items()}
            best = next(one for one in possible if fits[one] >= max(fits.values()) - _EQUALLY_GOOD)
        if layout.placing.index(best) > layout.placing.index(self.placing):
            self.placing = best
        return volumes[best]


def _by_voxels(own: NDArray[np.integer], scan: Volume, layout: Layout) -> dict[Placing, Callable[[], Volume]]:
    if own.shape != scan.own.shape:
        return {}
    reversals: dict[Placing, tuple[slice, ...]] = {
        "voxels": (),
        "voxels, rows reversed": (slice(None), slice(None, None, -1)),
        "voxels, slices reversed": (slice(None), slice(None), slice(None, None, -1)),
        "voxels, both reversed": (slice(None), slice(None, None, -1), slice(None, None, -1)),
    }

    def placed(reversal: tuple[slice, ...]) -> Callable[[], Volume]:
        return lambda: Volume.from_own(own[reversal] if reversal else own, scan.own.affine)

    return {one: placed(reversal) for one, reversal in reversals.items() if one in layout.placing}


def _ranges(description: Description, structure: str) -> dict[int, tuple[float, float]]:
    """Give the HU that each id of a label file may have, as its class says."""
    by_label = {label: name for name, labels in reversed(description.classes.items()) for label in labels}
    for one in description.separated:
        by_label |= {label: one.right for label in one.labels if label not in by_label}
    if structure != WHOLE:
        return {1: atlas().hu[by_label[structure]]}
    return {description.labels[label]: atlas().hu[name] for label, name in by_label.items()}


def _fit(labels: Volume, scan: Volume, ranges: dict[int, tuple[float, float]]) -> float:
    """Give the share of labelled voxels whose HU is one that their class may have."""
    ids = labels.array
    every = max(1, int(np.count_nonzero(ids)) // _WITNESSES)
    places = np.flatnonzero(ids)[::every]
    found, hu = ids.ravel()[places], scan.array.ravel()[places]
    fitting = known = 0
    for id, (low, high) in ranges.items():
        of_class = hu[found == id]
        known += of_class.size
        fitting += int(((of_class >= low) & (of_class <= high)).sum())
    return fitting / known if known else 0.0


def _counts(ids: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Give the ids that are there and how many voxels each has."""
    if int(ids.max()) > _MOST_COUNTED:
        values, repeats = np.unique(ids, return_counts=True)
        return values, repeats.astype(np.int64)
    counts = np.zeros(int(ids.max()) + 1, dtype=np.int64)
    slowest = int(np.argmax(np.abs(ids.strides)))
    for part in np.moveaxis(ids, slowest, 0):  # slice by slice, since counting makes every number eight bytes
        counts += np.bincount(part.ravel("K"), minlength=len(counts))
    found = np.flatnonzero(counts)
    return found, counts[found]


def _read_png_stack(folder: Path) -> NDArray[np.uint8]:
    """Read the PNG files of a folder, in the order of their names, as (column, row, slice): 1 where they are not 0.

    Raises:
        InputError: there is none, one is damaged, or their sizes differ.
    """
    paths = sorted(folder.glob("*.png"), key=lambda path: [int(one) for one in re.findall(r"\d+", path.stem)])
    if not paths:
        raise InputError("holds no PNG", where=folder, mend="Unpack the data set again.")
    slices = []
    for path in paths:
        reader = ImageFileReader()
        reader.SetImageIO("PNGImageIO")
        reader.SetFileName(native_name(path))
        try:
            with quiet_native_code():
                slices.append(GetArrayFromImage(reader.Execute()) > 0)
        except RuntimeError as error:
            raise InputError("is a damaged PNG", where=path, mend="Unpack the data set again.") from error
        if slices[-1].ndim != 2 or slices[-1].shape != slices[0].shape:
            raise InputError(
                "has another size or colors, unlike the other slices", where=path, mend="Unpack the data set again."
            )
    return np.stack(slices).T.astype(np.uint8)


def _mismatch(
    path: Path, scan: Volume, labels: Volume | tuple[int, ...], description: Description
) -> GridMismatchError:
    mend = "Give the labels of this scan, or resample them onto its grid (nearest neighbor)."
    if isinstance(labels, tuple) or labels.own.shape != scan.own.shape:
        own = labels if isinstance(labels, tuple) else labels.own.shape
        return GridMismatchError(
            f"has {shape_text(own)} voxels where the scan has {shape_text(scan.own.shape)}", where=path, mend=mend
        )
    distance = offset_mm(scan.grid, labels.grid)
    apart = f"{distance:.1f} mm off" if np.isfinite(distance) else "with its axes in another direction"
    return GridMismatchError(f"lies {apart} beside its scan in space ({description.name})", where=path, mend=mend)


def shape_text(shape: tuple[int, ...]) -> str:
    """Give sizes as a person writes them."""
    return " x ".join(str(size) for size in shape)
