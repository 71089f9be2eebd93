"""The endless row of training batches: each is decided by the seed and the step alone, so a run can go on anywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from dsmseg.inference.windows import channels
from dsmseg.model.losses import PartialLabels
from dsmseg.synthesis.anatomy import HEPATIC_VESSEL, LIVER
from dsmseg.synthesis.bodies import Body, PatchPlan, Sample, draw
from dsmseg.synthesis.noise import generator as stream
from dsmseg.synthesis.online import draw_phantom
from dsmseg.synthesis.warp import uniform

BLOCK = 8  # draws that are used in turn, several times, before new ones are made


@dataclass(frozen=True, slots=True)
class Batch:
    """``image``: ``(batch, window, x, y, z)`` in [0, 1]; ``labels`` of the organs."""

    image: Float[Tensor, "batch window x y z"]
    labels: PartialLabels


class BatchSource:
    """Draws batches of real and synthetic patches; ``source[step]`` is the same batch whenever it is asked for."""

    def __init__(
        self,
        bodies: Sequence[Body],
        *,
        plan: Callable[[int], PatchPlan],
        hu_windows: Sequence[tuple[float, float]],
        organs: int,
        batch: tuple[int, int],
        reuse: int,
        seed: int,
        phantoms: float = 0.0,
    ) -> None:
        """Take bodies, and say what of them is drawn.

        ``plan``: of a step; ``batch``: how many real and how many synthetic patches; ``reuse``: of each draw;
        ``phantoms``: the share of synthetic patches that are phantoms.
        """
        self.real = [body for body in bodies if body.image is not None]
        self.all = list(bodies)
        self.plan, self.hu_windows, self.organs = plan, hu_windows, organs
        self.batch, self.reuse, self.seed, self.phantoms = batch, reuse, seed, phantoms
        self._drawn: dict[int, list[Sample]] = {}

    def __getitem__(self, step: int) -> Batch:
        """Give the batch of ``step``."""
        block, turn = divmod(step, BLOCK * self.reuse)
        index = block * BLOCK + turn % BLOCK
        if index not in self._drawn:
            self._drawn = {key: value for key, value in self._drawn.items() if key // BLOCK == block}
            self._drawn[index] = self._draw(index)
        samples, generator = self._drawn[index], _generator(self.seed, 1, step)
        images = torch.cat([channels(_vary(sample.image, generator), self.hu_windows) for sample in samples])
        organs = torch.stack([sample.organs for sample in samples])
        masks = torch.stack([organs == organ for organ in range(1, self.organs + 1)], dim=1)
        masks[:, LIVER - 1] |= organs == HEPATIC_VESSEL
        annotated = torch.zeros(len(samples), self.organs, dtype=torch.bool)
        for row, sample in zip(annotated, samples, strict=True):
            row[[organ - 1 for organ in sample.annotated]] = True
        return Batch(images, PartialLabels(masks, annotated))

    def _draw(self, index: int) -> list[Sample]:
        generator = _generator(self.seed, 0, index)
        plan = self.plan(index // BLOCK * BLOCK * self.reuse)
        kinds = [True] * self.batch[0] + [False] * self.batch[1]
        samples = []
        for place, real in enumerate(kinds):
            if not real and self.phantoms and float(torch.rand((), generator=generator)) < self.phantoms:
                samples.append(draw_phantom(plan, stream(self.seed, "phantom", index, place)))
                continue
            pool = self.real if real else self.all
            body = pool[int(torch.randint(len(pool), (), generator=generator))]
            samples.append(draw(body, plan, generator, real=real))
        return samples


def _vary(image: Float[Tensor, "x y z"], generator: Generator) -> Float[Tensor, "x y z"]:
    """Make a re-used patch a little different: brightness, contrast, noise."""
    noise = torch.randn(image.shape, generator=generator) * uniform(0.0, 6.0, generator)
    return image * uniform(0.97, 1.03, generator) + uniform(-8.0, 8.0, generator) + noise


def _generator(*key: int) -> Generator:
    """Seed by a key of small integers, so that steps, draws and seeds have streams of their own."""
    seed = 0
    for part in key:
        seed = (seed * 0x9E3779B97F4A7C15 + part + 1) % 2**63
    return Generator().manual_seed(seed)
