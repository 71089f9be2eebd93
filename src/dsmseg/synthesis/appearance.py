"""CT appearance: structures get HU of their tissue and phase, texture, contents, partial volume and noise."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn import functional

from dsmseg.synthesis.anatomy import Anatomy, Range, Tissue
from dsmseg.synthesis.warp import smooth_noise, uniform

AIR, FAT, MUSCLE, SKIN = -1000.0, -105.0, 50.0, 20.0


def random_means(anatomy: Anatomy, generator: Generator) -> Float[Tensor, "structure"]:
    """Draw a mean HU for each structure of one patient in one contrast phase; sides and lobes share a tissue's draw.

    One body in six ignores phases, so that no network learns to expect them.
    """
    phase = int(torch.randint(3, (), generator=generator))
    free = uniform(0, 1, generator) < 1 / 6
    drawn: dict[int, float] = {}
    means = torch.full((len(anatomy.tissues),), FAT)
    for index, tissue in enumerate(anatomy.tissues):
        if tissue is None:
            continue
        if id(tissue) not in drawn:
            chosen = int(torch.randint(3, (), generator=generator)) if free else phase
            drawn[id(tissue)] = uniform(*tissue.ranges[chosen], generator)
        means[index] = drawn[id(tissue)]
    return means


def paint(
    structures: Int[Tensor, "x y z"], hull_distance: Float[Tensor, "x y z"], anatomy: Anatomy, generator: Generator
) -> Float[Tensor, "x y z"]:
    """Give HU for a label map. ``hull_distance`` is the distance in mm from the hull of all structures, < 0 inside."""
    size = structures.shape
    fine, coarse = smooth_noise(size, max(size) // 2, generator), smooth_noise(size, 9, generator)
    texture = torch.tensor([0.0 if tissue is None else tissue.texture for tissue in anatomy.tissues])
    image = random_means(anatomy, generator)[structures] + texture[structures] * (0.8 * fine + 0.7 * coarse)
    for tissue in dict.fromkeys(anatomy.tissues):
        if tissue is not None and (tissue.shell or tissue.core or tissue.vessels or tissue.contents):
            members = torch.tensor([other is tissue for other in anatomy.tissues])
            mask = members[structures]
            if mask.any():
                image = _fill(image, mask, tissue, generator)
    surroundings = _surroundings(hull_distance, fine, generator)
    return torch.where(structures > 0, image, surroundings)


def scan(image: Float[Tensor, "x y z"], generator: Generator) -> Float[Tensor, "x y z"]:
    """Add what a scanner adds: partial volume, slice thickness, noise with a kernel's correlation."""
    width = uniform(0.3, 0.8, generator)
    image = blur(image, (width, width, uniform(0.3, 1.1, generator)))
    noise = torch.randn(image.shape, generator=generator)
    softness = uniform(0.05, 0.6, generator)
    smooth = blur(noise, (softness,) * 3)
    return image + smooth * (uniform(2.0, 22.0, generator) / smooth.std())


def blur(image: Float[Tensor, "x y z"], sigma: tuple[float, float, float]) -> Float[Tensor, "x y z"]:
    """Smooth with a Gaussian of ``sigma`` voxels along each axis, replicating the border."""
    result = image[None, None]
    offsets = torch.arange(-2.0, 3.0)
    for axis, width in enumerate(sigma):
        kernel = torch.exp(-0.5 * (offsets / width) ** 2)
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]
        shape[2 + axis] = 5
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = 2
        padded = functional.pad(result, padding, mode="replicate")
        result = functional.conv3d(padded, (kernel / kernel.sum()).view(shape))
    return result[0, 0]


def _fill(
    image: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"], tissue: Tissue, generator: Generator
) -> Float[Tensor, "x y z"]:
    size = image.shape
    inner = -functional.max_pool3d(-mask[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    if tissue.shell:
        image = torch.where(mask & ~inner, uniform(*tissue.shell, generator), image)
    if tissue.core:
        core = inner & (smooth_noise(size, 10, generator) > uniform(0.2, 0.8, generator))
        image = torch.where(core, image + uniform(*tissue.core, generator), image)
    if tissue.vessels:
        ridge = smooth_noise(size, max(size) // 3, generator).abs() < uniform(0.02, 0.1, generator)
        if tissue.holds_air:  # in the lung a vessel has its own HU, elsewhere it differs from its host
            image = torch.where(mask & ridge, uniform(*tissue.vessels, generator), image)
        else:
            image = torch.where(mask & ridge, image + uniform(*tissue.vessels, generator), image)
    if tissue.contents:
        lumen = inner if uniform(0, 1, generator) < 0.7 else mask
        image = torch.where(lumen, _contents(image, tissue.contents, generator), image)
    return image


def _contents(
    wall: Float[Tensor, "x y z"], fractions: tuple[float, float, float, float], generator: Generator
) -> Float[Tensor, "x y z"]:
    """Give gas, fluid, solids and positive contrast in lumps of about 2 cm, and wall where none lies."""
    size = wall.shape
    lumps = smooth_noise(size, 10, generator)
    rank = 0.5 * (1.0 + torch.erf(lumps / (0.65 * 2**0.5)))
    grain = torch.randn(size, generator=generator)
    fluid = uniform(-5, 40, generator)
    solid: Range = (uniform(-250, 60, generator), uniform(20, 120, generator))
    contrast = uniform(120, 600, generator)
    fillings = (-960.0 + 20 * grain, fluid + 8 * grain, solid[0] + solid[1] * grain, contrast + 30 * grain)
    result, lower = wall, 0.0
    for share, filling in zip(fractions, fillings, strict=True):
        upper = lower + share * uniform(0.0, 2.0, generator)
        result = torch.where((rank >= lower) & (rank < upper), filling, result)
        lower = upper
    return result


def _surroundings(
    hull_distance: Float[Tensor, "x y z"], fine: Float[Tensor, "x y z"], generator: Generator
) -> Float[Tensor, "x y z"]:
    """Give what no structure names: mesentery and fat inside, a wall of muscle, fat under the skin, air, a table."""
    size = fine.shape
    fat = FAT + uniform(-12, 12, generator) + 12 * fine
    muscle = MUSCLE + uniform(-20, 20, generator) + 15 * fine
    lumps = smooth_noise(size, int(uniform(8, 24, generator)), generator)
    image = torch.where(lumps > uniform(0.4, 1.3, generator), muscle, fat)
    wavy = hull_distance + 4.0 * smooth_noise(size, 6, generator)
    wall = wavy.abs() < uniform(2.0, 9.0, generator)
    image = torch.where(wall & (lumps > -uniform(0.3, 1.5, generator)), muscle, image)
    skin = uniform(4.0, 40.0, generator)
    image = torch.where(hull_distance > skin - 3.0, SKIN, torch.where(wavy > uniform(6.0, 14.0, generator), fat, image))
    outside = torch.full_like(fine, AIR)
    gap = skin + uniform(1.0, 25.0, generator)
    if uniform(0, 1, generator) < 0.5:  # a table or blanket beside the body
        posterior = torch.linspace(1, 0, size[1])[None, :, None].expand(size) > uniform(0.3, 0.9, generator)
        plank = (hull_distance > gap) & (hull_distance < gap + uniform(3.0, 20.0, generator)) & posterior
        outside = torch.where(plank, uniform(-700.0, 200.0, generator), outside)
    return torch.where(hull_distance > skin, outside, image)
