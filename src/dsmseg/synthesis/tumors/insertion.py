"""Put a tumor of one of the 20 kinds into a host organ of a CT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.tumors.checks import check_grid, check_room, check_wishes, estimate_phase, host_level
from dsmseg.synthesis.tumors.distance import long_axis
from dsmseg.synthesis.tumors.grid import bounding_box
from dsmseg.synthesis.tumors.interior import Look, draw_look, features_of
from dsmseg.synthesis.tumors.kinds import Variant, draw_variant, host_intensities, named_variant, tumor_class
from dsmseg.synthesis.tumors.lesions import Host, Lesion, draw_diameter, grow
from dsmseg.synthesis.tumors.painting import Canvas, paint
from dsmseg.synthesis.tumors.places import NOWHERE, find_sites, vessel_places
from dsmseg.synthesis.tumors.push import Displacement, Labels, Push, push_around
from dsmseg.taxonomy import StructureClass

Image = Float32[NDArray[np.float32], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]

_ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class InsertedTumor:
    """A scan with a tumor in it.

    ``image`` is in HU; ``lesions`` numbers the tumor's lesions from 1 (all in the host given), ``host`` is the organ
    after the mass effect, with the tumor. ``record`` can be written as JSON and holds all that makes the tumor again,
    and a row a lesion, in the order of their numbers.
    """

    image: Image
    lesions: UInt8[NDArray[np.uint8], "x y z"]
    host: Mask
    displacement: Displacement
    record: dict[str, Any]

    @property
    def mask(self) -> Mask:
        """Mark the tumor."""
        return self.lesions > 0

    def pushed(self, labels: Labels) -> Labels:
        """Give any label map or mask of the same grid after the mass effect, by the nearest voxel."""
        return self.displacement.pushed(labels)


def insert_tumor(
    image: Image, host: Mask, spacing: Sequence[float], kind: str, seed: int, *, phase: str | None = None,
    vessels: Mask | None = None, diameter_mm: float | None = None, variant: str | None = None,
) -> InsertedTumor:  # fmt: skip
    """Put a tumor into a host organ. The same inputs and seed give the same tumor on every machine.

    Args:
        image: HU (x, y, z).
        host: mask of the organ, on the same grid.
        spacing: mm between voxels along each axis.
        kind: one of the 20 tumor classes, by any name that `dsmseg.taxonomy.find` knows.
        seed: of all chance.
        phase: of contrast: native, arterial or venous; None to estimate it.
        vessels: mask of vessels; a tumor that grows along vessels is put beside one.
        diameter_mm: long axis of each lesion; None to draw it. Lesions are smaller where the host has no room.
        variant: name of one of the kind's variants in kinds.toml; None to draw one by their weights.

    Raises:
        InputError: the kind is no tumor or has no such variant, the grids differ, or the host is empty or too small.
    """
    kind_class = tumor_class(kind)
    check_grid(image, spacing, {"host": host, "vessel": vessels})
    check_wishes(phase, diameter_mm)
    image = np.ascontiguousarray(image, np.float32)
    step = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    box = check_room(host, bounding_box(host, step), kind_class, step)
    random = generator(seed, "tumor", kind_class.name)
    drawn = draw_variant(kind_class, random)  # drawn in any case, so that naming it changes nothing else
    chosen = drawn if variant is None else named_variant(kind_class, variant)
    level = host_level(image, host, box)
    used = phase or estimate_phase(kind_class, image, level)
    look = draw_look(chosen, used, level, random)
    tube = chosen.shape in ("wall", "thrombus")
    along = None if vessels is None or chosen.place != "vessel" else vessel_places(vessels & host, step)
    body = Host(host, box, NOWHERE if tube else find_sites(host, box), along)
    lesions = _grow_all(body, chosen, look, seed, kind_class, diameter_mm)
    displacement = Displacement(tuple(_push(lesion) for lesion in lesions if lesion.shift > 0))
    out = displacement.pushed_image(image)
    canvas = Canvas(image, out, host, level, solid=host_intensities(kind_class) is not None)
    numbers = np.zeros(host.shape, np.uint8)
    for number, lesion in enumerate(lesions):
        features = features_of(look, 2.0 * lesion.site.radius)
        paint(canvas, lesion, chosen, look, features, generator(seed, "tumor", kind_class.name, "paint", number))
        numbers[lesion.box.slices][lesion.mask] = number + 1
    record = {
        "kind": kind_class.name, "class_id": kind_class.id, "variant": chosen.name, "seed": seed, "phase": used,
        "phase_estimated": phase is None, "hosts": list(kind_class.hosts), "host_hu": round(level, 1),
        "spacing_mm": list(step), "requested_diameter_mm": diameter_mm, "beside_vessels": along is not None,
        "lesions": [_row(lesion, out, chosen, look) for lesion in lesions],
    }  # fmt: skip
    return InsertedTumor(out, numbers, displacement.pushed(host) | (numbers > 0), displacement, record)


def _grow_all(
    body: Host, variant: Variant, look: Look, seed: int, kind: StructureClass, diameter_mm: float | None
) -> list[Lesion]:
    """Grow the first lesion, wherever it takes, and as many of the others as there is room for."""
    wanted = int(generator(seed, "tumor", kind.name, "count").integers(variant.count[0], variant.count[1] + 1))
    lesions: list[Lesion] = []
    for number in range(wanted):
        for attempt in range(_ATTEMPTS if not lesions else 2):
            random = generator(seed, "tumor", kind.name, "lesion", number, attempt)
            diameter = draw_diameter(variant, diameter_mm, random)
            features = features_of(look, diameter)
            lesion = grow(body, variant, diameter, features, [one.site for one in lesions], random)
            if lesion is not None and not any(_touch(lesion, other) for other in lesions):
                lesions.append(lesion)
                break
    if not lesions:
        what = f"no {kind.name} fits into this host of {body.box.shape} voxels"
        raise InputError(what, mend=f"Give the whole {' or '.join(kind.hosts)}, or a finer grid.")
    return lesions


def _touch(one: Lesion, other: Lesion) -> bool:
    """Whether two lesions share a voxel."""
    low = [max(a, b) for a, b in zip(one.box.start, other.box.start, strict=True)]
    high = [min(a, b) for a, b in zip(one.box.stop, other.box.stop, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return False
    parts = []
    for lesion in (one, other):
        index = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, lesion.box.start, strict=True))
        parts.append(lesion.mask[index])
    return bool((parts[0] & parts[1]).any())


def _push(lesion: Lesion) -> Push:
    return push_around(lesion.box, lesion.center, lesion.distance, lesion.shift, 0.8 * lesion.size)


def _row(lesion: Lesion, image: Image, variant: Variant, look: Look) -> dict[str, Any]:
    """Describe a lesion as it came out."""
    return measure(lesion.mask, image[lesion.box.slices], lesion.box.start, lesion.box.spacing) | {
        "shape": variant.shape,
        "features": sorted(features_of(look, 2.0 * lesion.site.radius)),
        "shift_mm": round(lesion.shift, 2),
    }


def measure(mask: Mask, image: Image, start: Sequence[int], spacing: Sequence[float]) -> dict[str, Any]:
    """Measure a lesion.

    Args:
        mask: of the lesion, in a box of the scan. image: HU, in the same box.
        start: the box's first voxel in the scan.
        spacing: mm between voxels along each axis.
    """
    index = [line + first for line, first in zip(mask.nonzero(), start, strict=True)]
    points = np.stack([line * mm for line, mm in zip(index, spacing, strict=True)], axis=1).astype(np.float64)
    values = image[mask].astype(np.float64)
    center = points.sum(axis=0) / len(points)
    voxel = spacing[0] * spacing[1] * spacing[2]
    ball = (spacing[0] + spacing[1] + spacing[2]) / 3  # a voxel reaches beyond its center
    mean = float(values.sum() / values.size)
    return {
        "center_voxel": [round(float(at) / mm, 2) for at, mm in zip(center, spacing, strict=True)],
        "center_mm": [round(float(at), 2) for at in center],
        "diameter_mm": round(long_axis(points) + ball, 2),
        "voxels": len(points),
        "volume_ml": round(len(points) * voxel / 1000, 5),
        "hu_mean": round(mean, 1),
        "hu_deviation": round(float(np.sqrt(((values - mean) ** 2).sum() / values.size)), 1),
    }
