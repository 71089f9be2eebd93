"""Soft masks of a few slices, as the sliding window leaves them: weighted sums, divided only where it matters."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from numpy.typing import NDArray
from torch import Tensor

from dsmseg.inference import kernels
from dsmseg.inference.boxes import WHOLE, Box, Boxes, nowhere
from dsmseg.model.kernels import in_threads

USUAL_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class SoftMasks:
    """One probability a class and voxel, 0..1; 0 where nothing is known.

    A class may be where its probability is above its threshold. Where several are, they compete by how far each has
    come from its threshold to certainty, see `relative`.

    Attributes:
        sums: of weighted probabilities.
        shares: what a sum is multiplied by to become a probability.
        weights: what a sum is at a probability of 1; infinite where nothing is known.
        thresholds: one a class.
        reach: the only boxes (x, y, z) where a class can be above its threshold.
    """

    sums: Float[Tensor, "class x y z"]
    shares: Float[Tensor, "x y z"]
    weights: Float[Tensor, "x y z"]
    thresholds: Float32[NDArray[np.float32], " class"]
    reach: Boxes

    @classmethod
    def blended(
        cls,
        sums: Float[Tensor, "class x y z"],
        weights: Float[Tensor, "x y z"],
        inside: Bool[Tensor, "x y z"],
        thresholds: Float32[NDArray[np.float32], " class"],
        reach: Boxes,
    ) -> "SoftMasks":
        """Take weighted sums and the sums of weights; outside of ``inside`` all is 0."""
        shares = inside / weights.clamp_min(torch.finfo(weights.dtype).tiny)
        return cls(sums, shares, torch.where(inside, weights, torch.inf), thresholds, reach)

    @classmethod
    def of(cls, probabilities: Float[Tensor, "class x y z"], thresholds: Sequence[float] | None = None) -> "SoftMasks":
        """Take probabilities as they are; without ``thresholds`` all are 0.5."""
        ones, count = torch.ones(probabilities.shape[1:]), len(probabilities)
        x, y, z = ones.shape
        above = np.asarray(thresholds or [USUAL_THRESHOLD] * count, dtype=np.float32)
        return cls(probabilities, ones, ones, above, np.tile(np.array([0, x, 0, y, 0, z]), (count, 1)))

    def __len__(self) -> int:
        """Count the classes."""
        return len(self.sums)

    def part(self, classes: slice) -> "SoftMasks":
        """Give some of the classes."""
        kept = self.sums[classes], self.shares, self.weights, self.thresholds[classes], self.reach[classes]
        return SoftMasks(*kept)

    def boxes(self, bits: UInt8[NDArray[np.uint8], "byte z y x"] | None = None) -> Boxes:
        """Give the boxes (x, y, z) in which classes are above their thresholds.

        ``bits`` takes where that is, a bit a class from the highest of the first byte on, for as many as it has room.
        """
        found = nowhere(len(self))
        marked = np.zeros((1, 1, 1, 1), dtype=np.uint8)[:0] if bits is None else bits
        sums = self.sums if self.sums.stride(3) == 1 else self.sums.contiguous()
        flat = sums.as_strided((sums.untyped_storage().nbytes() // sums.element_size(),), (1,), 0).numpy()
        steps, weights = np.array(sums.stride()), self.weights.numpy()

        def look(first: int, last: int) -> None:
            place = sums.storage_offset(), steps
            kernels.claim(first, last, flat, *place, weights, self.thresholds, self.reach, marked, found)

        in_threads(look, ceil(len(self) / 8))
        return found

    def backwards(self, number: int, box: Box = WHOLE) -> Float[Tensor, "z y x"]:
        """Give the probabilities of a class in a box (x, y, z), as scans lie in memory."""
        x, y, z = box
        return (self.sums[number, x, y, z] * self.shares[x, y, z]).permute(2, 1, 0).contiguous()

    def relative(self, number: int, box: Box = WHOLE) -> Float[Tensor, "z y x"]:
        """Give as `backwards` how a class competes: probabilities put so that its threshold is 0.5 and 1 stays 1.

        Beyond the threshold t, that is 0.5 + 0.5 (p - t) / (1 - t). It is linear, so it may be interpolated as p may.
        """
        probabilities, factor = self.backwards(number, box), float(self.stretches[number])
        return probabilities if factor == 1 else probabilities.sub_(1).mul_(factor).add_(1)

    @property
    def stretches(self) -> Float32[NDArray[np.float32], " class"]:
        """What a `relative` value lacks to 1, where the probability lacks 1; exactly 1 at a threshold of 0.5."""
        return stretch(self.thresholds)


def stretch(thresholds: Float32[NDArray[np.float32], " class"]) -> Float32[NDArray[np.float32], " class"]:
    """Give how many times as far from 1 a relative value is as the probability, see `SoftMasks.relative`."""
    return np.float32(USUAL_THRESHOLD) / (1 - thresholds)
