"""Bodies from label maps: deformed and given intensities, so that no two samples are alike."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.random import Generator as Generator_
from numpy.typing import NDArray
from scipy import ndimage
from torch import Generator, Tensor

from dsmseg.errors import InputError
from dsmseg.synthesis import scanner
from dsmseg.synthesis.anatomy import Anatomy, as_structures
from dsmseg.synthesis.appearance import AIR, draw_look, paint
from dsmseg.synthesis.noise import generator as stream
from dsmseg.synthesis.noise import seed_of, smooth_noise
from dsmseg.synthesis.phantom.canvas import Frame
from dsmseg.synthesis.phantom.structures import id_of
from dsmseg.synthesis.warp import WarpRange, random_warp, sample_linear, sample_nearest, uniform
from dsmseg.taxonomy import ORGANS
from dsmseg.volume import Volume, read_labels, read_scan, resample

SOURCE_SPACING = 1.5  # mm; the grid on which a body is kept
ALL_ORGANS = frozenset(one.id for one in ORGANS)
HULL_STEP = 2  # the hull is smooth: every second voxel is enough


@dataclass(frozen=True, slots=True)
class Body:
    """A labelled body on an isotropic grid of ``SOURCE_SPACING``, ready to be sampled.

    structures: ids of the anatomy. hull_distance: mm from the hull of all structures, on every ``HULL_STEP``-th voxel.
    image: HU of the real scan, if there is one. landmarks: of each organ (id) in the body some voxels. healthy: ids
    of the organs that are known to hold no tumor or cyst in the real scan.
    """

    anatomy: Anatomy
    structures: UInt8[Tensor, "i j k"]
    hull_distance: Float[Tensor, "i_2 j_2 k_2"]
    image: Float[Tensor, "i j k"] | None
    landmarks: dict[int, Float[Tensor, "point 3"]]
    healthy: frozenset[int]
    healthy_painted: frozenset[int]


@dataclass(frozen=True, slots=True)
class Sample:
    """One training patch: HU, organ ids (0 none), where the source had data at all, which organs are annotated.

    healthy: ids of the organs known to hold no tumor or cyst. slab: first slice and end of the scan, where it is thin:
    the slices beyond repeat its outermost ones.
    """

    image: Float[Tensor, "x y z"]
    organs: UInt8[Tensor, "x y z"]
    inside: Bool[Tensor, "x y z"]
    annotated: tuple[int, ...]
    healthy: frozenset[int]
    slab: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchPlan:
    """What a patch looks like: voxels a side, mm a voxel, and how far bodies are deformed."""

    size: tuple[int, int, int] = (64, 64, 64)
    spacing: float = 3.0
    warp: WarpRange = field(default_factory=WarpRange)
    reach: float = 45.0  # mm that the patch's center may lie away from an organ
    margin: float = 60.0  # mm that it keeps from the scan's edge, where the scan is large enough
    near: tuple[int, ...] = ()  # ids of organs that some patches lie near, such as hosts of tumors
    near_share: float = 0.0  # how often that is so; the others lie near any organ
    truncation: float = 0.0  # how often the scan is a thin slab: its first and last slice repeated, as in inference
    phases: tuple[float, float, float] = (1, 1, 1)  # of contrast, how often each is drawn: native, arterial, venous


def read_body(
    labels: Path, image: Path | None, anatomy: Anatomy, *, organs: bool = False, healthy: frozenset[int] = frozenset()
) -> Body:
    """Read a label map of ``anatomy`` and, where it has one, its CT (same place in mm; grids may differ).

    ``organs``: the labels are organs of the taxonomy, and ``anatomy`` is `phantom_anatomy`. ``healthy``: ids of the
    organs that are known to hold no tumor or cyst in the CT.

    Raises:
        InputError: a file cannot be read, an id is unknown, or the two do not lie at the same place.
    """
    label_volume = read_labels(labels)
    if organs:
        label_volume = replace(label_volume, array=as_structures(label_volume.array))
    if int(label_volume.array.max()) >= len(anatomy.structures):
        raise InputError(
            f"holds the id {int(label_volume.array.max())}, beyond {len(anatomy.structures) - 1}",
            where=labels,
            mend="Give a label map with TotalSegmentator (v2) ids.",
        )
    scan_volume = None if image is None else read_scan(image)
    if scan_volume is not None and not _same_place(scan_volume, label_volume):
        raise InputError(f"does not lie where {image} lies", where=labels, mend="Give the label map of this scan.")
    spacing = (SOURCE_SPACING,) * 3
    structures = np.ascontiguousarray(resample(label_volume, spacing, nearest=True).array.astype(np.uint8))
    hu = None
    if scan_volume is not None:
        hu = torch.from_numpy(np.ascontiguousarray(resample(scan_volume, spacing).array)).clamp(min=AIR)
    return Body(
        anatomy=anatomy,
        structures=torch.from_numpy(structures),
        hull_distance=torch.from_numpy(_hull_distance(structures[::HULL_STEP, ::HULL_STEP, ::HULL_STEP] > 0)),
        image=None if hu is None else torch.from_numpy(scanner.blur(hu.numpy(), (0.6, 0.6, 0.6))),
        landmarks=_landmarks(structures, anatomy),
        healthy=healthy,
        healthy_painted=_healthy_structures(structures, anatomy),
    )


def draw(
    body: Body, plan: PatchPlan, generator: Generator, *, real: bool, center: Float[Tensor, "3"] | None = None
) -> Sample:
    """Draw a deformed patch, from the real image or with synthetic intensities, about ``center`` or near an organ.

    The real image is given another patient's contrast half of the time: each structure is moved to a mean HU drawn
    for its tissue, and keeps its own texture.
    """
    offsets = random_warp(plan.size, plan.spacing, plan.warp, generator) / SOURCE_SPACING
    positions = offsets + (_random_center(body, plan, generator) if center is None else center)
    structures, inside = sample_nearest(body.structures, positions)
    chance = stream(int(torch.randint(1 << 62, (), generator=generator)))
    if real:
        if body.image is None:
            raise ValueError("this body has no real image")
        image = sample_linear(body.image, positions)
        if uniform(0, 1, generator) < 0.5:
            image = _recolor(image, structures.long(), body.anatomy, chance)
        image = image + torch.randn(image.shape, generator=generator) * uniform(0.0, 12.0, generator)
    else:
        hull = sample_linear(body.hull_distance, positions / HULL_STEP).numpy()
        image = _painted(structures.numpy().astype(np.uint8), hull, plan, chance)
    image = torch.where(inside, image, AIR)
    image = image * uniform(0.95, 1.05, generator) + uniform(-12.0, 12.0, generator)
    organs = torch.from_numpy(body.anatomy.organs)[structures.long()]
    healthy = body.healthy if real else body.healthy_painted
    sample = Sample(image, organs, inside, body.anatomy.annotated_organs, healthy, (0, plan.size[2]))
    return sometimes_thin(sample, plan, chance)


def draw_whole(body: Body, spacing: float, seed: int) -> Sample:
    """Draw all of a body, deformed, with synthetic intensities, as one scan; ``spacing`` in mm."""
    extent = np.array(body.structures.shape) * SOURCE_SPACING * (1.15, 1.15, 0.95)
    x, y, z = (max(8, int(count)) for count in extent / spacing)
    plan = PatchPlan(size=(x, y, z), spacing=spacing, warp=WarpRange(scale=(0.95, 1.05)))
    middle = (torch.tensor(body.structures.shape) - 1.0) / 2
    return draw(body, plan, Generator().manual_seed(seed), real=False, center=middle)


def sometimes_thin(sample: Sample, plan: PatchPlan, random: Generator_) -> Sample:
    """Make a patch, as often as the plan says, one of a thin scan: beyond some slices the outermost repeats.

    An eighth to two thirds of the slices stay.
    """
    if random.random() >= plan.truncation:
        return sample
    count = plan.size[2]
    thick = int(random.uniform(count / 8, count * 2 / 3))
    first = int(random.uniform(0, count - thick))
    slices = torch.arange(count).clamp(first, first + thick - 1)
    image, organs, inside = (part[:, :, slices] for part in (sample.image, sample.organs, sample.inside))
    return Sample(image, organs, inside, sample.annotated, sample.healthy, (first, first + thick))


def _healthy_structures(structures: NDArray[np.uint8], anatomy: Anatomy) -> frozenset[int]:
    """Give the organs that hold no lesion where a body is painted: all but those that have cysts in the label map."""
    cysts = [index for index, name in enumerate(anatomy.structures) if "cyst" in name]
    return ALL_ORGANS - {int(anatomy.organs[index]) for index in cysts if (structures == index).any()}


def _recolor(
    image: Float[Tensor, "x y z"], structures: Tensor, anatomy: Anatomy, random: Generator_
) -> Float[Tensor, "x y z"]:
    count = len(anatomy.structures)
    flat = structures.flatten()
    voxels = torch.bincount(flat, minlength=count).clamp(min=1)
    current = torch.bincount(flat, weights=image.flatten(), minlength=count).float() / voxels
    shift = torch.from_numpy(draw_look(random).table[:count, 0]) - current
    shift[0] = 0.0
    shift.clamp_(-150.0, 150.0)
    for index, tissue in enumerate(anatomy.tissues):
        if tissue is None or tissue.contents or tissue.shell or tissue.holds_air:
            shift[index] = 0.0  # gas, cortex and lung keep what the scanner saw
    return image + torch.from_numpy(scanner.blur(shift[structures].numpy(), (0.6, 0.6, 0.6)))


def _painted(
    structures: NDArray[np.uint8], hull_distance: NDArray[np.float32], plan: PatchPlan, random: Generator_
) -> Float[Tensor, "x y z"]:
    frame = Frame(plan.size, (plan.spacing,) * 3, (0.0, 0.0, 0.0))
    _surround(structures, hull_distance, frame, random)
    edges = np.zeros(structures.shape, np.bool_)
    for axis in range(3):
        lower = tuple(slice(None, -1) if n == axis else slice(None) for n in range(3))
        upper = tuple(slice(1, None) if n == axis else slice(None) for n in range(3))
        differ = structures[lower] != structures[upper]
        edges[lower] |= differ
        edges[upper] |= differ
    # A voxel at the surface lies half a voxel deep on average.
    depth = ndimage.distance_transform_edt(~edges, sampling=plan.spacing).astype(np.float32) + 0.5 * plan.spacing
    image = paint(structures, depth, _height(structures), frame, draw_look(random, shares=plan.phases))
    settings = scanner.draw_scanner(random, float(random.uniform(0.8, 1.8)) * plan.spacing)
    return torch.from_numpy(scanner.scan(image, frame, settings))


def _height(structures: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Give each voxel's place within its structure's run along y, from -100 (posterior) to 100."""
    starts = np.ones(structures.shape, np.bool_)
    starts[:, 1:] = structures[:, 1:] != structures[:, :-1]
    rows = np.arange(structures.shape[1])[None, :, None]
    first = np.maximum.accumulate(np.where(starts, rows, 0), axis=1)
    ends = np.ones(structures.shape, np.bool_)
    ends[:, :-1] = starts[:, 1:]
    last = np.minimum.accumulate(np.where(ends, rows, structures.shape[1])[:, ::-1], axis=1)[:, ::-1]
    height: NDArray[np.int8] = (200.0 * (rows - first + 0.5) / (last - first + 1) - 100.0).astype(np.int8)
    return height


def _surround(
    structures: NDArray[np.uint8], hull_distance: NDArray[np.float32], frame: Frame, random: Generator_
) -> None:
    """Fill in what no structure names: fat and bowel inside, a wall of muscle, fat under the skin, air, a table."""

    def noise(scale: float) -> NDArray[np.float32]:
        return smooth_noise(frame.shape, frame.spacing, frame.origin, scale, seed_of(random))

    lumps = noise(float(random.uniform(9, 22)))
    wavy = hull_distance + 4.0 * noise(40.0)
    skin = random.uniform(4.0, 40.0)
    filling = np.full(structures.shape, id_of("visceral_fat"), np.uint8)
    filling[lumps > random.uniform(0.6, 2.0)] = id_of("muscle")
    filling[(np.abs(wavy) < random.uniform(2.0, 9.0)) & (lumps > -random.uniform(0.5, 2.2))] = id_of("muscle")
    filling[wavy > random.uniform(6.0, 14.0)] = id_of("subcutaneous_fat")
    filling[hull_distance > skin - 3.0] = id_of("skin")
    filling[hull_distance > skin] = 0
    if random.random() < 0.5:
        gap, thick = skin + random.uniform(1.0, 25.0), random.uniform(3.0, 20.0)
        plank = (hull_distance > gap) & (hull_distance < gap + thick)
        plank[:, int(structures.shape[1] * random.uniform(0.1, 0.7)) :] = False
        filling[plank] = id_of("table")
    empty = structures == 0
    structures[empty] = filling[empty]


def _random_center(body: Body, plan: PatchPlan, generator: Generator) -> Float[Tensor, "3"]:
    """Choose an organ evenly, then a place near one of its voxels, so that small organs are seen as often as large."""
    organs = list(body.landmarks)
    wanted = [organ for organ in plan.near if organ in body.landmarks]
    if wanted and uniform(0, 1, generator) < plan.near_share:
        organs = wanted
    points = body.landmarks[organs[int(torch.randint(len(organs), (), generator=generator))]]
    point = points[int(torch.randint(len(points), (), generator=generator))]
    center = point + (torch.rand(3, generator=generator) * 2 - 1) * (plan.reach / SOURCE_SPACING)
    last = torch.tensor(body.structures.shape) - 1.0
    margin = torch.minimum(torch.tensor(plan.margin / SOURCE_SPACING), 0.4 * last)
    return center.clamp(min=margin, max=last - margin)


def _landmarks(structures: np.ndarray, anatomy: Anatomy, most: int = 500) -> dict[int, Tensor]:
    organs = anatomy.organs[structures]
    found = {}
    for organ in anatomy.annotated_organs:
        voxels = np.argwhere(organs == organ)
        if len(voxels):
            found[organ] = torch.from_numpy(voxels[:: max(1, len(voxels) // most)].astype(np.float32))
    if not found:
        raise InputError("the label map holds no organ", mend="Give a label map with TotalSegmentator (v2) ids.")
    return found


def _hull_distance(structures: np.ndarray) -> np.ndarray:
    """Close the gaps between structures, and give the signed distance in mm from that hull."""
    spacing = SOURCE_SPACING * HULL_STEP
    hull = (ndimage.gaussian_filter(structures.astype(np.float32), 18.0 / spacing) > 0.25) | structures
    hull = ndimage.binary_fill_holes(hull)
    outside = ndimage.distance_transform_edt(~hull, sampling=spacing)
    inside = ndimage.distance_transform_edt(hull, sampling=spacing)
    return np.ascontiguousarray((outside - inside).astype(np.float32))


def _same_place(first: Volume, second: Volume) -> bool:
    corners = [
        [volume.affine @ [*corner, 1.0] for corner in ((-0.5,) * 3, np.array(volume.array.shape) - 0.5)]
        for volume in (first, second)
    ]
    return bool(np.allclose(corners[0], corners[1], atol=max(first.spacing)))
