"""Put a tumor of one of the 20 kinds, or what looks like one, into a host organ of a CT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.tumors.checks import check_grid, check_room, check_wishes, estimate_phase, host_level
from dsmseg.synthesis.tumors.draws import log_even
from dsmseg.synthesis.tumors.grid import bounding_box
from dsmseg.synthesis.tumors.interior import Look, draw_look, features_of
from dsmseg.synthesis.tumors.kinds import Growth, Variant, draw_variant, host_intensities, tumor_class
from dsmseg.synthesis.tumors.lesions import Host, Lesion, Wanted, draw_diameter, grow
from dsmseg.synthesis.tumors.measuring import measure
from dsmseg.synthesis.tumors.painting import Canvas, paint
from dsmseg.synthesis.tumors.places import NOWHERE, find_sites, vessel_places
from dsmseg.synthesis.tumors.push import Displacement, Labels, Push, push_around

Image = Float32[NDArray[np.float32], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]

_ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class Neighbors:
    """What is known around a host, on its grid.

    vessels: in it; a tumor that grows along vessels is put beside one. others: every structure that is no part of the
    host; with it, masses that grow outwards may leave the host for the fat around it.
    """

    vessels: Mask | None = None
    others: Mask | None = None


@dataclass(frozen=True, slots=True)
class InsertedTumor:
    """A scan with a tumor in it.

    ``image`` is in HU; ``lesions`` numbers the tumor's lesions from 1, ``host`` is the organ after the mass effect,
    with the tumor. ``record`` can be written as JSON and holds all that makes the tumor again, and a row a lesion, in
    the order of their numbers.
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
    neighbors: Neighbors = Neighbors(), diameter_mm: float | None = None,
) -> InsertedTumor:  # fmt: skip
    """Put a tumor into a host organ. The same inputs and seed give the same tumor on every machine.

    Args:
        image: HU (x, y, z).
        host: mask of the organ, on the same grid.
        spacing: mm between voxels along each axis.
        kind: one of the 20 tumor classes, by any name that `dsmseg.taxonomy.find` knows.
        seed: of all chance.
        phase: of contrast: native, arterial or venous; None to estimate it.
        neighbors: what is known around the host. Where nothing is, the tumor stays inside the host.
        diameter_mm: long axis of each lesion; None to draw it. Lesions are smaller where the host has no room.

    Raises:
        InputError: the kind is no tumor, the grids differ, or the host is empty or too small.
    """
    growth = Growth.of(tumor_class(kind))
    check_grid(image, spacing, {"host": host, "vessel": neighbors.vessels, "neighbor": neighbors.others})
    check_wishes(phase, diameter_mm)
    step = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    ground = Ground(np.ascontiguousarray(image, np.float32), host, step, neighbors)
    wanted = None if diameter_mm is None else (diameter_mm, diameter_mm)
    return insert(ground, growth, seed, phase=phase, diameters=wanted)


@dataclass(frozen=True, slots=True)
class Ground:
    """What things grow in: a scan in HU, a host in it, mm between voxels, what is known around the host."""

    image: Image
    host: Mask
    spacing: tuple[float, float, float]
    neighbors: Neighbors = Neighbors()


def insert(
    ground: Ground, growth: Growth, seed: int, *, phase: str | None = None, diameters: tuple[float, float] | None = None
) -> InsertedTumor:
    """Put a tumor, or what looks like one, into a host, as `insert_tumor` does.

    ``diameters``: mm of the long axis, from and to, drawn evenly in their logarithm; None for those of the variant.

    Raises:
        InputError: the host is empty or too small.
    """
    image, host, step = ground.image, ground.host, ground.spacing
    box = check_room(host, bounding_box(host, step), growth, step)
    random = generator(seed, "tumor", growth.name)
    variant = draw_variant(growth.variants, random)
    level = host_level(image, host, box)
    used = phase or estimate_phase(growth.hosts[0], image, level)
    look = draw_look(variant, used, level, random)
    body = _host(ground, box, variant)
    lesions = _grow_all(body, Wanted(variant, look, diameters), seed, growth)
    displacement = Displacement(tuple(_push(lesion) for lesion in lesions if lesion.shift > 0))
    out = displacement.pushed_image(image)
    canvas = Canvas(image, out, host, level, solid=host_intensities(growth.hosts[0]) is not None)
    numbers = np.zeros(host.shape, np.uint8)
    for number, lesion in enumerate(lesions):
        features = features_of(look, 2.0 * lesion.site.radius)
        paint(canvas, lesion, variant, look, features, generator(seed, "tumor", growth.name, "paint", number))
        numbers[lesion.box.slices][lesion.mask] = number + 1
    record = {
        "kind": growth.name, "class_id": growth.class_id, "variant": variant.name, "seed": seed, "phase": used,
        "phase_estimated": phase is None, "hosts": list(growth.hosts), "host_hu": round(level, 1),
        "spacing_mm": list(step), "requested_diameters_mm": diameters and list(diameters),
        "beside_vessels": body.vessels is not None, "lesions": [_row(one, out, variant, look) for one in lesions],
    }  # fmt: skip
    return InsertedTumor(out, numbers, displacement.pushed(host) | (numbers > 0), displacement, record)


def _host(ground: Ground, box: Any, variant: Variant) -> Host:
    """Look for places in a host, as far as a variant needs them."""
    near, host = ground.neighbors, ground.host
    sites = NOWHERE if variant.shape in ("wall", "thrombus") else find_sites(host, box)
    vessels = None
    if near.vessels is not None and variant.place == "vessel":
        vessels = vessel_places(near.vessels & host, ground.spacing)
    return Host(host, box, sites, vessels, ground.image, near.others if any(variant.outside) else None)


def _grow_all(body: Host, wanted: Wanted, seed: int, growth: Growth) -> list[Lesion]:
    """Grow the first lesion, wherever it takes, and as many of the others as there is room for."""
    low, high = wanted.variant.count
    count = int(log_even(generator(seed, "tumor", growth.name, "count"), low, high + 1))
    lesions: list[Lesion] = []
    for number in range(count):
        for attempt in range(_ATTEMPTS if not lesions else 2):
            random = generator(seed, "tumor", growth.name, "lesion", number, attempt)
            lesion = grow(body, wanted, draw_diameter(wanted, random), [one.site for one in lesions], random)
            if lesion is not None and not any(_touch(lesion, other) for other in lesions):
                lesions.append(lesion)
                break
    if not lesions:
        what = f"no {growth.name} fits into this host of {body.box.shape} voxels"
        raise InputError(what, mend=f"Give the whole {' or '.join(growth.hosts)}, or a finer grid.")
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
