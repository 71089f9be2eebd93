"""Who is scanned: sex, size, habitus, posture, what is missing. All of it follows from a seed."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dsmseg.synthesis.noise import generator
from dsmseg.synthesis.phantom.canvas import Pose, turned

Sex = Literal["female", "male"]


@dataclass(frozen=True, slots=True)
class Patient:
    """One adult.

    height, width, depth: relative to an adult of 172 cm and normal build. fat: mm under the skin at the side of the
    abdomen. visceral: share of the abdomen that fat takes beyond the least, 0 to 1. kyphosis: mm by which the middle of
    the thoracic spine lies further back than the lumbar. breath: mm by which the diaphragm lies higher (+) than usual.
    missing: names of structures that are not there.
    """

    seed: int
    sex: Sex
    height: float
    width: float
    depth: float
    fat: float
    visceral: float
    kyphosis: float
    breath: float
    missing: frozenset[str]

    def random(self, *what: str) -> Generator:
        """Give the stream of chance of one part of the body, such as "liver": the same whenever it is asked for."""
        return generator(self.seed, "patient", *what)

    def has(self, structure: str) -> bool:
        """Tell whether a structure is there."""
        return structure not in self.missing

    @property
    def record(self) -> dict[str, Any]:
        """Give what describes the patient, for a file."""
        content = {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return content | {"missing": sorted(self.missing)}


def draw_patient(seed: int, *, whole: bool = False) -> Patient:
    """Draw an adult.

    Args:
        seed: decides all.
        whole: nothing is missing, and the patient is male, so that every organ is there.
    """
    random = generator(seed, "who")
    male = bool(random.random() < 0.55) or whole
    fat = float(np.clip((18.0 if male else 24.0) * _spread(random, 0.5), 5.0, 60.0))
    heavy = (fat - 18.0) / 40.0
    return Patient(
        seed=seed,
        sex="male" if male else "female",
        height=(1.0 if male else 0.94) * _spread(random, 0.04),
        width=(1.0 if male else 0.95) * _spread(random, 0.045) + 0.05 * heavy,
        depth=(1.0 if male else 0.95) * _spread(random, 0.06) + 0.12 * heavy,
        fat=fat,
        visceral=float(np.clip((0.45 if male else 0.3) + 0.5 * heavy + 0.2 * random.standard_normal(), 0.0, 1.0)),
        kyphosis=float(np.clip(22.0 + 9.0 * random.standard_normal(), 2.0, 48.0)),
        breath=float(np.clip(9.0 * random.standard_normal(), -18.0, 22.0)),
        missing=frozenset() if whole else _missing(random),
    )


def draw_pose(seed: int, *, turn: float = 4.0, bend: float = 3.5, matrix: NDArray[np.float64] | None = None) -> Pose:
    """Draw how a body lies: turned by some degrees about each axis, and bent by some mm."""
    random = generator(seed, "pose")
    angles = [turn * float(np.clip(random.standard_normal(), -2.2, 2.2)) for _ in range(3)]
    matrix_ = turned("x", angles[0]) @ turned("y", angles[1]) @ turned("z", angles[2])
    if matrix is not None:
        matrix_ = matrix_ @ matrix
    return Pose(matrix_, bend * float(random.uniform(0.4, 1.3)), int(random.integers(1 << 60)))


def _missing(random: Generator) -> frozenset[str]:
    found = set()
    if random.random() < 0.12:
        found.add("gallbladder")
    if random.random() < 0.03:
        found.add("kidney_right" if random.random() < 0.5 else "kidney_left")
    if random.random() < 0.02:
        found.add("spleen")
    return frozenset(found)


def _spread(random: Generator, sigma: float) -> float:
    """Draw a factor about 1, with tails cut at 2.2 sigma."""
    return 1.0 + sigma * float(np.clip(random.standard_normal(), -2.2, 2.2))
