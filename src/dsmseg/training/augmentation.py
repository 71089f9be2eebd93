"""Augmentation (§ 5.3): rotation, scaling and elastic deformation as one warp, then additive brightness and gamma.

The affine part and the elastic one are composed into one position per voxel, and image and labels are sampled there
once: nothing is interpolated twice. All chance follows from a seed, so that a patch can be made again.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int16, UInt
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from dsmseg.synthesis.noise import generator, seed_of, smooth_noise
from dsmseg.training import kernels
from dsmseg.training.data_settings import AugmentationRange

Size = tuple[int, int, int]
Codes = UInt[NDArray[np.unsignedinteger], "x y z"]

_ELASTIC_REACH = 3.0  # deviations that a voxel may be moved by; further ones are cut


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What happens to one patch of ``size`` voxels.

    matrix: from an offset in the patch to one in the scan, in voxels; None for none. elastic: the displacement's
    deviation in voxels; nodes: its scale; seed: of its field. brightness, gamma: of the intensities.
    """

    size: Size
    matrix: Float64[NDArray[np.float64], "3 3"] | None
    elastic: float
    nodes: float
    seed: int
    brightness: float
    gamma: float

    @property
    def source_size(self) -> Size:
        """Voxels of the scan that the warp may read: as many more on both sides of the patch."""
        if not self.warps:
            return self.size
        half = (np.array(self.size) - 1) / 2
        reach = half if self.matrix is None else np.abs(self.matrix) @ half
        wider = np.ceil(reach + _ELASTIC_REACH * self.elastic - half).astype(int)
        x, y, z = (count + 2 * max(0, int(more)) for count, more in zip(self.size, wider, strict=True))
        return x, y, z

    @property
    def warps(self) -> bool:
        """Whether any voxel moves."""
        return self.matrix is not None or self.elastic > 0

    def warp(
        self,
        hu: Int16[NDArray[np.int16], "i j k"],
        codes: Codes,
    ) -> tuple[Float32[NDArray[np.float32], "x y z"], Codes]:
        """Sample a region of ``source_size`` at the patch's voxels: HU linearly, labels by the nearest voxel."""
        if not self.warps:
            return hu.astype(np.float32), codes
        matrix = np.eye(3) if self.matrix is None else self.matrix
        shift = np.zeros((3, 1, 1, 1), np.float32)
        if self.elastic > 0:
            fields = [
                smooth_noise(self.size, (1.0,) * 3, (0.0,) * 3, self.nodes, self.seed + axis) for axis in range(3)
            ]
            shift = np.stack(fields)
            np.clip(shift, -_ELASTIC_REACH, _ELASTIC_REACH, out=shift)
            shift *= np.float32(self.elastic)
        image, labels = kernels.warp(hu, codes, matrix.astype(np.float32), shift, np.array(self.size))
        return image, labels

    def recolor(self, image: Float32[Tensor, "window x y z"]) -> None:
        """Change the intensities of an image in [0, 1], in place."""
        if self.gamma != 1.0:
            image.pow_(self.gamma)
        if self.brightness:
            image.add_(self.brightness).clamp_(0.0, 1.0)


def draw_augmentation(limits: AugmentationRange, size: Size, seed: int) -> Augmentation:
    """Draw what happens to a patch of ``size`` voxels. The same seed gives the same."""
    random = generator(seed, "augmentation")
    turned, scaled, bent, lit, gamma = random.random(5) < (
        limits.rotation_chance,
        limits.scale_chance,
        limits.elastic_chance,
        limits.brightness_chance,
        limits.gamma_chance,
    )
    matrix = np.eye(3)
    if turned:
        angles = random.uniform(-limits.rotation, limits.rotation, 3)
        matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    if scaled:
        matrix = matrix / _between(random, limits.scale)
    return Augmentation(
        size=size,
        matrix=matrix if turned or scaled else None,
        elastic=float(random.uniform(0, limits.elastic)) if bent else 0.0,
        nodes=limits.elastic_nodes,
        seed=seed_of(random),
        brightness=float(random.normal(0, limits.brightness)) if lit else 0.0,
        gamma=_between(random, limits.gamma) if gamma else 1.0,
    )


def _between(random: Generator, limits: tuple[float, float]) -> float:
    """Draw a factor, evenly in its logarithm."""
    low, high = np.log(limits)
    return float(np.exp(random.uniform(low, high)))
