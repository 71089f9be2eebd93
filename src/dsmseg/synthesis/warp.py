"""Random deformation: affine and elastic composed into one field of positions, sampled once for image and labels."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class WarpRange:
    """How far a body may be deformed: degrees, relative size, mm."""

    rotation: float = 10.0
    scale: tuple[float, float] = (0.8, 1.25)
    stretch: float = 0.1
    elastic: float = 6.0
    elastic_points: int = 5


def random_warp(
    size: tuple[int, int, int], spacing: float, limits: WarpRange, generator: Generator
) -> Float[Tensor, "x y z 3"]:
    """Give for each voxel of a patch its offset in mm from the patch's center in the source."""
    axes = [(torch.arange(count) - (count - 1) / 2) * spacing for count in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    warped = offsets @ _random_affine(limits, generator).T
    control = torch.randn((1, 3, *[limits.elastic_points] * 3), generator=generator) * limits.elastic
    elastic = functional.interpolate(control, size=size, mode="trilinear", align_corners=True)
    return warped + elastic[0].permute(1, 2, 3, 0)


def sample_nearest(
    source: Int[Tensor, "i j k"], positions: Float[Tensor, "x y z 3"]
) -> tuple[Int[Tensor, "x y z"], Tensor]:
    """Read ``source`` at voxel ``positions``. Gives the values, 0 outside, and which positions lie inside."""
    limits = torch.tensor(source.shape)
    nearest = positions.round().long()
    inside = ((nearest >= 0) & (nearest < limits)).all(-1)
    nearest = nearest.clamp(min=torch.zeros(3, dtype=torch.long), max=limits - 1)
    flat = (nearest[..., 0] * limits[1] + nearest[..., 1]) * limits[2] + nearest[..., 2]
    return torch.where(inside, source.reshape(-1)[flat], 0), inside


def sample_linear(source: Float[Tensor, "i j k"], positions: Float[Tensor, "x y z 3"]) -> Float[Tensor, "x y z"]:
    """Interpolate ``source`` at voxel ``positions``, replicating its border."""
    normalized = positions.flip(-1) * 2.0 / (torch.tensor(source.shape).flip(0) - 1) - 1.0
    return functional.grid_sample(
        source[None, None], normalized[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0, 0]


def uniform(low: float, high: float, generator: Generator) -> float:
    """Draw one number."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def _random_affine(limits: WarpRange, generator: Generator) -> Float[Tensor, "3 3"]:
    angles = (torch.rand(3, generator=generator) * 2 - 1) * math.radians(limits.rotation)
    skew = torch.zeros(3, 3)
    skew[0, 1], skew[0, 2], skew[1, 2] = angles
    rotation = torch.linalg.matrix_exp(skew - skew.T)
    size = math.exp(uniform(math.log(limits.scale[0]), math.log(limits.scale[1]), generator))
    stretch = 1.0 + (torch.rand(3, generator=generator) * 2 - 1) * limits.stretch
    affine: Tensor = rotation @ torch.diag(stretch / size)
    return affine
