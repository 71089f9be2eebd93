"""CT appearance: structures get HU of their tissue and contrast phase, with what is inside them; then a scanner."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float32, Int8, UInt8
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.synthesis import kernels
from dsmseg.synthesis.anatomy import PHASES, Tissue, phantom_anatomy
from dsmseg.synthesis.noise import seed_of, smooth_noise
from dsmseg.synthesis.phantom.canvas import Frame

AIR = -1000.0
_ROWS = 14  # numbers that the painter has of each structure


@dataclass(frozen=True, slots=True)
class Look:
    """How the tissues of one patient look in one scan: a row of numbers for each structure, and seeds of its noise.

    phase: native, arterial, venous, or mixed (no phase: each tissue by itself).
    """

    phase: str
    table: Float32[NDArray[np.float32], "structure number"]
    seeds: tuple[int, int, int, int]


def draw_look(random: Generator, phase: str | None = None, shares: tuple[float, float, float] = (1, 1, 1)) -> Look:
    """Draw how one patient looks: a mean HU for each tissue, walls, contents, vessels.

    Args:
        random: the stream of chance.
        phase: native, arterial or venous; "mixed" ignores phases; None draws one of the three, or mixed one time in
            six, so that no network learns to expect them.
        shares: how often each of the three is drawn, relative to the others.
    """
    if phase is None:
        chosen = float(random.random()) * sum(shares)
        index = int(np.searchsorted(np.cumsum(shares)[:2], chosen, side="right"))
        phase = PHASES[index] if random.random() > 1 / 6 else "mixed"
    anatomy = phantom_anatomy()
    table = np.zeros((256, _ROWS), np.float32)
    table[0, 0] = AIR
    drank = bool(random.random() < 0.25)  # positive oral contrast
    for tissue, members in _members().items():
        of_phase = int(random.integers(3)) if phase == "mixed" else PHASES.index(phase)
        table[members] = _row(tissue, anatomy.structures[members[0]], of_phase, drank, random)
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
    image: NDArray[np.float32] = kernels.paint(structures, depth, height, fine, coarse, ridge, filling, look.table)
    return image


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
    if tissue.contents:
        row[-1] = kernels.HOLLOW
        shares = np.array(tissue.contents) * random.uniform(0.1, 2.0, 4) * (1, 1, 1, 2.0 if drank else 0.0)
        row[2] = random.uniform(2.0, 3.6)
        row[5:9] = list(np.cumsum(shares / max(1.0, float(shares.sum()))))
        row[9:13] = [-970.0, random.uniform(-5, 35), random.uniform(-120, 70), random.uniform(120, 500)]
    elif tissue.shell:
        row[-1] = kernels.BONE
        row[2:4] = [random.uniform(1.4, 2.8), random.uniform(*tissue.shell)]
    elif tissue.core:
        row[-1] = kernels.KIDNEY
        row[2:4] = [random.uniform(6, 9), mean + random.uniform(*tissue.core[phase])]
    elif tissue.holds_air and tissue.vessels:
        row[-1] = kernels.LUNG
        row[2:4] = [random.uniform(0.015, 0.06), random.uniform(*tissue.vessels)]
        row[4] = random.uniform(20, 110)
    elif tissue.vessels:
        row[-1] = kernels.VESSELS
        row[2:4] = [random.uniform(0.0, 0.07), random.uniform(*tissue.vessels)]
    elif name.endswith("fat"):
        row[-1] = kernels.FAT
        row[2:4] = [random.uniform(1.9, 3.0), random.uniform(15, 60)]
    elif name == "muscle" or name.startswith(("gluteus", "autochthon", "iliopsoas")):
        row[-1] = kernels.MUSCLE
        row[2:4] = [random.uniform(0.9, 2.4), random.uniform(40, 120)]
    return row
