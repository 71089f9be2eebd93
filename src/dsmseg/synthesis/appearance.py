"""CT appearance: structures get HU of their tissue and contrast phase, with what is inside them; then a scanner."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float32, Int8, UInt8
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.model.kernels.compilation import compiled
from dsmseg.synthesis.anatomy import PHASES, Tissue, phantom_anatomy
from dsmseg.synthesis.noise import seed_of, smooth_noise
from dsmseg.synthesis.phantom.canvas import Frame

AIR = -1000.0
_HOLLOW, _BONE, _KIDNEY, _LUNG, _VESSELS, _FAT, _MUSCLE = range(1, 8)
_ROWS = 14  # numbers that the painter has of each structure


@dataclass(frozen=True, slots=True)
class Look:
    """How the tissues of one patient look in one scan: a row of numbers for each structure, and seeds of its noise.

    phase: native, arterial, venous, or mixed (no phase: each tissue by itself).
    """

    phase: str
    table: Float32[NDArray[np.float32], "structure number"]
    seeds: tuple[int, int, int, int]


def draw_look(random: Generator, phase: str | None = None) -> Look:
    """Draw how one patient looks: a mean HU for each tissue, walls, contents, vessels.

    Args:
        random: the stream of chance.
        phase: native, arterial or venous; "mixed" ignores phases; None draws one of the three, or mixed one time in six,
            so that no network learns to expect them.
    """
    if phase is None:
        phase = PHASES[int(random.integers(3))] if random.random() > 1 / 6 else "mixed"
    anatomy = phantom_anatomy()
    table = np.zeros((256, _ROWS), np.float32)
    table[0, 0] = AIR
    drank = bool(random.random() < 0.25)  # positive oral contrast
    for tissue, members in _members().items():
        chosen = int(random.integers(3)) if phase == "mixed" else PHASES.index(phase)
        table[members] = _row(tissue, anatomy.structures[members[0]], chosen, drank, random)
    return Look(phase, table, (seed_of(random), seed_of(random), seed_of(random), seed_of(random)))


def paint(
    structures: UInt8[NDArray[np.uint8], "x y z"],
    depth: Float32[NDArray[np.float32], "x y z"],
    height: Int8[NDArray[np.int8], "x y z"],
    frame: Frame,
    look: Look,
) -> Float32[NDArray[np.float32], "x y z"]:
    """Give HU for structures, before any scanner.

    Args:
        structures: ids of `phantom_anatomy`; 0 is air.
        depth: mm below the surface of the structure.
        height: from -100 (posterior) to 100 (anterior) within a hollow organ: gas rises.
        frame: where the voxels lie; the texture is fixed in space.
        look: how the tissues look.
    """
    shape, spacing, origin = frame.shape, frame.spacing, frame.origin
    fine = smooth_noise(shape, spacing, origin, [max(4.0, 1.2 * step) for step in spacing], look.seeds[0])
    coarse = smooth_noise(shape, spacing, origin, 13.0, look.seeds[1])
    ridge = smooth_noise(shape, spacing, origin, 17.0, look.seeds[2])
    filling = smooth_noise(shape, spacing, origin, (34.0, 70.0, 34.0), look.seeds[3])
    return _paint(structures, depth, height, fine, coarse, ridge, filling, look.table)


@cache
def _members() -> dict[Tissue, list[int]]:
    members: dict[Tissue, list[int]] = {}
    for index, tissue in enumerate(phantom_anatomy().tissues):
        if tissue is not None:
            members.setdefault(tissue, []).append(index)
    return members


def _row(tissue: Tissue, name: str, phase: int, drank: bool, random: Generator) -> list[float]:
    """Draw kind, mean, texture, wall (mm, HU), inside, four shares of contents and their HU."""
    mean = random.uniform(*tissue.ranges[phase])
    texture = tissue.texture * random.uniform(0.6, 1.3)
    row = [mean, texture, 0.0, 0.0, 0.0] + [0.0] * (_ROWS - 5)
    kind: Callable[[int], None] = lambda number: row.__setitem__(-1, float(number))  # noqa: E731
    if tissue.contents:
        kind(_HOLLOW)
        shares = np.array(tissue.contents) * random.uniform(0.1, 2.0, 4) * (1, 1, 1, 2.0 if drank else 0.0)
        row[2] = random.uniform(2.0, 3.6)
        row[5:9] = list(np.cumsum(shares / max(1.0, float(shares.sum()))))
        row[9:13] = [-970.0, random.uniform(-5, 35), random.uniform(-120, 70), random.uniform(120, 500)]
    elif tissue.shell:
        kind(_BONE)
        row[2:4] = [random.uniform(1.4, 2.8), random.uniform(*tissue.shell)]
    elif tissue.core:
        kind(_KIDNEY)
        row[2:4] = [random.uniform(6, 9), mean + random.uniform(*tissue.core[phase])]
    elif tissue.holds_air and tissue.vessels:
        kind(_LUNG)
        row[2:4] = [random.uniform(0.015, 0.06), random.uniform(*tissue.vessels)]
        row[4] = random.uniform(20, 110)
    elif tissue.vessels:
        kind(_VESSELS)
        row[2:4] = [random.uniform(0.0, 0.07), random.uniform(*tissue.vessels)]
    elif name.endswith("fat"):
        kind(_FAT)
        row[2:4] = [random.uniform(1.9, 3.0), random.uniform(15, 60)]
    elif name == "muscle" or name.startswith(("gluteus", "autochthon", "iliopsoas")):
        kind(_MUSCLE)
        row[2:4] = [random.uniform(0.9, 2.4), random.uniform(40, 120)]
    return row


@compiled()
def _paint(structures, depth, height, fine, coarse, ridge, filling, table):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202, E501  # pragma: no cover
    out = np.empty(structures.shape, np.float32)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                row = table[structures[i, j, k]]
                f, c, d = fine[i, j, k], coarse[i, j, k], depth[i, j, k]
                grain = row[1] * (np.float32(0.75) * f + np.float32(0.65) * c)
                value = row[0] + grain
                kind = int(row[13])
                if kind == 1:  # hollow
                    if d >= row[2]:
                        u = np.float32(0.012) * height[i, j, k] + np.float32(0.75) * filling[i, j, k]
                        rank = np.float32(0.52) - np.float32(0.34) * u  # about 0 to 1, from the top down
                        if rank < row[5] and row[5] > np.float32(0.03):
                            value = row[9] + np.float32(12.0) * f
                        elif rank < row[6]:
                            value = row[10] + np.float32(6.0) * f
                        elif rank < row[7]:
                            value = row[11] + np.float32(55.0) * f + np.float32(30.0) * c
                            if f > np.float32(1.2):
                                value -= np.float32(300.0)  # gas in stool
                        elif rank < row[8]:
                            value = row[12] + np.float32(25.0) * f
                        else:
                            value = row[0] + np.float32(0.6) * grain
                elif kind == 2:  # bone: cortex around spongy bone
                    if d < row[2]:
                        value = row[3] + np.float32(60.0) * f
                elif kind == 3:  # kidney: cortex around medulla
                    deep = d + np.float32(3.0) * ridge[i, j, k]
                    if deep > row[2]:
                        value += row[3] - row[0]
                elif kind == 4:  # lung: denser where it lies lower
                    value = row[0] + grain - row[4] * np.float32(0.01) * height[i, j, k]
                    if abs(ridge[i, j, k] + np.float32(0.3) * f) < row[2] and d > np.float32(4.0):
                        value = row[3]
                elif kind == 5:  # vessels inside
                    if abs(ridge[i, j, k]) < row[2]:
                        value += row[3]
                elif kind == 6:  # strands in fat
                    strand = f + np.float32(0.8) * c
                    if strand > row[2]:
                        value += row[3] * min(strand - row[2], np.float32(1.0))
                elif kind == 7:  # fat in muscle
                    streak = np.float32(0.7) * f - np.float32(0.9) * c
                    if streak > row[2]:
                        value -= row[3] * min(streak - row[2], np.float32(1.0))
                out[i, j, k] = value
    return out
