"""Soft masks of a few slices, as the sliding window leaves them: weighted sums, divided only where it matters."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from dsmseg.inference import kernels
from dsmseg.inference.boxes import WHOLE, Box, Boxes, nowhere
from dsmseg.model.kernels import in_threads


@dataclass(frozen=True, slots=True)
class SoftMasks:
    """One probability a class and voxel, 0..1; 0 where nothing is known.

    Attributes:
        sums: of weighted probabilities.
        shares: what a sum is multiplied by to become a probability.
        halves: what a sum exceeds where that is more than 0.5.
        reach: the only boxes (x, y, z) where that can be.
    """

    sums: Float[Tensor, "class x y z"]
    shares: Float[Tensor, "x y z"]
    halves: Float[Tensor, "x y z"]
    reach: Boxes

    @classmethod
    def blended(
        cls,
        sums: Float[Tensor, "class x y z"],
        weights: Float[Tensor, "x y z"],
        inside: Bool[Tensor, "x y z"],
        reach: Boxes,
    ) -> "SoftMasks":
        """Take weighted sums and the sums of weights; outside of ``inside`` all is 0."""
        shares = inside / weights.clamp_min(torch.finfo(weights.dtype).tiny)
        return cls(sums, shares, torch.where(inside, weights / 2, torch.inf), reach)

    @classmethod
    def of(cls, probabilities: Float[Tensor, "class x y z"]) -> "SoftMasks":
        """Take probabilities as they are."""
        ones = torch.ones(probabilities.shape[1:])
        x, y, z = ones.shape
        return cls(probabilities, ones, ones / 2, np.tile(np.array([0, x, 0, y, 0, z]), (len(probabilities), 1)))

    def __len__(self) -> int:
        """Count the classes."""
        return len(self.sums)

    def part(self, classes: slice) -> "SoftMasks":
        """Give some of the classes."""
        return SoftMasks(self.sums[classes], self.shares, self.halves, self.reach[classes])

    def boxes(self, bits: UInt8[NDArray[np.uint8], "byte z y x"] | None = None) -> Boxes:
        """Give the boxes (x, y, z) in which classes are more probable than 0.5.

        ``bits`` takes where that is, a bit a class from the highest of the first byte on, for as many as it has room.
        """
        found = nowhere(len(self))
        marked = np.zeros((1, 1, 1, 1), dtype=np.uint8)[:0] if bits is None else bits
        sums = self.sums if self.sums.stride(3) == 1 else self.sums.contiguous()
        flat = sums.as_strided((sums.untyped_storage().nbytes() // sums.element_size(),), (1,), 0).numpy()
        steps, halves = np.array(sums.stride()), self.halves.numpy()

        def look(first: int, last: int) -> None:
            kernels.claim(first, last, flat, sums.storage_offset(), steps, halves, self.reach, marked, found)

        in_threads(look, ceil(len(self) / 8))
        return found

    def backwards(self, number: int, box: Box = WHOLE) -> Float[Tensor, "z y x"]:
        """Give the probabilities of a class in a box (x, y, z), as scans lie in memory."""
        x, y, z = box
        return (self.sums[number, x, y, z] * self.shares[x, y, z]).permute(2, 1, 0).contiguous()
